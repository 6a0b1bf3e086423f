//! Two heads of one log: is one the beginning of the other?
//!
//! ```text
//! sizes            asked for                               answer
//! equal            nothing                                 the roots are equal, or Fork
//! 0 and another    nothing                                 the empty root, or RootMismatch
//! m < n            nodes of the tree of n, from its tiles  they start with m's root, or Inconsistent
//!                  else /log/consistency                   the log's own proof
//! ```
//!
//! Tiles come first: every log has them, and nodes that hash to the signed root of n decide the
//! question either way. If they lead to another beginning than m's signed root, they are the
//! proof that the log signed two histories, which [`crate::evidence`] keeps. Only when the log
//! does not serve the tree that it signed is it asked for a proof of its own.

use crate::check::{MAX_PROOF, read_proof};
use crate::checkpoint::{Checkpoint, SignedHead};
use crate::fetch::Source;
use crate::finding::{Finding, Malformed};
use crate::merkle::{Hash, ProofError, empty_root, prefix_roots, verify_consistency};
use crate::nodes::Nodes;

/// Why two signed heads are not of one history, or could not be shown to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discord {
    /// What was found.
    pub(crate) finding: Finding,
    /// The nodes that prove it, as in [`prefix_roots`]; empty where roots alone do, or nothing.
    pub(crate) prefix: Vec<Hash>,
}

impl From<Finding> for Discord {
    fn from(finding: Finding) -> Self {
        Self { finding, prefix: Vec::new() }
    }
}

/// Decides on two heads of the same log by what they say alone: `Some` when nothing needs to be
/// fetched. `held` is the one that was there first.
pub(crate) fn by_roots(held: &Checkpoint, shown: &Checkpoint) -> Option<Result<(), Finding>> {
    for head in [held, shown] {
        if head.size == 0 && head.root != empty_root() {
            let (signed, rebuilt) = (head.root, empty_root());
            return Some(Err(Finding::RootMismatch { size: 0, signed, rebuilt }));
        }
    }
    if held.size == shown.size {
        let (remembered, served) = (held.root, shown.root);
        let fork = Finding::Fork { size: held.size, remembered, served };
        return Some(if remembered == served { Ok(()) } else { Err(fork) });
    }
    // The empty tree starts every tree.
    (held.size == 0 || shown.size == 0).then_some(Ok(()))
}

/// Whether one of two heads of the log at `source` is the beginning of the other.
///
/// # Errors
/// A [`Discord`] when it is not, or when the log shows nothing that would prove it.
pub(crate) async fn relate<S: Source>(
    source: &S,
    held: &SignedHead,
    shown: &SignedHead,
) -> Result<(), Discord> {
    let (held, shown) = (&held.checkpoint, &shown.checkpoint);
    if let Some(decided) = by_roots(held, shown) {
        return decided.map_err(Discord::from);
    }
    let (older, newer) = if held.size < shown.size { (held, shown) } else { (shown, held) };
    let (from, to) = (older.size, newer.size);
    let tiles = match Nodes::new(source, to).prefix(from).await {
        Ok(prefix) => match prefix_roots(from, to, &prefix) {
            Ok((root, whole)) if whole == newer.root => {
                let finding = Finding::Inconsistent { from, to, cause: ProofError::OldRoot };
                let same = root == older.root;
                return if same { Ok(()) } else { Err(Discord { finding, prefix }) };
            }
            _ => Finding::Inconsistent { from, to, cause: ProofError::Root },
        },
        Err(finding) => finding,
    };
    match ask(source, older, newer).await {
        Ok(()) => Ok(()),
        // A log without that route is judged by its tiles.
        Err(Finding::MissingResource { .. }) => Err(tiles.into()),
        Err(finding) => Err(finding.into()),
    }
}

