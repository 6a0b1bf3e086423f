//! What nexo-cli refuses, and the exit code a script sees.
//!
//! One code per cause (PROTOCOL.md 12), a word on stderr, nothing on stdout. Secrets stay out of
//! both, and what others could read is not used.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::harness::note::Checkpoint;
use crate::harness::shell::{Done, Person, run};
use crate::harness::tamper::copy_data;
use crate::harness::{Native, Plain, Server, Snapshot, native, text};

/// Fails unless the program refused with this code, in words on stderr alone.
fn refused(done: &Done, code: i32) {
    assert_eq!((done.code, &*done.out), (code, ""), "{done:?}");
    assert!(!done.err.trim().is_empty() && !done.err.contains("panicked"), "{done:?}");
}

#[test]
fn wrong_usage_is_64() {
    let server = Server::start();
    let nobody = Person::at(&server);
    for args in [
        &["shout", "bob"][..],
        &["send"],
        &["send", "bob", "a", "b"],
        &["send", "bob", "a", "--body-file", "f"],
        &["tail", "--limit", "-1"],
        &["register", "alice", "--identity-out", "f"],
        &["register", "Not A Handle!"],
        &["--timeout", "0", "whoami"],
        &["--server", "nowhere", "whoami"],
    ] {
        refused(&nobody.nexo(args), 64);
    }
    refused(&run(&mut nobody.bare(&[]), b""), 64);
    refused(&run(&mut nobody.bare(&["register", "alice"]), b""), 64);
    // In clear to another machine, unless that is asked for.
    let far = ["--server", "http://192.0.2.1", "register", "alice"];
    refused(&run(&mut nobody.bare(&far), b""), 64);
    assert!(!nobody.home().exists() || nobody.nexo(&["whoami"]).code == 78);
}

#[test]
fn help_leads_with_examples_and_lists_the_codes() {
    let server = Server::start();
    let nobody = Person::at(&server);
    let help = run(&mut nobody.bare(&["--help"]), b"");
    let help = help.ok();
    assert!(help.find("Examples:").unwrap() < help.find("Usage:").unwrap());
    for exit in nexo_cli::exit::Exit::ALL {
        assert!(help.contains(&format!("{:>3}  {}", exit.code(), exit.meaning())), "{exit:?}");
    }
    assert!(run(&mut nobody.bare(&["--version"]), b"").line().starts_with("nexo-cli "));
}

#[test]
fn without_an_account_there_is_nobody_to_act_as() {
    let server = Server::start();
    let nobody = Person::at(&server);
    for args in [&["whoami"][..], &["tail"], &["history"], &["server"], &["send", "bob", "hi"]] {
        refused(&nobody.nexo(args), 78);
    }
    assert!(!nobody.home().exists(), "asking makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_written_to_is_67_or_75() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    Plain::new(&server, "pam").await;
    refused(&alice.nexo(&["send", "nobody", "hi"]), 67);
    // Written in clear by her own client, so nothing is encrypted to her.
    refused(&alice.nexo(&["send", "pam", "hi"]), 67);
    refused(&alice.nexo(&["tail", "nobody"]), 67);
    // A native device that never published a prekey.
    let mute = Native::unregistered(&server, "mute", native::Kind::default());
    let challenge = mute.wire.post("/auth/register", &mute.registration()).await.ok();
    crate::harness::plain::answer(&mute.wire, &mute.key, &challenge).await.ok();
    refused(&alice.nexo(&["send", "mute", "hi"]), 75);
    assert_eq!(alice.nexo(&["history"]).ok(), "", "nothing was begun");
}

#[test]
fn texts_that_cannot_be_sent_are_65_and_missing_ones_66() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    refused(&alice.pipe(&["send", "alice", "-"], &[b'a', 0xff, b'b']), 65);
    refused(&alice.pipe(&["send", "alice"], &vec![b'x'; 70_000]), 65);
    refused(&alice.nexo(&["send", "alice", "--body-file", "/nonexistent"]), 66);
    refused(&alice.nexo(&["delete", &"0".repeat(32)]), 66);
    refused(&alice.nexo(&["delete", "größe"]), 64);
    assert_eq!(alice.nexo(&["history"]).ok(), "");
    // As long as may be; what surrounds a text takes some of the 64 KiB.
    alice.pipe(&["send", "alice"], &vec![b'x'; 60_000]).line();
    assert_eq!(alice.nexo(&["tail", "--json"]).object()["text"].as_str().unwrap().len(), 60_000);
}

