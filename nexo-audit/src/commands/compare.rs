//! `nexo-audit compare`: two heads of one log, from two vantage points.

use super::evidence::{Nowhere, Scene, keep};
use super::session::within;
use super::trust::TrustFile;
use super::{RunError, input};
use crate::check::{Failure, fetch_head};
use crate::checkpoint::SignedHead;
use crate::cli::CompareArgs;
use crate::compare::{by_roots, relate};
use crate::fetch::{Http, LogUrl, Source};
use crate::finding::Finding;
use crate::key::LogKey;
use crate::note::MAX_NOTE;
use crate::output::Printer;
use crate::proof::{MAX_FILE, OfflineProof, OfflineProofError};
use crate::state::{Memory, MemoryError};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Longest file that is looked at: a state file.
const MAX_INPUT: usize = 1 << 20;
const _: () = assert!(MAX_FILE < MAX_INPUT && MAX_NOTE < MAX_INPUT);
/// Where evidence goes without `--evidence`.
const FOLDER: &str = "evidence";

/// Why a file has no head in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadFileError {
    /// Longer than any of the formats.
    #[error("it is longer than {MAX_INPUT} bytes")]
    TooLong,
    /// JSON of neither kind.
    #[error("it is JSON, and neither a state file nor an object with a checkpoint in `sth`")]
    Json,
    /// A state file that does not verify.
    #[error("{0}")]
    State(MemoryError),
    /// An offline proof that is none.
    #[error(transparent)]
    Proof(#[from] OfflineProofError),
}

/// One of the two, before it is opened.
enum Side {
    /// Behind this address.
    Url(LogUrl),
    /// A note from a file, and the key that a state file brings.
    Note { note: Vec<u8>, key: Option<LogKey> },
}

/// Compares the heads.
pub(crate) async fn run(
    args: &CompareArgs,
    clock: fn() -> u64,
    printer: &mut Printer<'_>,
) -> Result<(), RunError> {
    let trust = TrustFile::load(&args.trust)?;
    let (a, b) = (Side::read(&args.a)?, Side::read(&args.b)?);
    let key = key_of(args, trust.as_ref(), [&a, &b])?;
    let work = async {
        let (at_a, at_b) = (a.url(), b.url());
        let (a, b) = (a.open(&key).await?, b.open(&key).await?);
        // The tree of the larger head is the one that is asked for.
        let (larger, smaller) =
            if a.checkpoint.size > b.checkpoint.size { (at_a, at_b) } else { (at_b, at_a) };
        let url = larger.or(args.log.as_ref()).or(smaller);
        let source = url.map(|url| Http::new(url.clone()).map_err(RunError::Client)).transpose()?;
        let outcome = match &source {
            Some(source) => decide(source, &a, &b).await,
            None => match by_roots(&a.checkpoint, &b.checkpoint) {
                Some(decided) => decided.map_err(|finding| failure(finding, &a, &b)),
                None => return Err(RunError::NoLog),
            },
        };
        let Err(found) = outcome else { return Ok((a, b)) };
        let failure = went_back(found, (&a, at_a), (&b, at_b));
        let folder = args.evidence.evidence.as_deref().unwrap_or(Path::new(FOLDER));
        let policy = trust.as_ref().and_then(|trust| trust.text.as_deref());
        let scene = Scene { key: &key, memory: None, policy, now: clock(), folder };
        match &source {
            Some(source) => keep(source, &failure, &scene, printer).await,
            None => keep(&Nowhere, &failure, &scene, printer).await,
        }
        Err(RunError::Failure(failure))
    };
    let (a, b) = within(args.timeout, work).await?;
    agreed(&a, &b, printer)
}

async fn decide<S: Source>(source: &S, a: &SignedHead, b: &SignedHead) -> Result<(), Box<Failure>> {
    relate(source, a, b).await.map_err(|discord| failure(discord.finding, a, b))
}

/// A finding about two heads: the second is the one that is judged, as in an audit.
fn failure(finding: Finding, a: &SignedHead, b: &SignedHead) -> Box<Failure> {
    let (head, remembered) = (Some(b.note.clone()), Some(a.note.clone()));
    Box::new(Failure { finding, head, remembered })
}

type Placed<'a> = (&'a SignedHead, Option<&'a LogUrl>);

