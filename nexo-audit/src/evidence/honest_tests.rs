//! Claims about an honest log, and verdicts that a test makes by hand: roots, witnesses, quorums.

use super::tests::{judged, key, memory};
use super::*;
use crate::nodes::Nodes;
use crate::testlog::{NOW, Signers, TestLog, Witness as Signer};

/// Honest heads of 300 and 600 entries, and what a file about them may hold.
struct Honest {
    old: TestLog,
    new: TestLog,
}

impl Honest {
    fn new() -> Self {
        Self { old: TestLog::with(300), new: TestLog::with(600) }
    }

    fn served(&self, path: &str) -> Resource {
        Resource { path: path.to_owned(), bytes: self.new.publish(&[300]).take(path) }
    }

    async fn leaf(&self, entry: &[u8]) -> Leaf {
        let path = Nodes::new(&self.new.publish(&[]), 600).inclusion(500).await.unwrap();
        Leaf { index: 500, entry: entry.to_vec(), path, event: None, plain: None }
    }

    /// A claim that must not hold.
    fn refuses(&self, verdict: Verdict, change: impl FnOnce(&mut Evidence)) {
        let mut evidence = Evidence::new(verdict, &key(), NOW);
        evidence.held = Some(self.old.head());
        evidence.shown = Some(self.new.head());
        change(&mut evidence);
        let outcome = judged(&evidence);
        let refused = matches!(
            outcome,
            Err(JudgementError::Unfounded { .. }
                | JudgementError::Part { .. }
                | JudgementError::Verdict { .. })
        );
        assert!(refused, "{outcome:?}");
    }
}

#[tokio::test]
async fn honest_heads_are_no_contradiction() {
    let honest = Honest::new();
    let prefix = Nodes::new(&honest.new.publish(&[]), 600).prefix(300).await.unwrap();
    honest.refuses(Verdict::Fork, |_| {});
    honest.refuses(Verdict::Fork, |e| e.shown = Some(honest.old.head()));
    honest.refuses(Verdict::Rollback, |_| {});
    honest.refuses(Verdict::Inconsistent, |e| e.shown = Some(honest.old.head()));
    honest.refuses(Verdict::Inconsistent, |e| e.prefix = prefix.clone());
    honest.refuses(Verdict::Inconsistent, |e| e.prefix = prefix[1..].to_vec());
    honest.refuses(Verdict::Inconsistent, |e| e.prefix = vec![[0; 32]; prefix.len()]);
    honest.refuses(Verdict::Inconsistent, |e| {
        e.resources.push(honest.served("log/consistency?from=300&to=600"));
    });
    honest.refuses(Verdict::WrongOrigin, |_| {});
    for (path, note) in
        [("checkpoint", honest.new.head()), ("log/keys", honest.new.signers.key_list())]
    {
        let served = Resource { path: path.to_owned(), bytes: note.into_bytes() };
        for verdict in [Verdict::BadSignature, Verdict::BadData] {
            honest.refuses(verdict, |e| e.resources.push(served.clone()));
        }
    }
    for verdict in [Verdict::Verified, Verdict::Usage, Verdict::Unreachable, Verdict::Busy] {
        honest.refuses(verdict, |_| {});
    }
}

/// A log that had another name before its first entry, with the same key: whoever puts the old name
/// on its signature lines makes no liar of it.
#[test]
fn a_log_that_was_renamed_is_not_convicted() {
    let (old, new) = (key(), TestLog { signers: Signers::new("new.example"), ..TestLog::with(7) });
    let relabelled = |note: &str| {
        let text = note.split_once("\n\n").unwrap().0.to_owned() + "\n";
        format!("{text}\n{}", TestLog::with(0).signers.log_line(&text))
    };
    let (head, list) = (relabelled(&new.head()), relabelled(&new.signers.key_list()));
    for note in [&head, &list] {
        assert!(crate::note::Note::parse(note.as_bytes()).unwrap().signed_by(&old).is_ok());
    }
    let mut evidence = Evidence::new(Verdict::WrongOrigin, &old, NOW);
    evidence.shown = Some(head.clone());
    assert_eq!(judged(&evidence).unwrap().standing, Standing::Observation);
    for (path, note) in [("checkpoint", &head), ("log/keys", &list), ("log/keys", &head)] {
        let mut evidence = Evidence::new(Verdict::BadData, &old, NOW);
        let bytes = note.clone().into_bytes();
        evidence.resources.push(Resource { path: path.to_owned(), bytes });
        assert_eq!(judged(&evidence).unwrap().standing, Standing::Observation, "{path}");
    }
}

