//! The trust file of a command: which key it pins, and what its witnesses say about a head.

use super::{RunError, input};
use crate::check::Failure;
use crate::checkpoint::SignedHead;
use crate::cli::TrustArgs;
use crate::fetch::{LogUrl, Source};
use crate::finding::Finding;
use crate::key::{LogKey, TimeKey};
use crate::note::Note;
use crate::output::Printer;
use crate::policy::views::{View, judge};
use crate::policy::{Ballot, MAX_FILE, Policy};
use crate::state::Memory;
use std::path::PathBuf;
use std::time::Duration;

/// A trust file that was read and is sound.
pub(crate) struct TrustFile {
    path: PathBuf,
    pub(crate) policy: Policy,
    /// The file as text; `None` when it is not UTF-8, which the format allows.
    pub(crate) text: Option<String>,
}

impl TrustFile {
    /// The file of `--trust`, if there is one.
    pub(crate) fn load(args: &TrustArgs) -> Result<Option<Self>, RunError> {
        let Some(path) = args.trust.clone() else { return Ok(None) };
        let bytes = input::read(&path, MAX_FILE)?;
        let policy = Policy::parse(&bytes, args.faulty)
            .map_err(|cause| RunError::Policy { path: path.clone(), cause })?;
        Ok(Some(Self { path, policy, text: String::from_utf8(bytes).ok() }))
    }

    /// The key of `--vkey`, which the file must not contradict, or else the one that the file
    /// pins for this address, or for all.
    pub(crate) fn pin(
        file: Option<&Self>,
        given: Option<&LogKey>,
        url: Option<&LogUrl>,
    ) -> Result<Option<LogKey>, RunError> {
        let Some(file) = file else { return Ok(given.cloned()) };
        if let Some(given) = given {
            file.admit(given)?;
            return Ok(Some(given.clone()));
        }
        let logs = || file.policy.logs().iter().filter_map(|log| Some((log, log.key.as_ref()?)));
        let here = url.and_then(|url| {
            let mut here = logs().filter(|(log, _)| {
                let listed = log.url.as_deref().and_then(|listed| LogUrl::parse(listed).ok());
                listed.as_ref() == Some(url)
            });
            here.next()
        });
        if let Some((_, key)) = here {
            return Ok(Some(key.clone()));
        }
        let mut keys = logs();
        match (keys.next(), keys.next()) {
            (Some((_, key)), None) => Ok(Some(key.clone())),
            // The state file may know which one it is; else nothing is pinned.
            _ => Ok(None),
        }
    }

    /// Refuses a key that is not among the logs of the file, when it lists any, and one that is a
    /// witness's.
    pub(crate) fn admit(&self, key: &LogKey) -> Result<(), RunError> {
        if !self.policy.admits(key) {
            let (path, origin) = (self.path.clone(), key.origin().to_owned());
            return Err(RunError::NotListed { path, origin });
        }
        self.no_witness_of_its_own(key, None)
    }

    fn no_witness_of_its_own(
        &self,
        log_key: &LogKey,
        time_key: Option<&TimeKey>,
    ) -> Result<(), RunError> {
        let own = self.policy.own_witness(log_key, time_key).map(str::to_owned);
        own.map_or(Ok(()), |name| Err(RunError::OwnWitness { path: self.path.clone(), name }))
    }

    /// The shorter of the file's and the command's longest age.
    pub(crate) fn max_age(file: Option<&Self>, given: Duration) -> Duration {
        let listed = file.and_then(|file| file.policy.max_age());
        listed.map_or(given, |listed| listed.min(given))
    }
}

/// A trust file, and what its witnesses answered before the log was asked.
pub(crate) struct Witnesses<'a> {
    file: Option<&'a TrustFile>,
    views: Vec<View>,
}

impl<'a> Witnesses<'a> {
    /// Asks the witnesses that have an address about the log of `key`, which must be one that the
    /// file admits. One that does not answer is told to the person, and no more.
    pub(crate) async fn ask(
        file: Option<&'a TrustFile>,
        key: &LogKey,
        printer: &mut Printer<'_>,
    ) -> Result<Self, RunError> {
        let mut views = Vec::new();
        if let Some(file) = file {
            file.admit(key)?;
            for (name, view) in file.policy.views(key).await {
                match view {
                    Ok(view) => views.push(view),
                    Err(error) => printer.say(&format!("warning: witness {name}: {error}")),
                }
            }
        }
        Ok(Self { file, views })
    }

