//! The auditor against a log that lies, one test for each lie.
//!
//! The lies are those of a log's operator with his keys in hand, and those of a network. Each is
//! told to somebody who knew the log before and, where it can be, to somebody new. It has to end
//! with its verdict and exit code, in words and in JSON alike; what the auditor remembers must be
//! what it was, and the honest log must still be taken afterwards. Where something was signed or
//! served there is one file of evidence, which somebody else verifies in another place with the
//! log's key alone.
//!
//! | file | lies about |
//! |---|---|
//! | `heads` | what was signed: forks, rollbacks, other keys, old heads, two faces |
//! | `past` | what was seen before: dropped, reordered, rewritten |
//! | `entries` | what is new: entries, bundles, tiles and proofs that do not fit the head |
//! | `accounts` | whose keys are whose: forked chains, hidden revocations, foreign devices |
//! | `faces` | who is shown what: heads and proofs that people compare |
//! | `network` | sizes, times, redirects, characters, compression |

mod accounts;
mod entries;
mod faces;
mod heads;
mod network;
mod past;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::liar::{Log, Signers, Site};
use crate::harness::shell::{Auditor, Done, run};

/// What the file of evidence is worth to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// The log signed what no honest log signs.
    Proof,
    /// What was signed is in it; the rest is the victim's word.
    Observation,
    /// There is none: whoever answered has signed nothing.
    Nothing,
}
use Worth::{Nothing, Observation, Proof};

/// Entries that the victim has seen.
const SEEN: usize = 300;
/// Entries of the log by now: three tiles, the last of them partial, and one above them.
const NOW: usize = 600;

/// Somebody who is lied to.
struct Victim {
    auditor: Auditor,
    /// `check` or `full`.
    command: &'static str,
    /// The log's key, where it is not remembered.
    vkey: Vec<String>,
}

impl Victim {
    /// Who audited the log when it had [`SEEN`] entries.
    fn who_knows_the_log() -> Self {
        let victim = Self::who_is_new();
        let honest = Site::of(&Log::of(SEEN)).serve();
        victim.check(honest.url(), &[]).ok();
        Self { vkey: vec![], ..victim }
    }

    /// Who has the log's key and nothing else.
    fn who_is_new() -> Self {
        let vkey = vec!["--vkey".to_owned(), Log::of(0).signers.vkey()];
        Self { auditor: Auditor::new(), command: "check", vkey }
    }

    /// The same person, who rebuilds everything from the first entry on.
    fn in_full(self) -> Self {
        Self { command: "full", ..self }
    }

    /// Audits by the command.
    fn check(&self, url: &str, args: &[&str]) -> Done {
        run(self.auditor.command(&[self.command, url]).args(&self.vkey).args(args), b"")
    }

    /// Fails unless the audit of this site ends so, in words and in JSON, with evidence of that
    /// worth, and changes nothing; and unless the honest log is still the one that is remembered.
    fn finds(&self, lie: Site, code: i32, verdict: &str, worth: Worth) -> Value {
        self.finds_with(lie, &[], code, verdict, worth)
    }

    /// The same, with more arguments.
    fn finds_with(
        &self,
        lie: Site,
        args: &[&str],
        code: i32,
        verdict: &str,
        worth: Worth,
    ) -> Value {
        let (before, folder) = (self.remembered(), self.evidence());
        let _ = fs::remove_dir_all(&folder);
        let args = [args, &["--evidence", folder.to_str().unwrap()]].concat();
        let liar = lie.serve();
        let words = self.check(liar.url(), &args);
        words.refused(code);
        let json = self.check(liar.url(), &[&args[..], &["--json"]].concat());
        json.refused(code);
        let object = json.object();
        assert_eq!(object["schema"], "nexo.audit/1");
        let ended = (&object["verdict"], &object["code"]);
        assert_eq!(ended, (&verdict.into(), &code.into()), "{json:?}");
        assert_eq!(self.remembered(), before, "a lie is not remembered");
        // Whom it is shown to needs no log any more.
        drop(liar);
        self.convinces(verdict, worth);
        self.still_trusts_the_truth();
        object
    }

    /// The state file and the heads beside it.
    fn remembered(&self) -> BTreeMap<String, Vec<u8>> {
        let names = ["state.json", "state.json.heads"].map(str::to_owned);
        let read = |name: String| Some((name.clone(), fs::read(self.auditor.file(&name)).ok()?));
        names.into_iter().filter_map(read).collect()
    }

    fn evidence(&self) -> PathBuf {
        self.auditor.state().with_file_name("proofs")
    }

    /// The evidence is taken in another place by somebody who has the log's key and the file.
    fn convinces(&self, verdict: &str, worth: Worth) {
        let files = fs::read_dir(self.evidence()).into_iter().flatten();
        let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
        let [file] = &files[..] else {
            assert_eq!((files.len(), worth), (0, Nothing), "{verdict}: one finding, one file");
            return;
        };
        let stranger = Auditor::new();
        let copy = stranger.state().with_file_name("copy.json");
        fs::copy(file, &copy).unwrap();
        let verify = |vkey: &str| {
            stranger.run(&["evidence", "verify", copy.to_str().unwrap(), "--vkey", vkey, "--json"])
        };
        let done = verify(&Log::of(0).signers.vkey());
        done.ok();
        let shown = &done.object()["evidence"];
        let standing = match worth {
            Proof => "proof",
            Observation => "observation",
            Nothing => panic!("evidence of {verdict}: {shown}"),
        };
        assert_eq!((&shown["verdict"], &shown["standing"]), (&verdict.into(), &standing.into()));
        // Of another log it shows nothing, where it is about something that was signed.
        if !["bad_signature", "bad_data"].contains(&verdict) {
            verify(&Signers::of("liar.example", 9).vkey()).refused(65);
        }
    }

    /// The honest log of now is taken by whoever has the same memory.
    fn still_trusts_the_truth(&self) {
        let (auditor, vkey) = (Auditor::new(), self.vkey.clone());
        for (name, bytes) in self.remembered() {
            fs::write(auditor.file(&name), bytes).unwrap();
        }
        let twin = Self { auditor, vkey, command: self.command };
        twin.check(Site::of(&Log::of(NOW)).serve().url(), &[]).ok();
    }
}

/// A lie that both are told, with one end, whichever way they look.
fn told_to_both(lie: impl Fn() -> Site, code: i32, verdict: &str, worth: Worth) -> Value {
    Victim::who_is_new().in_full().finds(lie(), code, verdict, worth);
    Victim::who_knows_the_log().in_full().finds(lie(), code, verdict, worth);
    Victim::who_is_new().finds(lie(), code, verdict, worth);
    Victim::who_knows_the_log().finds(lie(), code, verdict, worth)
}

/// The truth about [`NOW`] entries.
fn truth() -> Site {
    Site::of(&Log::of(NOW))
}

#[test]
fn the_truth_is_taken_at_every_step() {
    let liar = Site::of(&Log::of(0)).serve();
    let victim = Victim::who_is_new();
    for size in [0, 1, 2, 255, 256, 257, 300, 511, 512, 513, 600, 600] {
        liar.tells(Site::of(&Log::of(size)));
        let report = victim.check(liar.url(), &["--json"]).object();
        assert_eq!((&report["verdict"], &report["size"]), (&"verified".into(), &size.into()));
    }
    // What was hashed before is not asked for again.
    assert_eq!(liar.asked().iter().filter(|path| *path == "tile/entries/000").count(), 1);
}
