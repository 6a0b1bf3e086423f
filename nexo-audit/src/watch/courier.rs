//! The courier: takes what waits in the spool to everybody who has to be told, until they took it.
//!
//! Each receiver gets the notices in their order: one that refuses is not told the next, and is
//! tried again ever later. Receivers do not wait for each other's success. Who took a notice is
//! written down at once, so that a restart repeats as little as it can.

use super::command::{Hook, hooks, shell};
use super::notice::Notice;
use super::pace;
use super::spool::{Spool, SpoolError, Waiting};
use super::webhook::Webhook;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everybody who has to be told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Receivers {
    /// A directory of programs, looked into each time.
    pub(crate) hooks: Option<PathBuf>,
    /// A line of the shell.
    pub(crate) exec: Option<String>,
    /// An address.
    pub(crate) webhook: Option<Webhook>,
}

/// One of them.
#[derive(Debug, Clone)]
enum Receiver {
    Hook(Hook),
    Exec(String),
    Webhook(Webhook),
}

impl Receivers {
    fn all(&self) -> io::Result<Vec<Receiver>> {
        let mut all = Vec::new();
        if let Some(folder) = &self.hooks {
            all.extend(hooks(folder)?.into_iter().map(Receiver::Hook));
        }
        all.extend(self.exec.clone().map(Receiver::Exec));
        all.extend(self.webhook.clone().map(Receiver::Webhook));
        Ok(all)
    }
}

impl Receiver {
    /// As in the spool, in words and in metrics.
    fn name(&self) -> String {
        match self {
            Self::Hook(hook) => format!("hook:{}", hook.name),
            Self::Exec(_) => "exec".to_owned(),
            Self::Webhook(_) => "webhook".to_owned(),
        }
    }

    async fn tell(&self, notice: &Notice) -> Result<(), String> {
        match self {
            Self::Hook(hook) => hook.tell(notice).await.map_err(|error| error.to_string()),
            Self::Exec(line) => shell(line, notice).await.map_err(|error| error.to_string()),
            Self::Webhook(webhook) => webhook.tell(notice).await.map_err(|e| e.to_string()),
        }
    }
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The receiver.
    pub(crate) receiver: String,
    /// Why it did not take the notice; `None` when it did.
    pub(crate) refusal: Option<String>,
}

/// A receiver that refused.
#[derive(Debug, Clone, Copy)]
struct Refused {
    failures: u32,
    again: Instant,
}

/// See the top.
#[derive(Debug)]
pub(crate) struct Courier {
    spool: Arc<Spool>,
    receivers: Receivers,
    refused: HashMap<String, Refused>,
    /// Wait after a number of failures; tests wait less.
    wait: fn(u32) -> Duration,
}

impl Courier {
    /// For what waits in `spool`.
    pub(crate) fn new(spool: Arc<Spool>, receivers: Receivers) -> Self {
        Self { spool, receivers, refused: HashMap::new(), wait: pace::retry }
    }

    /// One round to everybody who is due. `told` hears of each attempt. Returns how long until
    /// somebody is due again; `None` when nothing waits.
    ///
    /// # Errors
    /// [`SpoolError`]; what was not written down may be told again.
    pub(crate) async fn deliver(
        &mut self,
        told: &mut (dyn FnMut(Attempt) + Send),
    ) -> Result<Option<Duration>, SpoolError> {
        let mut waiting = self.spool.waiting()?;
        if waiting.is_empty() {
            return Ok(None);
        }
        let receivers = match self.receivers.all() {
            Ok(receivers) => receivers,
            Err(error) => {
                // Without the directory nobody knows whom to tell, so everything waits.
                let receiver = "hooks".to_owned();
                let again = self.refuse(&receiver);
                told(Attempt { receiver, refusal: Some(error.to_string()) });
                return Ok(Some(again));
            }
        };
        let names: Vec<String> = receivers.iter().map(Receiver::name).collect();
        self.refused.retain(|name, _| names.contains(name));
        for (receiver, name) in receivers.iter().zip(&names) {
            self.tell(receiver, name, &mut waiting, told).await?;
        }
        let all = |one: &Waiting| names.iter().all(|name| one.taken.contains(name));
        for one in waiting.iter().filter(|one| all(one)) {
            self.spool.done(one)?;
        }
        let now = Instant::now();
        Ok(self.refused.values().map(|refused| refused.again.duration_since(now)).min())
    }

    /// Everything that waits for one receiver, in order, as long as it takes it.
    async fn tell(
        &mut self,
        receiver: &Receiver,
        name: &str,
        waiting: &mut [Waiting],
        told: &mut (dyn FnMut(Attempt) + Send),
    ) -> Result<(), SpoolError> {
        if self.refused.get(name).is_some_and(|refused| refused.again > Instant::now()) {
            return Ok(());
        }
        for one in waiting.iter_mut().filter(|one| !one.taken.iter().any(|t| t == name)) {
            let outcome = receiver.tell(&one.notice).await;
            let refusal = outcome.err();
            let refuses = refusal.is_some();
            told(Attempt { receiver: name.to_owned(), refusal });
            if refuses {
                self.refuse(name);
                return Ok(());
            }
            self.refused.remove(name);
            self.spool.taken(one, name)?;
        }
        self.refused.remove(name);
        Ok(())
    }