#[test]
fn names_belong_to_who_was_first() {
    let server = Server::start();
    let (alice, other) = (Person::registered(&server, "alice"), Person::at(&server));
    refused(&other.nexo(&["register", "alice"]), 73);
    refused(&other.nexo(&["register", "Alice"]), 73);
    other.nexo(&["register", "alicia"]).ok();
    // A home is one person's.
    refused(&alice.nexo(&["register", "bob"]), 78);
    let file = alice.file("identity");
    fs::write(&file, "mine").unwrap();
    let args = ["register", "ci", "--stateless", "--identity-out", file.to_str().unwrap()];
    refused(&alice.nexo(&args), 73);
    assert_eq!(fs::read_to_string(file).unwrap(), "mine");
}

#[test]
fn a_closed_relay_says_so() {
    let server = Server::setup().args("--registration closed").start();
    refused(&Person::at(&server).nexo(&["register", "alice"]), 77);
    let server = Server::setup().args("--registration invite").start();
    let alice = Person::at(&server);
    refused(&alice.nexo(&["register", "alice"]), 77);
    let mut command = std::process::Command::new(&crate::harness::binaries().server);
    let invite = run(command.args(["invite", "--data-dir"]).arg(server.data()), b"");
    fs::write(alice.file("invite"), invite.line()).unwrap();
    let file = alice.file("invite");
    alice.nexo(&["register", "alice", "--invite-file", file.to_str().unwrap()]).ok();
}

#[test]
fn the_pinned_relay_is_the_only_one() {
    let (mut server, other) = (Server::start(), Server::start());
    let alice = Person::at(&server);
    let wrong = ["--vkey", other.vkey(), "register", "alice"];
    refused(&alice.nexo(&wrong), 83);
    refused(&alice.nexo(&["--vkey", "nonsense", "register", "alice"]), 64);
    alice.nexo(&["--vkey", server.vkey(), "register", "alice"]).ok();
    refused(&alice.nexo(&["--vkey", other.vkey(), "whoami"]), 78);
    refused(&alice.nexo(&["--server", other.url(), "whoami"]), 64);

    // Another log behind the same address, and then the right one again.
    server.terminate();
    let away = server.temp().join("away");
    fs::rename(server.data(), &away).unwrap();
    server.restart();
    assert_ne!(server.origin(), other.origin());
    refused(&alice.nexo(&["server"]), 83);
    // Its log-in names another relay, which is refused before any head is seen.
    refused(&alice.nexo(&["send", "alice", "hi"]), 76);
    server.terminate();
    fs::remove_dir_all(server.data()).unwrap();
    fs::rename(&away, server.data()).unwrap();
    server.restart();
    alice.nexo(&["send", "alice", "hi"]).line();
}

#[test]
fn a_home_moves_to_no_other_address() {
    let (server, other) = (Server::start(), Server::start());
    let alice = Person::registered(&server, "alice");
    let home = alice.home();
    let home = home.to_str().unwrap();
    for command in [&["whoami"][..], &["send", "alice", "hi"], &["register", "alice"]] {
        let args = [&["--home", home, "--server", other.url()], command].concat();
        refused(&run(&mut alice.bare(&args), b""), 78);
    }
}

/// Puts a server back to an older copy of its data, without the marker that would stop it.
fn go_back(server: &mut Server, old: &Path) {
    server.terminate();
    copy_data(old, server.data());
    fs::remove_file(server.data().join("head.marker")).unwrap();
    server.restart();
}

