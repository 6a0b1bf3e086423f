//! What is done with the bytes of a stranger, one function for each reader of the auditor.
//!
//! Each gives the bytes to a reader and says whether it took them. It panics where a reader takes
//! what it must not: something that is not written the one way it is written, or not what was
//! signed. So a fuzzer finds more here than crashes.
//!
//! This is the library of the targets of cargo-fuzz, and a module of `../tests/outside/corpus.rs`, which
//! replays `seeds/`: what is named `good-` has to be taken, what is named `bad-` refused.

use nexo_audit::check::{Options, Trust, check};
use nexo_audit::entry::{Entry, split_bundle};
use nexo_audit::evidence::{Evidence, Standing, verify};
use nexo_audit::fetch::{FetchError, Source};
use nexo_audit::merkle::{CompactRange, empty_root, node_hash};
use nexo_audit::note::Note;
use nexo_audit::policy::Policy;
use nexo_audit::proof::OfflineProof;
use nexo_audit::rebuild::{Chunk, Rebuild, Served};
use nexo_audit::sigchain::{Body, Event, Handle, Logged, SignedEvent, replay};
use nexo_audit::state::Memory;
use nexo_audit::tile::{Span, hashes};
use nexo_audit::{
    Checkpoint, Hash, LogKey, SignedHead, TimeKey, leaf_hash, parse_log_keys, verify_consistency,
    verify_inclusion,
};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A reader, and whether it took the bytes.
pub type Input = fn(&[u8]) -> bool;

/// Every one, by the name of its target and its folder of seeds.
pub const ALL: &[(&str, Input)] = &[
    ("account", account),
    ("answers", answers),
    ("bundle", bundle),
    ("checkpoint", checkpoint),
    ("consistency", consistency),
    ("event", event),
    ("evidence", evidence),
    ("head", head),
    ("inclusion", inclusion),
    ("log_keys", log_keys),
    ("note", note),
    ("policy", policy),
    ("proof", proof),
    ("rebuild", rebuild),
    ("state", state),
    ("tile", tile),
    ("vkey", vkey),
];

/// The key that the seeds are signed with. Its secret half is known to nobody who fuzzes: it was
/// made for the seeds and thrown away.
const VKEY: &str = include_str!("seeds/recorded/log.vkey");

fn key() -> &'static LogKey {
    static KEY: OnceLock<LogKey> = OnceLock::new();
    KEY.get_or_init(|| LogKey::parse(VKEY.trim_end()).expect("a vkey"))
}

/// What that key signed: the seeds that are taken, and no other text.
fn was_signed(text: &str) -> bool {
    const NOTES: [&str; 3] = [
        include_str!("seeds/head/good-small"),
        include_str!("seeds/head/good-large"),
        include_str!("seeds/log_keys/good-key-list"),
    ];
    NOTES.iter().any(|note| note.starts_with(text) && note[text.len()..].starts_with("\n— "))
}

pub fn note(data: &[u8]) -> bool {
    let Ok(note) = Note::parse(data) else { return false };
    if let Ok(text) = note.signed_by(key()) {
        assert!(was_signed(text), "a forged signature under {text:?}");
    }
    true
}

pub fn checkpoint(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let Ok(read) = Checkpoint::parse(text) else { return false };
    let Checkpoint { origin, size, .. } = &read;
    // Extension lines may follow; what was read has one spelling.
    assert!(text.starts_with(&format!("{origin}\n{size}\n{}\n", read.root_base64())));
    assert!(i64::try_from(*size).is_ok());
    true
}

pub fn head(data: &[u8]) -> bool {
    let Ok(head) = SignedHead::open(data, key(), None) else { return false };
    assert_eq!(head.note.as_bytes(), data, "kept byte for byte");
    let (text, _) = head.note.rsplit_once("\n\n").expect("a note has two parts");
    assert!(was_signed(&format!("{text}\n")), "a forged head");
    true
}

pub fn log_keys(data: &[u8]) -> bool {
    let Ok(time_key) = parse_log_keys(data, key()) else { return false };
    assert!(time_key.name().ends_with("/time"));
    let honest = include_str!("seeds/log_keys/good-key-list");
    assert!(honest.contains(&time_key.to_string()), "a forged time key");
    true
}