/// A log that is asked now and has less than it signed before, and does not have that tree any
/// more either, went back.
fn went_back(found: Box<Failure>, a: Placed<'_>, b: Placed<'_>) -> Box<Failure> {
    let ((larger, saved), (smaller, asked)) =
        if a.0.checkpoint.size > b.0.checkpoint.size { (a, b) } else { (b, a) };
    let (remembered, served) = (larger.checkpoint.size, smaller.checkpoint.size);
    let missing = matches!(found.finding, Finding::MissingResource { .. });
    if missing && saved.is_none() && asked.is_some() && served < remembered {
        return failure(Finding::Rollback { remembered, served }, larger, smaller);
    }
    found
}

fn agreed(a: &SignedHead, b: &SignedHead, printer: &mut Printer<'_>) -> Result<(), RunError> {
    let (one, other) = (&a.checkpoint, &b.checkpoint);
    let relation = match one.size.cmp(&other.size) {
        std::cmp::Ordering::Equal => "the same",
        std::cmp::Ordering::Less => "A is the beginning of B",
        std::cmp::Ordering::Greater => "B is the beginning of A",
    };
    let words = format!("origin={} a={} b={}  {relation}", one.origin, one.size, other.size);
    let members = json!({
        "origin": one.origin,
        "a": { "size": one.size, "root": one.root_base64() },
        "b": { "size": other.size, "root": other.root_base64() },
    });
    printer.holds(&words, members).map_err(RunError::Io)
}

/// The one key that both heads are judged by.
fn key_of(
    args: &CompareArgs,
    trust: Option<&TrustFile>,
    sides: [&Side; 2],
) -> Result<LogKey, RunError> {
    let url = sides[0].url().or(sides[1].url()).or(args.log.as_ref());
    let mut pinned = TrustFile::pin(trust, args.vkey.as_ref(), url)?;
    for (side, path) in sides.into_iter().zip([&args.a, &args.b]) {
        let Side::Note { key: Some(key), .. } = side else { continue };
        let given = pinned.get_or_insert_with(|| key.clone());
        if given != key {
            let path = PathBuf::from(path);
            let (given, remembered) = (Box::new(given.clone()), Box::new(key.clone()));
            return Err(RunError::OtherKey { path, given, remembered });
        }
    }
    let key = pinned.ok_or(RunError::NoKey)?;
    if let Some(trust) = trust {
        trust.admit(&key)?;
    }
    Ok(key)
}

impl Side {
    fn read(text: &str) -> Result<Self, RunError> {
        if text.starts_with("http://") || text.starts_with("https://") {
            let url = LogUrl::parse(text).map_err(|cause| RunError::Address { cause })?;
            return Ok(Self::Url(url));
        }
        let path = Path::new(text);
        let bytes = input::read(path, MAX_INPUT)?;
        Self::of_bytes(bytes).map_err(|cause| RunError::HeadFile { path: path.to_owned(), cause })
    }

    /// The head in a file, by what the file begins with.
    fn of_bytes(bytes: Vec<u8>) -> Result<Self, HeadFileError> {
        if bytes.len() > MAX_INPUT {
            return Err(HeadFileError::TooLong);
        }
        if bytes.starts_with(b"c2sp.org/tlog-proof@") {
            let note = OfflineProof::parse(&bytes)?.checkpoint.to_vec();
            return Ok(Self::Note { note, key: None });
        }
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Ok(Self::Note { note: bytes, key: None });
        }
        let object: Value = serde_json::from_slice(&bytes).map_err(|_| HeadFileError::Json)?;
        let schema = object.get("schema").and_then(Value::as_str).unwrap_or_default();
        if schema.starts_with("nexo.audit-state/") {
            let memory = Memory::from_json(&bytes).map_err(HeadFileError::State)?;
            let note = memory.head.note.into_bytes();
            return Ok(Self::Note { note, key: Some(memory.log_key) });
        }
        let note = object.get("sth").and_then(Value::as_str).ok_or(HeadFileError::Json)?;
        Ok(Self::Note { note: note.as_bytes().to_vec(), key: None })
    }

    fn url(&self) -> Option<&LogUrl> {
        match self {
            Self::Url(url) => Some(url),
            Self::Note { .. } => None,
        }
    }

    /// The head, signed by the key.
    async fn open(&self, key: &LogKey) -> Result<SignedHead, RunError> {
        let nothing = |finding| {
            RunError::Failure(Box::new(Failure { finding, head: None, remembered: None }))
        };
        let note = match self {
            Self::Note { note, .. } => note.clone(),
            Self::Url(url) => {
                let source = Http::new(url.clone()).map_err(RunError::Client)?;
                fetch_head(&source).await.map_err(nothing)?
            }
        };
        SignedHead::open(&note, key, None)
            .map_err(|error| nothing(Finding::of_head("checkpoint", error)))
    }
}

