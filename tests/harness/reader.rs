//! The log, read as a stranger reads it: over HTTP, verified with the auditor's library.
//!
//! What a message's entry must be is worked out here from PROTOCOL.md 2 and 6, not by the
//! schema crate, which the server uses for the same.

use nexo_audit::checkpoint::Checkpoint;
use nexo_audit::entry::split_bundle;
use nexo_audit::tile::spans;
use nexo_audit::{
    Hash, LogKey, SignedHead, TimeKey, leaf_hash, parse_log_keys, verify_consistency,
    verify_inclusion,
};
use nexo_schema::bytes::{from_base64, from_hex};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Reply, Server, Wire, number, text};

/// Reads one log, under the key its server announced.
#[derive(Clone)]
pub(crate) struct Reader {
    wire: Wire,
    key: LogKey,
}

impl Reader {
    /// Of this server.
    pub(crate) fn of(server: &Server) -> Self {
        Self { wire: server.wire(), key: LogKey::parse(server.vkey()).unwrap() }
    }

    /// The log's name.
    pub(crate) fn origin(&self) -> &str {
        self.key.origin()
    }

    /// The answer to a path.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.wire.get(path).await
    }

    /// The body of a 200.
    pub(crate) async fn bytes(&self, path: &str) -> Vec<u8> {
        let reply = self.get(path).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body
    }

    /// The time key, as the log key names it.
    pub(crate) async fn time_key(&self) -> TimeKey {
        parse_log_keys(&self.bytes("/log/keys").await, &self.key).unwrap()
    }

    /// A note under the log's key.
    pub(crate) fn open(&self, note: &str) -> Checkpoint {
        SignedHead::open(note.as_bytes(), &self.key, None).unwrap().checkpoint
    }

    /// The newest head, under both keys.
    pub(crate) async fn head(&self) -> SignedHead {
        let note = self.bytes("/checkpoint").await;
        let head = SignedHead::open(&note, &self.key, Some(&self.time_key().await)).unwrap();
        assert!(head.time.is_some(), "{}", head.note);
        head
    }

    /// The head that was signed at a size.
    pub(crate) async fn head_at(&self, size: u64) -> Checkpoint {
        let view = self.get(&format!("/log/head/{size}")).await.ok();
        let head = self.open(&text(&view["note"]));
        assert_eq!((head.size, number(&view["size"])), (size, size));
        assert_eq!(head.root_base64(), text(&view["root"]));
        assert_eq!(head.origin, text(&view["origin"]));
        head
    }

    /// Verifies that `new` extends `old`, by the log's own proof.
    pub(crate) async fn extends(&self, old: &Checkpoint, new: &Checkpoint) {
        let path = format!("/log/consistency?from={}&to={}", old.size, new.size);
        let view = self.get(&path).await.ok();
        assert_eq!((number(&view["from"]), number(&view["to"])), (old.size, new.size));
        let proof = hashes(&view["hashes"]);
        let verdict = verify_consistency(old.size, &old.root, new.size, &new.root, &proof);
        assert_eq!(verdict, Ok(()), "{path}");
    }

    /// Verifies that the log includes the leaf at `index` (from 0), and returns its hash.
    pub(crate) async fn includes(&self, index: u64, head: &Checkpoint) -> Hash {
        let path = format!("/log/inclusion?index={index}&size={}", head.size);
        let view = self.get(&path).await.ok();
        assert_eq!((number(&view["index"]), number(&view["size"])), (index, head.size));
        let leaf = hash(&view["leaf_hash"]);
        let proof = hashes(&view["hashes"]);
        assert_eq!(verify_inclusion(&leaf, index, head.size, &proof, &head.root), Ok(()), "{path}");
        leaf
    }

    /// Every entry under a head of this size, from the bundles.
    pub(crate) async fn entries(&self, size: u64) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        for span in spans(0, size) {
            let bundle = self.bytes(&format!("/{}", span.bundle_path())).await;
            let split = split_bundle(&bundle, span.width).unwrap();
            entries.extend(split.into_iter().map(<[u8]>::to_vec));
        }
        entries
    }

    /// Verifies a receipt of a plain message as the relay shows it: the entry is that of the
    /// message, in a tree the log signed. The position and the head.
    pub(crate) fn receipt(&self, message: &Value, receipt: &Value) -> (u64, Checkpoint) {
        let head = self.open(&text(&receipt["head"]));
        let position = number(&receipt["sth_index"]);
        assert_eq!(number(&message["sth_index"]), position);
        let leaf = leaf_hash(&plain_entry(self.key.origin(), message));
        let path = hashes(&receipt["inclusion"]);
        let verdict = verify_inclusion(&leaf, position - 1, head.size, &path, &head.root);
        assert_eq!(verdict, Ok(()), "{message}");
        (position, head)
    }
}

/// The entry of a plain message, from the fields everybody is shown.
pub(crate) fn plain_entry(origin: &str, message: &Value) -> Vec<u8> {
    let record = enc(
        "nexo/1/plain/message",
        &[
            origin.as_bytes(),
            &from_hex::<32>(&text(&message["conv_id"])).unwrap(),
            text(&message["msg_id"]).as_bytes(),
            text(&message["sender_device"]).as_bytes(),
            // It was sent as one string, not as {c,n}.
            &0u32.to_be_bytes(),
            &from_base64(&text(&message["cipher"])).unwrap(),
            message["ad"].to_string().as_bytes(),
            &number(&message["ts"]).to_be_bytes(),
        ],
    );
    enc("nexo/1/leaf", &[&[0x12], &Sha256::digest(record)])
}

/// A list of hashes in base64.
pub(crate) fn hashes(list: &Value) -> Vec<Hash> {
    list.as_array().unwrap().iter().map(hash).collect()
}

fn hash(value: &Value) -> Hash {
    from_base64(&text(value)).unwrap().try_into().unwrap()
}

/// PROTOCOL.md 2: label and fields, each behind its length.
fn enc(label: &str, fields: &[&[u8]]) -> Vec<u8> {
    let length = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let mut bytes = [&length(label.len()), label.as_bytes(), &length(fields.len())].concat();
    for field in fields {
        bytes.extend_from_slice(&length(field.len()));
        bytes.extend_from_slice(field);
    }
    bytes
}
