//! A log of messages in files, as a mirror of a relay has it, signed by keys that nobody keeps.
//!
//! ```text
//! checkpoint, log/keys, log/vkey, tile/<L>/<N>[.p/<W>], tile/entries/<N>[.p/<W>]
//! entry = enc("nexo/1/leaf", [0x02, hash])                 60 bytes; PROTOCOL.md 6
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer as _, SigningKey};
use nexo_audit::merkle::node_hash;
use nexo_audit::{Hash, leaf_hash};
use nexo_schema::bytes::{enc, to_base64, to_hex};
use sha2::{Digest as _, Sha256};

/// Bytes of an entry.
pub(crate) const ENTRY: usize = 60;
/// The same, as a bundle writes it.
const LENGTH: u16 = 60;
const ORIGIN: &str = "bench.example";
/// Kinds of keys (C2SP signed-note).
const LOG: u8 = 1;
const TIME: u8 = 4;

/// A log and its files.
pub(crate) struct Copy {
    folder: PathBuf,
    size: u64,
    /// Of every level, the hashes of the tile in the making, and the tile's index.
    rows: Vec<(u64, Vec<Hash>)>,
    entries: Vec<u8>,
    log: SigningKey,
    time: SigningKey,
}

impl Copy {
    /// Makes a log of so many entries.
    pub(crate) fn make(folder: &Path, entries: u64, now: u64) -> io::Result<Self> {
        let key = |seed| SigningKey::from_bytes(&[seed; 32]);
        let folder = folder.to_owned();
        let (rows, entries_of_tile) = (vec![(0, Vec::new())], Vec::new());
        let (log, time) = (key(1), key(2));
        let mut copy = Self { folder, size: 0, rows, entries: entries_of_tile, log, time };
        copy.write("log/vkey", format!("{}\n", copy.vkey()).as_bytes())?;
        let keys = format!("nexo/1/log-keys\n{ORIGIN}\ntime {}\n", vkey(TIME, &copy.time));
        copy.write("log/keys", copy.note(&keys, None).as_bytes())?;
        copy.grow(entries, now)?;
        Ok(copy)
    }

    /// The key to pin.
    pub(crate) fn vkey(&self) -> String {
        vkey(LOG, &self.log)
    }

    /// Where the files are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds entries, and signs the new head.
    pub(crate) fn grow(&mut self, entries: u64, now: u64) -> io::Result<()> {
        for number in self.size..self.size + entries {
            let entry = entry(number);
            self.entries.extend(LENGTH.to_be_bytes());
            self.entries.extend(&entry);
            self.push(leaf_hash(&entry))?;
            self.size += 1;
        }
        self.edge()?;
        let root = to_base64(&self.root());
        let text = format!("{ORIGIN}\n{}\n{root}\n", self.size);
        self.write("checkpoint", self.note(&text, Some(now)).as_bytes())
    }

    fn push(&mut self, leaf: Hash) -> io::Result<()> {
        let (mut level, mut hash) = (0, leaf);
        loop {
            if level == self.rows.len() {
                self.rows.push((0, Vec::new()));
            }
            self.rows[level].1.push(hash);
            if self.rows[level].1.len() < 256 {
                return Ok(());
            }
            let (tile, row) = std::mem::take(&mut self.rows[level]);
            self.rows[level].0 = tile + 1;
            self.write(&format!("tile/{level}/{}", grouped(tile)), row.as_flattened())?;
            if level == 0 {
                let entries = std::mem::take(&mut self.entries);
                self.write(&format!("tile/entries/{}", grouped(tile)), &entries)?;
            }
            hash = root_of(row);
            level += 1;
        }
    }

