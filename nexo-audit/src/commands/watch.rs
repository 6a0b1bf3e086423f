//! `nexo-audit watch`: round after round, until a signal.

use super::session::state_path;
use super::{RunError, check, input};
use crate::check::Report;
use crate::cli::{CheckArgs, WatchArgs};
use crate::encoding::to_base64;
use crate::fetch::{Http, Source};
use crate::finding::Verdict;
use crate::nagios;
use crate::output::Printer;
use crate::watch::courier::{Attempt, Courier, Receivers};
use crate::watch::judge::{Bounds, End, Status};
use crate::watch::metrics::{Listener, Metrics};
use crate::watch::notice::{Account, Notice};
use crate::watch::pace;
use crate::watch::spool::Spool;
use crate::watch::systemd::Manager;
use crate::watch::webhook::{Webhook, WebhookUrl};
use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Longest file with a webhook's URL, bytes.
const MAX_URL: usize = 8192;
/// Longest that a round may take without `--timeout`. What it has hashed is kept and the next one goes
/// on from there. Without an end, a log that answers ever so slowly could keep a round for years, and
/// nobody would hear that its last verified head has become old.
const LONGEST_ROUND: Duration = Duration::from_secs(60 * 60);
/// What a round has at least, be the last head as good as too old: an honest log with many new
/// entries is not told to be stale because the round that would say otherwise was cut short.
const LEAST_ROUND: Duration = Duration::from_secs(60);
/// Until a spool that could not be read is looked at again.
const SPOOL_TROUBLE: Duration = Duration::from_secs(60);

/// Watches the log over HTTP.
pub(crate) async fn run(
    args: &WatchArgs,
    clock: fn() -> u64,
    printer: &mut Printer<'_>,
) -> Result<(), RunError> {
    let source = Http::new(args.check.url.clone()).map_err(RunError::Client)?;
    let watch = Watch::set_up(args, Arc::new(source), clock).await?;
    if args.once { watch.once(printer).await } else { watch.on(printer).await }
}

/// A log, what watching it has come to, and who is told.
struct Watch<'a, S> {
    args: &'a WatchArgs,
    source: Arc<S>,
    clock: fn() -> u64,
    bounds: Bounds,
    spool: Arc<Spool>,
    status: Status,
    courier: Courier,
    metrics: Metrics,
    /// [`LEAST_ROUND`]; tests wait less.
    least: Duration,
}

/// How a round ended, and what the program would end with if it were the only one.
struct Round {
    end: End,
    outcome: Result<Report, RunError>,
}

impl<'a, S: Source> Watch<'a, S> {
    async fn set_up(
        args: &'a WatchArgs,
        source: Arc<S>,
        clock: fn() -> u64,
    ) -> Result<Self, RunError> {
        let receivers = receivers(args)?;
        let spool = Arc::new(Spool::open(&spool_folder(args)?)?);
        let status = spool.status(&args.check.url.to_string())?;
        let bounds =
            Bounds { patience: args.patience.as_secs(), max_age: args.check.max_age.as_secs() };
        let courier = Courier::new(Arc::clone(&spool), receivers);
        let metrics = Metrics::default();
        let least = LEAST_ROUND;
        Ok(Self { args, source, clock, bounds, spool, status, courier, metrics, least })
    }

    /// One round, and one attempt to tell everybody.
    async fn once(mut self, printer: &mut Printer<'_>) -> Result<(), RunError> {
        let resolved = self.resolve()?;
        let Round { end, outcome } = self.round(printer).await;
        let now = (self.clock)();
        let mut notices: Vec<Notice> = resolved.into_iter().collect();
        notices.extend(self.status.judge(end, now, self.bounds));
        self.spool.record(&notices, &self.status)?;
        let mut untold = Vec::new();
        let mut told = |attempt: Attempt| untold.extend(words(&attempt));
        self.courier.deliver(&mut told).await?;
        untold.iter().for_each(|words| printer.say(words));
        let report = outcome?;
        printer.verified(&report).map_err(RunError::Io)
    }

