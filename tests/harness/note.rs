//! Checkpoints and audit paths, read and checked from their specifications (C2SP signed-note,
//! tlog-checkpoint; RFC 9162 2.1.3), with no code of the server or the auditor.
//!
//! ```text
//! vkey = <name> "+" <8 hex digits> "+" base64(0x01 || Ed25519 key 32)
//! note = origin LF size LF base64(root) LF LF ("— " name " " base64(key id 4 || sig 64) LF)...
//! ```

use ed25519_dalek::{Signature, VerifyingKey};
use nexo_schema::bytes::{from_base64, to_base64};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Server;

/// A checkpoint whose log signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) origin: String,
    pub(crate) size: u64,
    pub(crate) root: [u8; 32],
}

impl Checkpoint {
    /// The newest head of a server, verified under the key it announced.
    pub(crate) async fn of(server: &Server) -> Self {
        let reply = server.wire().get("/checkpoint").await;
        assert_eq!(reply.status, 200);
        Self::verify(&reply.text(), server.vkey())
    }

    /// Reads a note and verifies the log's signature; fails the test if anything is wrong.
    pub(crate) fn verify(note: &str, vkey: &str) -> Self {
        let (text, signatures) = note.split_once("\n\n").expect("a blank line");
        let (name, id, key) = read_vkey(vkey);
        let start = format!("— {name} ");
        let line = signatures.lines().find_map(|line| line.strip_prefix(&start));
        let signature = from_base64(line.expect("a signature by the log")).unwrap();
        let (signer, signature) = signature.split_at(4);
        assert_eq!(signer, id, "the key id");
        let signature = Signature::from_slice(signature).unwrap();
        // What is signed ends with the line feed before the blank line.
        key.verify_strict(format!("{text}\n").as_bytes(), &signature).expect("a valid signature");
        let lines: Vec<&str> = text.lines().collect();
        let [origin, size, root] = lines[..] else { panic!("three lines: {text}") };
        assert_eq!(origin, name, "the key is named after its log");
        let root = from_base64(root).unwrap().try_into().unwrap();
        Self { origin: origin.to_owned(), size: size.parse().unwrap(), root }
    }

    /// Checks that the leaf `hash` stands at 1-based `sth_index`, by its audit path.
    pub(crate) fn holds(&self, hash: &[u8; 32], sth_index: u64, path: &Value) {
        assert!((1..=self.size).contains(&sth_index), "position {sth_index} of {}", self.size);
        let path = path.as_array().unwrap().iter();
        let path: Vec<[u8; 32]> =
            path.map(|p| from_base64(p.as_str().unwrap()).unwrap().try_into().unwrap()).collect();
        assert_eq!(climb(hash, sth_index - 1, self.size, &path), Some(self.root));
    }
}

/// An offline proof (C2SP tlog-proof) that was verified: this entry stands at this index in the
/// tree of this head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) head: Checkpoint,
    /// From 0.
    pub(crate) index: u64,
    /// The file's `extra`, which hashes to the leaf.
    pub(crate) entry: Vec<u8>,
}

impl Proof {
    /// Reads a file line by line as the section "Format" has it, and verifies it; fails the test
    /// if anything is wrong.
    pub(crate) fn verify(file: &str, vkey: &str) -> Self {
        let mut lines = file.split_inclusive('\n');
        let mut line = || lines.next().expect("a further line");
        assert_eq!(line(), "c2sp.org/tlog-proof@v1\n");
        let word = |line: &str, name: &str| {
            let value = line.strip_suffix('\n').and_then(|line| line.strip_prefix(name));
            value.unwrap_or_else(|| panic!("expected {name:?}: {line:?}")).to_owned()
        };
        let entry = from_base64(&word(line(), "extra ")).unwrap();
        let number = word(line(), "index ");
        let index: u64 = number.parse().unwrap();
        assert_eq!(index.to_string(), number, "no leading zeros");
        let mut path = Vec::new();
        loop {
            match word(line(), "").as_str() {
                "" => break,
                hash => path.push(from_base64(hash).unwrap().try_into().unwrap()),
            }
        }
        let head = Checkpoint::verify(&lines.collect::<String>(), vkey);
        assert!(index < head.size, "{index} of {}", head.size);
        assert_eq!(climb(&leaf_hash(&entry), index, head.size, &path), Some(head.root));
        Self { head, index, entry }
    }
}

/// The hash of a log entry (RFC 6962 2.1).
pub(crate) fn leaf_hash(entry: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// Checks the receipt of an entry: a signed head of this relay that holds it at its place.
pub(crate) fn check_receipt(receipt: &Value, entry: &[u8], server: &Server) -> u64 {
    let head = Checkpoint::verify(receipt["head"].as_str().unwrap(), server.vkey());
    let sth_index = receipt["sth_index"].as_u64().unwrap();
    head.holds(&leaf_hash(entry), sth_index, &receipt["inclusion"]);
    sth_index
}

/// The root that a path leads to (RFC 9162 2.1.3.2); `None` if it is too long or too short.
fn climb(leaf: &[u8; 32], index: u64, size: u64, path: &[[u8; 32]]) -> Option<[u8; 32]> {
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for step in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = parent(step, &hash);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            hash = parent(&hash, step);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    (last == 0).then_some(hash)
}

fn parent(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

fn read_vkey(vkey: &str) -> (&str, [u8; 4], VerifyingKey) {
    let mut parts = vkey.splitn(3, '+');
    let (name, id, key) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let key = from_base64(key).unwrap();
    let hash = Sha256::new().chain_update(name).chain_update(b"\n").chain_update(&key).finalize();
    let mut made = [0; 4];
    made.copy_from_slice(&hash[..4]);
    assert_eq!(u32::from_str_radix(id, 16).unwrap().to_be_bytes(), made, "{vkey}");
    let (kind, key) = key.split_at(1);
    assert_eq!(kind, [1], "an Ed25519 key: {}", to_base64(key));
    (name, made, VerifyingKey::from_bytes(key.try_into().unwrap()).unwrap())
}

#[test]
fn a_path_is_climbed_as_in_rfc_6962() {
    // A tree of three: ((a b) c).
    let [a, b, c] = [leaf_hash(b"a"), leaf_hash(b"b"), leaf_hash(b"c")];
    let left = parent(&a, &b);
    let root = parent(&left, &c);
    assert_eq!(climb(&a, 0, 3, &[b, c]), Some(root));
    assert_eq!(climb(&b, 1, 3, &[a, c]), Some(root));
    assert_eq!(climb(&c, 2, 3, &[left]), Some(root));
    assert_eq!(climb(&a, 0, 1, &[]), Some(a));
    assert_ne!(climb(&a, 1, 3, &[b, c]), Some(root));
    assert_eq!(climb(&c, 2, 3, &[left, a]), None);
    assert_eq!(climb(&a, 0, 3, &[b]), None);
}