    /// The partial tiles at the right edge.
    fn edge(&self) -> io::Result<()> {
        for (level, (tile, row)) in self.rows.iter().enumerate().filter(|(_, r)| !r.1.is_empty()) {
            let end = format!("{}.p/{}", grouped(*tile), row.len());
            self.write(&format!("tile/{level}/{end}"), row.as_flattened())?;
            if level == 0 {
                self.write(&format!("tile/entries/{end}"), &self.entries)?;
            }
        }
        Ok(())
    }

    fn root(&self) -> Hash {
        let mut rows = self.rows.iter().filter(|(_, row)| !row.is_empty());
        let lowest = rows.next().map(|(_, row)| root_of(row.clone()));
        let root = rows.fold(lowest, |right, (_, row)| {
            Some(root_of(row.iter().copied().chain(right).collect()))
        });
        root.unwrap_or_else(|| Sha256::digest([]).into())
    }

    fn note(&self, text: &str, time: Option<u64>) -> String {
        let signed = self.log.sign(text.as_bytes()).to_bytes();
        let mut note = format!("{text}\n{}", line(LOG, &self.log, &signed));
        if let Some(time) = time {
            let message = format!("cosignature/v1\ntime {time}\n{text}");
            let signed = self.time.sign(message.as_bytes()).to_bytes();
            note += &line(TIME, &self.time, &[&time.to_be_bytes()[..], &signed].concat());
        }
        note
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.folder.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, bytes)
    }
}

fn entry(number: u64) -> Vec<u8> {
    enc("nexo/1/leaf", &[&[2], &Sha256::digest(number.to_be_bytes())])
}

/// The root of a tree of one row of nodes, which may be incomplete (RFC 6962: a lone node rises).
fn root_of(mut row: Vec<Hash>) -> Hash {
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => node_hash(left, right),
                lone => lone[0],
            })
            .collect();
    }
    row[0]
}

fn name(kind: u8) -> String {
    if kind == TIME { format!("{ORIGIN}/time") } else { ORIGIN.to_owned() }
}

fn key_id(kind: u8, key: &SigningKey) -> [u8; 4] {
    let public = key.verifying_key().to_bytes();
    let hash = Sha256::digest([name(kind).as_bytes(), b"\n", &[kind], &public].concat());
    [hash[0], hash[1], hash[2], hash[3]]
}

fn vkey(kind: u8, key: &SigningKey) -> String {
    let public = key.verifying_key().to_bytes();
    let public = to_base64(&[&[kind], &public[..]].concat());
    format!("{}+{}+{public}", name(kind), to_hex(&key_id(kind, key)))
}

fn line(kind: u8, key: &SigningKey, signature: &[u8]) -> String {
    let blob = to_base64(&[&key_id(kind, key)[..], signature].concat());
    format!("\u{2014} {} {blob}\n", name(kind))
}

fn grouped(mut index: u64) -> String {
    let mut text = format!("{:03}", index % 1000);
    while index >= 1000 {
        index /= 1000;
        text = format!("x{:03}/{text}", index % 1000);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_audit::LogKey;
    use nexo_audit::checkpoint::SignedHead;
    use nexo_audit::merkle::CompactRange;

    #[test]
    fn the_log_is_one_at_every_size() {
        let folder = tempfile::tempdir().unwrap();
        let mut copy = Copy::make(folder.path(), 1, 7).unwrap();
        let key = LogKey::parse(&copy.vkey()).unwrap();
        let mut tree = CompactRange::new();
        tree.append(leaf_hash(&entry(0)));
        for more in [1, 1, 4, 250, 300, 100] {
            (copy.size..copy.size + more).for_each(|n| tree.append(leaf_hash(&entry(n))));
            copy.grow(more, 7).unwrap();
            let note = fs::read(folder.path().join("checkpoint")).unwrap();
            let head = SignedHead::open(&note, &key, None).unwrap().checkpoint;
            assert_eq!((head.size, head.root), (tree.size(), tree.root()));
        }
        assert_eq!(entry(3).len(), ENTRY);
        nexo_audit::entry::Entry::parse(&entry(3)).unwrap();
    }
}
