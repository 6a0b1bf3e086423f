//! An honest log in memory: what it answers to every path of PROTOCOL.md 6.

use ed25519_dalek::{Signer as _, SigningKey};
use nexo_schema::bytes::{to_base64, to_hex};
use nexo_schema::entry;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

use crate::harness::now;

/// A SHA-256 hash.
pub(crate) type Hash = [u8; 32];

const WIDTH: usize = 256;

/// The two secret keys of a log, and its name.
#[derive(Clone)]
pub(crate) struct Signers {
    pub(crate) origin: String,
    log: SigningKey,
    time: SigningKey,
}

impl Signers {
    /// Keys made of a seed: another seed is another log, be its name the same.
    pub(crate) fn of(origin: &str, seed: u8) -> Self {
        let key = |part| SigningKey::from_bytes(&[seed, part].repeat(16).try_into().unwrap());
        Self { origin: origin.to_owned(), log: key(1), time: key(2) }
    }

    /// The log key, as its operator publishes it.
    pub(crate) fn vkey(&self) -> String {
        vkey(&self.origin, 1, &self.log)
    }

    /// The time key.
    pub(crate) fn time_vkey(&self) -> String {
        vkey(&self.time_name(), 4, &self.time)
    }

    fn time_name(&self) -> String {
        format!("{}/time", self.origin)
    }

    /// The log's signature line under a text.
    pub(crate) fn line(&self, text: &str) -> String {
        line(&self.origin, 1, &self.log, &self.log.sign(text.as_bytes()).to_bytes())
    }

    /// The time key's cosignature line under a text.
    pub(crate) fn time_line(&self, text: &str, time: u64) -> String {
        let message = format!("cosignature/v1\ntime {time}\n{text}");
        let signature = self.time.sign(message.as_bytes()).to_bytes();
        let blob = [&time.to_be_bytes()[..], &signature].concat();
        line(&self.time_name(), 4, &self.time, &blob)
    }

    /// A note signed by both, as heads are.
    pub(crate) fn note(&self, text: &str, time: u64) -> String {
        format!("{text}\n{}{}", self.line(text), self.time_line(text, time))
    }

    /// The note that names the time key.
    pub(crate) fn key_list(&self) -> String {
        let text = format!("nexo/1/log-keys\n{}\ntime {}\n", self.origin, self.time_vkey());
        format!("{text}\n{}", self.line(&text))
    }
}

fn key_id(name: &str, kind: u8, key: &SigningKey) -> [u8; 4] {
    let public = key.verifying_key().to_bytes();
    let hash = Sha256::digest([name.as_bytes(), b"\n", &[kind], &public].concat());
    [hash[0], hash[1], hash[2], hash[3]]
}

fn vkey(name: &str, kind: u8, key: &SigningKey) -> String {
    let blob = [&[kind][..], &key.verifying_key().to_bytes()].concat();
    format!("{name}+{}+{}", to_hex(&key_id(name, kind, key)), to_base64(&blob))
}

fn line(name: &str, kind: u8, key: &SigningKey, blob: &[u8]) -> String {
    let blob = [&key_id(name, kind, key)[..], blob].concat();
    format!("— {name} {}\n", to_base64(&blob))
}

/// A log: entries, and who signs them.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) signers: Signers,
    pub(crate) entries: Vec<Vec<u8>>,
    /// When the head was vouched for, Unix seconds.
    pub(crate) time: u64,
    /// What it says its key entries were made of, by their index.
    pub(crate) events: BTreeMap<usize, Value>,
}

impl Log {
    /// The first so many messages of the one honest log.
    pub(crate) fn of(size: usize) -> Self {
        let entry = |n: usize| entry::plain_message(&Sha256::digest(n.to_be_bytes()).into());
        let entries = (0..size).map(entry).collect();
        let signers = Signers::of("liar.example", 1);
        Self { signers, entries, time: now(), events: BTreeMap::new() }
    }

    /// The same log with something changed: its entries, its keys, its time.
    pub(crate) fn but(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut other = self.clone();
        change(&mut other);
        other
    }