    /// Judges the head of an audit that is verified otherwise: no witness saw another log, the
    /// quorum is met.
    /// `None` without a trust file.
    pub(crate) async fn judge<S: Source>(
        &self,
        source: &S,
        memory: &Memory,
        now: u64,
        max_age: Duration,
    ) -> Result<Option<Ballot>, RunError> {
        let Some(file) = self.file else { return Ok(None) };
        let head = &memory.head;
        let failure = |finding, other: Option<&View>| {
            let head = Some(head.note.clone());
            let remembered = other.map(|view| view.head.note.clone());
            RunError::Failure(Box::new(Failure { finding, head, remembered }))
        };
        for view in &self.views {
            judge(source, view, head).await.map_err(|finding| failure(finding, Some(view)))?;
        }
        file.no_witness_of_its_own(&memory.log_key, memory.time_key.as_ref())?;
        ballot(&file.policy, head, now, max_age).map(Some).map_err(|finding| failure(finding, None))
    }
}

/// Counts the cosignatures on a head.
///
/// # Errors
/// [`Finding::QuorumLost`], or [`Finding::BadSignature`] for a witness's line that is forged.
pub(crate) fn ballot(
    policy: &Policy,
    head: &SignedHead,
    now: u64,
    max_age: Duration,
) -> Result<Ballot, Finding> {
    let path = || "checkpoint".to_owned();
    let note = Note::parse(head.note.as_bytes()).map_err(|cause| Finding::Malformed {
        path: path(),
        cause: crate::finding::Malformed::Note(cause),
    })?;
    let ballot = policy
        .ballot(&note, now, max_age)
        .map_err(|cause| Finding::BadSignature { path: path(), cause })?;
    let max_age = max_age.as_secs();
    policy.judge(ballot).map_err(|unmet| Finding::QuorumLost { unmet: Box::new(unmet), max_age })
}

#[cfg(test)]
mod tests {
    use crate::check::system_clock;
    use crate::encoding::to_hex;
    use crate::testlog::{Shelf, Signers, TestLog, Witness, program};
    use serde_json::Value;
    use sha2::{Digest, Sha256};
    use std::fs;
    use std::path::Path;

    /// A log of now, whose head is cosigned at a time.
    fn cosigned(log: &TestLog, witnesses: &[u8], time: u64) -> (Shelf, String) {
        let head = log.head();
        let text = head.split_once("\n\n").unwrap().0.to_owned() + "\n";
        let lines: String = witnesses.iter().map(|n| Witness::new(*n).line(time, &text)).collect();
        let (shelf, note) = (log.publish(&[]), head + &lines);
        shelf.put("checkpoint", note.clone().into_bytes());
        (shelf, note)
    }

    fn log(size: u64) -> TestLog {
        TestLog { time: system_clock(), ..TestLog::with(size) }
    }

    /// Two of three witnesses; `url` is that of the first.
    fn trust_file(folder: &Path, url: &str, more: &str) -> String {
        let mut text = format!("log {}\n", log(0).signers.log_key());
        for n in 0..3 {
            let url = if n == 0 { url } else { "" };
            text += &format!("witness W{n} {} {url}\n", Witness::new(n).vkey());
        }
        let path = folder.join("trust.txt");
        fs::write(&path, text + "group Q 2 W0 W1 W2\nquorum Q\n" + more).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn audit(command: &str, url: &str, folder: &Path, more: &[&str]) -> (u8, Value, String) {
        let state = folder.join("state.json");
        let fixed = [command, url, "--json", "--state", state.to_str().unwrap()];
        let (code, out, err) = program(&[&fixed, more].concat());
        (code, serde_json::from_str(&out).unwrap_or(Value::Null), err)
    }

    #[test]
    fn the_trust_file_pins_the_log_and_asks_for_its_witnesses() {
        let now = system_clock();
        for command in ["check", "full"] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let trust = trust_file(folder, "", "");
            let state = folder.join("state.json");
            for (signed, time) in [(&[0][..], now), (&[0, 1], now - 2 * 86_400), (&[0, 3], now)] {
                let url = cosigned(&log(7), signed, time).0.serve();
                let (code, object, err) = audit(command, &url, folder, &["--trust", &trust]);
                assert_eq!((code, &object["verdict"]), (86, &"quorum_lost".into()), "{err}");
                assert!(!state.exists(), "a head that is not vouched for is not remembered");
                let evidence = object["evidence"].as_str().unwrap();
                let vkey = log(0).signers.log_key().to_string();
                let args = ["evidence", "verify", evidence, "--vkey", &vkey];
                let (code, out, err) = program(&args);
                assert!(code == 0 && out.contains("observation of quorum_lost"), "{out}{err}");
            }
            let url = cosigned(&log(7), &[2, 0], now).0.serve();
            let (code, object, err) = audit(command, &url, folder, &["--trust", &trust]);
            assert_eq!((code, err.as_str()), (0, ""), "{object}");
            assert_eq!(object["witnesses"]["counted"][1]["witness"], "W2");
            assert_eq!(object["witnesses"]["absent"], serde_json::json!(["W1"]));
        }
    }

