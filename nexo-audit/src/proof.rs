//! Offline proofs: a file that shows, under the log's key alone, that an entry is in the log.
//!
//! Format of C2SP tlog-proof:
//!
//! ```text
//! c2sp.org/tlog-proof@v1 LF
//! extra <base64> LF              at most one; a Nexo server puts the entry there
//! index <decimal> LF             from 0
//! <base64 of a hash> LF  * n     audit path (RFC 6962 2.1.1), the leaf's sibling first
//! LF
//! <a checkpoint with its signatures, verbatim>
//! ```
//!
//! `extra` is not authenticated by the format. Who uses it as the entry learns that *this* entry
//! is in the log, and must still compare it with what it should be of.

use crate::checkpoint::{SignedHead, decimal};
use crate::encoding::{from_base64, hash_from_base64};
use crate::finding::Finding;
use crate::key::LogKey;
use crate::merkle::{Hash, verify_inclusion};
use crate::note::MAX_NOTE;

/// First line of every proof.
const VERSION: &str = "c2sp.org/tlog-proof@v1";
/// Longest file that is read, bytes: a note, a path, and the longest entry in base64.
pub const MAX_FILE: usize = MAX_NOTE + 96 * 1024;
/// Most hashes of a path: the height of a tree of 2^63 leaves.
const MAX_PATH: usize = 63;
/// Words for the note in the file, where a finding names a path.
const CHECKPOINT: &str = "the checkpoint in the proof";

/// Why bytes are not an offline proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfflineProofError {
    /// Longer than [`MAX_FILE`].
    #[error("the file is longer than {MAX_FILE} bytes")]
    TooLong,
    /// Another first line.
    #[error("the file does not begin with {VERSION}")]
    Version,
    /// Not UTF-8, or without the empty line before the checkpoint.
    #[error("the file is not text with an empty line before its checkpoint")]
    Parts,
    /// `extra` is not strict base64.
    #[error("the extra line is not base64")]
    Extra,
    /// No index line, or not a number in its one spelling below 2^63.
    #[error("the index line is missing, or not a number in its one spelling below 2^63")]
    Index,
    /// A line of the path is not base64 of 32 bytes, or there are more than any tree has.
    #[error("line {line} is not a hash, or one too many")]
    Hash {
        /// The line, from 1.
        line: usize,
    },
}

/// A proof that was split, not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineProof<'a> {
    /// What the application put there; a Nexo server the entry.
    pub extra: Option<Vec<u8>>,
    /// RFC 6962 index, from 0.
    pub index: u64,
    /// Audit path.
    pub path: Vec<Hash>,
    /// The signed note.
    pub checkpoint: &'a [u8],
}

