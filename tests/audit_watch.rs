//! `nexo-audit watch` against a real server that comes, goes and lies: who is told, how often,
//! and what outlives a kill.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::shell::{Auditor, Done, Follower, run};
use crate::harness::tamper::copy_data;
use crate::harness::wire::Wire;
use crate::harness::{DEADLINE, Plain, Server, text};

/// An auditor that watches a server every second.
struct Watcher {
    auditor: Auditor,
    url: String,
    vkey: String,
}

impl Watcher {
    fn of(server: &Server) -> Self {
        let (url, vkey) = (server.url().to_owned(), server.vkey().to_owned());
        Self { auditor: Auditor::new(), url, vkey }
    }

    /// Trouble is told at once.
    fn command(&self, args: &[&str]) -> Command {
        let words = ["watch", &self.url, "--vkey", &self.vkey, "--interval", "1s"];
        let mut command = self.auditor.command(&words);
        command.args(["--patience", "0s"]).args(args);
        command
    }

    fn start(&self, args: &[&str]) -> Follower {
        Follower::start(&mut self.command(args))
    }

    fn once(&self, args: &[&str]) -> Done {
        run(self.command(&["--once"]).args(args), b"")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.auditor.file(name)
    }

    /// A directory with one hook; its path as text.
    fn hook(&self, script: &str) -> String {
        let folder = self.file("hooks");
        fs::create_dir_all(&folder).unwrap();
        executable(&folder.join("10-hook"), script);
        folder.to_str().unwrap().to_owned()
    }

    /// What is in the spool but the status and the lock.
    fn waiting(&self) -> usize {
        let folder = self.file("state.json.watch");
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("0000")).count()
    }

    /// Waits until nothing is in the spool. A hook that wrote has not ended yet, and a watch that
    /// is ended in between tells it again.
    fn all_told(&self) {
        let end = Instant::now() + DEADLINE;
        while self.waiting() > 0 {
            assert!(Instant::now() < end, "a notice that was taken is kept");
            thread::yield_now();
        }
    }
}

fn executable(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The next notice on stdout; fails unless it is of this kind and verdict.
fn notice(watch: &Follower, kind: &str, verdict: &str) -> Value {
    let line = watch.line();
    let notice: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert_eq!(notice["schema"], "nexo.audit-notice/1");
    assert_eq!((&notice["kind"], &notice["verdict"]), (&kind.into(), &verdict.into()), "{line}");
    notice
}

/// Waits until a file holds something that this accepts.
fn until(path: &Path, good: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + DEADLINE;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if good(&text) {
            return text;
        }
        assert!(Instant::now() < end, "{} holds {text:?}", path.display());
        thread::yield_now();
    }
}

