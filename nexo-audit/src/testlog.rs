//! For tests: an honest little log, its keys, and places to serve it from.
//!
//! Roots and proofs come from the recursive definitions of RFC 6962 2.1, so that neither the
//! compact range nor the verifiers examine themselves. Nothing here is in the program.

use crate::fetch::{FetchError, Source};
use crate::key::{LogKey, TimeKey};
use crate::merkle::{Hash, empty_root, leaf_hash, node_hash};
use crate::tile::level_path;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub(crate) const ORIGIN: &str = "log.example";
/// The time of the test log's heads, and of the clock in tests.
pub(crate) const NOW: u64 = 1_700_000_000;

// Vectors

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schema/vectors")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

pub(crate) fn vector(name: &str) -> Value {
    read(&vectors().join(name))
}

/// Every JSON file below a folder, with its path.
pub(crate) fn vector_files(folder: &str) -> Vec<(String, Value)> {
    let mut folders = vec![vectors().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.display().to_string(), read(&path)));
            }
        }
    }
    files
}

pub(crate) fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

// The definitions of RFC 6962 2.1

fn split(length: usize) -> usize {
    length.next_power_of_two() / 2
}

/// MTH(D[n]).
pub(crate) fn oracle_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&oracle_root(left), &oracle_root(right))
        }
    }
}

/// PATH(m, D[n]).
pub(crate) fn oracle_inclusion(at: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return vec![];
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = if at < left.len() {
        (oracle_inclusion(at, left), right)
    } else {
        (oracle_inclusion(at - left.len(), right), left)
    };
    path.push(oracle_root(sibling));
    path
}

/// PROOF(m, D[n]).
pub(crate) fn oracle_consistency(older: usize, leaves: &[Hash]) -> Vec<Hash> {
    fn subproof(older: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if older == leaves.len() {
            return if whole { vec![] } else { vec![oracle_root(leaves)] };
        }
        let (left, right) = leaves.split_at(split(leaves.len()));
        let (mut proof, sibling) = if older <= left.len() {
            (subproof(older, left, whole), right)
        } else {
            (subproof(older - left.len(), right, false), left)
        };
        proof.push(oracle_root(sibling));
        proof
    }
    subproof(older, leaves, true)
}

// Formats

/// The encoding of entries.
pub(crate) fn enc(label: &str, fields: &[&[u8]]) -> Vec<u8> {
    let length = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let mut out = [&length(label.len())[..], label.as_bytes(), &length(fields.len())].concat();
    for field in fields {
        out.extend(length(field.len()));
        out.extend(*field);
    }
    out
}

pub(crate) fn bundle<E: AsRef<[u8]>>(entries: &[E]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        out.extend(u16::try_from(entry.as_ref().len()).unwrap().to_be_bytes());
        out.extend(entry.as_ref());
    }
    out
}

pub(crate) fn signature_line(name: &str, id: [u8; 4], signature: &[u8]) -> String {
    format!("\u{2014} {name} {}\n", STANDARD.encode([&id[..], signature].concat()))
}

// Keys

/// The secret keys of a log.
#[derive(Clone)]
pub(crate) struct Signers {
    origin: String,
    log: SigningKey,
    time: SigningKey,
}

impl Signers {
    pub(crate) fn new(origin: &str) -> Self {
        Self::seeded(origin, 1, 2)
    }

    /// Other keys under the same name.
    pub(crate) fn other(origin: &str) -> Self {
        Self::seeded(origin, 3, 4)
    }

    /// The same log key with another time key.
    pub(crate) fn with_new_time_key(&self) -> Self {
        Self { time: SigningKey::from_bytes(&[5; 32]), ..self.clone() }
    }

    fn seeded(origin: &str, log: u8, time: u8) -> Self {
        let key = |seed| SigningKey::from_bytes(&[seed; 32]);
        Self { origin: origin.to_owned(), log: key(log), time: key(time) }
    }

    fn time_name(&self) -> String {
        format!("{}/time", self.origin)
    }

    pub(crate) fn log_key(&self) -> LogKey {
        LogKey::parse(&vkey(&self.origin, 1, &self.log)).unwrap()
    }

    pub(crate) fn time_key(&self) -> TimeKey {
        TimeKey::parse(&vkey(&self.time_name(), 4, &self.time)).unwrap()
    }

    /// The log's key in the role of its time key.
    pub(crate) fn log_key_as_time_key(&self) -> TimeKey {
        TimeKey::parse(&vkey(&self.time_name(), 4, &self.log)).unwrap()
    }

    pub(crate) fn log_line(&self, text: &str) -> String {
        let signature = self.log.sign(text.as_bytes()).to_bytes();
        signature_line(&self.origin, key_id(&self.origin, 1, &self.log), &signature)
    }

    pub(crate) fn time_line(&self, time: u64, text: &str) -> String {
        let message = format!("cosignature/v1\ntime {time}\n{text}");
        let signature = self.time.sign(message.as_bytes()).to_bytes();
        let blob = [&time.to_be_bytes()[..], &signature].concat();
        let name = self.time_name();
        signature_line(&name, key_id(&name, 4, &self.time), &blob)
    }

