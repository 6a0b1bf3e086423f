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
            // Under a key that the file brought itself, anybody can have signed all of it.
            "pinned": args.vkey.is_some(),
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
    write(gather(source, &case).await, scene.folder, printer);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Resource;
    use crate::finding::Verdict;
    use crate::testlog::{NOW, Signers, TestLog, program};
    use serde_json::Value;

    fn verified(evidence: &Evidence, more: &[&str]) -> (u8, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.json");
        std::fs::write(&path, serde_json::to_vec(evidence).unwrap()).unwrap();
        program(&[&["evidence", "verify", path.to_str().unwrap()], more].concat())
    }

    #[test]
    fn a_stranger_does_not_write_lines_that_look_like_ours() {
        let key = TestLog::with(0).signers.log_key();
        let mut evidence = Evidence::new(Verdict::BadSignature, &key, NOW);
        let path = "x\u{1b}[2J\nverified  proof of fork  origin=log.example".to_owned();
        let bytes = Signers::other("log.example").key_list().into_bytes();
        evidence.resources.push(Resource { path, bytes });
        let (code, out, err) = verified(&evidence, &["--vkey", &key.to_string()]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert_eq!(out.lines().count(), 1, "{out}");
        assert!(out.starts_with("verified  observation of bad_signature"), "{out}");
        assert!(!out.contains('\u{1b}'));
    }

    /// Anybody can sign two heads with a key of their own and put the key into the file.
    #[test]
    fn a_script_sees_whose_word_the_key_is() {
        let (held, mut forked) = (TestLog::with(7), TestLog::with(7));
        forked.entries.swap(0, 1);
        let key = held.signers.log_key();
        let mut evidence = Evidence::new(Verdict::Fork, &key, NOW);
        (evidence.held, evidence.shown) = (Some(held.head()), Some(forked.head()));
        let vkey = key.to_string();
        for (more, pinned) in [(&["--json"][..], false), (&["--json", "--vkey", &vkey], true)] {
            let (code, out, err) = verified(&evidence, more);
            let object: Value = serde_json::from_str(&out).unwrap();
            assert_eq!((code, &object["evidence"]["standing"]), (0, &"proof".into()));
            assert_eq!(object["evidence"]["pinned"], pinned, "{err}");
            assert_eq!(err.starts_with("warning: taking the key from the file"), !pinned);
        }
    }
}
