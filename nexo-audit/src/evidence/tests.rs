//! Every kind of evidence: made from a lying log, verified elsewhere, and refused once altered.

use super::*;
use crate::check::{Options, Trust, check};
use crate::fetch::{FetchError, Source};
use crate::finding::Finding;
use crate::state::Memory;
use crate::testlog::{NOW, Shelf, Signers, TestLog, enc, oracle_root};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const OPTIONS: Options = Options { max_age: Duration::from_secs(86_400), clock: || NOW };

pub(super) fn key() -> LogKey {
    TestLog::with(0).signers.log_key()
}

pub(super) async fn memory() -> Memory {
    let log = TestLog::with(300);
    let trust = Trust::Key(Box::new(key()));
    check(Arc::new(log.publish(&[])), trust, OPTIONS, &mut |_, _| {}).await.unwrap().memory
}

/// What an auditor that remembers 300 entries finds, and the evidence of it.
async fn evidence_of(shelf: Shelf) -> (Finding, Option<Evidence>) {
    let (shelf, memory) = (Arc::new(shelf), memory().await);
    let trust = Trust::Memory(Box::new(memory.clone()));
    let failure = check(Arc::clone(&shelf), trust, OPTIONS, &mut |_, _| {}).await.unwrap_err();
    let case = Case {
        key: &key(),
        finding: &failure.finding,
        head: failure.head.as_deref(),
        other: failure.remembered.as_deref(),
        memory: Some(&memory),
        policy: None,
        now: NOW,
    };
    let evidence = gather(&*shelf, &case).await;
    (failure.finding, evidence)
}

/// Elsewhere: the bytes of the file and the log's key.
pub(super) fn judged(evidence: &Evidence) -> Result<Judgement, JudgementError> {
    let bytes = serde_json::to_vec(evidence).unwrap();
    let read = Evidence::parse(&bytes).unwrap();
    assert_eq!(&read, evidence);
    verify(&read, &key())
}

type Lie = fn(TestLog) -> Shelf;

/// A log of 600 entries in which two of the first 300 were exchanged.
fn rewritten() -> TestLog {
    let mut log = TestLog::with(600);
    log.entries.swap(10, 11);
    log
}

