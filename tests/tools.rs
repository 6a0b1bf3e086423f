//! The operator's tools: `log verify`, `db copy`, `log new-origin`.
//!
//! An fsck that finds nothing proves nothing, so each of its checks gets a database with one
//! thing wrong in it, and must say exactly that. The alterations are plain SQL that both engines
//! take: values come from other rows.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::postgres::{self, Database};
use crate::harness::reader::Reader;
use crate::harness::server::Setup;
use crate::harness::shell::{Auditor, Done, Person, run};
use crate::harness::tamper::{Backup, alter_entry, copy_data};
use crate::harness::{Engine, Native, Plain, Server, both, number, server_binary, text};

/// Entries of [`story`]: one full bundle and the beginning of the next.
const SIZE: u64 = 262;

/// What a stopped server keeps.
struct Kept {
    data: TempDir,
    database: Option<Arc<Database>>,
}

impl Kept {
    /// A copy of it all.
    fn of(server: &Server) -> Self {
        let data = TempDir::new().unwrap();
        copy_data(server.data(), data.path());
        let database = server.database().map(|database| Arc::new(database.copy()));
        Self { data, database }
    }

    fn copy(&self) -> Self {
        let data = TempDir::new().unwrap();
        copy_data(self.data.path(), data.path());
        Self { data, database: self.database.as_ref().map(|d| Arc::new(d.copy())) }
    }

    /// Runs statements that no constraint gets in the way of.
    fn sql(&self, statements: &str) {
        match &self.database {
            Some(database) => {
                let free = "SET session_replication_role = replica";
                database.sql(&format!("{free}; {statements}"));
            }
            None => {
                let path = self.data.path().join("nexo.db");
                let mut db = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
                db.batch_execute(&format!("PRAGMA foreign_keys = OFF; {statements}")).unwrap();
            }
        }
    }

    /// `nexo-server log verify`, with these arguments.
    fn verify(&self, args: &[&str]) -> Done {
        let line = [&["log", "verify"], args].concat();
        tool(&line, self.data.path(), self.database.as_deref())
    }

    /// What `log verify` finds: kind and place.
    fn findings(&self) -> Vec<String> {
        let done = self.verify(&["--json", "--jobs", "2"]);
        let mut lines: Vec<Value> =
            done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let summary = lines.pop().unwrap_or_else(|| panic!("{done:?}"));
        let found = |line: &Value| format!("{} {}", text(&line["kind"]), text(&line["place"]));
        let found: Vec<String> = lines.iter().map(found).collect();
        assert_eq!(number(&summary["verified"]["findings"]), found.len() as u64, "{done:?}");
        assert_eq!(done.code, if found.is_empty() { 0 } else { 81 }, "{done:?}");
        found
    }

    fn setup(&self) -> Setup {
        let setup = Server::setup().data(self.data.path());
        match &self.database {
            Some(database) => setup.database(database.clone()),
            None => setup,
        }
    }

    /// As an argument of `db copy`.
    fn name(&self) -> String {
        match &self.database {
            Some(database) => database.url(),
            None => self.data.path().join("nexo.db").to_str().unwrap().to_owned(),
        }
    }
}

/// A tool on a data directory and database.
fn tool(line: &[&str], data: &Path, database: Option<&Database>) -> Done {
    let mut command = bare(line);
    command.arg("--data-dir").arg(data);
    if let Some(database) = database {
        command.env("DB_URL", database.url());
    }
    run(&mut command, b"")
}

/// The server's program without anything of our environment.
fn bare(line: &[&str]) -> Command {
    let mut command = Command::new(server_binary());
    command.env_clear().env("PATH", "/usr/bin:/bin").args(line);
    command
}

