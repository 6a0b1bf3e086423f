//! `nexo-audit full`: audit every entry and tile of a log or of a copy, remember the head.

use super::RunError;
use super::evidence::{Scene, settle};
use super::session::{Session, bar, within};
use super::trust::{TrustFile, Witnesses};
use crate::check::{Aids, Trust};
use crate::cli::FullArgs;
use crate::fetch::{Http, Source};
use crate::full::{FullError, Open, Options, Report, Verified, full};
use crate::local::{Directory, Place};
use crate::output::Printer;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

/// Oldest head of a log that is asked over HTTP. A copy is as old as it is, unless asked for.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Threads for each core where files are read: while some wait for the disk, another hashes.
/// Two leave a disk of this age half idle; eight do not slow down files that are in memory.
const THREADS_PER_CORE_ON_FILES: usize = 8;
/// Most of them, as long as there are fewer cores.
const MOST_ON_FILES: usize = 64;

/// Audits the log behind HTTP or in a directory.
pub(crate) async fn run(
    args: &FullArgs,
    clock: fn() -> u64,
    printer: &mut Printer<'_>,
) -> Result<(), RunError> {
    let cores = available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let report = match &args.place {
        Place::Url(url) => {
            let url = url.clone();
            let open: Open<Http> = Arc::new(move || Http::new(url.clone()));
            let max_age = Some(args.max_age.unwrap_or(MAX_AGE));
            let threads = args.threads.unwrap_or(cores);
            audit(args, open, Options { max_age, clock, threads }, printer).await?
        }
        Place::Directory(path) => {
            let directory = Directory::at(path);
            let open: Open<Directory> = Arc::new(move || Ok(directory.clone()));
            let threads = args.threads.unwrap_or_else(|| on_files(cores));
            let options = Options { max_age: args.max_age, clock, threads };
            audit(args, open, options, printer).await?
        }
    };
    printer.verified_in_full(&report).map_err(RunError::Io)
}

fn on_files(cores: NonZero<usize>) -> NonZero<usize> {
    let threads = cores.get().saturating_mul(THREADS_PER_CORE_ON_FILES).min(MOST_ON_FILES);
    NonZero::new(threads).map_or(cores, |threads| threads.max(cores))
}

/// Audits the log that `open` opens and stores the memory, as the last step.
async fn audit<S: Source>(
    args: &FullArgs,
    open: Open<S>,
    options: Options,
    printer: &mut Printer<'_>,
) -> Result<Report, RunError> {
    let url = match &args.place {
        Place::Url(url) => Some(url),
        Place::Directory(_) => None,
    };
    let file = TrustFile::load(&args.trust)?;
    let vkey = TrustFile::pin(file.as_ref(), args.vkey.as_ref(), url)?;
    let stem = args.place.file_stem();
    let mut session = Session::open(args.state.as_deref(), &stem, vkey.as_ref(), args.tofu)?;
    let source = open().map_err(FullError::Client)?;
    let mut trust = None;
    let mut ask = Ask { options, file: file.as_ref(), session: &mut session, printer };
    let outcome = within(args.timeout, ask.verdict(&source, open, &mut trust)).await;
    // Outside the deadline, which must not turn a finding into a timeout.
    let (folder, now) = (session.evidence(&args.evidence), (options.clock)());
    let scene = trust.as_ref().map(|trust| Scene::of(trust, file.as_ref(), now, &folder));
    let Verified { report, memory } = settle(&source, outcome, scene, printer).await?;
    session.store(&memory, report.replaced_time_key.as_ref(), "full", printer)?;
    Ok(report)
}

/// Everything that waits for the log and its witnesses.
struct Ask<'a, 'p> {
    options: Options,
    file: Option<&'a TrustFile>,
    session: &'a mut Session,
    printer: &'a mut Printer<'p>,
}

impl Ask<'_, '_> {
    /// `from` is what the audit started from, once that is known.
    async fn verdict<S: Source>(
        &mut self,
        source: &S,
        open: Open<S>,
        from: &mut Option<Trust>,
    ) -> Result<Verified, RunError> {
        let trust = from.insert(self.session.trust(source, self.printer).await?);
        let witnesses = Witnesses::ask(self.file, trust.log_key(), self.printer).await?;
        let mut file = self.session.progress("full", trust);
        let aids = Aids {
            newest: self.session.newest(trust)?,
            heads: Some(self.session.heads()),
            progress: Some(&mut file),
        };
        // Not before: a bar that moves would run through the warning of a first use.
        let bar = bar();
        let mut progress = |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        };
        // A copy may have any age, unless one of the two says otherwise.
        let max_age = TrustFile::max_age(self.file, self.options.max_age.unwrap_or(Duration::MAX));
        let limit = (max_age < Duration::MAX).then_some(max_age);
        let options = Options { max_age: limit, ..self.options };
        let verified = full(open, trust, options, aids, &mut progress).await;
        bar.finish_and_clear();
        let verified = verified?;
        let now = (options.clock)();
        let ballot = witnesses.judge(source, &verified.memory, now, max_age).await?;
        self.printer.vouched(ballot);
        Ok(verified)
    }
}

