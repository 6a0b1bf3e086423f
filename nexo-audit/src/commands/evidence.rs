//! `nexo-audit evidence verify`, and how the other commands keep what they find.

use super::trust::TrustFile;
use super::{RunError, input};
use crate::check::{Failure, Trust};
use crate::cli::EvidenceVerifyArgs;
use crate::evidence::{Case, Evidence, MAX_FILE, gather, verify};
use crate::fetch::{FetchError, Source};
use crate::key::LogKey;
use crate::output::Printer;
use crate::state::Memory;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// Longest that evidence is gathered: the finding is there, and must not wait for a log that
/// answers slowly.
const PATIENCE: Duration = Duration::from_secs(60);

/// Verifies a file that somebody else wrote.
pub(crate) fn run(args: &EvidenceVerifyArgs, printer: &mut Printer<'_>) -> Result<(), RunError> {
    let bytes = input::read(&args.file, MAX_FILE)?;
    let path = || args.file.clone();
    let evidence =
        Evidence::parse(&bytes).map_err(|cause| RunError::Evidence { path: path(), cause })?;
    let key = match &args.vkey {
        Some(key) => key.clone(),
        None => {
            let key = LogKey::parse(&evidence.log_vkey)
                .map_err(|cause| RunError::EvidenceKey { path: path(), cause })?;
            printer.say(&format!(
                "warning: taking the key from the file itself; it proves something about a log \
                 only if this is that log's key:\n  {key}"
            ));
            key
        }
    };
    let judgement =
        verify(&evidence, &key).map_err(|cause| RunError::Judgement { path: path(), cause })?;
    let (name, standing) = (judgement.verdict.name(), judgement.standing.name());
    let words = format!(
        "{standing} of {name}  origin={} seen_at={}  {}",
        key.origin(),
        evidence.seen_at.escape_debug(),
        judgement.shows
    );
    let members = json!({
        "origin": key.origin(),
        "evidence": {
            "verdict": name,
            "code": judgement.verdict.code(),
            "standing": standing,
            "shows": judgement.shows,
            "seen_at": evidence.seen_at,
            "log_vkey": key.to_string(),
        },
    });
    printer.holds(&words, members).map_err(RunError::Io)
}

/// What evidence is gathered around, besides the failure.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) key: &'a LogKey,
    pub(crate) memory: Option<&'a Memory>,
    /// The trust file.
    pub(crate) policy: Option<&'a str>,
    /// POSIX seconds.
    pub(crate) now: u64,
    /// Where the file goes.
    pub(crate) folder: &'a Path,
}

impl<'a> Scene<'a> {
    /// The scene of an audit that started from `trust`.
    pub(crate) fn of(
        trust: &'a Trust,
        file: Option<&'a TrustFile>,
        now: u64,
        folder: &'a Path,
    ) -> Self {
        let policy = file.and_then(|file| file.text.as_deref());
        Self { key: trust.log_key(), memory: trust.memory(), policy, now, folder }
    }
}

/// Passes an outcome on; the evidence of a failure is kept before.
pub(crate) async fn settle<S: Source, T>(
    source: &S,
    outcome: Result<T, RunError>,
    scene: Option<Scene<'_>>,
    printer: &mut Printer<'_>,
) -> Result<T, RunError> {
    if let (Err(RunError::Failure(failure)), Some(scene)) = (&outcome, scene) {
        keep(source, failure, &scene, printer).await;
    }
    outcome
}

/// Keeps the evidence of a failure, if it has any. That it could not be kept is told, and hides
/// the finding from nobody.
pub(crate) async fn keep<S: Source>(
    source: &S,
    failure: &Failure,
    scene: &Scene<'_>,
    printer: &mut Printer<'_>,
) {
    let case = Case {
        key: scene.key,
        finding: &failure.finding,
        head: failure.head.as_deref(),
        other: failure.remembered.as_deref(),
        memory: scene.memory,
        policy: scene.policy,
        now: scene.now,
    };
    let gathered = tokio::time::timeout(PATIENCE, gather(source, &case)).await;
    write(gathered.ok().flatten(), scene.folder, printer);
}

/// Writes evidence, if there is some, and tells where it is.
pub(crate) fn write(evidence: Option<Evidence>, folder: &Path, printer: &mut Printer<'_>) {
    let Some(evidence) = evidence else { return };
    match evidence.write(folder) {
        Ok(path) => printer.kept(path),
        Err(error) => {
            printer.say(&format!("warning: no evidence file in {}: {error}", folder.display()));
        }
    }
}

/// A place where nothing is: for findings that need no more than their heads.
pub(crate) struct Nowhere;

impl Source for Nowhere {
    async fn get(&self, _path: &str, _limit: usize) -> Result<Vec<u8>, FetchError> {
        Err(FetchError::NotFound)
    }
}