/// The one file of evidence in a home: two heads that the log signed.
fn evidence(person: &Person, server: &Server) {
    let files: Vec<_> = fs::read_dir(person.home().join("evidence")).unwrap().collect();
    assert_eq!(files.len(), 1);
    let path = files[0].as_ref().unwrap().path();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0);
    let both: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for head in ["held", "shown"] {
        Checkpoint::verify(&text(&both[head]), server.vkey());
    }
    assert_ne!(both["held"], both["shown"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn e8_e13_a_log_with_two_histories_is_84_and_nothing_more_is_sent_to_it() {
    let mut server = Server::start();
    let [alice, bob, carol] =
        ["alice", "bob", "carol"].map(|handle| Person::registered(&server, handle));
    for person in [&alice, &bob] {
        person.nexo(&["send", "alice", "in every history"]).line();
    }
    server.terminate();
    let old = server.temp().join("old");
    copy_data(server.data(), &old);
    server.restart();
    alice.nexo(&["send", "alice", "only in the first"]).line();
    carol.nexo(&["server"]).ok();

    go_back(&mut server, &old);
    bob.nexo(&["send", "bob", "only in the second"]).line();
    refused(&alice.nexo(&["server"]), 84);
    evidence(&alice, &server);
    let before = Snapshot::of(&server).await;
    for args in [&["send", "alice", "on and on"][..], &["server"], &["tail"]] {
        refused(&alice.nexo(args), 84);
    }
    before.unchanged(&server).await;
    // Somebody who looks later, when the second history is the longer one.
    bob.nexo(&["send", "bob", "and longer"]).line();
    refused(&carol.nexo(&["server"]), 84);
    evidence(&carol, &server);
    refused(&carol.nexo(&["send", "bob", "hi"]), 84);
    // Who was always shown the second one has nothing to complain of.
    bob.nexo(&["server"]).ok();
}

#[test]
fn a_relay_that_is_not_there_is_69_and_one_that_hangs_124() {
    let mut server = Server::start();
    let alice = Person::registered(&server, "alice");
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hung.local_addr().unwrap());
    let home = alice.file("second");
    let args = ["--server", &url, "--home", home.to_str().unwrap(), "--timeout", "1"];
    let args = [&args[..], &["register", "bob"]].concat();
    refused(&run(&mut alice.bare(&args), b""), 124);
    // Following has no end of its own, but may be given one.
    refused(&alice.nexo(&["tail", "--follow", "--timeout", "1"]), 124);
    server.terminate();
    refused(&alice.nexo(&["server"]), 69);
    refused(&alice.nexo(&["send", "alice", "hi", "--timeout", "1"]), 124);
}

#[test]
fn h9_others_can_read_nothing_and_what_they_could_is_not_used() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    alice.nexo(&["send", "alice", "hi"]).line();
    let mode =
        |name: &str| alice.home().join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(""), 0o700);
    for entry in fs::read_dir(alice.home()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert_eq!(mode(&name), 0o600, "{name}");
    }
    let open = |name: &str, to: u32| {
        fs::set_permissions(alice.home().join(name), Permissions::from_mode(to)).unwrap();
    };
    for (name, wrong, right) in
        [("", 0o750, 0o700), ("state.db", 0o640, 0o600), ("state.key", 0o604, 0o600)]
    {
        open(name, wrong);
        for args in [&["whoami"][..], &["send", "alice", "hi"], &["register", "alice"]] {
            refused(&alice.nexo(args), 78);
        }
        open(name, right);
    }
    alice.nexo(&["whoami"]).ok();
}

#[test]
fn without_its_key_the_state_is_closed() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let key = alice.home().join("state.key");
    let away = alice.file("state.key");
    fs::rename(&key, &away).unwrap();
    refused(&alice.nexo(&["whoami"]), 78);
    // A key kept elsewhere works, another one does not.
    alice.nexo(&["--state-key-file", away.to_str().unwrap(), "whoami"]).ok();
    let other = bob.home().join("state.key");
    refused(&alice.nexo(&["--state-key-file", other.to_str().unwrap(), "whoami"]), 78);
}

#[test]
fn h7_a_busy_state_is_75_and_names_its_holder() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    let lock = File::options().write(true).open(alice.home().join("state.lock")).unwrap();
    lock.lock().unwrap();
    let args = ["--lock-timeout", "0", "send", "alice", "hi"];
    let busy = alice.nexo(&args);
    refused(&busy, 75);
    assert!(busy.err.contains("locked by process"), "{busy:?}");
    drop(lock);
    alice.nexo(&args).line();
}

#[test]
fn h12_no_secret_is_ever_said() {
    let server = Server::setup().env("NEXO_LOG", "debug").start();
    let alice = Person::at(&server);
    let mut said = String::new();
    for args in [
        &["register", "alice"][..],
        &["register", "alice", "--json"],
        &["whoami", "--json"],
        &["send", "alice", "hi", "--json"],
        &["server"],
        &["send", "nobody", "hi"],
    ] {
        let done = alice.nexo(args);
        said += &done.out;
        said += &done.err;
    }
    said += &server.stderr();
    let recovery = fs::read_to_string(alice.home().join("recovery.key")).unwrap();
    let (line, words) = recovery.split_once('\n').unwrap();
    let (line, words) = (line.rsplit(':').next().unwrap(), words.lines().next().unwrap());
    let key = fs::read_to_string(alice.home().join("state.key")).unwrap_or_default();
    for secret in [line, words, key.trim()].into_iter().filter(|secret| !secret.is_empty()) {
        assert!(secret.len() >= 23 && !said.contains(secret));
    }
    // Nothing to say on stderr when all is well and quiet is asked for.
    let quiet = alice.nexo(&["--quiet", "send", "alice", "psst"]);
    quiet.line();
    assert_eq!(quiet.err, "");
}