    pub(crate) fn size(&self) -> usize {
        self.entries.len()
    }

    fn leaves(&self) -> Vec<Hash> {
        self.entries.iter().map(|entry| leaf_hash(entry)).collect()
    }

    pub(crate) fn root(&self) -> Hash {
        root(&self.leaves())
    }

    /// The signed head over these entries.
    pub(crate) fn head(&self) -> String {
        self.head_of(self.size() as u64, &self.root())
    }

    /// A signed head of any size and root.
    pub(crate) fn head_of(&self, size: u64, root: &Hash) -> String {
        let text = format!("{}\n{size}\n{}\n", self.signers.origin, to_base64(root));
        self.signers.note(&text, self.time)
    }

    /// What an honest log answers to this path; `None` for what it does not have.
    pub(crate) fn answer(&self, path: &str) -> Option<Vec<u8>> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        match path {
            "checkpoint" => Some(self.head().into_bytes()),
            "log/keys" => Some(self.signers.key_list().into_bytes()),
            "log/vkey" => Some(format!("{}\n", self.signers.vkey()).into_bytes()),
            "log/consistency" => self.consistency(number(query, "from")?, number(query, "to")?),
            "log/inclusion" => self.inclusion(number(query, "index")?, number(query, "size")?),
            "log/proof" => self.proof(number(query, "index")?),
            "log/events" => self.events(number(query, "from")?, number(query, "limit")?),
            _ => self.tile(path.strip_prefix("tile/")?),
        }
    }

    /// A tile or bundle of any level and width that this size implies.
    fn tile(&self, path: &str) -> Option<Vec<u8>> {
        let (level, rest) = path.split_once('/')?;
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (ungrouped(index)?, width.parse().ok()?),
            None => (ungrouped(rest)?, WIDTH),
        };
        let (from, to) = (index * WIDTH, index * WIDTH + width);
        if level == "entries" {
            return Some(bundle(self.entries.get(from..to)?));
        }
        let under = WIDTH.checked_pow(level.parse().ok()?)?;
        let leaves = self.leaves();
        let node = |at: usize| Some(root(leaves.get(at * under..(at + 1) * under)?));
        Some((from..to).map(node).collect::<Option<Vec<_>>>()?.concat())
    }

    fn consistency(&self, from: usize, to: usize) -> Option<Vec<u8>> {
        let leaves = self.leaves();
        let proof =
            (from >= 1 && from <= to).then(|| leaves.get(..to))?.map(|l| extends(from, l))?;
        Some(json!({"from": from, "to": to, "hashes": spelled(&proof)}).to_string().into_bytes())
    }

    fn inclusion(&self, index: usize, size: usize) -> Option<Vec<u8>> {
        let leaves = self.leaves();
        let tree = leaves.get(..size).filter(|tree| index < tree.len())?;
        let (leaf, path) = (to_base64(&tree[index]), spelled(&includes(index, tree)));
        let view = json!({"index": index, "size": size, "leaf_hash": leaf, "hashes": path});
        Some(view.to_string().into_bytes())
    }

    /// A page of events.
    fn events(&self, from: usize, limit: usize) -> Option<Vec<u8>> {
        let page: Vec<(&usize, &Value)> = self.events.range(from..).take(limit).collect();
        let next = page.last().map_or(self.size(), |(index, _)| *index + 1);
        let event = |(index, event): &(&usize, &Value)| {
            let mut event = (*event).clone();
            event["index"] = (**index).into();
            event
        };
        let events: Vec<Value> = page.iter().map(event).collect();
        let view = json!({"events": events, "next": next, "size": self.size()});
        Some(view.to_string().into_bytes())
    }

    /// A C2SP tlog-proof of one entry under the newest head.
    fn proof(&self, index: usize) -> Option<Vec<u8>> {
        let extra = to_base64(self.entries.get(index)?);
        let path: String = spelled(&includes(index, &self.leaves())).join("\n");
        let path = if path.is_empty() { path } else { path + "\n" };
        let head = self.head();
        let text = format!("c2sp.org/tlog-proof@v1\nextra {extra}\nindex {index}\n{path}\n{head}");
        Some(text.into_bytes())
    }
}