/// Every lie to somebody who remembers 300 of 600 entries, its verdict, and what the file is
/// worth.
const LIES: &[(&str, &str, Standing, Lie)] = &[
    ("another head of that size", "fork", Standing::Proof, |_| {
        let mut log = TestLog::with(300);
        log.entries.swap(10, 11);
        log.publish(&[])
    }),
    ("another past", "inconsistent", Standing::Proof, |_| rewritten().publish(&[300])),
    ("another past and no proof", "inconsistent", Standing::Proof, |_| {
        let shelf = rewritten().publish(&[]);
        let path = "log/consistency?from=300&to=600";
        shelf.put(path, TestLog::with(600).publish(&[300]).take(path));
        shelf
    }),
    ("a proof that proves nothing", "inconsistent", Standing::Observation, |log| {
        let shelf = log.publish(&[]);
        let none = br#"{"from":300,"to":600,"hashes":[]}"#;
        shelf.put("log/consistency?from=300&to=600", none.to_vec());
        shelf
    }),
    ("an older head, vouched for later", "rollback", Standing::Observation, |_| {
        TestLog { time: NOW + 1, ..TestLog::with(299) }.publish(&[])
    }),
    ("an older head", "rollback", Standing::Observation, |_| TestLog::with(299).publish(&[])),
    ("an altered entry", "entry_mismatch", Standing::Observation, |log| {
        let shelf = log.publish(&[300]);
        shelf.alter("tile/entries/001", |bytes| *bytes.last_mut().unwrap() ^= 1);
        shelf
    }),
    ("an altered tile", "tile_mismatch", Standing::Observation, |log| {
        let shelf = log.publish(&[300]);
        shelf.alter("tile/0/002.p/88", |bytes| bytes[40] ^= 1);
        shelf
    }),
    ("a tile cut short", "tile_mismatch", Standing::Observation, |log| {
        let shelf = log.publish(&[300]);
        shelf.alter("tile/0/002.p/88", |bytes| bytes.truncate(87 * 32));
        shelf
    }),
    ("entries and tiles of another log", "root_mismatch", Standing::Observation, |log| {
        let honest = log.publish(&[300]);
        let mut log = log;
        log.entries.swap(400, 401);
        for path in ["tile/entries/001", "tile/0/001"] {
            honest.put(path, log.publish(&[]).take(path));
        }
        honest
    }),
    ("a truncated bundle", "bad_entry", Standing::Observation, |log| {
        let shelf = log.publish(&[300]);
        shelf.alter("tile/entries/002.p/88", |bytes| bytes.truncate(bytes.len() - 1));
        shelf
    }),
    ("a kind nobody knows", "bad_entry", Standing::Proof, |mut log| {
        log.entries[500] = enc("nexo/1/leaf", &[&[9], &[0; 32]]);
        log.publish(&[300])
    }),
    ("a bundle withheld", "missing_resource", Standing::Observation, |log| {
        let shelf = log.publish(&[300]);
        shelf.take("tile/entries/001");
        shelf
    }),
    ("another key", "bad_signature", Standing::Observation, |mut log| {
        log.signers = Signers::other("log.example");
        log.publish(&[300])
    }),
    ("another log's head", "wrong_origin", Standing::Observation, |log| {
        let shelf = log.publish(&[300]);
        let text = log.head().replacen("log.example", "gol.example", 1);
        let text = text.split_once("\n\n").unwrap().0.to_owned() + "\n";
        shelf.put("checkpoint", format!("{text}\n{}", log.signers.log_line(&text)).into());
        shelf
    }),
    ("an old head", "stale", Standing::Observation, |mut log| {
        log.time = NOW - 86_401;
        log.publish(&[300])
    }),
    ("a head of tomorrow", "clock", Standing::Observation, |mut log| {
        log.time = NOW + 86_400;
        log.publish(&[300])
    }),
    ("a head without time", "no_time", Standing::Observation, |log| {
        let shelf = log.publish(&[300]);
        let signers = log.signers.with_new_time_key();
        shelf.put("checkpoint", signers.head(600, &oracle_root(&log.hashes()), NOW).into());
        shelf
    }),
    ("a signed word that is no head", "bad_data", Standing::Proof, |log| {
        let shelf = log.publish(&[300]);
        shelf.put("checkpoint", format!("hello\n\n{}", log.signers.log_line("hello\n")).into());
        shelf
    }),
    ("no note", "bad_data", Standing::Observation, |log| {
        let shelf = log.publish(&[300]);
        shelf.put("checkpoint", b"<html>".to_vec());
        shelf
    }),
];

#[tokio::test]
async fn each_lie_leaves_evidence_that_holds_elsewhere() {
    for (name, verdict, standing, lie) in LIES {
        let (finding, evidence) = evidence_of(lie(TestLog::with(600))).await;
        assert_eq!(finding.verdict().name(), *verdict, "{name}");
        let evidence = evidence.unwrap_or_else(|| panic!("{name}: no evidence"));
        let judgement = judged(&evidence).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(judgement.verdict, finding.verdict(), "{name}");
        assert_eq!(judgement.standing, *standing, "{name}: {}", judgement.shows);
        assert_eq!(evidence.detail, serde_json::to_value(&finding).unwrap());
        // Nothing is proved about another log.
        let stranger = Signers::other("log.example").log_key();
        let elsewhere = verify(&evidence, &stranger);
        if *verdict != "bad_signature" && *name != "no note" {
            assert!(elsewhere.is_err(), "{name}: {elsewhere:?}");
        }
    }
}

/// A log that answers the audit, and from then on nothing.
struct Stalls;