/// Ended by a signal, in order.
fn ended(watch: Follower) -> Done {
    let done = watch.signal("TERM");
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!done.err.contains("panicked"), "{done:?}");
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_comes_and_goes_and_everybody_hears_of_both() {
    let mut server = Server::start();
    Plain::new(&server, "alice").await;
    let watcher = Watcher::of(&server);
    let (told, by_exec) = (watcher.file("told"), watcher.file("exec"));
    let hooks = watcher.hook(&format!(
        "cat >> {0}; printf '\\n%s %s %s\\n' $NEXO_EVENT $NEXO_VERDICT $NEXO_EVENT_ID >> {0}",
        told.display()
    ));
    let exec = format!("echo $NEXO_EVENT $NEXO_CODE >> {}", by_exec.display());
    let watch = watcher.start(&["--hooks", &hooks, "--exec", &exec]);
    let begun = notice(&watch, "begun", "verified");
    assert_eq!((&begun["size"], &begun["origin"]), (&1.into(), &server.origin().into()));
    server.terminate();
    let away = notice(&watch, "finding", "unreachable");
    assert_eq!((&away["code"], &away["family"]), (&69.into(), &69.into()));
    server.restart();
    let back = notice(&watch, "recovered", "verified");
    assert_eq!(back["previous"], "unreachable");
    let words = [(&begun, "begun verified"), (&away, "finding unreachable")];
    let words = words.into_iter().chain([(&back, "recovered verified")]);
    let wanted: Vec<String> =
        words.map(|(notice, words)| format!("{words} {}", text(&notice["id"]))).collect();
    let heard = until(&told, |heard| heard.lines().any(|line| line == wanted[2]));
    let lines: Vec<&str> = heard.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(lines, wanted, "in order, each once where nothing went wrong");
    assert_eq!(heard.matches("nexo.audit-notice/1").count(), 3);
    until(&by_exec, |text| text == "begun 0\nfinding 69\nrecovered 0\n");
    watcher.all_told();
    ended(watch);
    // All that was told is told; a new start is no news.
    watcher.once(&["--hooks", &hooks]).ok();
    assert_eq!(fs::read_to_string(&told).unwrap(), heard);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_split_stays_unhealthy_until_somebody_looked() {
    let temp = tempfile::tempdir().unwrap();
    let (data, old, new) =
        (temp.path().join("data"), temp.path().join("old"), temp.path().join("new"));
    let mut server = Server::setup().data(&data).start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    server.terminate();
    copy_data(&data, &old);
    server.restart();
    let say = async |server: &Server, what: &str| {
        let wire = server.wire().with_token(alice.token());
        wire.post("/messages", &crate::harness::plain::message(&conv, what)).await.ok();
    };
    say(&server, "in the first history").await;
    let watcher = Watcher::of(&server);
    let watch = watcher.start(&["--metrics", "127.0.0.1:0"]);
    notice(&watch, "begun", "verified");
    server.terminate();
    copy_data(&data, &new);
    copy_data(&old, &data);
    fs::remove_file(data.join("head.marker")).unwrap();
    notice(&watch, "finding", "unreachable");
    // Another history of the same length, written where the watch does not look.
    let elsewhere = Server::setup().data(&data).start();
    say(&elsewhere, "in the second history").await;
    drop(elsewhere);
    server.restart();
    let fork = notice(&watch, "finding", "fork");
    for head in ["head", "remembered"] {
        crate::harness::note::Checkpoint::verify(&text(&fork[head]), server.vkey());
    }
    let evidence = PathBuf::from(text(&fork["evidence"]));
    let verify = ["evidence", "verify", evidence.to_str().unwrap(), "--vkey", server.vkey()];
    watcher.auditor.run(&verify).ok();

    // The first history again: the passing part has passed, the fork has not.
    server.terminate();
    copy_data(&new, &data);
    server.restart();
    notice(&watch, "recovered", "verified");
    ended(watch);
    let id = text(&fork["id"]);
    let unknown = run(&mut watcher.command(&["--resolve", &"0".repeat(32)]), b"");
    unknown.refused(64);
    let watch = watcher.start(&["--resolve", &id, "--metrics", "127.0.0.1:0"]);
    let resolved = notice(&watch, "resolved", "verified");
    assert_eq!(resolved["previous"], "fork");
    ended(watch);
    run(&mut watcher.command(&["--resolve", &id]), b"").refused(64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_reads_counts_and_health() {
    let mut server = Server::start();
    Plain::new(&server, "alice").await;
    let watcher = Watcher::of(&server);
    let (out, err) = (watcher.file("out"), watcher.file("err"));
    let mut command = watcher.command(&["--metrics", "127.0.0.1:0", "--exec", "exit 1"]);
    command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
    let mut watch = command.spawn().unwrap();
    let said = until(&err, |text| text.contains("/metrics\n"));
    let url = said.lines().find_map(|line| line.strip_prefix("metrics ")).unwrap();
    until(&out, |text| text.contains("\"begun\""));
    let wire = Wire::new(reqwest::Client::new(), url);
    let health = Wire::new(reqwest::Client::new(), &url.replace("/metrics", "/health"));
    let page = wire.get("").await.text();
    for line in [
        "nexo_audit_healthy 1",
        "nexo_audit_tree_size 1",
        "nexo_audit_entries_verified_total 1",
        "nexo_audit_notices_total{kind=\"begun\"} 1",
        "nexo_audit_notices_waiting 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("alice"));
    assert_eq!(health.get("").await.status, 200);
    server.terminate();
    until(&out, |text| text.contains("\"unreachable\""));
    assert_eq!(health.get("").await.status, 503);
    let page = wire.get("").await.text();
    assert!(page.contains("nexo_audit_rounds_total{verdict=\"unreachable\"}"), "{page}");
    assert!(page.contains("nexo_audit_deliveries_total{receiver=\"exec\",taken=\"no\"}"), "{page}");
    until(&err, |text| text.contains("warning: exec was not told: it ended with"));
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_taken_is_told_again_after_a_kill() {
    let mut server = Server::start();
    Plain::new(&server, "alice").await;
    let watcher = Watcher::of(&server);
    let (tried, ready, told) = (watcher.file("tried"), watcher.file("ready"), watcher.file("told"));
    let hooks = watcher.hook(&format!(
        "echo $NEXO_EVENT_ID >> {}\ntest -e {} || exit 1\necho $NEXO_EVENT $NEXO_EVENT_ID >> {}",
        tried.display(),
        ready.display(),
        told.display()
    ));
    let mut command = watcher.command(&["--hooks", &hooks]);
    let out = watcher.file("out");
    let mut watch = command.stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
    until(&tried, |text| !text.is_empty());
    // SIGKILL, with the notice in the spool and the hook refusing.
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(watcher.waiting(), 1);
    let begun: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    let id = text(&begun["id"]);
    assert!(fs::read_to_string(&tried).unwrap().lines().all(|line| line == id));
    fs::write(&ready, "").unwrap();
    let watch = watcher.start(&["--hooks", &hooks]);
    until(&told, |text| text == format!("begun {id}\n"));
    // The next one comes behind it, under another id.
    server.terminate();
    let away = notice(&watch, "finding", "unreachable");
    let both = format!("begun {id}\nfinding {}\n", text(&away["id"]));
    until(&told, |text| text == both);
    watcher.all_told();
    ended(watch);
}

/// Answers POSTs with these statuses, one after the other; the head and body of each.
fn webhook(statuses: &'static [u16]) -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook/secret", listener.local_addr().unwrap());
    let (tell, told) = channel();
    thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
            let (head, body) = loop {
                let read = stream.read(&mut buffer).unwrap();
                bytes.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                if let Ok(body) = serde_json::from_str(body) {
                    break (head.to_lowercase(), body);
                }
            };
            let answer = "Connection: close\r\nContent-Length: 0\r\n\r\n";
            write!(stream, "HTTP/1.1 {status} X\r\n{answer}").unwrap();
            tell.send((head, body)).unwrap();
        }
    });
    (url, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_tried_again_under_one_key_and_its_address_is_not_said() {
    let server = Server::start();
    Plain::new(&server, "alice").await;
    let watcher = Watcher::of(&server);
    let (url, told) = webhook(&[500, 404, 202]);
    let file = watcher.file("webhook.url");
    fs::write(&file, format!("{url}\n")).unwrap();
    let watch = watcher.start(&["--webhook-file", file.to_str().unwrap()]);
    let begun = notice(&watch, "begun", "verified");
    for _ in 0..3 {
        let (head, body) = told.recv_timeout(DEADLINE).unwrap();
        assert_eq!(body, begun);
        let key = format!("idempotency-key: {}", text(&begun["id"]));
        assert!(head.starts_with("post /hook/secret ") && head.contains(&key), "{head}");
    }
    watcher.all_told();
    let done = ended(watch);
    assert!(done.err.contains("webhook was not told"), "{done:?}");
    assert!(!done.err.contains("secret") && !done.out.contains("secret"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_is_a_check_that_tells() {
    let mut server = Server::start();
    Plain::new(&server, "alice").await;
    let watcher = Watcher::of(&server);
    let told = watcher.file("told");
    let exec = format!("echo $NEXO_EVENT $NEXO_VERDICT >> {}", told.display());
    let done = watcher.once(&["--exec", &exec]);
    assert!(done.line().starts_with("verified  origin="), "{done:?}");
    assert_eq!(watcher.once(&["--exec", &exec, "--json"]).object()["verdict"], "verified");
    server.terminate();
    let done = watcher.once(&["--exec", &exec, "--json"]);
    assert_eq!((done.code, &done.object()["verdict"]), (69, &"unreachable".into()));
    watcher.once(&["--exec", &exec]).refused(69);
    assert_eq!(fs::read_to_string(told).unwrap(), "begun verified\nfinding unreachable\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_systems_get_their_line_and_status() {
    let mut server = Server::start();
    Plain::new(&server, "alice").await;
    let watcher = Watcher::of(&server);
    let ok = watcher.once(&["--nagios"]);
    assert!(ok.line().starts_with("NEXO OK - verified "), "{ok:?}");
    assert!(ok.out.contains("|size=1 new=1 age="), "{ok:?}");
    let check = watcher.auditor.check(server.url(), &["--nagios"]);
    assert!(check.line().starts_with("NEXO OK - "), "{check:?}");
    let status = |done: &Done, code: i32, word: &str| {
        assert_eq!(done.code, code, "{done:?}");
        assert!(done.out.starts_with(&format!("NEXO {word} - ")), "{done:?}");
        assert_eq!(done.out.lines().count(), 1, "{done:?}");
    };
    // A head of another key is critical; nobody there a warning; our own trouble unknown.
    let other = Server::start();
    status(&watcher.auditor.check(other.url(), &["--nagios"]), 2, "CRITICAL");
    server.terminate();
    status(&watcher.once(&["--nagios"]), 1, "WARNING");
    fs::write(watcher.auditor.state(), "junk").unwrap();
    status(&watcher.once(&["--nagios"]), 3, "UNKNOWN");
    // Only where there is one verdict to tell.
    run(&mut watcher.command(&["--nagios"]), b"").refused(64);
    run(&mut watcher.command(&["--json"]), b"").refused(64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told() {
    let server = Server::start();
    let watcher = Watcher::of(&server);
    let path = watcher.file("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let hook = watcher.hook("env > \"$0.env\"");
    let mut command = watcher.command(&["--hooks", &hook]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let watch = Follower::start(&mut command);
    let next = || {
        let mut bytes = [0; 512];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert_eq!(next(), "READY=1");
    let mut seen = Vec::new();
    while !(seen.iter().any(|word: &String| word.starts_with("STATUS=verified: 0 entries"))
        && seen.iter().filter(|word| *word == "WATCHDOG=1").count() > 3)
    {
        seen.push(next());
    }
    let env = until(&watcher.file("hooks/10-hook.env"), |text| text.contains("NEXO_SCHEMA"));
    assert!(!env.contains("NOTIFY_SOCKET") && !env.contains("WATCHDOG_USEC"), "{env}");
    ended(watch);
    while next() != "STOPPING=1" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_killed_anywhere_goes_on() {
    let server = Server::start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let watcher = Watcher::of(&server);
    let told = watcher.file("told");
    let exec = format!("echo $NEXO_EVENT_ID >> {}", told.display());
    for round in 0..20u64 {
        for _ in 0..10 {
            alice.say(&conv, "more").await;
        }
        let mut command = watcher.command(&["--exec", &exec]);
        let mut watch = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        // Anywhere between the start and well behind the first round.
        thread::sleep(Duration::from_millis(round * 7));
        watch.kill().unwrap();
        watch.wait().unwrap();
    }
    watcher.once(&["--exec", &exec]).ok();
    let again = watcher.auditor.check(server.url(), &["--json"]).object();
    assert_eq!((&again["size"], &again["new"]), (&201.into(), &0.into()));
    let ids = fs::read_to_string(told).unwrap();
    let mut ids: Vec<&str> = ids.lines().collect();
    ids.dedup();
    assert_eq!(ids.len(), 1, "one notice, told at least once: {ids:?}");
    assert_eq!(watcher.waiting(), 0);
}

#[test]
fn mistakes_end_it_before_it_begins() {
    let server = Server::start();
    let watcher = Watcher::of(&server);
    for (args, code) in [
        (&["--interval", "0s"][..], 64),
        (&["--interval", "soon"], 64),
        (&["--webhook", "hooks.example"], 64),
        (&["--metrics", "9465"], 64),
        (&["--metrics", "127.0.0.1:0", "--once"], 64),
        (&["--hooks", "/nonexistent"], 66),
        (&["--webhook-file", "/nonexistent"], 66),
        (&["--spool", "/proc/nowhere"], 74),
    ] {
        let done = run(&mut watcher.command(args), b"");
        assert_eq!((done.code, done.out.as_str()), (code, ""), "{args:?}: {done:?}");
        assert!(!done.err.is_empty());
    }
    let other = Server::start();
    watcher.once(&[]).ok();
    // The state file knows another key.
    let words = ["watch", &watcher.url, "--vkey", other.vkey()];
    run(&mut watcher.auditor.command(&words), b"").refused(64);
    // Two of one spool: the first has it once it has written there.
    let spool = watcher.file("spool");
    let args = ["--spool", spool.to_str().unwrap()];
    let watch = watcher.start(&args);
    until(&spool.join("status.json"), |text| !text.is_empty());
    let second = run(&mut watcher.command(&args), b"");
    assert_eq!(second.code, 75, "{second:?}");
    ended(watch);
}