    pub(crate) fn head(&self, size: u64, root: &Hash, time: u64) -> String {
        let text = format!("{}\n{size}\n{}\n", self.origin, STANDARD.encode(root));
        format!("{text}\n{}{}", self.log_line(&text), self.time_line(time, &text))
    }

    pub(crate) fn key_list(&self) -> String {
        let text = format!("nexo/1/log-keys\n{}\ntime {}\n", self.origin, self.time_key());
        format!("{text}\n{}", self.log_line(&text))
    }
}

/// The secret key of a witness.
pub(crate) struct Witness {
    name: String,
    key: SigningKey,
}

impl Witness {
    /// The `n`-th witness, `w<n>.example`.
    pub(crate) fn new(n: u8) -> Self {
        let key = SigningKey::from_bytes(&[100 ^ n; 32]);
        Self { name: format!("w{n}.example"), key }
    }

    pub(crate) fn vkey(&self) -> String {
        vkey(&self.name, 4, &self.key)
    }

    /// The vkey of the same key under another name.
    pub(crate) fn renamed(&self) -> String {
        vkey("other.example", 4, &self.key)
    }

    /// The line by which it cosigns a text.
    pub(crate) fn line(&self, time: u64, text: &str) -> String {
        let message = format!("cosignature/v1\ntime {time}\n{text}");
        let signature = self.key.sign(message.as_bytes()).to_bytes();
        let blob = [&time.to_be_bytes()[..], &signature].concat();
        signature_line(&self.name, key_id(&self.name, 4, &self.key), &blob)
    }
}

/// A vkey of kind 0x06, of nobody.
pub(crate) fn post_quantum() -> String {
    let public = [7; 1312];
    let hash = Sha256::digest([b"pq.example\n\x06".as_slice(), &public].concat());
    let id: String = hash[..4].iter().map(|b| format!("{b:02x}")).collect();
    format!("pq.example+{id}+{}", STANDARD.encode([&[6], &public[..]].concat()))
}

fn key_id(name: &str, kind: u8, key: &SigningKey) -> [u8; 4] {
    let public = key.verifying_key().to_bytes();
    let hash = Sha256::digest([name.as_bytes(), b"\n", &[kind], &public].concat());
    [hash[0], hash[1], hash[2], hash[3]]
}

fn vkey(name: &str, kind: u8, key: &SigningKey) -> String {
    let id: String = key_id(name, kind, key).iter().map(|b| format!("{b:02x}")).collect();
    let public = key.verifying_key().to_bytes();
    format!("{name}+{id}+{}", STANDARD.encode([&[kind], &public[..]].concat()))
}

// A log

/// An honest log of messages.
#[derive(Clone)]
pub(crate) struct TestLog {
    pub(crate) signers: Signers,
    pub(crate) entries: Vec<Vec<u8>>,
    pub(crate) time: u64,
}

impl TestLog {
    /// The log's first `size` entries, which are the same at every size.
    pub(crate) fn with(size: u64) -> Self {
        let entry = |n: u64| enc("nexo/1/leaf", &[&[2], &Sha256::digest(n.to_be_bytes())]);
        let entries = (0..size).map(entry).collect();
        Self { signers: Signers::new(ORIGIN), entries, time: NOW }
    }

    pub(crate) fn hashes(&self) -> Vec<Hash> {
        self.entries.iter().map(|entry| leaf_hash(entry)).collect()
    }

    pub(crate) fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn head(&self) -> String {
        self.signers.head(self.size(), &oracle_root(&self.hashes()), self.time)
    }

    /// Everything an auditor asks for, when it remembers one of the sizes `from`.
    pub(crate) fn publish(&self, from: &[u64]) -> Shelf {
        let (shelf, hashes) = (Shelf::default(), self.hashes());
        shelf.put("checkpoint", self.head().into_bytes());
        shelf.put("log/keys", self.signers.key_list().into_bytes());
        shelf.put("log/vkey", format!("{}\n", self.signers.log_key()).into_bytes());
        for (tile, (hashes, entries)) in
            hashes.chunks(256).zip(self.entries.chunks(256)).enumerate()
        {
            let width = match hashes.len() {
                256 => String::new(),
                width => format!(".p/{width}"),
            };
            shelf.put(&format!("tile/0/{tile:03}{width}"), hashes.concat());
            shelf.put(&format!("tile/entries/{tile:03}{width}"), bundle(entries));
        }
        let mut row = hashes.clone();
        for level in 1.. {
            row = row.as_chunks::<256>().0.iter().map(|tile| oracle_root(tile)).collect();
            if row.is_empty() {
                break;
            }
            for (tile, hashes) in (0..).zip(row.chunks(256)) {
                let width = u16::try_from(hashes.len()).unwrap();
                shelf.put(&level_path(level, tile, width), hashes.concat());
            }
        }
        for older in from {
            let proof = oracle_consistency(usize::try_from(*older).unwrap(), &hashes);
            let proof: Vec<String> = proof.iter().map(|hash| STANDARD.encode(hash)).collect();
            let to = self.size();
            let body = serde_json::json!({ "from": older, "to": to, "hashes": proof });
            let path = format!("log/consistency?from={older}&to={to}");
            shelf.put(&path, body.to_string().into_bytes());
        }
        shelf
    }
}

