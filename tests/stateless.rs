//! Identities for scripts: one line of text instead of a home.
//!
//! A build server has the line as a secret, sends with it from any number of jobs at once, and
//! keeps nothing. What needs memory (receiving, history, deletion) says so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::shell::{Person, run, start};
use crate::harness::{Server, text};

#[test]
fn h5_a_stateless_sender_needs_a_line_and_no_home() {
    let server = Server::start();
    let (bob, ci) = (Person::registered(&server, "bob"), Person::at(&server));
    let file = ci.file("identity");
    let args = ["register", "ci", "--stateless", "--identity-out", file.to_str().unwrap()];
    let made = ci.nexo(&args);
    assert!(made.line().starts_with("registered ci nexo1:"), "{made:?}");
    let mode = |name: &str| ci.file(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("identity"), mode("identity.recovery")), (0o600, 0o600));
    let line = fs::read_to_string(&file).unwrap();
    assert!(line.starts_with("nexo-identity-1:"), "{}", &line[..16]);
    assert!(!made.out.contains(line.trim()) && !made.err.contains(line.trim()));

    // The line is the whole of it: no --server, no --home.
    let by_variable = |words: &str| {
        let mut command = ci.bare(&["send", "bob", words]);
        run(command.env("NEXO_IDENTITY", line.trim()), b"")
    };
    by_variable("from a variable").sent();
    let mut command = ci.bare(&["send", "bob", "from a file"]);
    run(command.env("NEXO_IDENTITY_FILE", &file), b"").sent();
    run(
        &mut ci.bare(&["--identity-file", file.to_str().unwrap(), "send", "bob", "from a flag"]),
        b"",
    )
    .sent();
    let mut command = ci.bare(&["--identity-fd", "0", "send", "bob", "from a descriptor"]);
    run(&mut command, line.as_bytes()).sent();
    let expected = ["from a variable", "from a file", "from a flag", "from a descriptor"];
    assert_eq!(bob.received().texts(), expected);
    assert!(!ci.home().exists(), "nothing is kept");
    assert!(!ci.file(".local").exists(), "nothing is kept");

    let twice = ["send", "bob", "once", "--idempotency-key", "deploy-7", "--json"];
    let one = |args: &[&str]| run(ci.bare(args).env("NEXO_IDENTITY", line.trim()), b"");
    let (first, again) = (one(&twice).object(), one(&twice).object());
    assert_eq!((&first["msg_id"], &again["duplicate"]), (&again["msg_id"], &true.into()));
    assert_eq!(bob.received().texts(), ["once"]);
    // Any number of jobs at once: there is no state to stand in line for.
    let job = |words: &str| {
        start(ci.bare(&["send", "bob", words]).env("NEXO_IDENTITY", line.trim()), b"")
    };
    let jobs: Vec<_> = ["job 1", "job 2", "job 3", "job 4"].map(job).into_iter().collect();
    jobs.into_iter().for_each(|job| drop(job.finish().sent()));
    let mut words = bob.received().texts();
    words.sort();
    assert_eq!(words, ["job 1", "job 2", "job 3", "job 4"]);

    assert_eq!(one(&["whoami", "--json"]).object()["stateless"], true);
    one(&["server"]).ok();
    for command in [&["tail"][..], &["history"], &["delete", &text(&first["msg_id"])]] {
        one(command).refused(64);
    }
    one(&["register", "other"]).refused(64);
    // Nobody can write to it: it could not read.
    bob.nexo(&["send", "ci", "hello?"]).refused(67);
}

#[test]
fn a_stateless_identity_on_stdout_is_one_line() {
    let server = Server::start();
    let ci = Person::at(&server);
    let made = ci.nexo(&["register", "ci", "--stateless"]);
    let line = made.line();
    assert!(line.starts_with("nexo-identity-1:"), "{made:?}");
    let mut command = ci.bare(&["whoami"]);
    assert!(run(command.env("NEXO_IDENTITY", line), b"").ok().contains("ci"));
    let mut damaged = ci.bare(&["whoami"]);
    run(damaged.env("NEXO_IDENTITY", &line[..line.len() - 4]), b"").refused(78);
}