/// Asks the log for its own proof.
async fn ask<S: Source>(source: &S, older: &Checkpoint, newer: &Checkpoint) -> Result<(), Finding> {
    let (from, to) = (older.size, newer.size);
    let path = format!("log/consistency?from={from}&to={to}");
    let bytes = source.get(&path, MAX_PROOF).await;
    let bytes = bytes.map_err(|error| Finding::of_fetch(&path, error))?;
    let proof =
        read_proof(&bytes, from, to).ok_or(Finding::Malformed { path, cause: Malformed::Proof })?;
    verify_consistency(from, &older.root, to, &newer.root, &proof)
        .map_err(|cause| Finding::Inconsistent { from, to, cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testlog::{Shelf, TestLog};

    fn opened(log: &TestLog) -> SignedHead {
        SignedHead::open(log.head().as_bytes(), &log.signers.log_key(), None).unwrap()
    }

    #[tokio::test]
    async fn heads_of_one_log_agree_in_either_order() {
        let newer = TestLog::with(300);
        let shelf = newer.publish(&[]);
        for older in [0, 1, 2, 3, 128, 255, 256, 257, 299, 300] {
            let older = opened(&TestLog::with(older));
            assert_eq!(relate(&shelf, &older, &opened(&newer)).await, Ok(()));
            assert_eq!(relate(&shelf, &opened(&newer), &older).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_rewritten_past_is_proved_by_nodes_of_the_new_tree() {
        let mut rewritten = TestLog::with(600);
        rewritten.entries.swap(10, 11);
        // Powers of two too, whose RFC proofs leave their own root out.
        for older in [16, 100, 256, 512, 599] {
            let held = opened(&TestLog::with(older));
            let discord = relate(&rewritten.publish(&[]), &held, &opened(&rewritten)).await;
            let discord = discord.unwrap_err();
            let (from, to) = (older, 600);
            let cause = ProofError::OldRoot;
            assert_eq!(discord.finding, Finding::Inconsistent { from, to, cause });
            let (old, new) = prefix_roots(from, to, &discord.prefix).unwrap();
            assert_eq!(new, opened(&rewritten).checkpoint.root);
            assert_ne!(old, held.checkpoint.root);
        }
        // The first ten leaves are the same in both.
        let held = opened(&TestLog::with(10));
        assert_eq!(relate(&rewritten.publish(&[]), &held, &opened(&rewritten)).await, Ok(()));
    }

    #[tokio::test]
    async fn roots_decide_where_they_can() {
        let log = TestLog::with(7);
        let mut other = log.clone();
        other.entries.swap(0, 1);
        let nothing = Shelf::default();
        let fork = relate(&nothing, &opened(&log), &opened(&other)).await.unwrap_err();
        assert!(matches!(fork.finding, Finding::Fork { size: 7, .. }), "{fork:?}");
        assert_eq!(relate(&nothing, &opened(&log), &opened(&log)).await, Ok(()));
        assert_eq!(relate(&nothing, &opened(&TestLog::with(0)), &opened(&log)).await, Ok(()));
        let note = log.signers.head(0, &[7; 32], 1);
        let empty = SignedHead::open(note.as_bytes(), &log.signers.log_key(), None).unwrap();
        let wrong = relate(&nothing, &opened(&log), &empty).await.unwrap_err();
        assert!(matches!(wrong.finding, Finding::RootMismatch { size: 0, .. }), "{wrong:?}");
    }

    #[tokio::test]
    async fn without_tiles_the_logs_own_proof_counts() {
        let (old, new) = (TestLog::with(300), TestLog::with(600));
        let tiles = ["tile/0/000", "tile/0/001", "tile/0/002.p/88"];
        let shelf = new.publish(&[300]);
        tiles.iter().for_each(|path| drop(shelf.take(path)));
        assert_eq!(relate(&shelf, &opened(&old), &opened(&new)).await, Ok(()));
        // Altered tiles lead nowhere and prove nothing; the proof still holds.
        let shelf = new.publish(&[300]);
        tiles.iter().for_each(|path| shelf.alter(path, |bytes| bytes[0] ^= 1));
        assert_eq!(relate(&shelf, &opened(&old), &opened(&new)).await, Ok(()));
        shelf.take("log/consistency?from=300&to=600");
        let discord = relate(&shelf, &opened(&old), &opened(&new)).await.unwrap_err();
        let cause = ProofError::Root;
        assert_eq!(discord, Finding::Inconsistent { from: 300, to: 600, cause }.into());
        let discord = relate(&Shelf::default(), &opened(&old), &opened(&new)).await.unwrap_err();
        assert!(matches!(discord.finding, Finding::MissingResource { .. }), "{discord:?}");
    }
}