pub fn vkey(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let (log, time) = (LogKey::parse(text), TimeKey::parse(text));
    assert!(log.is_err() || time.is_err(), "one key of two kinds");
    let written = log.map(|key| key.to_string()).or(time.map(|key| key.to_string()));
    written.is_ok_and(|written| {
        assert_eq!(written, text, "one spelling");
        true
    })
}

/// u16 number of entries, then the bundle.
pub fn bundle(data: &[u8]) -> bool {
    let Some((count, bytes)) = data.split_first_chunk() else { return false };
    let count = u16::from_be_bytes(*count).min(256);
    let Ok(entries) = split_bundle(bytes, count) else { return false };
    assert_eq!(entries.len(), usize::from(count));
    let mut again = Vec::new();
    for entry in &entries {
        let length = u16::try_from(entry.len()).expect("as long as its length says");
        again.extend(length.to_be_bytes());
        again.extend(*entry);
    }
    assert_eq!(again, bytes, "nothing is left over");
    entries.iter().all(|entry| Entry::parse(entry).is_ok())
}

/// u16 number of hashes, then the tile.
pub fn tile(data: &[u8]) -> bool {
    let Some((width, bytes)) = data.split_first_chunk() else { return false };
    let width = u16::from_be_bytes(*width);
    let Some(hashes) = hashes(bytes, width) else { return false };
    assert_eq!(hashes.concat(), bytes);
    assert_eq!(hashes.len(), usize::from(width));
    true
}

pub fn state(data: &[u8]) -> bool {
    let Ok(memory) = Memory::from_json(data) else { return false };
    assert_eq!(memory.range.root(), memory.head.checkpoint.root);
    assert_eq!(memory.range.size(), memory.head.checkpoint.size);
    let again = memory.to_json().expect("a memory is text");
    assert_eq!(Memory::from_json(again.as_bytes()).as_ref(), Ok(&memory));
    true
}

/// Leaves of trees that proofs are about.
fn leaves(count: usize) -> Vec<Hash> {
    (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn split(leaves: &[Hash]) -> (&[Hash], &[Hash]) {
    leaves.split_at(leaves.len().next_power_of_two() / 2)
}

/// MTH(D[n]) of RFC 6962.
fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => node_hash(&root(split(leaves).0), &root(split(leaves).1)),
    }
}

/// PATH(m, D[n]).
fn audit_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return vec![];
    }
    let (left, right) = split(leaves);
    let (mut path, sibling) = match index.checked_sub(left.len()) {
        None => (audit_path(index, left), right),
        Some(index) => (audit_path(index, right), left),
    };
    path.push(root(sibling));
    path
}

/// Every node that a tree has, level by level, the leaves first.
fn nodes(tree: &[Hash]) -> Vec<Hash> {
    let levels = (0..=tree.len().next_power_of_two().ilog2()).map(|level| 1 << level);
    levels.flat_map(|width: usize| tree.chunks(width).map(root)).collect()
}

/// A path of hashes: each byte is the number of a node, or comes before a hash of its own. A
/// fuzzer cannot guess hashes.
fn path(mut data: &[u8], nodes: &[Hash]) -> Vec<Hash> {
    let mut path = Vec::new();
    while let Some((&number, rest)) = data.split_first() {
        data = rest;
        if let Some(node) = nodes.get(usize::from(number)) {
            path.push(*node);
        } else if let Some((hash, rest)) = data.split_first_chunk() {
            path.push(*hash);
            data = rest;
        }
    }
    path
}

/// u8 size, u8 index, u8 index of the leaf, the path: taken only when all of it is the honest one.
pub fn inclusion(data: &[u8]) -> bool {
    let Some((&[size, index, leaf], rest)) = data.split_first_chunk() else { return false };
    let tree = leaves(usize::from(size % 64));
    let path = path(rest, &nodes(&tree));
    let Some(leaf_hash) = tree.get(usize::from(leaf)) else { return false };
    let size = tree.len() as u64;
    if verify_inclusion(leaf_hash, index.into(), size, &path, &root(&tree)).is_err() {
        return false;
    }
    assert_eq!(index, leaf, "a leaf in two places");
    assert_eq!(path, audit_path(index.into(), &tree), "another path");
    true
}

