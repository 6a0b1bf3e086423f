//! nexo-cli where the machine fails it: disks that are full or may not be written, writes that do
//! not become durable, a holder of its lock that is killed, and the traces of a crash (H6, H7, H12,
//! H13 of design/e2ee.md 4).
//!
//! A full disk is a bound on the size of files, as in `faults`. That a disk does not keep what was
//! written is a preloaded `fsync` that fails; the C compiler that builds SQLite builds it.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use crate::harness::between::{self, Between};
use crate::harness::shell::{Follower, Person, run};
use crate::harness::workspace::root;
use crate::harness::{Server, random, text};

/// Alice, on a way that is watched, and bob. They have a session, and alice has asked for all that
/// she needs to write in it.
fn acquainted() -> (Server, [Between; 2], Person, Person) {
    let (server, ways) = between::relay();
    let (alice, bob) = (Person::by(&ways[0]), Person::by(&ways[1]));
    alice.nexo(&["register", "alice"]).ok();
    bob.nexo(&["register", "bob"]).ok();
    alice.nexo(&["send", "bob", "hello"]).sent();
    bob.nexo(&["send", "alice", "hello"]).sent();
    alice.received().ok();
    assert_eq!(bob.received().texts(), ["hello"]);
    (server, ways, alice, bob)
}

/// For a shell: obey modes, also as root.
fn obedient() -> &'static str {
    match fs::metadata("/proc/self").unwrap().uid() {
        0 => "exec setpriv --bounding-set=-dac_override,-dac_read_search --",
        _ => "exec",
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A library whose `fsync` and `fdatasync` fail.
fn forgetful_disk(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("sync.c"), folder.join("sync.so"));
    fs::write(
        &source,
        "#include <errno.h>\nint fsync(int f) { (void)f; errno = EIO; return -1; }\n\
         int fdatasync(int f) { (void)f; errno = EIO; return -1; }\n",
    )
    .unwrap();
    let mut cc = Command::new("cc");
    let done = cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    assert!(done.expect("a C compiler, which SQLite needs as well").status.success());
    library
}

#[test]
fn h6_where_nothing_can_be_kept_nothing_is_sent() {
    let (server, [to_alice, _to_bob], alice, bob) = acquainted();
    let library = forgetful_disk(&alice.file("."));
    let forgetful = format!("LD_PRELOAD={} exec", library.display());
    let state = alice.home().join("state.db");
    let full = "trap '' XFSZ; exec prlimit --fsize=100:100";
    for (n, prelude) in [full, obedient(), &forgetful].into_iter().enumerate() {
        let read_only = prelude == obedient();
        if read_only {
            set_mode(&state, 0o400);
            set_mode(&alice.home(), 0o500);
        }
        to_alice.asked();
        let words = format!("m{n}");
        let refused = run(&mut alice.command_under(prelude, &["send", "bob", &words]), b"");
        if read_only {
            set_mode(&alice.home(), 0o700);
            set_mode(&state, 0o600);
        }
        refused.refused(74);
        assert!(to_alice.posted().is_empty(), "{prelude}: a message went out");
        assert!(bob.received().texts().is_empty(), "{prelude}");
        // The state is sound, and nothing of it was used up.
        alice.nexo(&["send", "bob", &words]).sent();
        assert_eq!(bob.received().texts(), [words], "{prelude}");
    }
    server.sound();
}

/// A disk that is full somewhat later each time: before the message is sealed, while it is stored,
/// and when its receipt is.
#[test]
fn h6_a_message_goes_out_only_when_it_is_kept() {
    let (server, [to_alice, _to_bob], alice, bob) = acquainted();
    let (mut before, mut after, mut expected) = (0, 0, Vec::new());
    // From no room behind SQLite's index of the journal on, page by page.
    for room in (33_000..).step_by(4_120) {
        to_alice.asked();
        let (words, key) = (format!("m{room}"), format!("k{room}"));
        let args = ["send", "bob", &words, "--idempotency-key", &key];
        let full = format!("trap '' XFSZ; exec prlimit --fsize={room}:{room}");
        let done = run(&mut alice.command_under(&full, &args), b"");
        let posted = to_alice.posted();
        if done.code != 0 {
            done.refused(74);
            let shown = alice.nexo(&["history", "--json"]).objects();
            let kept = shown.iter().any(|row| row["text"] == words.as_str());
            assert!(posted.is_empty() || kept, "{room}: what was not kept went out");
            if posted.is_empty() { before += 1 } else { after += 1 }
        }
        // Another run goes on with it; what went out goes out the same.
        alice.nexo(&args).sent();
        let again = to_alice.posted();
        assert!(posted.iter().zip(&again).all(|(one, other)| one == other), "{room}");
        expected.push(words);
        if done.code == 0 {
            break;
        }
        assert!(room < 1_000_000, "it never succeeds");
    }
    println!("{before} failed before the message went out, {after} after it");
    assert!(before > 0);
    assert_eq!(bob.received().texts(), expected, "each once");
    server.sound();
}

