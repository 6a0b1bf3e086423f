//! `nexo-audit proof verify`: an entry is in the log, offline.

use super::trust::{TrustFile, ballot};
use super::{RunError, input};
use crate::check::Failure;
use crate::cli::ProofVerifyArgs;
use crate::encoding::to_hex;
use crate::entry::Entry;
use crate::finding::Finding;
use crate::merkle::{Hash, leaf_hash};
use crate::output::Printer;
use crate::proof::{MAX_FILE, OfflineProof};
use serde_json::json;
use std::time::Duration;

/// Longest entry of a log (PROTOCOL.md 10).
const MAX_ENTRY: usize = 65_535;

/// Verifies the proof. The age of its cosignatures plays no part: what was in the log then is in
/// it for ever.
pub(crate) fn run(
    args: &ProofVerifyArgs,
    clock: fn() -> u64,
    printer: &mut Printer<'_>,
) -> Result<(), RunError> {
    let trust = TrustFile::load(&args.trust)?;
    let bytes = input::read(&args.file, MAX_FILE)?;
    let proof = OfflineProof::parse(&bytes)
        .map_err(|cause| RunError::ProofFile { path: args.file.clone(), cause })?;
    let key = TrustFile::pin(trust.as_ref(), args.vkey.as_ref(), None)?.ok_or(RunError::NoKey)?;
    let (leaf, tied) = leaf(args, &proof)?;
    let refused = |finding: Finding| {
        RunError::Failure(Box::new(Failure { finding, head: None, remembered: None }))
    };
    let head = proof.verify(&key, &leaf).map_err(refused)?;
    let witnesses = trust.as_ref().map(|trust| {
        let ballot = ballot(&trust.policy, &head, clock(), Duration::MAX);
        ballot.map_err(refused)
    });
    let witnesses = witnesses.transpose()?;
    let entry = proof.extra.as_deref().filter(|extra| leaf_hash(extra) == leaf);
    let kind = entry.and_then(|entry| Entry::parse(entry).ok()).map(kind);
    let (origin, index, size) = (key.origin(), proof.index, head.checkpoint.size);
    let words = format!(
        "origin={origin} index={index} size={size} root={} leaf={} tied_to={tied}",
        head.checkpoint.root_base64(),
        to_hex(&leaf)
    );
    let members = json!({
        "origin": origin,
        "index": index,
        "size": size,
        "root": head.checkpoint.root_base64(),
        "leaf_hash": to_hex(&leaf),
        "tied_to": tied,
        "kind": kind,
        "witnesses": witnesses,
    });
    if tied == "extra" {
        printer.say(
            "note: the entry is the file's own; make the leaf hash from what should be in the \
             log, and give it with --entry or --leaf-hash, to know that it is that",
        );
    }
    printer.holds(&words, members).map_err(RunError::Io)
}

/// The leaf that must be there, and where it comes from.
fn leaf(
    args: &ProofVerifyArgs,
    proof: &OfflineProof<'_>,
) -> Result<(Hash, &'static str), RunError> {
    if let Some(hash) = args.leaf_hash {
        return Ok((hash, "leaf_hash"));
    }
    if let Some(path) = &args.entry {
        let entry = input::read(path, MAX_ENTRY)?;
        // More than that was not read, and no log has it: its beginning must not pass for it.
        if entry.len() > MAX_ENTRY {
            return Err(RunError::LongEntry { path: path.clone() });
        }
        return Ok((leaf_hash(&entry), "entry"));
    }
    let extra = proof.extra.as_ref().ok_or(RunError::NoEntry)?;
    Ok((leaf_hash(extra), "extra"))
}

/// The kind of an entry, for people.
fn kind(entry: Entry) -> &'static str {
    match entry {
        Entry::KeyEvent { .. } => "key_event",
        Entry::Message { .. } => "message",
        Entry::Tombstone { .. } => "tombstone",
        Entry::PlainKey { .. } => "plain_key",
        Entry::PlainMessage { .. } => "plain_message",
        Entry::PlainDeletion { .. } => "plain_deletion",
    }
}

#[cfg(test)]
mod tests {
    use crate::encoding::{to_base64, to_hex};
    use crate::merkle::leaf_hash;
    use crate::testlog::{NOW, TestLog, Witness, offline_proof, oracle_inclusion, program};
    use serde_json::Value;
    use std::fs;
    use std::path::Path;