/// u8 older size, u8 newer size, u8 size of the tree whose root is said to be the older one's, the
/// path.
pub fn consistency(data: &[u8]) -> bool {
    let Some((&[older, newer, said], rest)) = data.split_first_chunk() else { return false };
    let tree = leaves(usize::from(newer % 64));
    let path = path(rest, &nodes(&tree));
    let old_root = root(tree.get(..usize::from(said)).unwrap_or(&tree));
    let (older, size) = (u64::from(older), tree.len() as u64);
    if verify_consistency(older, &old_root, size, &root(&tree), &path).is_err() {
        return false;
    }
    assert!(older > 0 && older <= size, "{older} to {size}");
    let prefix = &tree[..usize::from(data[0])];
    assert_eq!(old_root, root(prefix), "a prefix that is none");
    true
}

/// u8 where the older head stood, then a bundle, under an honest tile and head of nine messages.
pub fn rebuild(data: &[u8]) -> bool {
    let Some((&skip, bytes)) = data.split_first() else { return false };
    let bundle = include_bytes!("seeds/recorded/bundle-of-nine");
    let entries = split_bundle(bundle, 9).expect("a bundle");
    let hashes: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
    let skip = u16::from(skip % 9);
    let mut older = CompactRange::new();
    hashes[..usize::from(skip)].iter().for_each(|leaf| older.append(*leaf));
    let served = |bytes: &[u8]| Served { path: "x".into(), width: 9, bytes: bytes.to_vec() };
    let span = Span { tile: 0, width: 9, skip };
    let chunk = Chunk { span, tile: served(&hashes.concat()), bundle: served(bytes) };
    let mut rebuild = Rebuild::from(older);
    let head = Checkpoint { origin: "x".into(), size: 9, root: root(&hashes) };
    if rebuild.add(&chunk).and_then(|()| rebuild.finish(&head)).is_err() {
        return false;
    }
    let read = split_bundle(bytes, 9).expect("it was taken");
    assert_eq!(read[usize::from(skip)..], entries[usize::from(skip)..], "another entry was taken");
    true
}

/// The recorded log: 29 entries, and what it had answered when it had nine.
const HEAD: &str = include_str!("seeds/head/good-large");
const OLDER_HEAD: &str = include_str!("seeds/head/good-small");
const BUNDLE: &[u8] = include_bytes!("seeds/recorded/bundle-of-29");
const SIZE: u16 = 29;
/// When its newest head was signed, Unix seconds.
const RECORDED_AT: u64 = 1_795_418_388;

fn entries() -> Vec<&'static [u8]> {
    split_bundle(BUNDLE, SIZE).expect("a bundle")
}

fn recorded_tile() -> Vec<u8> {
    entries().into_iter().flat_map(leaf_hash).collect()
}

/// An offline proof, of the entry that is in it.
pub fn proof(data: &[u8]) -> bool {
    let Ok(proof) = OfflineProof::parse(data) else { return false };
    let Some(entry) = &proof.extra else { return false };
    if proof.verify(key(), &leaf_hash(entry)).is_err() {
        return false;
    }
    let at = usize::try_from(proof.index).expect("an index of the log");
    assert_eq!(entries()[at], entry, "an entry that is not there");
    true
}

pub fn policy(data: &[u8]) -> bool {
    let Ok(policy) = Policy::parse(data, None) else { return false };
    let note = Note::parse(HEAD.as_bytes()).expect("a note");
    if let Ok(ballot) = policy.ballot(&note, RECORDED_AT, Duration::MAX) {
        // Of all keys in the world only the time key cosigned the note.
        assert!(ballot.counted.len() <= 1);
        let _ = policy.judge(ballot);
    }
    if policy.quorum_name() != "none" {
        let all = policy.witnesses().len();
        assert!(Policy::parse(data, Some(all)).is_err(), "a quorum for which all may lie");
    }
    true
}