/// A server with something of everything, the rest filled with messages: see the places below.
async fn story(engine: Engine) -> Server {
    let server = engine.setup().args("--origin relay.test").start();
    let alice = Plain::new(&server, "alice").await; // 1
    Plain::new(&server, "bob").await; // 2
    let nina = Native::new(&server, "nina").await; // 3
    let nils = Native::new(&server, "nils").await; // 4
    let conv = alice.conversation("bob").await;
    alice.say(&conv, "one").await; // 5
    nina.conversation("nils").await;
    nina.say(&nils, "two").await; // 6
    let gone = alice.say(&conv, "gone").await; // 7
    alice.delete(&conv, &text(&gone["msg_id"])).await.ok(); // 8
    let (sealed, _) = nina.say(&nils, "gone as well").await; // 9
    let deletion = nina.deletion(&nina.tombstone(&sealed));
    nina.post("/messages/delete", &deletion).await.ok(); // 10
    let last = nils.say(&nina, "three").await.1; // 11
    assert_eq!(number(&last["message"]["sth_index"]), 11);
    for n in 12..=SIZE {
        let said = alice.say(&conv, &format!("number {n}")).await;
        assert_eq!(number(&said["sth_index"]), n);
    }
    server
}

both!(async an_honest_database_has_no_findings_also_while_it_is_served);
async fn an_honest_database_has_no_findings_also_while_it_is_served(engine: Engine) {
    let mut server = story(engine).await;
    let database = server.database().map(|database| &**database);
    let done = tool(&["log", "verify"], server.data(), database);
    assert_eq!((done.code, &*done.out), (0, ""), "{done:?}");
    assert!(done.err.contains("relay.test: 262 entries, root "), "{done:?}");
    assert!(done.err.contains("nothing is wrong"), "{done:?}");
    let head = Reader::of(&server).head().await.checkpoint;
    let done = tool(&["log", "verify", "--json", "--jobs", "3"], server.data(), database);
    let summary = &done.object()["verified"];
    assert_eq!(summary["root"], nexo_schema::bytes::to_hex(&head.root));
    assert_eq!((number(&summary["size"]), number(&summary["findings"])), (SIZE, 0));
    // It has changed nothing, and stands in nobody's way.
    Plain::new(&server, "carol").await;
    assert!(server.terminate().success());
    assert_eq!(Kept::of(&server).findings(), [""; 0]);
}