impl Source for Stalls {
    async fn get(&self, _: &str, _: usize) -> Result<Vec<u8>, FetchError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_log_that_stalls_does_not_keep_what_it_signed_from_being_kept() {
    let memory = memory().await;
    let trust = || Trust::Memory(Box::new(memory.clone()));
    for name in ["another past", "an older head", "an old head", "entries and tiles of another log"]
    {
        let lie = LIES.iter().find(|lie| lie.0 == name).unwrap().3;
        let shelf = Arc::new(lie(TestLog::with(600)));
        let failure = check(shelf, trust(), OPTIONS, &mut |_, _| {}).await.unwrap_err();
        let case = Case {
            key: &key(),
            finding: &failure.finding,
            head: failure.head.as_deref(),
            other: failure.remembered.as_deref(),
            memory: Some(&memory),
            policy: None,
            now: NOW,
        };
        let kept = gather::gather_within(&Stalls, &case, Duration::from_millis(20)).await;
        let judgement = judged(&kept.unwrap_or_else(|| panic!("{name}: no evidence"))).unwrap();
        assert_eq!(judgement.verdict, failure.finding.verdict(), "{name}");
        assert_eq!(judgement.standing, Standing::Observation, "{name}");
    }
}

#[tokio::test]
async fn a_file_says_that_its_entries_were_too_many() {
    let wrong = |log: &TestLog| {
        let (shelf, mut other) = (log.publish(&[300]), log.clone());
        other.entries.swap(400, 401);
        for path in ["tile/entries/001", "tile/0/001"] {
            shelf.put(path, other.publish(&[]).take(path));
        }
        shelf
    };
    let (finding, small) = evidence_of(wrong(&TestLog::with(600))).await;
    assert_eq!(finding.verdict(), Verdict::RootMismatch);
    let small = small.unwrap();
    assert!(!small.resources.is_empty() && small.message == finding.to_string());
    // What it serves by now is as long as a bundle can be, so that two fill a file.
    let shelf = wrong(&TestLog::with(600));
    for path in ["tile/entries/001", "tile/entries/002.p/88"] {
        shelf.put(path, vec![0; 1 << 20]);
    }
    let (memory, head) = (memory().await, TestLog::with(600).head());
    let case = Case {
        key: &key(),
        finding: &finding,
        head: Some(&head),
        other: None,
        memory: Some(&memory),
        policy: None,
        now: NOW,
    };
    let large = gather(&shelf, &case).await.unwrap();
    assert_eq!(large.resources, []);
    assert_eq!(large.message, format!("{finding}{}", gather::TOO_MUCH));
    assert_eq!(judged(&large).unwrap().standing, Standing::Observation);
}

#[tokio::test]
async fn a_log_that_does_not_answer_leaves_none() {
    assert_eq!(evidence_of(Shelf::default()).await.1, None);
}

/// A proof stands on every part of it: take one away, or put another there, and nothing is left.
#[tokio::test]
async fn a_proof_without_one_of_its_parts_is_none() {
    for (name, _, _, lie) in LIES.iter().filter(|lie| lie.2 == Standing::Proof) {
        let evidence = evidence_of(lie(TestLog::with(600))).await.1.unwrap();
        let whole = serde_json::to_value(&evidence).unwrap();
        let mut parts = vec![];
        for part in ["held", "shown", "log_keys", "prefix", "leaves", "resources"] {
            let Some(value) = whole.get(part) else { continue };
            let mut cut = whole.clone();
            cut.as_object_mut().unwrap().remove(part);
            let read = Evidence::parse(cut.to_string().as_bytes()).unwrap();
            let judged = verify(&read, &key());
            let proof = judged.is_ok_and(|judged| judged.standing == Standing::Proof);
            parts.push((part, proof));
            // A signed note with one more byte is signed no longer.
            if let Some(note) = value.as_str() {
                let mut altered = whole.clone();
                altered[part] = note.replacen('\n', "\n ", 1).into();
                let read = Evidence::parse(altered.to_string().as_bytes()).unwrap();
                assert!(verify(&read, &key()).is_err(), "{name}: {part}");
            }
        }
        assert!(parts.iter().any(|(_, proof)| !proof), "{name}: {parts:?}");
        let needed: &[&str] = match evidence.verdict.as_str() {
            "fork" => &["held", "shown"],
            "inconsistent" => &["held", "shown", "prefix"],
            "bad_entry" => &["shown", "leaves"],
            _ => &["resources"],
        };
        for part in needed {
            assert!(parts.contains(&(part, false)), "{name} without {part}: {parts:?}");
        }
    }
}

/// The shape of nexo-cli's files, which have a kind instead of a verdict.
#[test]
fn the_clients_files_are_read() {
    let (held, mut forked) = (TestLog::with(7), TestLog::with(7));
    forked.entries.swap(0, 1);
    let file = |kind: &str, shown: &TestLog| {
        let json = serde_json::json!({
            "schema": "nexo.evidence/1", "kind": kind, "log_vkey": key().to_string(),
            "seen_at": "2026-11-23T07:00:00Z", "held": held.head(), "shown": shown.head(),
        });
        Evidence::parse(json.to_string().as_bytes()).unwrap()
    };
    let judgement = judged(&file("split_view", &forked)).unwrap();
    assert_eq!((judgement.verdict, judgement.standing), (Verdict::Fork, Standing::Proof));
    for kind in ["inconsistent", "sth_unprovable"] {
        let judgement = judged(&file(kind, &TestLog::with(9))).unwrap();
        assert_eq!(
            (judgement.verdict, judgement.standing),
            (Verdict::Inconsistent, Standing::Observation)
        );
        assert!(judged(&file(kind, &forked)).is_err(), "heads of one size are another matter");
    }
}

#[test]
fn other_bytes_are_refused() {
    let json = |error: Result<Evidence, EvidenceError>| {
        assert!(matches!(error, Err(EvidenceError::Json { .. })), "{error:?}");
    };
    json(Evidence::parse(b""));
    json(Evidence::parse(b"[]"));
    json(Evidence::parse(&b"[".repeat(100_000)));
    let good = serde_json::to_value(Evidence::new(Verdict::Fork, &key(), NOW)).unwrap();
    let with = |name: &str, value: Value| {
        let mut bad = good.clone();
        bad[name] = value;
        Evidence::parse(bad.to_string().as_bytes())
    };
    assert_eq!(with("schema", "nexo.evidence/2".into()), Err(EvidenceError::Schema));
    json(with("schema", 1.into()));
    json(with("prefix", serde_json::json!(["AA=="])));
    json(with("resources", serde_json::json!([{ "path": "a", "bytes": "A" }])));
    json(with("leaves", serde_json::json!([{ "index": -1, "entry": "", "path": [] }])));
    assert!(with("unknown", 1.into()).is_ok());
    assert_eq!(Evidence::parse(&vec![b' '; MAX_FILE + 1]), Err(EvidenceError::TooLong));
}

#[test]
fn a_file_is_written_once_for_one_finding() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("deep/er");
    let (mut log, mut evidence) = (TestLog::with(7), Evidence::new(Verdict::Stale, &key(), NOW));
    evidence.shown = Some(log.head());
    let path = evidence.write(&folder).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert_eq!(Evidence::parse(&before), Ok(evidence.clone()));
    // Seen again, an hour later, under a head that was vouched for anew.
    log.time += 3600;
    evidence.shown = Some(log.head());
    evidence.seen_at = rfc3339(NOW + 3600);
    evidence.detail = serde_json::json!({ "age": 3600 });
    assert_eq!(evidence.write(&folder).unwrap(), path);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    evidence.shown = Some(TestLog::with(8).head());
    assert_ne!(evidence.write(&folder).unwrap(), path);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    // A file in the place of the folder.
    assert!(evidence.write(&path).is_err());
}