/// A file of evidence against the recorded log, which is honest: nothing proves anything.
pub fn evidence(data: &[u8]) -> bool {
    let Ok(evidence) = Evidence::parse(data) else { return false };
    let Ok(judgement) = verify(&evidence, key()) else { return false };
    assert_ne!(judgement.standing, Standing::Proof, "an honest log is framed: {judgement:?}");
    true
}

/// The recorded log with one other answer.
struct Recorded {
    path: &'static str,
    answer: Vec<u8>,
}

const PATHS: [&str; 5] = [
    "checkpoint",
    "log/keys",
    "tile/0/000.p/29",
    "tile/entries/000.p/29",
    "log/consistency?from=9&to=29",
];

impl Source for Recorded {
    async fn get(&self, path: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        let bytes = match path {
            path if path == self.path => self.answer.clone(),
            "checkpoint" => HEAD.into(),
            "log/keys" => include_bytes!("seeds/log_keys/good-key-list").to_vec(),
            "tile/0/000.p/29" => recorded_tile(),
            "tile/entries/000.p/29" => BUNDLE.to_vec(),
            "log/consistency?from=9&to=29" => {
                include_bytes!("seeds/recorded/consistency-9-to-29").to_vec()
            }
            _ => return Err(FetchError::NotFound),
        };
        if bytes.len() > limit { Err(FetchError::TooLarge { limit }) } else { Ok(bytes) }
    }
}

/// u8 which answer of the recorded log, u8 whether the auditor knew its first nine entries, then
/// the other answer: a whole audit, which may only end with the truth.
pub fn answers(data: &[u8]) -> bool {
    let Some((&[which, known], answer)) = data.split_first_chunk() else { return false };
    let path = PATHS[usize::from(which) % PATHS.len()];
    let source = Arc::new(Recorded { path, answer: answer.to_vec() });
    let memory = Memory::from_json(include_bytes!("seeds/state/good-nine")).expect("a state");
    let trust = match known % 2 {
        0 => Trust::Key(Box::new(key().clone())),
        _ => Trust::Memory(Box::new(memory)),
    };
    let options = Options { max_age: Duration::MAX, clock: || RECORDED_AT };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let audit = runtime.block_on(check(source, trust, options, &mut |_, _| {}));
    let Ok(verified) = audit else { return false };
    let (size, root) = (verified.report.size, verified.report.root);
    let heads = [HEAD, OLDER_HEAD].map(|head| {
        let head = SignedHead::open(head.as_bytes(), key(), None).expect("a head").checkpoint;
        (head.size, head.root)
    });
    assert!(heads.contains(&(size, root)), "another tree was taken");
    assert_eq!((verified.memory.range.size(), verified.memory.range.root()), (size, root));
    true
}

/// An event of an account's chain.
pub fn event(data: &[u8]) -> bool {
    let Ok(event) = Event::parse(data) else { return false };
    assert_eq!(Event::parse(data).as_ref(), Ok(&event));
    // Whatever follows an event is not a part of it.
    assert!(Event::parse(&[data, &[0]].concat()).is_err());
    true
}

/// u16 length of an event, the event, its signature, its acceptance: said to be what the first
/// entry of the recorded log was made of.
pub fn account(data: &[u8]) -> bool {
    let Some((length, rest)) = data.split_first_chunk() else { return false };
    let length = usize::from(u16::from_be_bytes(*length));
    let Some((event, signatures)) = rest.split_at_checked(length) else { return false };
    let Some((sig, accept_sig)) = signatures.split_at_checked(64) else { return false };
    let signed =
        SignedEvent { event: event.to_vec(), sig: sig.to_vec(), accept_sig: accept_sig.to_vec() };
    let entry = Entry::parse(entries()[0]).expect("an entry");
    let logged = Logged { index: 0, entry, body: Body::Native(signed) };
    let alice = Handle::parse("alice").expect("a handle");
    let Ok(Some(_)) = replay(key(), &alice, &[logged]) else { return false };
    assert_eq!(event, include_bytes!("seeds/recorded/genesis"), "another event");
    true
}
