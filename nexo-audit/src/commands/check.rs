//! `nexo-audit check`: audit the log once, remember the verified head, say so.

use super::RunError;
use super::evidence::{Scene, settle};
use super::session::{Session, bar, within};
use super::trust::{TrustFile, Witnesses};
use crate::check::{Aids, Options, Trust, Verified, check_with};
use crate::cli::CheckArgs;
use crate::fetch::{Http, Source};
use crate::output::Printer;
use std::sync::Arc;

/// Audits the log over HTTP.
pub(crate) async fn run(
    args: &CheckArgs,
    clock: fn() -> u64,
    printer: &mut Printer<'_>,
) -> Result<(), RunError> {
    let source = Http::new(args.url.clone()).map_err(RunError::Client)?;
    let verified = audit(args, Arc::new(source), clock, printer).await?;
    printer.verified(&verified.report).map_err(RunError::Io)
}

/// Audits the log at `source` and stores the memory, as the last step.
pub(super) async fn audit<S: Source>(
    args: &CheckArgs,
    source: Arc<S>,
    clock: fn() -> u64,
    printer: &mut Printer<'_>,
) -> Result<Verified, RunError> {
    let file = TrustFile::load(&args.trust)?;
    let vkey = TrustFile::pin(file.as_ref(), args.vkey.as_ref(), Some(&args.url))?;
    let stem = args.url.file_stem();
    let mut session = Session::open(args.state.as_deref(), &stem, vkey.as_ref(), args.tofu)?;
    let mut trust = None;
    let mut ask = Ask { args, file: file.as_ref(), session: &mut session, clock, printer };
    let work = ask.verdict(Arc::clone(&source), &mut trust);
    let outcome = within(args.timeout, work).await;
    // Outside the deadline, which must not turn a finding into a timeout.
    let folder = session.evidence(&args.evidence);
    let scene = trust.as_ref().map(|trust| Scene::of(trust, file.as_ref(), clock(), &folder));
    let verified = settle(&*source, outcome, scene, printer).await?;
    let replaced = verified.report.replaced_time_key.as_ref();
    session.store(&verified.memory, replaced, "check", printer)?;
    Ok(verified)
}

/// Everything that waits for the log and its witnesses.
struct Ask<'a, 'p> {
    args: &'a CheckArgs,
    file: Option<&'a TrustFile>,
    session: &'a mut Session,
    clock: fn() -> u64,
    printer: &'a mut Printer<'p>,
}

impl Ask<'_, '_> {
    /// `from` is what the audit started from, once that is known.
    async fn verdict<S: Source>(
        &mut self,
        source: Arc<S>,
        from: &mut Option<Trust>,
    ) -> Result<Verified, RunError> {
        let trust = from.insert(self.session.trust(&*source, self.printer).await?);
        let witnesses = Witnesses::ask(self.file, trust.log_key(), self.printer).await?;
        let mut file = self.session.progress("check", trust);
        let aids = Aids {
            newest: self.session.newest(trust)?,
            heads: Some(self.session.heads()),
            progress: Some(&mut file),
        };
        // Not before: a bar that moves would run through the warning of a first use.
        let bar = bar();
        let max_age = TrustFile::max_age(self.file, self.args.max_age);
        let options = Options { max_age, clock: self.clock };
        let mut progress = |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        };
        let verified = check_with(Arc::clone(&source), trust, options, aids, &mut progress).await;
        bar.finish_and_clear();
        let verified = verified?;
        let now = (self.clock)();
        let ballot = witnesses.judge(&*source, &verified.memory, now, max_age).await?;
        self.printer.vouched(ballot);
        Ok(verified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Report, system_clock};
    use crate::cli::{Cli, Command};
    use crate::finding::Verdict;
    use crate::testlog::{NOW, Shelf, Signers, TestLog, enc, oracle_root};
    use clap::Parser;
    use serde_json::Value;
    use std::ffi::OsString;
    use std::fs;
    use std::path::Path;

    fn args(state: &Path, more: &[&str]) -> CheckArgs {
        let state = state.to_str().unwrap();
        let fixed = ["nexo-audit", "check", "http://localhost:1", "--state", state];
        let command = Cli::try_parse_from([&fixed, more].concat()).unwrap().command;
        let Command::Check(args) = command else { panic!("{command:?}") };
        args
    }

