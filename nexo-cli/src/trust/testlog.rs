//! A log for tests, kept by the definitions of RFC 6962: honest unless told to lie.

use std::cell::{Cell, RefCell};

use ed25519_dalek::{Signer as _, SigningKey};
use nexo_audit::key::{LogKey, TimeKey};
use nexo_audit::merkle::{Hash, empty_root, leaf_hash, node_hash};
use nexo_schema::bytes::to_base64;
use nexo_schema::bytes::to_hex;
use nexo_schema::error::{ErrorCode, Problem};
use sha2::{Digest as _, Sha256};

use super::log::LogSource;
use crate::api::ApiError;

pub(crate) struct TestLog {
    origin: String,
    key: SigningKey,
    time_key: RefCell<SigningKey>,
    leaves: RefCell<Vec<Hash>>,
    now: Cell<u64>,
    /// The time of heads of the past, if not now.
    pub(crate) batch_time: Cell<Option<u64>>,
    /// How often a consistency proof was asked for.
    pub(crate) asked: Cell<usize>,
}

impl TestLog {
    pub(crate) fn new(origin: &str) -> Self {
        let seed: [u8; 32] = Sha256::digest(origin).into();
        Self {
            origin: origin.to_owned(),
            key: SigningKey::from_bytes(&seed),
            time_key: RefCell::new(SigningKey::from_bytes(&[0x71; 32])),
            leaves: RefCell::default(),
            now: Cell::new(1_800_000_000),
            batch_time: Cell::new(None),
            asked: Cell::new(0),
        }
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn key(&self) -> LogKey {
        LogKey::parse(&vkey(&self.origin, 1, &self.key)).unwrap()
    }

    pub(crate) fn time_key(&self) -> TimeKey {
        let name = format!("{}/time", self.origin);
        TimeKey::parse(&vkey(&name, 4, &self.time_key.borrow())).unwrap()
    }

    pub(crate) fn change_time_key(&self) {
        *self.time_key.borrow_mut() = SigningKey::from_bytes(&[0x72; 32]);
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    pub(crate) fn set_now(&self, now: u64) {
        self.now.set(now);
    }

    pub(crate) fn size(&self) -> u64 {
        self.leaves.borrow().len() as u64
    }

    /// Appends an entry and returns its index, from 0.
    pub(crate) fn append(&self, entry: &[u8]) -> u64 {
        self.leaves.borrow_mut().push(leaf_hash(entry));
        self.size() - 1
    }

    /// Rewrites history: the last leaf becomes another.
    pub(crate) fn rewrite_last(&self) {
        if let Some(leaf) = self.leaves.borrow_mut().last_mut() {
            leaf[0] ^= 1;
        }
    }

    pub(crate) fn forget_last(&self) {
        self.leaves.borrow_mut().pop();
    }

    /// The signed checkpoint of the first `size` entries.
    pub(crate) fn note(&self, size: u64) -> String {
        self.note_of(size, &root(&self.leaves.borrow()[..usize::try_from(size).unwrap()]))
    }

    /// A signed checkpoint of any size and root.
    pub(crate) fn note_of(&self, size: u64, root: &Hash) -> String {
        let text = format!("{}\n{size}\n{}\n", self.origin, to_base64(root));
        let time = self.now.get();
        let stamped = format!("cosignature/v1\ntime {time}\n{text}");
        let time_key = self.time_key.borrow();
        let cosignature =
            [&time.to_be_bytes()[..], &time_key.sign(stamped.as_bytes()).to_bytes()].concat();
        let name = format!("{}/time", self.origin);
        format!(
            "{text}\n{}{}",
            line(&self.origin, 1, &self.key, &self.key.sign(text.as_bytes()).to_bytes()),
            line(&name, 4, &time_key, &cosignature)
        )
    }

    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
        let (index, size) = (usize::try_from(index).unwrap(), usize::try_from(size).unwrap());
        path(index, &self.leaves.borrow()[..size])
    }
}

impl LogSource for TestLog {
    async fn checkpoint(&self) -> Result<Vec<u8>, ApiError> {
        Ok(self.note(self.size()).into_bytes())
    }

    async fn log_keys(&self) -> Result<Vec<u8>, ApiError> {
        let text = format!("nexo/1/log-keys\n{}\ntime {}\n", self.origin, self.time_key());
        let signature = self.key.sign(text.as_bytes()).to_bytes();
        Ok(format!("{text}\n{}", line(&self.origin, 1, &self.key, &signature)).into_bytes())
    }

    async fn consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, ApiError> {
        self.asked.set(self.asked.get() + 1);
        if to > self.size() {
            return Err(ApiError::Refused(Problem::new(ErrorCode::NotFound, "not that large")));
        }
        let (from, to) = (usize::try_from(from).unwrap(), usize::try_from(to).unwrap());
        Ok(subproof(from, &self.leaves.borrow()[..to], true))
    }

    async fn head_covering(&self, sth_index: u64) -> Result<Option<Vec<u8>>, ApiError> {
        // Pairs of entries came in one batch each.
        let size = sth_index.next_multiple_of(2);
        let signed = size <= self.size();
        let (now, batch) = (self.now.get(), self.batch_time.get());
        self.now.set(batch.unwrap_or(now));
        let note = signed.then(|| self.note(size).into_bytes());
        self.now.set(now);
        Ok(note)
    }

    async fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, ApiError> {
        if index >= size || size > self.size() {
            return Err(ApiError::Refused(Problem::new(ErrorCode::NotFound, "not that large")));
        }
        Ok(TestLog::inclusion(self, index, size))
    }
}

/// RFC 6962 2.1: MTH.
fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// RFC 6962 2.1.1: PATH.
fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut nodes, sibling) = if index < k {
        (path(index, left), root(right))
    } else {
        (path(index - k, right), root(left))
    };
    nodes.push(sibling);
    nodes
}

/// RFC 6962 2.1.2: SUBPROOF.
fn subproof(size: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if size == leaves.len() {
        return if whole { Vec::new() } else { vec![root(leaves)] };
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut nodes, sibling) = if size <= k {
        (subproof(size, left, whole), root(right))
    } else {
        (subproof(size - k, right, false), root(left))
    };
    nodes.push(sibling);
    nodes
}

/// The largest power of two below `n`.
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

fn key_id(name: &str, kind: u8, key: &SigningKey) -> [u8; 4] {
    let hash = Sha256::new()
        .chain_update(name)
        .chain_update(b"\n")
        .chain_update([kind])
        .chain_update(key.verifying_key().as_bytes())
        .finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn vkey(name: &str, kind: u8, key: &SigningKey) -> String {
    let blob = [&[kind], &key.verifying_key().as_bytes()[..]].concat();
    format!("{name}+{}+{}", to_hex(&key_id(name, kind, key)), to_base64(&blob))
}

fn line(name: &str, kind: u8, key: &SigningKey, signature: &[u8]) -> String {
    let blob = [&key_id(name, kind, key)[..], signature].concat();
    format!("\u{2014} {name} {}\n", to_base64(&blob))
}