fn spelled(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|hash| to_base64(hash)).collect()
}

/// Entries behind their lengths.
pub(crate) fn bundle(entries: &[Vec<u8>]) -> Vec<u8> {
    let entry = |entry: &Vec<u8>| {
        let length = u16::try_from(entry.len()).unwrap();
        [&length.to_be_bytes()[..], entry].concat()
    };
    entries.iter().flat_map(entry).collect()
}

/// A number of a query.
fn number(query: &str, name: &str) -> Option<usize> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name)?.1.parse().ok()
}

/// `x001/x234/067` is 1234067.
fn ungrouped(text: &str) -> Option<usize> {
    text.split('/').try_fold(0, |sum: usize, group| {
        let group: usize = group.trim_start_matches('x').parse().ok()?;
        sum.checked_mul(1000)?.checked_add(group)
    })
}

// RFC 6962 2.1

fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

fn parent(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The largest power of two below the length.
fn split(leaves: &[Hash]) -> (&[Hash], &[Hash]) {
    leaves.split_at(leaves.len().next_power_of_two() / 2)
}

/// MTH(D[n]).
fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = split(leaves);
            parent(&root(left), &root(right))
        }
    }
}

/// PATH(m, D[n]).
fn includes(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return vec![];
    }
    let (left, right) = split(leaves);
    let (mut path, other) = match index.checked_sub(left.len()) {
        None => (includes(index, left), right),
        Some(index) => (includes(index, right), left),
    };
    path.push(root(other));
    path
}

/// PROOF(m, D[n]).
fn extends(older: usize, leaves: &[Hash]) -> Vec<Hash> {
    fn subproof(older: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if older == leaves.len() {
            return if whole { vec![] } else { vec![root(leaves)] };
        }
        let (left, right) = split(leaves);
        let (mut proof, other) = match older.checked_sub(left.len()) {
            None | Some(0) => (subproof(older, left, whole), right),
            Some(older) => (subproof(older, right, false), left),
        };
        proof.push(root(other));
        proof
    }
    subproof(older, leaves, true)
}

/// The exam of the examiner: code of none of ours takes what an honest log says.
#[test]
fn strangers_code_takes_the_honest_log() {
    use tlog_tiles::{Hash as Theirs, check_record, check_tree, record_hash};
    let logs: Vec<Log> = (1..=20).chain([255, 256, 257, 511, 513]).map(Log::of).collect();
    let newest = logs.last().unwrap();
    let hashes = |list: &Value| {
        let list = list.as_array().unwrap().iter();
        list.map(|hash| Theirs::parse_hash(hash.as_str().unwrap()).unwrap()).collect()
    };
    let view =
        |path: String| -> Value { serde_json::from_slice(&newest.answer(&path).unwrap()).unwrap() };
    let (size, newest_root) = (newest.size() as u64, Theirs(newest.root()));
    for log in &logs {
        let (from, old) = (log.size() as u64, Theirs(log.root()));
        let proof = view(format!("log/consistency?from={from}&to={size}"))["hashes"].take();
        check_tree(&hashes(&proof), size, newest_root, from, old).unwrap();
        let index = from - 1;
        let proof = view(format!("log/inclusion?index={index}&size={size}"))["hashes"].take();
        let leaf = record_hash(log.entries.last().unwrap());
        check_record(&hashes(&proof), size, newest_root, index, leaf).unwrap();
        crate::harness::note::Checkpoint::verify(&log.head(), &log.signers.vkey());
    }
    assert_eq!(newest.answer("tile/1/000.p/2").unwrap().len(), 64);
    assert_eq!(newest.answer("tile/0/002.p/2"), None, "the log is not that long");
    assert_eq!(ungrouped("x001/x234/067"), Some(1_234_067));
}