#[cfg(unix)]
#[test]
fn a_link_in_the_folder_is_not_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let mut evidence = Evidence::new(Verdict::Stale, &key(), NOW);
    evidence.shown = Some(TestLog::with(7).head());
    let path = evidence.write(folder.path()).unwrap();
    let name = path.file_stem().unwrap().to_str().unwrap();
    let (new, other) = (format!(".{name}.{}.new", std::process::id()), folder.path().join("other"));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&other, "precious").unwrap();
    std::os::unix::fs::symlink(&other, folder.path().join(new)).unwrap();
    evidence.write(folder.path()).unwrap();
    assert_eq!(std::fs::read(&other).unwrap(), b"precious");
    assert_eq!(Evidence::parse(&std::fs::read(&path).unwrap()), Ok(evidence));
}

#[test]
fn what_a_log_serves_does_not_fill_the_disk_nor_the_place_of_proofs() {
    let folder = tempfile::tempdir().unwrap();
    let room = store::Room { observations: 3 * 4096, proofs: 5 * 4096 };
    let stale = |size| {
        let shown = Some(TestLog::with(size).head());
        Evidence { shown, ..Evidence::new(Verdict::Stale, &key(), NOW) }
    };
    let fork = |size| {
        let (held, mut other) = (TestLog::with(size), TestLog::with(size));
        other.entries.swap(0, 1);
        let (held, shown) = (Some(held.head()), Some(other.head()));
        Evidence { held, shown, ..Evidence::new(Verdict::Fork, &key(), NOW) }
    };
    let written = |evidence: Evidence| evidence.write_within(folder.path(), room);
    let full = |outcome: std::io::Result<std::path::PathBuf>| {
        assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    };
    for size in 1..=3 {
        written(stale(size)).unwrap();
    }
    full(written(stale(4)));
    // One that is there already is no news, and a proof has room of its own.
    written(stale(3)).unwrap();
    written(fork(5)).unwrap();
    written(fork(6)).unwrap();
    full(written(fork(7)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
}

proptest! {
    /// Whatever is done to a byte of a proof: no panic, and no other verdict of it.
    #[test]
    fn an_altered_byte_never_proves_something_else(at: usize, with: u8) {
        let mut evidence = Evidence::new(Verdict::Fork, &key(), NOW);
        let mut other = TestLog::with(7);
        other.entries.swap(0, 1);
        evidence.held = Some(TestLog::with(7).head());
        evidence.shown = Some(other.head());
        let mut bytes = serde_json::to_vec(&evidence).unwrap();
        let at = at % bytes.len();
        bytes[at] = with;
        if let Ok(judged) = Evidence::parse(&bytes).map(|evidence| verify(&evidence, &key())) {
            let proof = judged.ok().filter(|judged| judged.standing == Standing::Proof);
            prop_assert!(proof.is_none_or(|proof| proof.verdict == Verdict::Fork));
        }
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, index: u64, hashes: Vec<[u8; 32]>, path: String, row: u8) {
        let _ = Evidence::parse(&bytes);
        let table = crate::finding::TABLE;
        let row = &table[usize::from(row) % table.len()];
        let mut evidence = Evidence::new(row.verdict, &key(), NOW);
        evidence.held = Some(TestLog::with(3).head());
        evidence.shown = Some(TestLog::with(2).signers.head(index >> 1, &[0; 32], NOW));
        evidence.prefix = hashes.clone();
        evidence.policy = Some(path.clone());
        evidence.resources.push(Resource { path: path.clone(), bytes: bytes.clone() });
        let _ = verify(&evidence, &key());
        let (entry, path) = (bytes.clone(), hashes.clone());
        evidence.leaves.push(Leaf { index, entry, path, event: None, plain: None });
        let _ = verify(&evidence, &key());
    }
}
