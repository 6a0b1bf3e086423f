//! Lies that only two people together can find: each is shown a log that is in order, and not the
//! same one. They compare what they saw, in any of the forms in which it is passed on.

use serde_json::{Value, json};

use super::{NOW, Nothing, Proof, SEEN, Victim, Worth};
use crate::harness::liar::{Log, Signers, Site};
use crate::harness::text;

/// The log with another history.
fn other(size: usize) -> Log {
    Log::of(size).but(|log| log.entries.swap(10, 11))
}

/// Somebody who has audited this log and found nothing.
fn content(log: &Log) -> Victim {
    let victim = Victim::who_is_new();
    victim.check(Site::of(log).serve().url(), &[]).ok();
    victim
}

impl Victim {
    /// Fails unless a comparison ends so; what was said in JSON.
    fn compares(&self, sides: [&str; 2], more: &[&str], end: (i32, &str), worth: Worth) -> Value {
        let (vkey, folder) = (Log::of(0).signers.vkey(), self.evidence());
        let _ = std::fs::remove_dir_all(&folder);
        let folder = folder.to_str().unwrap();
        let args = ["compare", sides[0], sides[1], "--json", "--vkey", &vkey, "--evidence", folder];
        let done = self.auditor.run(&[&args, more].concat());
        let object = done.object();
        assert_eq!((done.code, &object["verdict"]), (end.0, &end.1.into()), "{done:?}");
        if end.0 != 0 {
            self.convinces(end.1, worth);
        }
        object
    }

    /// A head of a log, in every form in which it is passed on.
    fn forms(&self, log: &Log) -> Vec<String> {
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(self.auditor.file(name), bytes).unwrap();
            self.auditor.file(name).to_str().unwrap().to_owned()
        };
        let state = std::fs::read(content(log).auditor.state()).unwrap();
        let index = log.size() - 1;
        vec![
            write("head", log.head().as_bytes()),
            write("state", &state),
            write("proof", &log.answer(&format!("log/proof?index={index}")).unwrap()),
            write("body", json!({"v": 1, "t": "text", "sth": log.head()}).to_string().as_bytes()),
        ]
    }
}

#[test]
fn two_faces_of_one_size() {
    let victim = content(&Log::of(NOW));
    let mine = victim.auditor.state();
    let mine = mine.to_str().unwrap();
    for theirs in victim.forms(&other(NOW)) {
        victim.compares([mine, &theirs], &[], (84, "fork"), Proof);
        victim.compares([&theirs, mine], &[], (84, "fork"), Proof);
    }
    // As the log shows them itself, to each another one.
    let [one, two] = [Log::of(NOW), other(NOW)].map(|log| Site::of(&log).serve());
    victim.compares([one.url(), two.url()], &[], (84, "fork"), Proof);
    for theirs in victim.forms(&Log::of(NOW)) {
        victim.compares([mine, &theirs], &[], (0, "verified"), Nothing);
        victim.compares([one.url(), &theirs], &[], (0, "verified"), Nothing);
        victim.compares([two.url(), &theirs], &[], (84, "fork"), Proof);
    }
}

#[test]
fn two_faces_of_two_sizes() {
    let victim = content(&Log::of(NOW));
    let [one, two] = [Log::of(NOW), other(NOW)].map(|log| Site::of(&log).serve());
    for theirs in victim.forms(&Log::of(SEEN)) {
        victim.compares([one.url(), &theirs], &[], (0, "verified"), Nothing);
        victim.compares([&theirs, two.url()], &[], (99, "inconsistent"), Proof);
        // Between two files it is the log that has the proof.
        let mine = victim.auditor.state();
        let sides = [mine.to_str().unwrap(), theirs.as_str()];
        victim.compares(sides, &["--log", one.url()], (0, "verified"), Nothing);
    }
}

#[test]
fn a_peer_with_a_newer_head() {
    let victim = content(&Log::of(SEEN));
    let one = Site::of(&Log::of(NOW)).serve();
    let mine = victim.auditor.state();
    let mine = mine.to_str().unwrap();
    for theirs in victim.forms(&Log::of(NOW)) {
        victim.compares([mine, &theirs], &["--log", one.url()], (0, "verified"), Nothing);
    }
    for theirs in victim.forms(&other(NOW)) {
        // The log that has the tree of the newer head shows what it is made of.
        let two = Site::of(&other(NOW)).serve();
        victim.compares([mine, &theirs], &["--log", two.url()], (99, "inconsistent"), Proof);
    }
}

#[test]
fn what_a_stranger_passes_on_is_no_head() {
    let victim = content(&Log::of(NOW));
    let mine = victim.auditor.state();
    let mine = mine.to_str().unwrap();
    let strangers = Log::of(NOW).but(|log| {
        log.signers = Signers::of("liar.example", 2);
    });
    let file = victim.auditor.file("strange");
    let path = file.to_str().unwrap();
    std::fs::write(&file, strangers.head()).unwrap();
    victim.compares([mine, path], &[], (83, "bad_signature"), Nothing);
    for junk in [&b""[..], b"junk", b"{}", b"{\"sth\": 1}", b"\xff\xfe", &[b'['; 1 << 17]] {
        std::fs::write(&file, junk).unwrap();
        victim.compares([mine, path], &[], (65, "bad_data"), Nothing);
    }
}

#[test]
fn offline_proofs_that_prove_something_else() {
    let log = Log::of(NOW);
    let victim = Victim::who_is_new();
    let file = victim.auditor.file("file.tlog-proof");
    let verify = |bytes: &[u8], more: &[&str]| {
        std::fs::write(&file, bytes).unwrap();
        let args = ["proof", "verify", file.to_str().unwrap(), "--json", "--vkey", &victim.vkey[1]];
        let done = victim.auditor.run(&[&args, more].concat());
        (done.code, text(&done.object()["verdict"]))
    };
    let good = log.answer("log/proof?index=42").unwrap();
    assert_eq!(verify(&good, &[]), (0, "verified".into()));
    let file_text = String::from_utf8(good).unwrap();
    let entry = victim.auditor.file("entry");
    let with = ["--entry", entry.to_str().unwrap()];
    std::fs::write(&entry, &log.entries[42]).unwrap();
    assert_eq!(verify(file_text.as_bytes(), &with), (0, "verified".into()));
    std::fs::write(&entry, &log.entries[43]).unwrap();
    assert_eq!(verify(file_text.as_bytes(), &with), (81, "inclusion_mismatch".into()));
    let moved = file_text.replace("index 42", "index 43");
    assert_eq!(verify(moved.as_bytes(), &[]), (81, "inclusion_mismatch".into()));
    let elsewhere =
        file_text.split_once("\n\n").unwrap().0.to_owned() + "\n\n" + &other(NOW).head();
    assert_eq!(verify(elsewhere.as_bytes(), &[]), (81, "inclusion_mismatch".into()));
    let strangers = log.but(|log| log.signers = Signers::of("liar.example", 2));
    let strangers = strangers.answer("log/proof?index=42").unwrap();
    assert_eq!(verify(&strangers, &[]), (83, "bad_signature".into()));
    for junk in ["", "c2sp.org/tlog-proof@v2\n", "c2sp.org/tlog-proof@v1\nindex 1\n"] {
        assert_eq!(verify(junk.as_bytes(), &[]), (65, "bad_data".into()));
    }
}