    /// Audits a shelf; returns the verdict and what was said.
    fn audit_shelf(shelf: Shelf, args: &CheckArgs) -> (Result<Report, RunError>, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, args.json);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(audit(args, Arc::new(shelf), || NOW, &mut printer));
        (outcome.map(|verified| verified.report), String::from_utf8(err).unwrap())
    }

    /// Whoever has the log key can name a time key of his own, and vouch for old heads with it.
    #[test]
    fn a_script_sees_that_the_time_key_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let old = TestLog { time: system_clock(), ..TestLog::with(5) };
        let new = TestLog { signers: old.signers.with_new_time_key(), ..old.clone() };
        let (state, vkey) = (folder.path().join("state"), old.signers.log_key().to_string());
        let state = state.to_str().unwrap();
        let replaced = old.signers.time_key().to_string();
        for command in ["check", "full"] {
            let _ = fs::remove_file(state);
            for (log, wanted) in
                [(&old, Value::Null), (&new, replaced.clone().into()), (&new, Value::Null)]
            {
                let url = log.publish(&[]).serve();
                let args = [command, &url, "--vkey", &vkey, "--state", state, "--json"];
                let (code, out, err) = crate::testlog::program(&args);
                let object: Value = serde_json::from_str(&out).unwrap();
                assert_eq!((code, &object["replaced_time_key"]), (0, &wanted), "{err}");
            }
        }
    }

    type Lie = fn(&mut TestLog) -> Shelf;

    /// Every lie about a log of 600 entries to somebody who remembers 300, and its verdict.
    const LIES: &[(&str, Verdict, Lie)] = &[
        ("an older head", Verdict::Rollback, |_| TestLog::with(299).publish(&[])),
        ("another head of that size", Verdict::Fork, |_| {
            let mut log = TestLog::with(300);
            log.entries[10] = log.entries[11].clone();
            log.publish(&[])
        }),
        ("another past", Verdict::Inconsistent, |log| {
            log.entries.swap(10, 11);
            log.publish(&[300])
        }),
        ("an altered entry", Verdict::EntryMismatch, |log| {
            let shelf = log.publish(&[300]);
            shelf.alter("tile/entries/001", |bytes| *bytes.last_mut().unwrap() ^= 1);
            shelf
        }),
        ("an entry altered into junk", Verdict::EntryMismatch, |log| {
            let shelf = log.publish(&[300]);
            shelf.alter("tile/entries/002.p/88", |bytes| bytes[10] ^= 1);
            shelf
        }),
        ("an altered tile", Verdict::TileMismatch, |log| {
            let shelf = log.publish(&[300]);
            shelf.alter("tile/0/002.p/88", |bytes| bytes[40] ^= 1);
            shelf
        }),
        ("a tile cut short", Verdict::TileMismatch, |log| {
            let shelf = log.publish(&[300]);
            shelf.alter("tile/0/002.p/88", |bytes| bytes.truncate(87 * 32));
            shelf
        }),
        ("swapped entries", Verdict::EntryMismatch, |log| {
            let honest = log.publish(&[300]);
            log.entries.swap(400, 401);
            let path = "tile/entries/001";
            honest.put(path, log.publish(&[]).take(path));
            honest
        }),
        ("entries and tiles of another log", Verdict::RootMismatch, |log| {
            let honest = log.publish(&[300]);
            log.entries.swap(400, 401);
            for path in ["tile/entries/001", "tile/0/001"] {
                honest.put(path, log.publish(&[]).take(path));
            }
            honest
        }),
        ("a truncated bundle", Verdict::BadEntry, |log| {
            let shelf = log.publish(&[300]);
            shelf.alter("tile/entries/002.p/88", |bytes| bytes.truncate(bytes.len() - 1));
            shelf
        }),
        ("a bundle with more than its entries", Verdict::BadEntry, |log| {
            let shelf = log.publish(&[300]);
            shelf.alter("tile/entries/001", |bytes| bytes.push(0));
            shelf
        }),
        ("a kind nobody knows", Verdict::BadEntry, |log| {
            log.entries[500] = enc("nexo/1/leaf", &[&[9], &[0; 32]]);
            log.publish(&[300])
        }),
        ("a bundle withheld", Verdict::MissingResource, |log| {
            let shelf = log.publish(&[300]);
            shelf.take("tile/entries/001");
            shelf
        }),
        ("another key", Verdict::BadSignature, |log| {
            log.signers = Signers::other("log.example");
            log.publish(&[300])
        }),
        ("another log's head", Verdict::WrongOrigin, |log| {
            let shelf = log.publish(&[300]);
            let text = log.head().replacen("log.example", "gol.example", 1);
            let text = text.split_once("\n\n").unwrap().0.to_owned() + "\n";
            shelf.put("checkpoint", format!("{text}\n{}", log.signers.log_line(&text)).into());
            shelf
        }),
        ("an old head", Verdict::Stale, |log| {
            log.time = NOW - 86_401;
            log.publish(&[300])
        }),
        ("a head of tomorrow", Verdict::Clock, |log| {
            log.time = NOW + 86_400;
            log.publish(&[300])
        }),
        ("a head without time", Verdict::NoTime, |log| {
            let shelf = log.publish(&[300]);
            let signers = log.signers.with_new_time_key();
            shelf.put("checkpoint", signers.head(600, &oracle_root(&log.hashes()), NOW).into());
            shelf
        }),
        ("no note", Verdict::BadData, |log| {
            let shelf = log.publish(&[300]);
            shelf.put("checkpoint", b"<html>".to_vec());
            shelf
        }),
        ("nothing", Verdict::Unreachable, |_| Shelf::default()),
    ];

    #[test]
    fn each_lie_has_its_verdict_and_leaves_the_state_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.json");
        let first = TestLog::with(300);
        let vkey = first.signers.log_key().to_string();
        audit_shelf(first.publish(&[]), &args(&state, &["--vkey", &vkey])).0.unwrap();
        let before = fs::read(&state).unwrap();
        for (name, verdict, lie) in LIES {
            let (outcome, _) = audit_shelf(lie(&mut TestLog::with(600)), &args(&state, &[]));
            let error = outcome.expect_err(name);
            assert_eq!(error.verdict(), *verdict, "{name}: {error}");
            assert_eq!(fs::read(&state).unwrap(), before, "{name}");
        }
        // After all that the truth is still accepted.
        let report = audit_shelf(TestLog::with(600).publish(&[300]), &args(&state, &[])).0.unwrap();
        assert_eq!((report.previous, report.new), (Some(300), 300));
        assert_ne!(fs::read(&state).unwrap(), before);
    }

    #[test]
    fn a_first_audit_that_fails_leaves_no_state() {
        let folder = tempfile::tempdir().unwrap();
        let vkey = TestLog::with(0).signers.log_key().to_string();
        // At a first audit an older head, another one and another past are just heads.
        for (name, _, lie) in LIES.iter().skip(3) {
            let state = folder.path().join("state.json");
            let args = args(&state, &["--vkey", &vkey]);
            assert!(audit_shelf(lie(&mut TestLog::with(600)), &args).0.is_err(), "{name}");
            assert!(!state.exists(), "{name}");
        }
    }

    #[test]
    fn a_key_has_to_come_from_somewhere() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.json");
        let log = TestLog::with(3);
        let (outcome, _) = audit_shelf(log.publish(&[]), &args(&state, &[]));
        assert!(matches!(outcome, Err(RunError::NoKey)));
        let shelf = log.publish(&[]);
        shelf.take("log/vkey");
        let (outcome, _) = audit_shelf(shelf, &args(&state, &["--tofu"]));
        assert!(matches!(outcome, Err(RunError::NoOffer)));
        let (outcome, said) = audit_shelf(log.publish(&[]), &args(&state, &["--tofu"]));
        outcome.unwrap();
        assert!(said.starts_with("warning: ") && said.contains(&log.signers.log_key().to_string()));
        // From then on the remembered key counts, --tofu or not, and no other.
        let (outcome, said) = audit_shelf(log.publish(&[]), &args(&state, &["--tofu"]));
        assert_eq!((outcome.unwrap().new, said.as_str()), (0, ""));
        let other = Signers::other("log.example").log_key().to_string();
        let (outcome, _) = audit_shelf(log.publish(&[]), &args(&state, &["--vkey", &other]));
        assert!(matches!(outcome, Err(RunError::OtherKey { .. })));
        let forged = TestLog { signers: Signers::other("log.example"), ..log };
        let (outcome, _) = audit_shelf(forged.publish(&[]), &args(&state, &["--tofu"]));
        assert_eq!(outcome.unwrap_err().verdict(), Verdict::BadSignature);
    }

    #[test]
    fn a_poisoned_state_is_refused_before_anything_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.json");
        let log = TestLog::with(7);
        let vkey = log.signers.log_key().to_string();
        audit_shelf(log.publish(&[]), &args(&state, &["--vkey", &vkey])).0.unwrap();
        let text = fs::read_to_string(&state).unwrap();
        let mut poisoned: Value = serde_json::from_str(&text).unwrap();
        poisoned["peaks"][0] = poisoned["peaks"][1].clone();
        let poisoned = poisoned.to_string();
        fs::write(&state, &poisoned).unwrap();
        let (outcome, _) = audit_shelf(Shelf::default(), &args(&state, &["--vkey", &vkey]));
        assert_eq!(outcome.unwrap_err().verdict(), Verdict::BadState);
        assert_eq!(fs::read_to_string(&state).unwrap(), poisoned);
    }

    /// The whole program over HTTP.
    fn program(url: &str, state: &Path, more: &[&str]) -> (u8, String, String) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let fixed = ["nexo-audit", "check", url, "--state", state.to_str().unwrap()];
        let args = fixed.iter().chain(more).map(OsString::from);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = crate::run(args, &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_program_says_it_in_a_line_or_an_object() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.json");
        let mut log = TestLog { time: system_clock(), ..TestLog::with(300) };
        let vkey = log.signers.log_key().to_string();
        let url = log.publish(&[]).serve();
        let (code, out, err) = program(&url, &state, &["--vkey", &vkey]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.starts_with("verified  origin=log.example size=300 root="), "{out}");
        assert!(out.contains(" new=300 age=") && out.lines().count() == 1, "{out}");

        log.entries = TestLog::with(310).entries;
        let (code, out, err) = program(&log.publish(&[300]).serve(), &state, &["--json"]);
        let object: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert_eq!(object["schema"], "nexo.audit/1");
        assert_eq!((&object["verdict"], &object["code"]), (&"verified".into(), &0.into()));
        assert_eq!((&object["previous_size"], &object["new"]), (&300.into(), &10.into()));
        assert!(object["time"].as_str().unwrap().ends_with('Z'), "{out}");

        let old = log.head();
        log.entries.swap(0, 1);
        let url = log.publish(&[]).serve();
        let (code, out, err) = program(&url, &state, &["--json"]);
        let object: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &object["verdict"]), (84, &"fork".into()), "{out}");
        assert_eq!(object["detail"]["size"], 310);
        assert_eq!((&object["remembered"], &object["head"]), (&old.into(), &log.head().into()));
        assert!(err.starts_with("hint: "), "{err}");
        let (code, out, _) = program(&url, &state, &[]);
        assert_eq!(code, 84);
        assert!(out.starts_with("fork  the log signed two different heads of size 310"), "{out}");
    }

    #[test]
    fn the_program_names_what_is_wrong_with_the_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.json");
        for (url, more) in [
            ("relay.example.org", &["--tofu"][..]),
            ("http://localhost:1", &["--vkey", "junk"]),
            ("http://localhost:1", &["--max-age", "soon"]),
            ("http://localhost:1", &["--nonsense"]),
            ("http://localhost:1", &[]),
        ] {
            let (code, out, err) = program(url, &state, more);
            assert_eq!((code, out.as_str()), (64, ""), "{url} {more:?}");
            assert!(err.starts_with("error: "), "{err}");
        }
        let (code, out, _) = program("http://localhost:1", &state, &["--json"]);
        let object: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &object["verdict"]), (64, &"usage".into()));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = crate::run(["nexo-audit", "--help"].map(OsString::from), &mut out, &mut err);
        assert_eq!((code, err.len()), (0, 0));
        assert_ne!(out.len(), 0);
    }

    #[test]
    fn a_silent_log_runs_into_the_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.json");
        // Accepts by its backlog and never answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let vkey = TestLog::with(0).signers.log_key().to_string();
        let (code, _, err) = program(&url, &state, &["--vkey", &vkey, "--timeout", "1s"]);
        assert_eq!(code, Verdict::Timeout.code(), "{err}");
        assert!(!state.exists());
    }
}