    fn file(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The proof of leaf 3 of 7, with lines of witnesses.
    fn proof(extra: bool, witnesses: &[u8]) -> String {
        let log = TestLog::with(7);
        let head = log.head();
        let text = head.split_once("\n\n").unwrap().0.to_owned() + "\n";
        let lines: String = witnesses.iter().map(|n| Witness::new(*n).line(NOW, &text)).collect();
        let proof = offline_proof(3, &oracle_inclusion(3, &log.hashes()), &(head + &lines));
        let extra = if extra {
            format!("\nextra {}\nindex", to_base64(&log.entries[3]))
        } else {
            "\nindex".to_owned()
        };
        proof.replacen("\nindex", &extra, 1)
    }

    fn verify(args: &[&str]) -> (u8, Value, String) {
        let (code, out, err) = program(&[&["proof", "verify", "--json"], args].concat());
        (code, serde_json::from_str(&out).unwrap_or(Value::Null), err)
    }

    #[test]
    fn an_entry_is_tied_to_what_it_should_be() {
        let folder = tempfile::tempdir().unwrap();
        let log = TestLog::with(7);
        let vkey = log.signers.log_key().to_string();
        let with = file(folder.path(), "with", proof(true, &[]));
        let without = file(folder.path(), "without", proof(false, &[]));
        let (good, bad) = (&log.entries[3], &log.entries[4]);
        let (entry, other) = (file(folder.path(), "e", good), file(folder.path(), "o", bad));
        let (hash, wrong) = (to_hex(&leaf_hash(good)), to_hex(&leaf_hash(bad)));
        for (file, more, code, tied) in [
            (&with, &[][..], 0, "extra"),
            (&with, &["--entry", &entry], 0, "entry"),
            (&without, &["--entry", &entry], 0, "entry"),
            (&without, &["--leaf-hash", &hash], 0, "leaf_hash"),
            (&without, &[], 64, ""),
            (&with, &["--entry", &other], 81, ""),
            (&with, &["--leaf-hash", &wrong], 81, ""),
            (&with, &["--leaf-hash", "00"], 64, ""),
            (&with, &["--leaf-hash", &hash, "--entry", &entry], 64, ""),
            (&with, &["--entry", "absent"], 66, ""),
        ] {
            let args = [&[file.as_str(), "--vkey", &vkey], more].concat();
            let (found, object, err) = verify(&args);
            assert_eq!(found, code, "{args:?}: {object} {err}");
            if code == 0 {
                assert_eq!((&object["tied_to"], &object["index"]), (&tied.into(), &3.into()));
                assert_eq!(object["leaf_hash"], hash);
                assert_eq!(err.starts_with("note: "), tied == "extra", "{err}");
            }
        }
        let (code, object, _) = verify(&[&with, "--vkey", &vkey]);
        assert_eq!((code, &object["kind"]), (0, &"message".into()));
        assert_eq!(verify(&[&with]).0, 64, "no key");
        assert_eq!(verify(&["absent", "--vkey", &vkey]).0, 66);
        assert_eq!(verify(&[&entry, "--vkey", &vkey]).0, 65);
    }

    /// A file is no entry because the log has one that it begins with.
    #[test]
    fn the_beginning_of_a_longer_file_does_not_pass_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = TestLog::with(7);
        let file_of = |length| file(folder.path(), "entry", vec![b'x'; length]);
        // The longest that is an entry, and what was once read of anything longer.
        for (leaf, given, code) in
            [(65_535, 65_535, 0), (65_535, 65_536, 65), (65_536, 65_536, 65), (65_536, 90_000, 65)]
        {
            log.entries[3] = vec![b'x'; leaf];
            let text = offline_proof(3, &oracle_inclusion(3, &log.hashes()), &log.head());
            let proof = file(folder.path(), "proof", text);
            let vkey = log.signers.log_key().to_string();
            let args = [&proof, "--vkey", &vkey, "--entry", &file_of(given)];
            assert_eq!(verify(&args.map(|arg| arg as &str)).0, code, "{leaf} {given}");
        }
    }

    #[test]
    fn a_trust_file_asks_for_its_quorum_and_no_age() {
        let folder = tempfile::tempdir().unwrap();
        let log = TestLog::with(7).signers.log_key();
        let witnesses: String =
            (0..3).map(|n| format!("witness W{n} {}\n", Witness::new(n).vkey())).collect();
        let text = format!("log {log}\n{witnesses}group Q 2 W0 W1 W2\nquorum Q\n");
        let trust = file(folder.path(), "trust", &text);
        // NOW is years ago for the clock of the machine.
        for (signed, code) in [(&[0, 1][..], 0), (&[0, 1, 2], 0), (&[1], 86), (&[], 86)] {
            let proof = file(folder.path(), "proof", proof(true, signed));
            let (found, object, err) = verify(&[&proof, "--trust", &trust]);
            assert_eq!(found, code, "{signed:?} {object} {err}");
            let counted = if code == 0 { &object["witnesses"] } else { &object["detail"] };
            assert_eq!(counted["counted"].as_array().unwrap().len(), signed.len());
        }
        let proof = file(folder.path(), "proof", proof(true, &[0, 1]));
        // One witness that may lie would need three of them.
        assert_eq!(verify(&[&proof, "--trust", &trust, "--faulty", "1"]).0, 78);
        let other = crate::testlog::Signers::other("log.example").log_key().to_string();
        assert_eq!(verify(&[&proof, "--trust", &trust, "--vkey", &other]).0, 78);
        assert_eq!(verify(&[&proof, "--trust", "absent"]).0, 66);
        assert_eq!(verify(&[&proof, "--faulty", "1"]).0, 64);
    }
}
