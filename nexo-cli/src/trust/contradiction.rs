//! Two heads that contradict each other, written down for others (PROTOCOL.md 6).

use std::path::PathBuf;

use nexo_audit::merkle::{Hash, prefix_roots};
use nexo_schema::bytes::{to_base64, to_hex};
use sha2::{Digest as _, Sha256};

use super::log::{LogSource, LogTrust, TrustError};
use crate::vault::HeldHead;

impl<S: LogSource> LogTrust<'_, S> {
    /// The nodes that show to anybody that the larger tree does not begin with the smaller one
    /// ([`prefix_roots`]), made of a consistency proof that does not hold; none if they do not
    /// show it. An older tree that is one full subtree is left out of such a proof, but what
    /// the larger tree has in its place is a node of the path to the leaf behind it.
    pub(super) async fn prefix(
        &self,
        (from, old): (u64, &Hash),
        (to, new): (u64, &Hash),
        mut path: Vec<Hash>,
    ) -> Vec<Hash> {
        if from.is_power_of_two() {
            let Ok(behind) = self.source().inclusion(from, to).await else { return Vec::new() };
            let Some(start) = first_on_the_left(from, to, &behind) else { return Vec::new() };
            path.insert(0, start);
        }
        match prefix_roots(from, to, &path) {
            Ok((begins, whole)) if whole == *new && begins != *old => path,
            _ => Vec::new(),
        }
    }

    /// Writes both notes, verbatim: anybody can verify the signatures again. With a `prefix`
    /// ([`LogTrust::prefix`]) the file is a proof by itself.
    pub(super) fn contradiction(
        &self,
        kind: &str,
        held: &HeldHead,
        shown: &str,
        prefix: &[Hash],
        now: u64,
    ) -> Result<Option<PathBuf>, TrustError> {
        let Some(home) = self.home() else { return Ok(None) };
        let hash = Sha256::new().chain_update(&held.note).chain_update(shown).finalize();
        let mut json = serde_json::json!({
            "schema": "nexo.evidence/1",
            "kind": kind,
            "log_vkey": self.log_key().to_string(),
            "seen_at": crate::clock::rfc3339(now),
            "held": held.note,
            "shown": shown,
        });
        if !prefix.is_empty() {
            json["prefix"] = prefix.iter().map(|hash| to_base64(hash)).collect();
        }
        let text = format!("{json:#}\n");
        let path = home.write_evidence(&format!("{}.json", to_hex(&hash)), text.as_bytes())?;
        Ok(Some(path))
    }
}

/// The first node of an audit path (RFC 9162 2.1.3.2) that stands to the left: everything before
/// the leaf, if the leaf is the first one behind a full subtree.
fn first_on_the_left(index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    let (mut node, mut last) = (index, size.checked_sub(1)?);
    for sibling in path {
        if node & 1 == 1 || node == last {
            return Some(*sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use crate::trust::testlog::TestLog;
    use crate::vault::Vault;
    use nexo_audit::checkpoint::SignedHead;
    use nexo_audit::evidence::{Evidence, Standing, verify};

    fn log_of(size: u8) -> TestLog {
        let log = TestLog::new("relay.example.test");
        for n in 0..size {
            log.append(&[n]);
        }
        log
    }

    /// A fork: the same log with another last entry.
    fn forked(size: u8) -> TestLog {
        let log = log_of(size);
        log.rewrite_last();
        log
    }

    /// A fork behind a larger size is proof for others, whatever the sizes are.
    #[tokio::test]
    async fn e9_the_evidence_of_a_fork_convinces_whoever_reads_it() {
        for (before, after) in
            [(3, 4), (4, 5), (4, 8), (5, 8), (7, 9), (8, 9), (8, 13), (1, 2), (2, 7)]
        {
            let dir = tempfile::tempdir().unwrap();
            let home = Home::create(&dir.path().join("h"), true).unwrap();
            let (log, lie, vault) = (log_of(before), forked(before), Vault::in_memory().unwrap());
            for n in before..after {
                lie.append(&[n]);
            }
            let key = log.key();
            LogTrust::new(&log, &vault, &key, None, None).fetch_head(log.now()).await.unwrap();
            let trust = LogTrust::new(&lie, &vault, &key, None, Some(&home));
            let caught = trust.fetch_head(log.now()).await;
            let Err(TrustError::Inconsistent { evidence: Some(path), .. }) = caught else {
                panic!("{before} {after} {caught:?}")
            };
            let bytes = std::fs::read(path).unwrap();
            let evidence = Evidence::parse(&bytes).unwrap();
            let judged = verify(&evidence, &key).unwrap();
            assert_eq!(judged.standing, Standing::Proof, "{before} {after}: {}", judged.shows);
        }
    }

    /// Proofs that are no proofs leave the word of this device, and say nothing that does not hold.
    #[tokio::test]
    async fn nodes_that_show_nothing_are_left_out() {
        let (log, vault) = (log_of(9), Vault::in_memory().unwrap());
        let key = log.key();
        let trust = LogTrust::new(&log, &vault, &key, None, None);
        let head = |size| SignedHead::open(log.note(size).as_bytes(), &key, None).unwrap();
        for from in [3, 4, 7, 8] {
            let (old, new) = (head(from).checkpoint.root, head(9).checkpoint.root);
            let path = log.consistency(from, 9).await.unwrap();
            let honest = trust.prefix((from, &old), (9, &new), path.clone()).await;
            assert!(honest.is_empty(), "the larger tree begins with the smaller one");
            let other = trust.prefix((from, &[7; 32]), (9, &new), path.clone()).await;
            assert!(!other.is_empty());
            let elsewhere = trust.prefix((from, &[7; 32]), (9, &old), path.clone()).await;
            assert!(elsewhere.is_empty(), "they do not lead to the head that was shown");
            assert!(trust.prefix((from, &[7; 32]), (9, &new), path[1..].to_vec()).await.is_empty());
        }
    }
}