#[cfg(test)]
mod tests {
    use super::on_files;
    use crate::check::system_clock;
    use crate::testlog::TestLog;
    use serde_json::Value;
    use std::ffi::OsString;
    use std::fs;
    use std::num::NonZero;
    use std::path::Path;

    /// The whole program.
    fn program(command: &str, place: &str, state: &Path, more: &[&str]) -> (u8, String, String) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let fixed = ["nexo-audit", command, place, "--state", state.to_str().unwrap()];
        let args = fixed.iter().chain(more).map(OsString::from);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = crate::run(args, &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn files_are_read_by_more_threads_than_there_are_cores() {
        for (cores, threads) in [(1, 8), (2, 16), (8, 64), (16, 64), (64, 64), (96, 96)] {
            assert_eq!(on_files(NonZero::new(cores).unwrap()).get(), threads);
        }
    }

    #[test]
    fn check_and_full_share_one_memory() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.json");
        let log = |size| TestLog { time: system_clock(), ..TestLog::with(size) };
        let vkey = log(0).signers.log_key().to_string();
        let (code, out, err) =
            program("full", &log(300).publish(&[]).serve(), &state, &["--vkey", &vkey]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.starts_with("verified  origin=log.example size=300 root="), "{out}");
        assert!(out.contains(" tiles=3 heads=0 age=") && out.lines().count() == 1, "{out}");
        let (code, out, _) = program("check", &log(400).publish(&[300]).serve(), &state, &[]);
        assert!(code == 0 && out.contains(" new=100 "), "{out}");
        let (code, out, err) =
            program("full", &log(500).publish(&[400]).serve(), &state, &["--json"]);
        let object: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert_eq!(
            (&object["verdict"], &object["previous_size"]),
            (&"verified".into(), &400.into())
        );
        assert_eq!((&object["heads"], &object["tiles"]), (&2.into(), &3.into()));
        assert_eq!((&object["new"], &object["resumed"]), (&100.into(), &0.into()));

        let before = fs::read(&state).unwrap();
        let shelf = log(600).publish(&[500]);
        shelf.alter("tile/1/000.p/2", |bytes| bytes[33] ^= 1);
        let (code, out, err) = program("full", &shelf.serve(), &state, &["--json"]);
        let object: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &object["verdict"]), (94, &"tile_mismatch".into()), "{out}");
        assert_eq!((&object["family"], &object["detail"]["position"]), (&81.into(), &1.into()));
        assert_eq!(object["detail"]["path"], "tile/1/000.p/2");
        assert!(err.starts_with("hint: "), "{err}");
        assert_eq!(fs::read(&state).unwrap(), before);
    }

    #[test]
    fn a_copy_is_audited_without_anybody_to_ask() {
        let folder = tempfile::tempdir().unwrap();
        let (state, copy) = (folder.path().join("state.json"), folder.path().join("copy"));
        let place = copy.to_str().unwrap();
        let vkey = TestLog::with(0).signers.log_key().to_string();
        // Its head is of 2023, which is its business alone.
        TestLog::with(600).publish(&[]).write(&copy);
        let (code, out, err) = program("full", place, &state, &["--vkey", &vkey]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.contains(" tiles=4 heads=0 age="), "{out}");
        assert_eq!(program("full", place, &state, &["--max-age", "7d"]).0, 85);

        // A mirror takes tiles and heads only.
        fs::remove_dir_all(&copy).unwrap();
        TestLog::with(700).publish(&[]).write(&copy);
        fs::remove_dir_all(copy.join("log")).unwrap();
        let (code, out, _) = program("full", place, &state, &["--json"]);
        let object: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &object["heads"]), (0, &1.into()), "{out}");
        assert!(object["time"].as_str().is_some_and(|time| time.starts_with("2023-")), "{out}");
        let other = folder.path().join("other.json");
        let (code, out, _) = program("full", place, &other, &["--vkey", &vkey]);
        assert!(code == 0 && !out.contains("age"), "{out}");
        assert_eq!(program("full", place, &other, &["--max-age", "7d"]).0, 102);

        // Another past than the one that was remembered, with nobody to ask for a proof.
        fs::remove_dir_all(&copy).unwrap();
        let mut other = TestLog::with(800);
        other.entries.swap(10, 11);
        other.publish(&[]).write(&copy);
        assert_eq!(program("full", place, &state, &[]).0, 99);
        fs::remove_dir_all(&copy).unwrap();
        assert_eq!(program("full", place, &state, &[]).0, 69);
        assert_eq!(program("full", "http://localhost:1", &state, &["--threads", "0"]).0, 64);
    }
}