/// One alteration, and all that is then to be found.
const ALTERED: &[(&str, &[&str])] = &[
    // Messages.
    ("UPDATE messages SET cipher = ad WHERE sth_index = 5", &["message messages 5"]),
    ("UPDATE messages SET cipher = ad WHERE sth_index = 6", &["message messages 6"]),
    ("UPDATE messages SET ad = cipher WHERE sth_index = 5", &["message messages 5"]),
    ("UPDATE messages SET ts = ts + 1 WHERE sth_index = 5", &["message messages 5"]),
    ("UPDATE messages SET ts = ts + 1 WHERE sth_index = 6", &["message messages 6"]),
    ("UPDATE messages SET msg_id = 'other' WHERE sth_index = 5", &["message messages 5"]),
    ("UPDATE messages SET nonce_len = 1 WHERE sth_index = 5", &["message messages 5"]),
    ("UPDATE messages SET content_hash = conv_id WHERE sth_index = 262", &["message messages 262"]),
    ("UPDATE messages SET deleted_index = 8 WHERE sth_index = 5", &["message messages 5"]),
    ("UPDATE messages SET native = NOT native WHERE sth_index = 5", &["message messages 5"]),
    ("DELETE FROM messages WHERE sth_index = 5", &["entry entries 5"]),
    (
        "UPDATE messages SET sth_index = 1000 WHERE sth_index = 262",
        &["entry entries 262", "surplus messages 1000"],
    ),
    // Key packets.
    ("UPDATE packets SET packet = hash WHERE sth_index = 6", &["packet packets 6 NILS"]),
    (
        "UPDATE packets SET hash = packet WHERE sth_index = 6",
        &["message messages 6", "packet packets 6 NILS"],
    ),
    ("DELETE FROM packets WHERE sth_index = 6", &["message messages 6"]),
    (
        "UPDATE packets SET sth_index = 5 WHERE sth_index = 9",
        &["packet packets 5 NILS", "reference packets 5 NILS"],
    ),
    // Deletions.
    (
        "UPDATE messages SET deleted_index = NULL WHERE sth_index = 7",
        &["message messages 7", "deletion deletions 8"],
    ),
    ("UPDATE messages SET cipher = content_hash WHERE sth_index = 7", &["deletion deletions 8"]),
    ("UPDATE messages SET ad = content_hash WHERE sth_index = 9", &["deletion deletions 10"]),
    ("UPDATE packets SET packet = hash WHERE sth_index = 9", &["deletion deletions 10"]),
    ("UPDATE deletions SET ts = ts + 1 WHERE sth_index = 8", &["deletion deletions 8"]),
    ("UPDATE deletions SET sig = statement WHERE sth_index = 10", &["deletion deletions 10"]),
    ("UPDATE deletions SET statement = sig WHERE sth_index = 10", &["deletion deletions 10"]),
    ("UPDATE deletions SET target_msg_id = 'x' WHERE sth_index = 8", &["deletion deletions 8"]),
    (
        "UPDATE deletions SET target_index = 5 WHERE sth_index = 8",
        &["message messages 7", "deletion deletions 8"],
    ),
    ("DELETE FROM deletions WHERE sth_index = 8", &["entry entries 8", "message messages 7"]),
    // Accounts, devices and their events.
    (
        "UPDATE key_events SET event = sig WHERE sth_index = 3",
        &["account accounts NINA", "key_event key_events 3"],
    ),
    ("UPDATE key_events SET sig = accept_sig WHERE sth_index = 3", &["key_event key_events 3"]),
    (
        "UPDATE key_events SET seq = 1 WHERE sth_index = 3",
        &["account accounts NINA", "key_event key_events 3"],
    ),
    ("DELETE FROM key_events WHERE sth_index = 3", &["entry entries 3", "account accounts NINA"]),
    ("UPDATE accounts SET handle = 'mallory' WHERE handle = 'bob'", &["account accounts BOB"]),
    ("UPDATE accounts SET handle = 'mallory' WHERE handle = 'nina'", &["account accounts NINA"]),
    ("UPDATE accounts SET created_index = 2 WHERE handle = 'nina'", &["account accounts NINA"]),
    (
        "UPDATE accounts SET created_index = 1 WHERE handle = 'bob'; \
         UPDATE devices SET added_index = 1 WHERE added_index = 2",
        &["entry entries 2", "account accounts BOB"],
    ),
    (
        "DELETE FROM participants WHERE account_id = \
         (SELECT account_id FROM accounts WHERE handle = 'nils')",
        &["reference messages 11"],
    ),
    ("UPDATE devices SET caps = 15 WHERE added_index = 3", &["device accounts NINA"]),
    ("UPDATE devices SET caps = 15 WHERE added_index = 2", &["device accounts BOB"]),
    ("UPDATE devices SET not_after = 9 WHERE added_index = 3", &["device accounts NINA"]),
    ("UPDATE devices SET x25519_pub = ed25519_pub WHERE added_index = 2", &["device accounts BOB"]),
    ("UPDATE devices SET revoked_index = 6 WHERE added_index = 3", &["device accounts NINA"]),
    // Counters.
    (
        "UPDATE send_counters SET highest = 1 WHERE highest = 2",
        &["counter send_counters NINA-DEVICE"],
    ),
    ("DELETE FROM send_counters WHERE highest = 2", &["counter devices NINA-DEVICE"]),
    // References.
    (
        "DELETE FROM conversations WHERE conv_id = \
         (SELECT conv_id FROM messages WHERE sth_index = 11)",
        &[
            "reference deletions 10",
            "reference messages 11",
            "reference messages 6",
            "reference messages 9",
            "reference participants *",
            "reference participants *",
        ],
    ),
    (
        "DELETE FROM devices WHERE added_index = 4",
        &[
            "device accounts NILS-ACCOUNT",
            "reference fallback_prekeys NILS",
            "reference messages 11",
            "reference packets 6 NILS",
            "reference packets 9 NILS",
            "reference refresh_tokens *",
            "reference send_counters NILS",
        ],
    ),
    // The tree.
    (
        "UPDATE tiles SET hashes = (SELECT hashes FROM tiles WHERE level = 1) WHERE level = 0",
        &["tile tiles 0 0"],
    ),
    ("DELETE FROM tiles WHERE level = 0", &["tile tiles 0 0"]),
    ("DELETE FROM tiles WHERE level = 1", &["tile tiles 1 0"]),
    ("INSERT INTO tiles SELECT 2, 0, hashes FROM tiles WHERE level = 1", &["surplus tiles 2 0"]),
    ("INSERT INTO tiles SELECT 0, 1, hashes FROM tiles WHERE level = 0", &["surplus tiles 0 1"]),
    ("DELETE FROM bundles", &["bundle bundles 0"]),
    (
        "UPDATE bundles SET entries = (SELECT hashes FROM tiles WHERE level = 1)",
        &["bundle bundles 0"],
    ),
    ("INSERT INTO bundles SELECT 1, entries FROM bundles", &["surplus bundles 1"]),
    ("DELETE FROM tail WHERE start = 261", &["bundle tail"]),
    ("DELETE FROM tail WHERE start = 259", &["bundle tail", "bundle tail 260"]),
    ("DELETE FROM tail", &["bundle tail"]),
    // Heads.
    ("UPDATE log_head SET time = time + 1", &["head log_head"]),
    ("UPDATE log_head SET origin = 'other.test'", &["head log_head"]),
    ("UPDATE log_head SET note = (SELECT note FROM heads WHERE size = 9)", &["head log_head"]),
    (
        "UPDATE heads SET root = (SELECT root FROM heads WHERE size = 5) WHERE size = 9",
        &["head heads 9"],
    ),
    ("UPDATE heads SET root = note WHERE size = 0", &["head heads 0"]),
    ("UPDATE heads SET time = time + 1 WHERE size = 9", &["head heads 9"]),
    (
        "UPDATE heads SET staged_at = staged_at + 100 WHERE size = 9",
        &["head heads 10", "message messages 9"],
    ),
    ("DELETE FROM heads WHERE size = 262", &["head log_head"]),
    (
        "INSERT INTO heads SELECT 300, root, note, time, staged_at FROM log_head h \
      JOIN (SELECT staged_at FROM heads WHERE size = 262) s ON true",
        &["surplus heads 300"],
    ),
];

