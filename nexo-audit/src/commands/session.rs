//! What commands that audit a log have in common: the state file and what is pinned, the memory
//! at the end, the bar and the deadline.

use super::RunError;
use crate::check::{Failure, Trust, offered_key};
use crate::checkpoint::SignedHead;
use crate::cli::{CheckArgs, EvidenceArgs};
use crate::fetch::Source;
use crate::key::{LogKey, TimeKey};
use crate::output::Printer;
use crate::state::{Heads, Memory, ProgressFile, StateFile};
use etcetera::BaseStrategy;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a waiting run shows that it lives.
const TICK: Duration = Duration::from_millis(200);

/// A locked state file, and whom it or the command line trusts.
pub(crate) struct Session {
    state: StateFile,
    /// `None`: take the log's own word.
    pinned: Option<Trust>,
}

impl Session {
    /// Locks the state file, which is by default the one of `stem`, and decides what is trusted:
    /// what it remembers, `vkey`, or (`tofu`) whatever the log will offer.
    pub(crate) fn open(
        state: Option<&Path>,
        stem: &str,
        vkey: Option<&LogKey>,
        tofu: bool,
    ) -> Result<Self, RunError> {
        let path = state_path(state, stem)?;
        let state = StateFile::lock(&path)?;
        let pinned = match (vkey, state.load()?) {
            (Some(given), Some(memory)) if *given != memory.log_key => {
                let (given, remembered) = (Box::new(given.clone()), Box::new(memory.log_key));
                return Err(RunError::OtherKey { path, given, remembered });
            }
            (_, Some(memory)) => Some(Trust::Memory(Box::new(memory))),
            (Some(given), None) => Some(Trust::Key(Box::new(given.clone()))),
            (None, None) if tofu => None,
            (None, None) => return Err(RunError::NoKey),
        };
        Ok(Self { state, pinned })
    }

    /// What the audit starts from; on a first use without a key, what the log offers, with a
    /// warning. Asks the log only then.
    pub(crate) async fn trust<S: Source>(
        &mut self,
        source: &S,
        printer: &mut Printer<'_>,
    ) -> Result<Trust, RunError> {
        if let Some(trust) = self.pinned.take() {
            return Ok(trust);
        }
        let failure = |finding| Box::new(Failure { finding, head: None, remembered: None });
        let key = offered_key(source).await.map_err(failure)?.ok_or(RunError::NoOffer)?;
        printer.say(&format!(
            "warning: trusting the key that the log itself offers, on first use; compare it with \
             the one its operator publishes:\n  {key}"
        ));
        Ok(Trust::Key(Box::new(key)))
    }

    /// Where evidence goes: the folder that was given, or one beside the state file.
    pub(crate) fn evidence(&self, args: &EvidenceArgs) -> PathBuf {
        args.evidence.clone().unwrap_or_else(|| beside(self.state.path()))
    }

    /// The newest head that was ever accepted.
    pub(crate) fn newest(&self, trust: &Trust) -> Result<Option<SignedHead>, RunError> {
        Ok(self.state.heads().newest(trust.log_key())?)
    }

    /// Every head that was ever accepted.
    pub(crate) fn heads(&self) -> Heads {
        self.state.heads()
    }

    /// Where a command keeps how far it has come.
    pub(crate) fn progress(&self, command: &str, trust: &Trust) -> ProgressFile {
        ProgressFile::beside(self.state.path(), command, trust.log_key())
    }

    /// Remembers what was verified, as the last step, and drops the command's progress.
    pub(crate) fn store(
        &self,
        memory: &Memory,
        replaced: Option<&TimeKey>,
        command: &str,
        printer: &mut Printer<'_>,
    ) -> Result<(), RunError> {
        if let (Some(old), Some(new)) = (replaced, &memory.time_key) {
            printer.say(&format!("note: the log replaced its time key {old} by {new}"));
        }
        self.state.save(memory)?;
        ProgressFile::beside(self.state.path(), command, &memory.log_key).remove();
        Ok(())
    }
}

/// The state file: the one that is given, or the one of `stem`.
pub(crate) fn state_path(state: Option<&Path>, stem: &str) -> Result<PathBuf, RunError> {
    state.map_or_else(|| default_state(stem), |path| Ok(path.to_owned()))
}

/// Where the evidence of a check with these arguments goes, after its session ended.
pub(crate) fn evidence_folder(args: &CheckArgs) -> Result<PathBuf, RunError> {
    match (&args.evidence.evidence, &args.state) {
        (Some(folder), _) => Ok(folder.clone()),
        (None, Some(state)) => Ok(beside(state)),
        (None, None) => Ok(beside(&default_state(&args.url.file_stem())?)),
    }
}

fn beside(state: &Path) -> PathBuf {
    state.with_file_name("evidence")
}

fn default_state(stem: &str) -> Result<PathBuf, RunError> {
    let dirs = etcetera::choose_base_strategy().map_err(|_| RunError::NoStateDirectory)?;
    // Where the system has no directory for state, its directory for data does.
    let base = dirs.state_dir().unwrap_or_else(|| dirs.data_dir());
    Ok(base.join("nexo/audit").join(format!("{stem}.json")))
}

/// Does the work within `--timeout`.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, RunError>>,
) -> Result<T, RunError> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Err(RunError::Timeout)),
    }
}

/// A bar of entries with rate and ETA, on stderr, only on a terminal.
pub(crate) fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = "{spinner} [{bar:30}] {human_pos}/{human_len} entries  {per_sec}  ETA {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Place;

    #[test]
    fn the_state_has_a_place_per_log() {
        let place = Place::parse("http://127.0.0.1:8000/").unwrap();
        let path = default_state(&place.file_stem()).unwrap();
        assert!(path.ends_with("nexo/audit/127.0.0.1_8000.json"), "{}", path.display());
        let copy = default_state(&Place::parse("/srv/copy").unwrap().file_stem()).unwrap();
        let name = copy.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("+directory+") && name.ends_with(".json"), "{name}");
    }
}