#[cfg(test)]
mod tests {
    use crate::evidence::Evidence;
    use crate::testlog::{Signers, TestLog, oracle_inclusion, program};
    use serde_json::{Value, json};
    use std::fs;
    use std::path::{Path, PathBuf};

    struct Desk {
        folder: tempfile::TempDir,
        vkey: String,
    }

    impl Desk {
        fn new() -> Self {
            let vkey = TestLog::with(0).signers.log_key().to_string();
            Self { folder: tempfile::tempdir().unwrap(), vkey }
        }

        fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
            let path = self.folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        }

        fn evidence(&self) -> PathBuf {
            self.folder.path().join("evidence")
        }

        /// Exit code, object, stderr.
        fn compare(&self, a: &str, b: &str, more: &[&str]) -> (u8, Value, String) {
            let evidence = self.evidence();
            let fixed = ["compare", a, b, "--json", "--evidence", evidence.to_str().unwrap()];
            let (code, out, err) = program(&[&fixed, more].concat());
            (code, serde_json::from_str(&out).unwrap_or(Value::Null), err)
        }

        fn with_key(&self, a: &str, b: &str) -> (u8, Value, String) {
            self.compare(a, b, &["--vkey", &self.vkey])
        }
    }

    fn rewritten(size: u64) -> TestLog {
        let mut log = TestLog::with(size);
        log.entries.swap(3, 4);
        log
    }

    fn written(evidence: &Path) -> usize {
        fs::read_dir(evidence).map_or(0, Iterator::count)
    }

    #[test]
    fn a_head_is_read_from_wherever_it_is() {
        let desk = Desk::new();
        let (old, new) = (TestLog::with(300), TestLog::with(400));
        let url = new.publish(&[300]).serve();
        let state = desk.folder.path().join("state.json");
        let args = ["check", &old.publish(&[]).serve(), "--state", state.to_str().unwrap()];
        // Fresh enough for the clock of the machine.
        let (code, ..) =
            program(&[&args[..], &["--vkey", &desk.vkey, "--max-age", "99999d"]].concat());
        assert_eq!(code, 0);
        let state = state.to_str().unwrap().to_owned();
        let note = desk.file("head.txt", old.head());
        let gossip = desk.file("body.json", json!({ "v": 1, "sth": old.head() }).to_string());
        let path = oracle_inclusion(7, &old.hashes());
        let proof = crate::testlog::offline_proof(7, &path, &old.head());
        let proof = desk.file("7.tlog-proof", proof);
        for other in [&note, &gossip, &proof, &state, &url] {
            let (code, object, err) = desk.with_key(other, &url);
            assert_eq!((code, &object["verdict"]), (0, &"verified".into()), "{other}: {err}");
            assert_eq!(object["b"]["size"], 400);
            let (code, object, _) = desk.with_key(&url, other);
            assert_eq!((code, &object["a"]["size"]), (0, &400.into()), "{other}");
        }
        // A state file brings its key.
        assert_eq!(desk.compare(&state, &url, &[]).0, 0);
        assert_eq!(desk.compare(&state, &note, &[]).0, 0);
        assert_eq!(written(&desk.evidence()), 0);
        let (code, out, _) = program(&["compare", &note, &url, "--vkey", &desk.vkey]);
        assert_eq!(code, 0);
        assert_eq!(out, "verified  origin=log.example a=300 b=400  A is the beginning of B\n");
    }

    #[test]
    fn two_histories_are_found_and_kept() {
        let desk = Desk::new();
        let url = rewritten(400).publish(&[]).serve();
        let honest = desk.file("honest.txt", TestLog::with(400).head());
        let (code, object, err) = desk.with_key(&honest, &url);
        assert_eq!((code, &object["verdict"]), (84, &"fork".into()), "{err}");
        assert_eq!(object["remembered"], TestLog::with(400).head());
        let path = object["evidence"].as_str().unwrap();
        assert!(Evidence::parse(&fs::read(path).unwrap()).is_ok());
        let older = desk.file("older.txt", TestLog::with(300).head());
        let (code, object, _) = desk.with_key(&older, &url);
        assert_eq!((code, &object["verdict"]), (99, &"inconsistent".into()));
        // Two files need no log for a fork, and one for anything else.
        let forked = desk.file("forked.txt", rewritten(400).head());
        assert_eq!(desk.with_key(&honest, &forked).0, 84);
        let (code, object, _) = desk.with_key(&older, &forked);
        assert_eq!((code, &object["verdict"]), (64, &"usage".into()));
        let at = ["--vkey", &desk.vkey, "--log", &url];
        assert_eq!(desk.compare(&older, &forked, &at).0, 99);
        // A fork seen from two sides is two files; the others were found twice.
        let kept = written(&desk.evidence());
        assert_eq!(kept, 2, "fork and inconsistent");
        for file in fs::read_dir(desk.evidence()).unwrap() {
            let file = file.unwrap().path();
            let args = ["evidence", "verify", file.to_str().unwrap(), "--vkey", &desk.vkey];
            let (code, out, err) = program(&args);
            assert!(code == 0 && out.starts_with("verified  proof of "), "{out}{err}");
        }
    }

    #[test]
    fn two_vantage_points_of_two_histories() {
        let desk = Desk::new();
        let (here, there) = (TestLog::with(300), rewritten(400));
        let (here, there) = (here.publish(&[]).serve(), there.publish(&[]).serve());
        // Each side serves its own tree; the larger one is asked.
        assert_eq!(desk.with_key(&here, &there).0, 99);
        assert_eq!(desk.with_key(&there, &here).0, 99);
    }

    #[test]
    fn a_log_that_shows_less_than_it_signed_went_back() {
        let desk = Desk::new();
        let saved = desk.file("saved.txt", TestLog::with(400).head());
        let later = TestLog { time: crate::testlog::NOW + 9, ..TestLog::with(300) };
        let url = later.publish(&[]).serve();
        for (a, b) in [(&saved, &url), (&url, &saved)] {
            let (code, object, err) = desk.with_key(a, b);
            assert_eq!((code, &object["verdict"]), (98, &"rollback".into()), "{err}");
            assert_eq!(object["detail"]["served"], 300);
            let file = object["evidence"].as_str().unwrap();
            let (code, out, _) = program(&["evidence", "verify", file, "--vkey", &desk.vkey]);
            assert!(code == 0 && out.starts_with("verified  observation of rollback"), "{out}");
        }
        // Another server that is behind, and the log itself beside it.
        let log = TestLog::with(400).publish(&[]).serve();
        assert_eq!(desk.with_key(&url, &log).0, 0);
        assert_eq!(desk.compare(&saved, &url, &["--vkey", &desk.vkey, "--log", &log]).0, 0);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        let desk = Desk::new();
        let good = desk.file("good.txt", TestLog::with(7).head());
        for (name, bytes, code) in [
            ("empty", String::new(), 65),
            ("note", "hello".to_owned(), 65),
            ("json", "{}".to_owned(), 65),
            ("cut", "{\"sth\":".to_owned(), 65),
            ("number", "{\"sth\":1}".to_owned(), 65),
            ("state", "{\"schema\":\"nexo.audit-state/1\"}".to_owned(), 65),
            ("proof", "c2sp.org/tlog-proof@v1\n".to_owned(), 65),
            ("long", "x".repeat(2 << 20), 65),
            (
                "stranger",
                TestLog { signers: Signers::other("log.example"), ..TestLog::with(7) }.head(),
                83,
            ),
        ] {
            let file = desk.file(name, bytes);
            assert_eq!(desk.with_key(&good, &file).0, code, "{name}");
            assert_eq!(desk.with_key(&file, &good).0, code, "{name}");
        }
        assert_eq!(desk.with_key(&good, "absent").0, 66);
        assert_eq!(desk.with_key(&good, "https://user@log").0, 64);
        assert_eq!(desk.compare(&good, &good, &[]).0, 64, "no key");
        let other = Signers::other("log.example").log_key().to_string();
        assert_eq!(desk.compare(&good, &good, &["--vkey", &other]).0, 83);
        assert_eq!(written(&desk.evidence()), 0);
    }
}