/// A machine without a battery for its clock starts in the past; a clock that was ahead is set right.
#[test]
fn a_log_whose_clock_went_back_is_not_convicted() {
    let mut evidence = Evidence::new(Verdict::Rollback, &key(), NOW);
    let (before, after) =
        (TestLog { time: NOW + 86_400, ..TestLog::with(300) }, TestLog::with(301));
    evidence.log_keys = Some(after.signers.key_list());
    // Whoever writes the file calls the older head the later one.
    (evidence.held, evidence.shown) = (Some(after.head()), Some(before.head()));
    let judgement = judged(&evidence).unwrap();
    assert_eq!(judgement.standing, Standing::Observation);
    assert!(judgement.shows.contains("or its clock did"), "{}", judgement.shows);
}

#[tokio::test]
async fn honest_entries_and_tiles_are_no_mismatch() {
    let honest = Honest::new();
    let entry = honest.leaf(&honest.new.entries[500]).await;
    let junk = honest.leaf(b"junk").await;
    honest.refuses(Verdict::BadEntry, |e| e.leaves = vec![entry.clone()]);
    honest.refuses(Verdict::BadEntry, |e| e.leaves = vec![junk]);
    honest.refuses(Verdict::BadEntry, |_| {});
    honest.refuses(Verdict::BadEntry, |e| e.resources.push(honest.served("tile/entries/001")));
    // A bundle or tile that this head does not have, and paths that are none.
    for path in ["tile/entries/003", "tile/0/003", "tile/0/001.p/300", "tile/entries/", "tile/x/0"]
    {
        let served = Resource { path: path.to_owned(), bytes: vec![1] };
        for verdict in [Verdict::BadEntry, Verdict::TileMismatch] {
            honest.refuses(verdict, |e| e.resources.push(served.clone()));
        }
    }
    honest.refuses(Verdict::TileMismatch, |e| e.resources.push(honest.served("tile/0/001")));
    honest.refuses(Verdict::TileMismatch, |e| {
        e.resources.push(honest.served("tile/1/000.p/2"));
        e.resources.push(honest.served("tile/0/001"));
    });
    for verdict in [Verdict::EntryMismatch, Verdict::TileMismatch] {
        honest.refuses(verdict, |e| {
            e.leaves = vec![entry.clone()];
            e.resources.push(honest.served("tile/0/001"));
        });
    }
    // Another tile, so that the entry differs from it, but not from the tree.
    honest.refuses(Verdict::EntryMismatch, |e| {
        e.leaves = vec![entry.clone()];
        e.resources.push(Resource { path: "tile/0/001".to_owned(), bytes: vec![7; 256 * 32] });
    });
}

#[test]
fn honest_witnesses_do_not_disagree() {
    let honest = Honest::new();
    let policy = format!("witness W {}\nquorum W\n", Signer::new(0).vkey());
    honest.refuses(Verdict::WitnessDisagrees, |e| e.policy = Some(policy.clone()));
    honest.refuses(Verdict::QuorumLost, |e| {
        e.policy = Some(policy);
        e.shown = Some(cosigned(&honest.new, 0));
    });
}