impl<'a> OfflineProof<'a> {
    /// Splits a file.
    ///
    /// # Errors
    /// [`OfflineProofError`] names what differs.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, OfflineProofError> {
        if bytes.len() > MAX_FILE {
            return Err(OfflineProofError::TooLong);
        }
        let text = str::from_utf8(bytes).map_err(|_| OfflineProofError::Parts)?;
        let text = text.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix('\n'));
        let text = text.ok_or(OfflineProofError::Version)?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(OfflineProofError::Parts)?;
        let mut lines = (2..).zip(head.split('\n')).peekable();
        let extra = lines.next_if(|(_, line)| line.starts_with("extra "));
        let extra = extra.map(|(_, line)| from_base64(&line["extra ".len()..]));
        let extra = extra.map(|bytes| bytes.ok_or(OfflineProofError::Extra)).transpose()?;
        let index = lines.next().and_then(|(_, line)| decimal(line.strip_prefix("index ")?));
        let index = index.ok_or(OfflineProofError::Index)?;
        let mut path = Vec::new();
        for (line, text) in lines {
            let hash = hash_from_base64(text).filter(|_| path.len() < MAX_PATH);
            path.push(hash.ok_or(OfflineProofError::Hash { line })?);
        }
        Ok(Self { extra, index, path, checkpoint: checkpoint.as_bytes() })
    }

    /// The head in the proof, after the log's signature on it and the path from `leaf` to its
    /// root have been verified.
    ///
    /// # Errors
    /// A [`Finding`]: [`Finding::InclusionMismatch`] when the head is genuine and the leaf is not
    /// under it.
    pub fn verify(&self, key: &LogKey, leaf: &Hash) -> Result<SignedHead, Finding> {
        let head = SignedHead::open(self.checkpoint, key, None)
            .map_err(|error| Finding::of_head(CHECKPOINT, error))?;
        let (index, size) = (self.index, head.checkpoint.size);
        verify_inclusion(leaf, index, size, &self.path, &head.checkpoint.root)
            .map_err(|cause| Finding::InclusionMismatch { index, size, cause })?;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::to_base64;
    use crate::merkle::{ProofError, leaf_hash};
    use crate::note::SignatureError;
    use crate::testlog::{Signers, TestLog, oracle_inclusion, vector};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    pub(crate) fn file(extra: &str, index: u64, path: &[Hash], note: &str) -> String {
        let path: String = path.iter().map(|hash| to_base64(hash) + "\n").collect();
        format!("{VERSION}\n{extra}index {index}\n{path}\n{note}")
    }

    fn of_leaf(log: &TestLog, index: u64) -> String {
        let path = oracle_inclusion(usize::try_from(index).unwrap(), &log.hashes());
        let entry = &log.entries[usize::try_from(index).unwrap()];
        file(&format!("extra {}\n", to_base64(entry)), index, &path, &log.head())
    }

    #[test]
    fn every_leaf_of_a_small_log_is_proved() {
        for size in [1, 2, 7, 12] {
            let log = TestLog::with(size);
            for index in 0..size {
                let text = of_leaf(&log, index);
                let proof = OfflineProof::parse(text.as_bytes()).unwrap();
                let leaf = leaf_hash(proof.extra.as_ref().unwrap());
                assert_eq!(proof.index, index);
                let head = proof.verify(&log.signers.log_key(), &leaf).unwrap();
                assert_eq!((head.checkpoint.size, head.note), (size, log.head()));
            }
        }
    }

    #[test]
    fn entries_of_a_foreign_log_are_proved_at_every_size() {
        let log = vector("tlog/tessera-testlog.json");
        let key = LogKey::parse(log["vkey"].as_str().unwrap()).unwrap();
        let decode = |text: &serde_json::Value| STANDARD.decode(text.as_str().unwrap()).unwrap();
        for head in log["checkpoints"].as_array().unwrap() {
            let size = usize::try_from(head["size"].as_u64().unwrap()).unwrap();
            let tile = match size {
                0 => continue,
                _ => decode(&log["tiles"][format!("tile/0/000.p/{size}")]),
            };
            let leaves: &[Hash] = tile.as_chunks::<32>().0;
            for (index, leaf) in (0..).zip(leaves) {
                let at = usize::try_from(index).unwrap();
                let path = oracle_inclusion(at, leaves);
                let text = file("", index, &path, head["note"].as_str().unwrap());
                let proof = OfflineProof::parse(text.as_bytes()).unwrap();
                assert_eq!(proof.extra, None);
                proof.verify(&key, leaf).unwrap();
            }
        }
    }

    /// The longest entry, the longest path and the longest note have room.
    #[test]
    fn a_proof_of_the_largest_size_is_read_and_one_byte_more_is_not() {
        let extra = format!("extra {}\n", to_base64(&[7; 65_535]));
        let largest = file(&extra, u64::MAX >> 1, &[[1; 32]; MAX_PATH], &"n".repeat(MAX_NOTE));
        assert!(largest.len() <= MAX_FILE, "{}", largest.len());
        let room = "n".repeat(MAX_FILE - largest.len());
        let whole = largest + &room;
        let proof = OfflineProof::parse(whole.as_bytes()).unwrap();
        assert_eq!((proof.path.len(), proof.checkpoint.len()), (63, MAX_NOTE + room.len()));
        let more = whole + "n";
        assert_eq!(OfflineProof::parse(more.as_bytes()), Err(OfflineProofError::TooLong));
    }

    #[test]
    fn a_file_has_its_lines_in_order() {
        let hash = to_base64(&[1; 32]);
        let good = format!("{VERSION}\nextra \nindex 0\n{hash}\n\nnote");
        let parsed = OfflineProof::parse(good.as_bytes()).unwrap();
        assert_eq!((parsed.extra, parsed.path.len()), (Some(vec![]), 1));
        assert_eq!(parsed.checkpoint, b"note");
        let long = format!("{hash}\n").repeat(MAX_PATH + 1);
        for (bad, why) in [
            (String::new(), OfflineProofError::Version),
            (good.replace("@v1", "@v2"), OfflineProofError::Version),
            (good.replace("@v1\n", "@v1\r\n"), OfflineProofError::Version),
            (good.replace("\n\n", "\n"), OfflineProofError::Parts),
            (good.replace("extra \n", "extra x\n"), OfflineProofError::Extra),
            (good.replace("extra \n", "extra AA==\nextra AA==\n"), OfflineProofError::Index),
            (good.replace("index 0\n", ""), OfflineProofError::Index),
            (good.replace("index 0", "index 00"), OfflineProofError::Index),
            (good.replace("index 0", "index -1"), OfflineProofError::Index),
            (good.replace("index 0", "index 9223372036854775808"), OfflineProofError::Index),
            (good.replace("index 0", "Index 0"), OfflineProofError::Index),
            (good.replace(&hash, &to_base64(&[1; 31])), OfflineProofError::Hash { line: 4 }),
            (good.replace(&hash, &format!("{hash} ")), OfflineProofError::Hash { line: 4 }),
            (format!("{VERSION}\nindex 0\n{long}\nnote"), OfflineProofError::Hash { line: 66 }),
            ("x".repeat(MAX_FILE + 1), OfflineProofError::TooLong),
        ] {
            assert_eq!(
                OfflineProof::parse(bad.as_bytes()),
                Err(why),
                "{}",
                &bad[..bad.len().min(99)]
            );
        }
        assert_eq!(OfflineProof::parse(b"\xff"), Err(OfflineProofError::Parts));
    }

    #[test]
    fn another_leaf_index_or_key_is_refused() {
        let log = TestLog::with(7);
        let (text, key) = (of_leaf(&log, 3), log.signers.log_key());
        let verify = |text: &str, key: &LogKey, leaf: u64| {
            let leaf = leaf_hash(&log.entries[usize::try_from(leaf).unwrap()]);
            OfflineProof::parse(text.as_bytes()).unwrap().verify(key, &leaf).map(|_| ())
        };
        assert_eq!(verify(&text, &key, 3), Ok(()));
        let mismatch = |index, cause| Err(Finding::InclusionMismatch { index, size: 7, cause });
        assert_eq!(verify(&text, &key, 4), mismatch(3, ProofError::Root));
        let moved = text.replace("index 3", "index 2");
        assert_eq!(verify(&moved, &key, 3), mismatch(2, ProofError::Root));
        let beyond = text.replace("index 3", "index 7");
        assert_eq!(verify(&beyond, &key, 3), mismatch(7, ProofError::Index));
        let stranger = Signers::other("log.example").log_key();
        let cause = SignatureError::Missing { name: "log.example".into() };
        let path = CHECKPOINT.to_owned();
        assert_eq!(verify(&text, &stranger, 3), Err(Finding::BadSignature { path, cause }));
    }

    proptest! {
        #[test]
        fn no_file_panics(bytes: Vec<u8>, lines in "(extra |index |[A-Za-z0-9+/=]{0,50}|\n)*") {
            let _ = OfflineProof::parse(&bytes);
            let _ = OfflineProof::parse(format!("{VERSION}\n{lines}").as_bytes());
        }
    }
}