    #[test]
    fn a_file_that_is_unsound_or_of_another_log_is_78() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let url = cosigned(&log(7), &[0, 1], system_clock()).0.serve();
        let trust = trust_file(folder, "", "");
        let refused = |more: &[&str]| {
            let (code, object, err) = audit("check", &url, folder, more);
            assert_eq!((code, &object["verdict"]), (78, &"policy_violation".into()), "{err}");
        };
        refused(&["--trust", &trust, "--faulty", "1"]);
        let other = Signers::other("log.example").log_key().to_string();
        refused(&["--trust", &trust, "--vkey", &other]);
        fs::write(folder.join("other.txt"), format!("log {other}\nquorum none\n")).unwrap();
        let other = folder.join("other.txt");
        // A memory of a log that the file does not list.
        assert_eq!(audit("check", &url, folder, &["--trust", &trust]).0, 0);
        let listed = audit("check", &url, folder, &["--trust", other.to_str().unwrap()]);
        assert_eq!(listed.0, 64, "the file pins another key than the memory");
        let signers = log(0).signers;
        for own in [signers.time_key(), signers.log_key_as_time_key()] {
            fs::write(folder.join("own.txt"), format!("witness T {own}\nquorum T\n")).unwrap();
            refused(&["--trust", folder.join("own.txt").to_str().unwrap()]);
        }
    }

    #[test]
    fn the_shorter_age_counts() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let now = system_clock();
        let old = TestLog { time: now - 3600, ..TestLog::with(7) };
        let url = cosigned(&old, &[0, 1], now - 3600).0.serve();
        let trust = trust_file(folder, "", "#nexo: max-age 30m\n");
        assert_eq!(audit("check", &url, folder, &["--trust", &trust]).0, 85);
        let trust = trust_file(folder, "", "#nexo: max-age 2h\n");
        assert_eq!(audit("check", &url, folder, &["--trust", &trust]).0, 0);
        assert_eq!(audit("check", &url, folder, &["--trust", &trust, "--max-age", "1m"]).0, 85);
    }

    /// The log shows one history here, and showed its witness another.
    #[test]
    fn a_witness_that_saw_another_log_is_believed() {
        let now = system_clock();
        let origin: [u8; 32] = Sha256::digest("log.example").into();
        let path = format!("{}/checkpoint", to_hex(&origin));
        for (seen, swapped) in [(400, true), (300, true), (401, false)] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let mut other = log(seen);
            if swapped {
                other.entries.swap(3, 4);
            }
            let witness = Shelf::default();
            witness.put(&path, cosigned(&other, &[0], now).1.into_bytes());
            let trust = trust_file(folder, &witness.serve(), "");
            let url = cosigned(&log(400), &[0, 1], now).0.serve();
            let (code, object, err) = audit("check", &url, folder, &["--trust", &trust]);
            assert_eq!((code, &object["verdict"]), (100, &"witness_disagrees".into()), "{err}");
            assert_eq!(object["detail"]["seen"], seen);
            assert!(!folder.join("state.json").exists());
            let vkey = log(0).signers.log_key().to_string();
            let evidence = object["evidence"].as_str().unwrap();
            let (code, out, err) = program(&["evidence", "verify", evidence, "--vkey", &vkey]);
            let standing = if swapped { "proof" } else { "observation" };
            assert!(code == 0 && out.contains(standing), "{out}{err}");
        }
        // One that agrees, and one that is not there.
        let folder = tempfile::tempdir().unwrap();
        let witness = Shelf::default();
        witness.put(&path, cosigned(&log(300), &[0], now).1.into_bytes());
        let url = cosigned(&log(400), &[0, 1], now).0.serve();
        let trust = trust_file(folder.path(), &witness.serve(), "");
        let (code, _, err) = audit("check", &url, folder.path(), &["--trust", &trust]);
        assert_eq!((code, err.as_str()), (0, ""));
        let trust = trust_file(folder.path(), "ftp://nowhere", "");
        let (code, _, err) = audit("check", &url, folder.path(), &["--trust", &trust]);
        assert!(code == 0 && err.starts_with("warning: witness W0: "), "{err}");
    }
}