    fn refuse(&mut self, name: &str) -> Duration {
        let failures = self.refused.get(name).map_or(0, |r| r.failures).saturating_add(1);
        let wait = (self.wait)(failures);
        self.refused.insert(name.to_owned(), Refused { failures, again: Instant::now() + wait });
        wait
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::super::judge::{Bounds, End, Status};
    use super::super::notice::Account;
    use super::*;
    use crate::finding::Verdict;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    const BOUNDS: Bounds = Bounds { patience: 0, max_age: 60 };

    /// A spool with notices of these verdicts.
    fn spool(folder: &Path, verdicts: &[Verdict]) -> Arc<Spool> {
        let spool = Spool::open(&folder.join("spool")).unwrap();
        let mut status = Status::new("https://log.example");
        for verdict in verdicts {
            let end = End { verdict: *verdict, head_time: Some(0), account: Account::default() };
            let notices = status.judge(end, 0, BOUNDS);
            assert_eq!(notices.len(), 1);
            spool.record(&notices, &status).unwrap();
        }
        Arc::new(spool)
    }

    fn courier(spool: &Arc<Spool>, receivers: Receivers) -> Courier {
        let mut courier = Courier::new(Arc::clone(spool), receivers);
        courier.wait = |_| Duration::ZERO;
        courier
    }

    fn hook(folder: &Path, name: &str, script: &str) {
        let path = folder.join("hooks").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Delivers once; who was tried, and whether they took it.
    async fn deliver(courier: &mut Courier) -> (Vec<(String, bool)>, Option<Duration>) {
        let mut tried = Vec::new();
        let mut told = |a: Attempt| tried.push((a.receiver, a.refusal.is_none()));
        let again = courier.deliver(&mut told).await.unwrap();
        (tried, again)
    }

    const TWO: &[Verdict] = &[Verdict::Stale, Verdict::Rollback];

    #[tokio::test]
    async fn everybody_gets_everything_in_order_and_then_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let spool = spool(place, TWO);
        let out = place.join("out");
        for name in ["10-a", "20-b"] {
            hook(place, name, &format!("echo {name} $NEXO_VERDICT >> {}", out.display()));
        }
        let exec = Some(format!("echo exec $NEXO_VERDICT >> {}", out.display()));
        let hooks = Some(place.join("hooks"));
        let mut courier = courier(&spool, Receivers { hooks, exec, webhook: None });
        let (tried, again) = deliver(&mut courier).await;
        assert!(tried.len() == 6 && tried.iter().all(|(_, taken)| *taken), "{tried:?}");
        assert_eq!((again, spool.count()), (None, 0));
        let wanted = ["10-a", "20-b", "exec"].map(|who| format!("{who} stale\n{who} rollback\n"));
        assert_eq!(fs::read_to_string(out).unwrap(), wanted.concat());
        assert_eq!(deliver(&mut courier).await, (vec![], None));
    }

    #[tokio::test]
    async fn who_refuses_is_tried_again_and_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let spool = spool(place, TWO);
        let (ready, out) = (place.join("ready"), place.join("out"));
        hook(place, "10-away", &format!("test -e {} && cat >> {}", ready.display(), out.display()));
        hook(place, "20-here", "exit 0");
        let hooks = Some(place.join("hooks"));
        let receivers = Receivers { hooks, ..Receivers::default() };
        let mut first = courier(&spool, receivers.clone());
        let named = |name: &str, taken| (name.to_owned(), taken);
        let (tried, again) = deliver(&mut first).await;
        let (away, here) = (named("hook:10-away", false), named("hook:20-here", true));
        // The second notice is not told before the first was taken.
        assert_eq!(tried, [away.clone(), here.clone(), here]);
        assert!(again.is_some() && spool.count() == 2);
        assert_eq!(deliver(&mut first).await.0, [away], "who took it is left alone");
        // After a restart, too.
        drop(first);
        fs::write(&ready, "").unwrap();
        let mut second = courier(&spool, receivers);
        let back = named("hook:10-away", true);
        assert_eq!(deliver(&mut second).await, (vec![back.clone(), back], None));
        assert_eq!(spool.count(), 0);
        assert_eq!(fs::read_to_string(out).unwrap().matches("nexo.audit-notice/1").count(), 2);
    }

    #[tokio::test]
    async fn who_refused_is_left_alone_until_it_is_time() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), TWO);
        let exec = Some("exit 1".to_owned());
        let mut courier = courier(&spool, Receivers { exec, ..Receivers::default() });
        courier.wait = |failures| Duration::from_secs(1000 * u64::from(failures));
        assert_eq!(deliver(&mut courier).await.0.len(), 1);
        let (tried, again) = deliver(&mut courier).await;
        assert!(tried.is_empty() && again > Some(Duration::from_secs(900)), "{again:?}");
    }

    #[tokio::test]
    async fn without_receivers_nothing_waits_and_without_the_directory_everything() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), TWO);
        let hooks = Some(folder.path().join("absent"));
        let mut lost = courier(&spool, Receivers { hooks, ..Receivers::default() });
        let (tried, again) = deliver(&mut lost).await;
        assert_eq!((tried, spool.count()), (vec![("hooks".to_owned(), false)], 2));
        assert!(again.is_some());
        let mut nobody = courier(&spool, Receivers::default());
        assert_eq!(deliver(&mut nobody).await, (vec![], None));
        assert_eq!(spool.count(), 0);
    }
}