#[test]
fn h6_what_is_not_on_the_disk_is_not_shown_as_received() {
    let (_server, _ways, alice, bob) = acquainted();
    let library = forgetful_disk(&alice.file("."));
    bob.nexo(&["send", "alice", "kept"]).sent();
    for prelude in [
        "trap '' XFSZ; exec prlimit --fsize=4096:4096".to_owned(),
        format!("LD_PRELOAD={} exec", library.display()),
    ] {
        let tail = run(&mut alice.command_under(&prelude, &["tail", "--json"]), b"");
        tail.refused(74);
        assert_eq!(tail.out, "", "{prelude}");
    }
    assert_eq!(alice.received().texts(), ["kept"]);
    assert!(alice.received().texts().is_empty(), "once");
}

#[test]
fn h7_the_lock_of_a_process_that_was_killed_is_free() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    // `cat` waits for us; the lock is flock's alone, and goes with it.
    let mut command = Command::new("flock");
    command.args(["--exclusive", "--close"]).arg(alice.home().join("state.lock"));
    command.args(["sh", "-c", "echo held; exec cat"]);
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "held\n");
    alice.nexo(&["--lock-timeout", "0", "send", "alice", "x"]).refused(75);
    holder.kill().unwrap();
    holder.wait().unwrap();
    alice.nexo(&["--lock-timeout", "0", "send", "alice", "note"]).sent();
    assert_eq!(alice.received().texts(), ["note"]);
}

#[test]
fn h12_a_crash_leaves_no_memory_on_the_disk() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    let args = ["tail", "--follow"];
    let following = Follower::start(&mut alice.command_under("ulimit -c unlimited; exec", &args));
    alice.nexo(&["send", "alice", "note"]).sent();
    assert!(following.line().ends_with("note"));
    // No kind of memory is written into a core (core(5)).
    let filter = fs::read_to_string(format!("/proc/{}/coredump_filter", following.id())).unwrap();
    assert_eq!(filter.trim(), "00000000");
    following.signal("ABRT");
}

#[test]
fn h12_no_option_takes_a_secret() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    let line = alice.file("line");
    alice.nexo(&["device", "issue", "--out", line.to_str().unwrap()]).ok();
    let line = fs::read_to_string(line).unwrap();
    let line = line.trim();
    let secret = line.split(':').nth(1).unwrap();
    assert!(secret.len() > 100);
    // In the place of every path to such a line: it is a path that is not there, and not repeated.
    let cut = &line[..line.len() - 4];
    for args in [
        &["--identity-file", line, "whoami"][..],
        &["recover", "alice", "--recovery-key", line],
        &["state", "import", line],
    ] {
        let refused = alice.nexo(args);
        assert_ne!(refused.code, 0, "{args:?}");
        assert!(!refused.err.contains(&secret[..40]) && refused.out.is_empty(), "{refused:?}");
    }
    let mut damaged = alice.bare(&["whoami"]);
    let refused = run(damaged.env("NEXO_IDENTITY", cut), b"");
    refused.refused(78);
    assert!(!refused.err.contains(&secret[..40]), "{refused:?}");
}

// --- migrations ---

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

/// Takes the newest migration of a home back.
fn downgraded(person: &Person) -> SqliteConnection {
    let path = person.home().join("state.db");
    let mut db = SqliteConnection::establish(&path.to_string_lossy()).unwrap();
    let all = fs::read_dir(root().join("schema/migrations/cli")).unwrap();
    let newest = all.map(|folder| folder.unwrap().path()).max().unwrap();
    db.batch_execute(&fs::read_to_string(newest.join("down.sql")).unwrap()).unwrap();
    let forget = "DELETE FROM __diesel_schema_migrations WHERE version = \
                  (SELECT max(version) FROM __diesel_schema_migrations)";
    db.batch_execute(forget).unwrap();
    db
}

fn migrations(db: &mut SqliteConnection) -> i64 {
    let query = "SELECT count(*) AS n FROM __diesel_schema_migrations";
    let row: Count = diesel::sql_query(query).get_result(db).unwrap();
    row.n
}

#[test]
fn h13_a_migration_that_breaks_off_is_done_again_from_the_start() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    alice.nexo(&["send", "bob", "one"]).sent();
    bob.nexo(&["send", "alice", "two"]).sent();
    alice.received().ok();
    let before = alice.nexo(&["history", "--json"]).ok().to_owned();
    let library = forgetful_disk(&alice.file("."));
    let mut db = downgraded(&alice);
    let done = migrations(&mut db);
    drop(db);
    let forgetful = format!("LD_PRELOAD={} exec", library.display());
    for prelude in ["trap '' XFSZ; exec prlimit --fsize=4096:4096", forgetful.as_str()] {
        run(&mut alice.command_under(prelude, &["history"]), b"").refused(74);
        let mut db =
            SqliteConnection::establish(&alice.home().join("state.db").to_string_lossy()).unwrap();
        assert_eq!(migrations(&mut db), done, "{prelude}: half of it is none of it");
    }
    // Killed at any moment of the run that migrates.
    for _ in 0..20 {
        let running = Follower::start(&mut alice.command(&["whoami"]));
        let [wait] = random::<1>();
        std::thread::sleep(std::time::Duration::from_millis(u64::from(wait % 60)));
        running.signal("KILL");
        alice.nexo(&["whoami"]).ok();
        drop(downgraded(&alice));
    }
    assert_eq!(alice.nexo(&["history", "--json"]).ok(), before);
    alice.nexo(&["send", "bob", "three"]).sent();
    let got = bob.received();
    assert_eq!(got.texts().last().map(String::as_str), Some("three"));
    assert_eq!(text(&got.objects().last().unwrap()["from"]), "alice");
}