/// An offline proof without its entry.
pub(crate) fn offline_proof(index: u64, path: &[Hash], note: &str) -> String {
    let path: String = path.iter().map(|hash| STANDARD.encode(hash) + "\n").collect();
    format!("c2sp.org/tlog-proof@v1\nindex {index}\n{path}\n{note}")
}

/// Runs the program; its exit code, stdout and stderr.
pub(crate) fn program(args: &[&str]) -> (u8, String, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = std::iter::once(&"nexo-audit").chain(args).map(OsString::from);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = crate::run(args, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

// Places

/// Files in memory.
#[derive(Default)]
pub(crate) struct Shelf {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    shuffled: bool,
}

impl Shelf {
    /// Answers take their time, each another one.
    pub(crate) fn shuffled(self) -> Self {
        Self { shuffled: true, ..self }
    }

    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) {
        self.files.lock().unwrap().insert(path.to_owned(), bytes);
    }

    pub(crate) fn take(&self, path: &str) -> Vec<u8> {
        self.files.lock().unwrap().remove(path).unwrap_or_else(|| panic!("no {path}"))
    }

    /// Changes the bytes at a path that must exist.
    pub(crate) fn alter(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.take(path);
        change(&mut bytes);
        self.put(path, bytes);
    }

    /// The same files in a directory; proofs are no files.
    pub(crate) fn write(&self, folder: &Path) {
        for (path, bytes) in &*self.files.lock().unwrap() {
            if !path.contains('?') {
                let path = folder.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
        }
    }

    /// The same files over HTTP.
    pub(crate) fn serve(&self) -> String {
        let files = self.files.lock().unwrap();
        let paths: Vec<_> = files.iter().map(|(path, bytes)| (format!("/{path}"), bytes)).collect();
        let answers: Vec<_> =
            paths.iter().map(|(path, bytes)| (path.as_str(), Answer::ok(bytes))).collect();
        serve(&answers)
    }
}

impl Source for Shelf {
    async fn get(&self, path: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        if self.shuffled {
            for _ in 0..leaf_hash(path.as_bytes())[0] % 16 {
                tokio::task::yield_now().await;
            }
        }
        let bytes = self.files.lock().unwrap().get(path).cloned().ok_or(FetchError::NotFound)?;
        if bytes.len() > limit { Err(FetchError::TooLarge { limit }) } else { Ok(bytes) }
    }
}

/// An HTTP answer.
#[derive(Clone)]
pub(crate) struct Answer(Vec<u8>);

impl Answer {
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self::new(200, body)
    }

    pub(crate) fn new(status: u16, body: &[u8]) -> Self {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        Self([head.as_bytes(), body].concat())
    }

    /// An answer that ends before the length it names.
    pub(crate) fn cut(body: &[u8]) -> Self {
        let Self(mut bytes) = Self::ok(body);
        bytes.pop();
        Self(bytes)
    }

    /// Bytes of any kind, with headers.
    pub(crate) fn binary(body: &[u8], headers: &[(&str, &str)]) -> Self {
        let start = headers
            .iter()
            .fold(Self::new(200, b""), |answer, (name, value)| answer.header(name, value));
        let head = String::from_utf8(start.0).unwrap();
        let length = format!("Content-Length: {}", body.len());
        Self([head.replacen("Content-Length: 0", &length, 1).as_bytes(), body].concat())
    }

    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        let text = String::from_utf8(self.0).unwrap();
        let line = format!("\r\n{name}: {value}\r\nConnection");
        Self(text.replacen("\r\nConnection", &line, 1).into_bytes())
    }
}

/// Serves answers by path on a free port until the test process ends, and returns the URL. A
/// path that is given more than once answers in that order, and its last answer for ever.
pub(crate) fn serve(answers: &[(&str, Answer)]) -> String {
    let mut by_path: HashMap<String, Vec<Answer>> = HashMap::new();
    for (path, answer) in answers {
        by_path.entry((*path).to_owned()).or_default().insert(0, answer.clone());
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            // The rest of the request is read, or closing would reset the connection.
            let _ = lines.take_while(|line| !line.is_empty()).count();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let answer = match by_path.get_mut(path) {
                Some(answers) if answers.len() > 1 => answers.pop(),
                Some(answers) => answers.first().cloned(),
                None => None,
            };
            let answer = answer.unwrap_or_else(|| Answer::new(404, b"{}"));
            let _ = stream.write_all(&answer.0);
        }
    });
    url
}