/// Peaks that are the head's, and entries that do lead to it.
#[tokio::test]
async fn entries_that_fit_are_no_root_mismatch() {
    let (new, memory) = (TestLog::with(600), memory().await);
    let shelf = new.publish(&[]);
    let mut evidence = Evidence::new(Verdict::RootMismatch, &key(), NOW);
    evidence.held = Some(memory.head.note.clone());
    evidence.shown = Some(new.head());
    evidence.peaks = memory.range.peaks().to_vec();
    for path in ["tile/entries/001", "tile/entries/002.p/88"] {
        evidence.resources.push(Resource { path: path.to_owned(), bytes: shelf.take(path) });
    }
    assert!(matches!(judged(&evidence), Err(JudgementError::Unfounded { .. })));
    let mut other = evidence.clone();
    other.peaks[0] = [1; 32];
    assert!(matches!(judged(&other), Err(JudgementError::Unfounded { .. })));
    let mut fewer = evidence.clone();
    fewer.resources.pop();
    assert_eq!(judged(&fewer), Err(JudgementError::Part { part: "resources" }));
    // A head of 2^62 entries asks for a bundle that is not there, and for nothing more.
    let mut huge = evidence;
    huge.shown = Some(new.signers.head(1 << 62, &[0; 32], NOW));
    assert_eq!(judged(&huge), Err(JudgementError::Part { part: "resources" }));
}

#[test]
fn an_empty_tree_with_a_root_is_proved_by_its_head() {
    let mut evidence = Evidence::new(Verdict::RootMismatch, &key(), NOW);
    evidence.shown = Some(TestLog::with(0).signers.head(0, &[7; 32], NOW));
    assert_eq!(judged(&evidence).unwrap().standing, Standing::Proof);
    evidence.shown = Some(TestLog::with(0).head());
    assert_eq!(judged(&evidence).unwrap().standing, Standing::Observation);
}

/// A head of the log with the line of a witness.
fn cosigned(log: &TestLog, witness: u8) -> String {
    let head = log.head();
    let text = head.split_once("\n\n").unwrap().0.to_owned() + "\n";
    head + &Signer::new(witness).line(NOW, &text)
}

#[test]
fn what_a_witness_saw_is_proof_with_the_logs_signature() {
    let policy = format!("witness W {}\nquorum W\n", Signer::new(0).vkey());
    let mut forked = TestLog::with(600);
    forked.entries.swap(10, 11);
    let mut evidence = Evidence::new(Verdict::WitnessDisagrees, &key(), NOW);
    evidence.policy = Some(policy);
    evidence.held = Some(cosigned(&forked, 0));
    evidence.shown = Some(TestLog::with(600).head());
    let judgement = judged(&evidence).unwrap();
    assert_eq!(judgement.standing, Standing::Proof);
    assert!(judgement.shows.contains("witness W"), "{}", judgement.shows);
    // A witness that nobody trusts, or none.
    for head in [cosigned(&forked, 1), forked.head()] {
        evidence.held = Some(head);
        assert!(matches!(judged(&evidence), Err(JudgementError::Unfounded { .. })));
    }
    evidence.held = Some(cosigned(&TestLog::with(601), 0));
    assert_eq!(judged(&evidence).unwrap().standing, Standing::Observation);
    evidence.policy = None;
    assert_eq!(judged(&evidence), Err(JudgementError::Part { part: "policy" }));
}

#[test]
fn a_quorum_that_is_not_met_is_counted_again() {
    let mut evidence = Evidence::new(Verdict::QuorumLost, &key(), NOW);
    evidence.policy = Some(format!("witness W {}\nquorum W\n", Signer::new(0).vkey()));
    evidence.shown = Some(TestLog::with(3).head());
    assert_eq!(judged(&evidence).unwrap().standing, Standing::Observation);
    // Old enough for the rule of the finding.
    let log = TestLog::with(3);
    evidence.shown = Some(cosigned(&log, 0));
    evidence.seen_at = rfc3339(NOW + 1000);
    assert!(matches!(judged(&evidence), Err(JudgementError::Unfounded { .. })));
    evidence.detail = serde_json::json!({ "max_age": 999 });
    assert_eq!(judged(&evidence).unwrap().standing, Standing::Observation);
    evidence.policy = Some("quorum W\n".to_owned());
    assert!(matches!(judged(&evidence), Err(JudgementError::Policy(_))));
}