both!(async every_alteration_is_found_and_nothing_else);
async fn every_alteration_is_found_and_nothing_else(engine: Engine) {
    let mut server = story(engine).await;
    assert!(server.terminate().success());
    let good = Kept::of(&server);
    let (names, mut wrong) = (names(&good), Vec::new());
    for (statement, expected) in ALTERED {
        let altered = good.copy();
        altered.sql(statement);
        let mut expected: Vec<String> = expected.iter().map(|line| named(line, &names)).collect();
        let mut found = altered.findings();
        // A place in hex that is random here is a star there.
        for line in &mut found {
            if let Some(start) = expected.iter().filter_map(|e| e.strip_suffix('*')).next()
                && line.starts_with(start)
            {
                *line = format!("{start}*");
            }
        }
        expected.sort();
        found.sort();
        found.dedup_by(|a, b| a == b && a.ends_with("refresh_tokens *"));
        if found != expected {
            wrong.push(format!("{statement}\n  found    {found:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stands for ids in [`ALTERED`]: those of accounts, and of devices.
fn names(kept: &Kept) -> Vec<(&'static str, String)> {
    let account = |handle: &str| {
        one(kept, &format!("SELECT HEX(account_id) AS x FROM accounts WHERE handle = '{handle}'"))
    };
    let device = |place: u64| {
        one(kept, &format!("SELECT device_id AS x FROM devices WHERE added_index = {place}"))
    };
    // The longer names first: they begin like the shorter ones.
    vec![
        ("NINA-DEVICE", device(3)),
        ("NILS-ACCOUNT", account("nils")),
        ("NILS", device(4)),
        ("NINA", account("nina")),
        ("BOB", account("bob")),
    ]
}

fn named(line: &str, names: &[(&str, String)]) -> String {
    names.iter().fold(line.to_owned(), |line, (name, id)| line.replace(name, id))
}

/// The one value of a query, `HEX` being whatever the engine calls it.
fn one(kept: &Kept, query: &str) -> String {
    #[derive(QueryableByName)]
    struct X {
        #[diesel(sql_type = diesel::sql_types::Text)]
        x: String,
    }
    match &kept.database {
        Some(database) => {
            let query = query.replace("HEX(account_id)", "encode(account_id, 'hex')");
            database.sql(&query).trim().to_owned()
        }
        None => {
            let path = kept.data.path().join("nexo.db");
            let mut db = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
            let query = query.replace("HEX(", "hex(");
            let row: X = diesel::sql_query(query).get_result(&mut db).unwrap();
            row.x.to_ascii_lowercase()
        }
    }
}

both!(async an_altered_entry_makes_every_later_root_wrong_and_is_told_once);
async fn an_altered_entry_makes_every_later_root_wrong_and_is_told_once(engine: Engine) {
    let mut server = story(engine).await;
    server.terminate();
    alter_entry(&server, 4);
    let expected = [
        "root heads 5",
        "marker head.marker",
        "tile tiles 0 0",
        "tile tiles 1 0",
        "message messages 5",
    ];
    assert_eq!(Kept::of(&server).findings(), expected);
}

#[test]
fn verify_makes_nothing_and_has_an_exit_code_for_each_refusal() {
    let empty = TempDir::new().unwrap();
    let done = tool(&["log", "verify"], empty.path(), None);
    assert!(done.refused(66).contains("log.key"), "{done:?}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);

    let mut server = Server::setup().args("--origin relay.test").start();
    server.terminate();
    let kept = Kept::of(&server);
    assert_eq!(kept.findings(), [""; 0], "a log without entries");
    let state = kept.data.path().join("verified.json");
    kept.verify(&["--state", state.to_str().unwrap()]).ok();
    let mut other = Server::setup().args("--origin other.test").start();
    other.terminate();
    let theirs = Kept::of(&other);
    theirs.verify(&["--state", state.to_str().unwrap()]).refused(78);
    fs::write(&state, "{}").unwrap();
    kept.verify(&["--state", state.to_str().unwrap()]).refused(74);
    // Foreign keys find what is wrong; no keys are no reason to make some.
    fs::copy(theirs.data.path().join("nexo.db"), kept.data.path().join("nexo.db")).unwrap();
    let found = kept.findings();
    assert!(found.contains(&"head log_head".to_owned()), "{found:?}");
    fs::remove_file(kept.data.path().join("nexo.db")).unwrap();
    assert!(kept.verify(&[]).refused(74).contains("no such file"));
    assert!(!kept.data.path().join("nexo.db").exists());
}

#[tokio::test]
async fn a_copy_on_the_other_engine_is_the_same_log_and_goes_on() {
    let mut server = story(Engine::Sqlite).await;
    let told = Reader::of(&server).head().await.checkpoint;
    server.terminate();
    let kept = Kept::of(&server);
    let into =
        Kept { data: TempDir::new().unwrap(), database: Some(Arc::new(postgres::database())) };
    let keys = kept.data.path().to_str().unwrap().to_owned();
    let line = ["db", "copy", &kept.name(), &into.name(), "--keys", &keys];
    let done = run(&mut bare(&line), b"");
    assert_eq!((done.code, &*done.out), (0, ""), "{done:?}");
    assert!(done.err.contains("relay.test: 262 entries, root "), "{done:?}");
    // Twice is refused, and a password on the command line is.
    assert!(run(&mut bare(&line), b"").refused(73).contains("not empty"));
    let shown = run(&mut bare(&["db", "copy", &kept.name(), "postgres://u:secret@h/d"]), b"");
    assert!(shown.refused(78).contains("env:NAME") && !shown.err.contains("secret"));

    // The data directory stays; only the database is another one.
    let moved = Kept { data: kept.data, database: into.database.clone() };
    assert_eq!(moved.findings(), [""; 0]);
    let mut server = moved.setup().start();
    let reader = Reader::of(&server);
    let head = reader.head().await.checkpoint;
    assert_eq!(head, told);
    Plain::new(&server, "carol").await;
    reader.extends(&told, &reader.head().await.checkpoint).await;
    server.terminate();

    // And back, by way of a variable.
    let back = Kept { data: TempDir::new().unwrap(), database: None };
    copy_data(moved.data.path(), back.data.path());
    let _ = fs::remove_file(back.data.path().join("nexo.db"));
    for left in ["nexo.db-wal", "nexo.db-shm"] {
        let _ = fs::remove_file(back.data.path().join(left));
    }
    let mut command = bare(&["db", "copy", "env:FROM", &back.name()]);
    run(command.env("FROM", moved.name()), b"").ok();
    assert_eq!(back.findings(), [""; 0]);
    let server = back.setup().start();
    assert_eq!(Reader::of(&server).head().await.checkpoint.size, SIZE + 1);
}

both!(async a_damaged_log_is_not_copied);
async fn a_damaged_log_is_not_copied(engine: Engine) {
    let mut server = story(engine).await;
    server.terminate();
    alter_entry(&server, 4);
    let kept = Kept::of(&server);
    let into = Kept { data: TempDir::new().unwrap(), database: None };
    let done = run(&mut bare(&["db", "copy", &kept.name(), &into.name()]), b"");
    assert!(done.refused(81).contains("log verify"), "{done:?}");
    // What was made has tables and no row; a server with this marker does not take it.
    let left = Kept { data: kept.data, database: None };
    let _ = fs::remove_file(left.data.path().join("nexo.db"));
    fs::copy(into.data.path().join("nexo.db"), left.data.path().join("nexo.db")).unwrap();
    left.setup().try_start().err().unwrap().because(74, &["0 entries", "262 were announced"]);
}

both!(async after_a_lost_database_a_new_log_begins_and_the_old_one_is_refused_by_who_knew_it);
async fn after_a_lost_database_a_new_log_begins_and_the_old_one_is_refused_by_who_knew_it(
    engine: Engine,
) {
    let mut server = engine.setup().start();
    let (alice, auditor) = (Person::registered(&server, "alice"), Auditor::new());
    let bob = Person::registered(&server, "bob");
    let (old, old_vkey) = (server.origin().to_owned(), server.vkey().to_owned());
    server.terminate();
    let older = Backup::of(&server);
    server.restart();
    alice.nexo(&["send", "bob", "hello"]).sent();
    auditor.check(server.url(), &["--vkey", &old_vkey]).ok();
    let new_origin = |server: &Server, args: &[&str]| {
        let line = [&["log", "new-origin"], args].concat();
        tool(&line, server.data(), server.database().map(|database| &**database))
    };
    // Nothing is wrong yet, and a server is running.
    assert!(new_origin(&server, &[]).refused(78).contains("--force"));
    if engine == Engine::Sqlite {
        assert!(new_origin(&server, &["--force"]).refused(75).contains("stop the server"));
    }
    server.terminate();
    older.restore(&mut server);
    server.try_restart().unwrap_err().because(74, &["3 were announced", "log new-origin"]);
    let found = Kept::of(&server).findings();
    assert_eq!(found, ["marker head.marker"]);

    assert!(new_origin(&server, &["--origin", &old]).refused(78).contains("another name"));
    if engine == Engine::Postgres {
        assert!(new_origin(&server, &[]).refused(73).contains("DB_URL"));
        server.use_database(Arc::new(postgres::database()));
    }
    let done = new_origin(&server, &["--origin", "second.test"]);
    let vkey = done.line().to_owned();
    assert!(vkey.starts_with("second.test+") && done.err.contains(&old), "{done:?}");
    let aside = fs::read_dir(server.data()).unwrap();
    let aside: Vec<String> =
        aside.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let id = old_vkey.split('+').nth(1).unwrap();
    for name in ["log.key", "time.key", "head.marker"] {
        assert!(aside.contains(&format!("{name}.old-{id}")), "{aside:?}");
    }
    assert!(!aside.contains(&"new-origin".to_owned()), "{aside:?}");

    server.restart();
    assert_eq!((server.origin(), server.vkey()), ("second.test", &*vkey));
    // Who pinned the old log refuses the new one.
    // A client logs in with a genesis for the old name, which the new relay cannot take.
    for refused in [alice.nexo(&["send", "bob", "are you there"]), bob.nexo(&["tail"])] {
        assert!(refused.refused(76).contains("genesis"), "{refused:?}");
    }
    assert_eq!(auditor.check(server.url(), &["--vkey", &old_vkey]).code, 83);
    // Others begin anew.
    let (carol, dave) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    carol.nexo(&["send", "bob", "hello again"]).sent();
    assert_eq!(dave.received().texts(), ["hello again"]);
    Auditor::new().check(server.url(), &["--vkey", &vkey]).ok();
    server.terminate();
    assert_eq!(Kept::of(&server).findings(), [""; 0]);
}

#[tokio::test]
async fn a_new_origin_is_finished_wherever_a_crash_left_it() {
    let mut server = Server::setup().args("--origin first.test").start();
    Plain::new(&server, "alice").await;
    server.terminate();
    let good = Kept::of(&server);
    let begun = |kept: &Kept| {
        let line = ["log", "new-origin", "--origin", "second.test", "--force"];
        tool(&line, kept.data.path(), None)
    };
    let whole = good.copy();
    let vkey = begun(&whole).line().to_owned();
    assert_ne!(vkey, "");
    let id = fs::read_dir(whole.data.path()).unwrap().find_map(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        name.strip_prefix("log.key.").map(str::to_owned)
    });
    let suffix = id.unwrap();

    // What each step of it leaves, as if the next had not come.
    let steps = [
        ("aside", "log.key"),
        ("aside", "nexo.db"),
        ("in", "log.key"),
        ("link", "time.key"),
        ("in", "time.key"),
        ("aside", "head.marker"),
    ];
    for taken in 0..=steps.len() {
        let half = good.copy();
        let (data, draft) = (half.data.path(), half.data.path().join("new-origin"));
        fs::create_dir(&draft).unwrap();
        fs::write(draft.join("old-suffix"), format!("first.test\n{suffix}")).unwrap();
        for name in ["log.key", "time.key"] {
            fs::copy(whole.data.path().join(name), draft.join(name)).unwrap();
        }
        for (step, name) in &steps[..taken] {
            let (place, aside) = (data.join(name), data.join(format!("{name}.{suffix}")));
            match *step {
                "aside" => fs::rename(place, aside).unwrap(),
                "link" => fs::hard_link(place, aside).unwrap(),
                _ => fs::rename(draft.join(name), place).unwrap(),
            }
        }
        // Before the first step there is still the old log, which was well; after the last the
        // new one.
        if (1..steps.len()).contains(&taken) {
            assert!(half.setup().try_start().is_err(), "served after {taken} steps");
        }
        assert_eq!(begun(&half).line(), vkey, "after {taken} steps");
        assert!(data.join(format!("nexo.db.{suffix}")).exists());
        let mut server = half.setup().start();
        assert_eq!(server.vkey(), vkey);
        Plain::new(&server, "alice").await;
        server.terminate();
    }
    // A server beside it, with the marker of the old log, is told to put that aside.
    let beside = whole.copy();
    let (data, marker) = (beside.data.path(), beside.data.path().join("head.marker"));
    fs::copy(data.join(format!("head.marker.{suffix}")), &marker).unwrap();
    beside.setup().try_start().err().unwrap().because(74, &["first.test", "log new-origin"]);
    assert_eq!(begun(&beside).line(), vkey);
    beside.setup().start();
}