    /// Round after round, until a signal.
    async fn on(mut self, printer: &mut Printer<'_>) -> Result<(), RunError> {
        let env = |name: &str| std::env::var_os(name);
        let mut outside = Outside::new(&env).map_err(RunError::Io)?;
        let listener = self.listen(printer).await?;
        if let Some(notice) = self.resolve()? {
            self.record(&[notice], printer)?;
        }
        let bell = Arc::new(Notify::new());
        let nobody = Courier::new(Arc::clone(&self.spool), Receivers::default());
        let courier = std::mem::replace(&mut self.courier, nobody);
        let (spool, metrics) = (Arc::clone(&self.spool), self.metrics.clone());
        let carrying = tokio::spawn(carry(courier, spool, metrics, Arc::clone(&bell)));
        outside.manager.ready();
        let outcome = self.rounds(&mut outside, &bell, printer).await;
        outside.manager.stopping();
        // What is being told goes on waiting in the spool, and is told again at the next start.
        carrying.abort();
        drop(listener);
        outcome
    }

    async fn rounds(
        &mut self,
        outside: &mut Outside,
        bell: &Notify,
        printer: &mut Printer<'_>,
    ) -> Result<(), RunError> {
        let (mut misses, mut first) = (0, true);
        loop {
            let Some(Round { end, outcome }) = outside.attend(self.round(printer)).await else {
                return Ok(());
            };
            if std::mem::take(&mut first) && is_ours(end.verdict) {
                // Not the log's doing, and nobody has seen it work yet.
                return outcome.map(drop);
            }
            misses = if end.verdict == Verdict::Unreachable { misses + 1 } else { 0 };
            outside.manager.status(&format!("{}: {}", end.verdict.name(), end.account.message));
            self.take(end, bell, printer)?;
            let wait = self.wait(misses);
            if outside.attend(tokio::time::sleep(wait)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Until the next round; a head that grows too old meanwhile is not waited for.
    fn wait(&self, misses: u32) -> Duration {
        let wait = pace::round(self.args.interval, misses);
        let fresh = self.status.fresh_for((self.clock)(), self.bounds).filter(|left| *left > 0);
        match fresh {
            Some(left) if misses > 0 => wait.min(Duration::from_secs(left)),
            _ => wait,
        }
    }

    /// How long a round may take: not much beyond the moment when the last verified head is too
    /// old, which is news by then, whatever keeps the round from its verdict.
    fn longest(&self) -> Duration {
        let limit = self.args.check.timeout.unwrap_or(LONGEST_ROUND);
        let fresh = self.status.fresh_for((self.clock)(), self.bounds).filter(|left| *left > 0);
        fresh.map_or(limit, |left| limit.min(Duration::from_secs(left).max(self.least)))
    }

    async fn round(&self, printer: &mut Printer<'_>) -> Round {
        let began = Instant::now();
        let source = Arc::clone(&self.source);
        let args = CheckArgs { timeout: Some(self.longest()), ..self.args.check.clone() };
        let outcome = check::audit(&args, source, self.clock, printer).await;
        let outcome = outcome.map(|verified| verified.report);
        let now = (self.clock)();
        let end = match &outcome {
            Ok(report) => {
                self.metrics.verified(report.size, report.time, report.new, now);
                verified(report)
            }
            Err(error) => ended(error, printer.evidence()),
        };
        self.metrics.round(end.verdict, began.elapsed(), now);
        Round { end, outcome }
    }

    /// Records what is news, tells stdout, and wakes the courier.
    fn take(&mut self, end: End, bell: &Notify, printer: &mut Printer<'_>) -> Result<(), RunError> {
        let before = self.status.clone();
        let notices = self.status.judge(end, (self.clock)(), self.bounds);
        if notices.is_empty() && self.status == before {
            self.health();
            return Ok(());
        }
        if let Err(error) = self.record(&notices, printer) {
            let RunError::Spool(error) = error else { return Err(error) };
            // The status is what is on the disk, so the next round makes the same notice.
            self.status = before;
            printer.say(&format!("error: {error}"));
        }
        self.health();
        bell.notify_one();
        Ok(())
    }

    fn record(&self, notices: &[Notice], printer: &mut Printer<'_>) -> Result<(), RunError> {
        self.spool.record(notices, &self.status)?;
        for notice in notices {
            self.metrics.noticed(notice.kind.name());
            let line = serde_json::to_string(notice).map_err(|e| RunError::Io(e.into()))?;
            printer.lines(&(line + "\n")).map_err(RunError::Io)?;
        }
        self.health();
        Ok(())
    }

    fn health(&self) {
        self.metrics.health(self.status.is_healthy(), self.status.standing.len());
        self.metrics.waiting(self.spool.count());
    }

    fn resolve(&mut self) -> Result<Option<Notice>, RunError> {
        let Some(id) = &self.args.resolve else { return Ok(None) };
        let notice = self.status.resolve(id, (self.clock)());
        notice.map(Some).ok_or_else(|| RunError::NoFinding { id: id.clone() })
    }

    async fn listen(&self, printer: &mut Printer<'_>) -> Result<Option<Listener>, RunError> {
        let Some(address) = self.args.metrics else { return Ok(None) };
        let listener = Listener::open(&self.metrics, address).await.map_err(RunError::Io)?;
        printer.say(&format!("metrics http://{}/metrics", listener.address));
        Ok(Some(listener))
    }
}

/// Carries what waits, whenever the bell rings or somebody is due again.
async fn carry(mut courier: Courier, spool: Arc<Spool>, metrics: Metrics, bell: Arc<Notify>) {
    loop {
        let mut told = |attempt: Attempt| {
            metrics.tried(&attempt.receiver, attempt.refusal.is_none());
            words(&attempt).into_iter().for_each(|words| say(&words));
        };
        let again = match courier.deliver(&mut told).await {
            Ok(again) => again,
            Err(error) => {
                say(&format!("error: {error}"));
                Some(SPOOL_TROUBLE)
            }
        };
        metrics.waiting(spool.count());
        match again {
            None => bell.notified().await,
            // Either will do: a bell, or the time.
            Some(wait) => drop(tokio::time::timeout(wait, bell.notified()).await),
        }
    }
}

fn words(attempt: &Attempt) -> Option<String> {
    let refusal = attempt.refusal.as_ref()?;
    Some(format!("warning: {} was not told: {refusal}", attempt.receiver))
}

/// A word from the courier, who has no printer.
fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// What is around the watch: signals, and the service manager.
struct Outside {
    manager: Manager,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Outside {
    fn new(env: &dyn Fn(&str) -> Option<OsString>) -> std::io::Result<Self> {
        #[cfg(unix)]
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            manager: Manager::from_env(env, std::process::id()),
            #[cfg(unix)]
            terminate: signal(SignalKind::terminate())?,
            #[cfg(unix)]
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Does the work, telling the service manager meanwhile that the loop turns; `None` when a
    /// signal came first.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let every = self.manager.watchdog().unwrap_or(Duration::from_secs(3600));
        loop {
            tokio::select! {
                biased;
                () = Self::signal(
                    #[cfg(unix)]
                    &mut self.terminate,
                    #[cfg(unix)]
                    &mut self.interrupt,
                ) => return None,
                done = &mut work => {
                    self.manager.alive();
                    return Some(done);
                }
                () = tokio::time::sleep(every) => self.manager.alive(),
            }
        }
    }

    #[cfg(unix)]
    async fn signal(
        terminate: &mut tokio::signal::unix::Signal,
        interrupt: &mut tokio::signal::unix::Signal,
    ) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn signal() {
        // Without a handler the system ends the program by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether a verdict is about this side's command line or files.
fn is_ours(verdict: Verdict) -> bool {
    let unknown = nagios::status(verdict).0 == nagios::UNKNOWN;
    (unknown || verdict == Verdict::PolicyViolation) && verdict != Verdict::Busy
}

fn verified(report: &Report) -> End {
    let account = Account {
        origin: Some(report.origin.clone()),
        message: format!("{} entries, head {} s old", report.size, report.age),
        size: Some(report.size),
        root: Some(to_base64(&report.root)),
        ..Account::default()
    };
    End { verdict: Verdict::Verified, head_time: Some(report.time), account }
}

fn ended(error: &RunError, evidence: Option<PathBuf>) -> End {
    let mut account = Account { message: error.to_string(), ..Account::default() };
    if let RunError::Failure(failure) = error {
        // Only values of closed types: they always serialize.
        account.detail = serde_json::to_value(&failure.finding).unwrap_or_default();
        account.head.clone_from(&failure.head);
        account.remembered.clone_from(&failure.remembered);
    }
    account.evidence = evidence.map(|path| path.display().to_string());
    End { verdict: error.verdict(), head_time: None, account }
}

fn receivers(args: &WatchArgs) -> Result<Receivers, RunError> {
    let url = match &args.webhook_file {
        None => args.webhook.clone(),
        Some(path) => {
            let text = String::from_utf8(input::read(path, MAX_URL)?).ok();
            let url = text.and_then(|text| WebhookUrl::parse(&text).ok());
            Some(url.ok_or_else(|| RunError::NoWebhook { path: path.clone() })?)
        }
    };
    let webhook = url.map(Webhook::new).transpose();
    let webhook = webhook.map_err(|error| RunError::Io(std::io::Error::other(error)))?;
    if let Some(path) = &args.hooks {
        // A directory that is not there is a mistake of the command line; later it may come back.
        let there = std::fs::read_dir(path).map(drop);
        there.map_err(|source| RunError::Input { path: path.clone(), source })?;
    }
    Ok(Receivers { hooks: args.hooks.clone(), exec: args.exec.clone(), webhook })
}

/// `--spool`, or the state file's path and `.watch`.
fn spool_folder(args: &WatchArgs) -> Result<PathBuf, RunError> {
    if let Some(folder) = &args.spool {
        return Ok(folder.clone());
    }
    let state = state_path(args.check.state.as_deref(), &args.check.url.file_stem())?;
    let mut name = state.into_os_string();
    name.push(".watch");
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::fetch::FetchError;
    use crate::testlog::{NOW, Shelf, TestLog};
    use clap::Parser as _;
    use std::path::Path;

    /// A log that takes every request and answers none, once it is told to.
    struct Tarpit {
        shelf: Shelf,
        silent: bool,
    }

    impl Source for Tarpit {
        async fn get(&self, path: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
            if self.silent {
                std::future::pending::<()>().await;
            }
            self.shelf.get(path, limit).await
        }
    }

    fn args(folder: &Path, more: &[&str]) -> WatchArgs {
        let state = folder.join("state.json");
        let vkey = TestLog::with(0).signers.log_key().to_string();
        let fixed = ["nexo-audit", "watch", "https://log.example", "--vkey", &vkey, "--state"];
        let all = [&fixed[..], &[state.to_str().unwrap()], more].concat();
        match Cli::try_parse_from(all).unwrap().command {
            Command::Watch(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    async fn watch(args: &WatchArgs, silent: bool) -> Watch<'_, Tarpit> {
        let source = Tarpit { shelf: TestLog::with(7).publish(&[]), silent };
        Watch::set_up(args, Arc::new(source), || NOW).await.unwrap()
    }

    #[tokio::test]
    async fn a_log_that_never_answers_does_not_hide_that_its_head_is_old() {
        let folder = tempfile::tempdir().unwrap();
        // The head is of now, so one more second and it is too old.
        let args = args(folder.path(), &["--max-age", "0s"]);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, false);
        let mut good = watch(&args, false).await;
        let Round { end, outcome } = good.round(&mut printer).await;
        outcome.unwrap();
        assert_eq!(good.status.judge(end, NOW, good.bounds).len(), 1);
        let status = good.status.clone();
        drop(good);

        let mut slow = watch(&args, true).await;
        (slow.status, slow.least) = (status, Duration::ZERO);
        let Round { end, outcome } = slow.round(&mut printer).await;
        assert!(matches!(outcome, Err(RunError::Timeout)));
        let news = slow.status.judge(end, NOW + 1, slow.bounds);
        let verdicts: Vec<_> = news.iter().map(|notice| notice.verdict.as_str()).collect();
        assert_eq!(verdicts, ["stale"]);
    }

    #[tokio::test]
    async fn a_round_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let limits = [(&[][..], LONGEST_ROUND), (&["--timeout", "5m"], Duration::from_secs(300))];
        for (more, limit) in limits {
            let args = args(folder.path(), more);
            let mut watch = watch(&args, false).await;
            assert_eq!(watch.longest(), limit);
            // A head that was too old before the round began gives it no less time.
            let end = |time| End { head_time: Some(time), ..verified_end() };
            watch.status.judge(end(NOW - 2 * 86_400), NOW, watch.bounds);
            assert_eq!(watch.longest(), limit);
            for (left, longest) in [(9, 60), (59, 60), (99, 100)] {
                watch.status.judge(end(NOW - 86_400 + left), NOW, watch.bounds);
                assert_eq!(watch.longest(), Duration::from_secs(longest));
            }
        }
    }

    fn verified_end() -> End {
        End { verdict: Verdict::Verified, head_time: None, account: Account::default() }
    }
}
