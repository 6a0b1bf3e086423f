//! `nexo-audit keys` against a real server: whose keys it shows, to whom, and what it finds when
//! the server forgets an event or tells another one.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use nexo_cli::e2ee::account_fingerprint;
use nexo_schema::bytes::to_base64;
use nexo_schema::change::Change;
use serde_json::Value;

use crate::harness::chain::{Line, full, id_of};
use crate::harness::shell::{Auditor, Done, run};
use crate::harness::tamper::{alter_event, copy_data, forget_event};
use crate::harness::{Native, Plain, Server, number, text};

/// An auditor with the token of this server, and the first check behind it.
struct Reader {
    auditor: Auditor,
    token: PathBuf,
}

impl Reader {
    fn of(server: &Server) -> Self {
        let auditor = Auditor::new();
        let made = run(&mut server.command("auditor-token"), b"");
        let token = auditor.file("auditor.token");
        fs::write(&token, &made.out).unwrap();
        auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
        Self { auditor, token }
    }

    fn keys(&self, server: &Server, handle: &str, args: &[&str]) -> Done {
        let mut command = self.auditor.command(&["keys", handle, server.url()]);
        command.arg("--token-file").arg(&self.token).args(args);
        run(&mut command, b"")
    }

    /// Fails unless it ended with this verdict; the finding's data.
    fn found(&self, server: &Server, handle: &str, args: &[&str], code: i32, name: &str) -> Value {
        let done = self.keys(server, handle, &[args, &["--json"]].concat());
        let object = done.object();
        assert_eq!((done.code, &object["verdict"]), (code, &name.into()), "{done:?}");
        if code != 67 {
            let file = text(&object["evidence"]);
            let verify = ["evidence", "verify", &file, "--vkey", server.vkey()];
            Auditor::new().run(&verify).ok();
        }
        let words = self.keys(server, handle, args);
        assert_eq!(words.code, code);
        assert!(words.out.starts_with(&format!("{name}  ")), "{words:?}");
        object["detail"].clone()
    }

    /// A list of devices.
    fn list(&self, text: &str) -> String {
        let path = self.auditor.file("expected");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_account_is_shown_with_its_proofs() {
    let server = Server::start();
    let pam = Plain::new(&server, "pam").await;
    let alice = Native::new(&server, "alice").await;
    alice.conversation("alice").await;
    alice.say(&alice, "an entry behind it").await;
    let reader = Reader::of(&server);
    let shown = reader.keys(&server, "alice", &["--json"]);
    let shown = shown.objects().remove(0);
    assert_eq!((&shown["verdict"], &shown["native"]), (&"verified".into(), &true.into()));
    assert_eq!(shown["account_id"], alice.account.to_string());
    assert_eq!(shown["fingerprint"], account_fingerprint(alice.account));
    let event = &shown["events"][0];
    assert_eq!((&event["index"], &event["change"]), (&1.into(), &"genesis".into()));
    assert_eq!((&event["device"], &event["signer"]), (&alice.device[..].into(), &event["device"]));
    assert!(event["time"].as_str().unwrap().ends_with('Z'));
    let device = &shown["devices"][0];
    assert_eq!(device["device_id"], alice.device);
    assert_eq!(device["ed25519_pub"], to_base64(alice.key.verifying_key().as_bytes()));
    assert_eq!(device["caps"], serde_json::json!(["admin", "send", "recv"]));
    assert_eq!((&device["active"], &device["ended"]), (&true.into(), &Value::Null));
    let words = reader.keys(&server, "alice", &[]);
    let lines: Vec<&str> = words.ok().lines().collect();
    assert!(lines[0].starts_with("verified  alice  native  nexo1:"), "{words:?}");
    assert_eq!(lines.len(), 3);

    let plain = reader.keys(&server, "pam", &["--json"]).objects().remove(0);
    assert_eq!((&plain["native"], &plain["account_id"]), (&false.into(), &pam.account[..].into()));
    assert_eq!(plain["devices"][0]["device_id"], pam.device);
    assert_eq!(plain["events"][0]["change"], "plain");
}

/// A proxy in front of one server: its URL, and what it was given to pass on.
fn proxy(server: &Server) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (behind, given) = (server.url().replacen("http://", "", 1), Arc::clone(&seen));
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(&behind)) else { return };
            let (back, answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let given = Arc::clone(&given);
            thread::spawn(move || pass(answers, back, |_| {}));
            let record = move |bytes: &[u8]| given.lock().unwrap().extend_from_slice(bytes);
            thread::spawn(move || pass(client, server, record));
        }
    });
    (url, seen)
}

/// Passes on what comes, until nothing does.
fn pass(mut from: TcpStream, mut to: TcpStream, record: impl Fn(&[u8])) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        record(&bytes[..length]);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_in_the_environment_does_not_read_the_token() {
    let server = Server::start();
    Native::new(&server, "alice").await;
    let reader = Reader::of(&server);
    let (url, seen) = proxy(&server);
    let mut command = reader.auditor.command(&["keys", "alice", server.url()]);
    command.arg("--token-file").arg(&reader.token).env("http_proxy", url);
    run(&mut command, b"").ok();
    let seen = String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
    assert!(seen.contains("/checkpoint HTTP/1.1"), "what is no secret goes through it: {seen}");
    assert!(!seen.contains("nxa_") && !seen.contains("/log/events"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_with_a_token_or_where_the_directory_is_open() {
    let server = Server::start();
    Native::new(&server, "alice").await;
    let reader = Reader::of(&server);
    let ask = |args: &[&str]| {
        run(reader.auditor.command(&["keys", "alice", server.url()]).args(args), b"")
    };
    let refused = ask(&["--json"]);
    assert_eq!((refused.code, &refused.object()["verdict"]), (77, &"not_allowed".into()));
    let wrong = reader.auditor.file("wrong");
    fs::write(&wrong, format!("nxa_{}", "A".repeat(43))).unwrap();
    ask(&["--token-file", wrong.to_str().unwrap()]).refused(77);
    reader.found(&server, "bob", &[], 67, "unknown_handle");
    for bad in ["", "two words", "\u{e4}"] {
        fs::write(&wrong, bad).unwrap();
        ask(&["--token-file", wrong.to_str().unwrap()]).refused(65);
    }
    ask(&["--token-file", "/nonexistent"]).refused(66);
    // In clear to another machine: not asked at all.
    let mut far = reader.auditor.command(&["keys", "alice", "http://192.0.2.1", "--tofu"]);
    let done = run(far.arg("--token-file").arg(&reader.token), b"");
    assert!(!done.refused(64).contains("a value is required"), "{done:?}");
    drop(server);

    let open = Server::setup().args("--public-directory").start();
    Native::new(&open, "alice").await;
    let auditor = Auditor::new();
    let words = ["keys", "alice", open.url(), "--vkey", open.vkey()];
    run(&mut auditor.command(&words), b"").ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_not_on_the_list_is_80() {
    let server = Server::start();
    let alice = Native::new(&server, "alice").await;
    let pam = Plain::new(&server, "pam").await;
    let reader = Reader::of(&server);
    let key = format!("key:{}\n", to_base64(alice.key.verifying_key().as_bytes()));
    let fingerprint = account_fingerprint(alice.account);
    for good in [&alice.device, &key, &format!("# alice\n{}\n{fingerprint}", alice.device)] {
        let list = reader.list(good);
        reader.keys(&server, "alice", &["--expect", &list]).ok();
    }
    let list = reader.list(&format!("{}\n", "0".repeat(64)));
    let foreign = reader.found(&server, "alice", &["--expect", &list], 80, "foreign_device");
    assert_eq!(foreign["foreign"], serde_json::json!([alice.device]));
    let list = reader.list(&format!("{}\nnexo1:{}", alice.device, "a".repeat(52)));
    let foreign = reader.found(&server, "alice", &["--expect", &list], 80, "foreign_device");
    assert_eq!(foreign["foreign"], serde_json::json!([fingerprint]));
    let list = reader.list(&format!("name:{}", pam.device));
    reader.keys(&server, "pam", &["--expect", &list]).ok();
    let list = reader.list("name:another");
    reader.found(&server, "pam", &["--expect", &list], 80, "foreign_device");
    let list = reader.list("my laptop");
    let done = reader.keys(&server, "alice", &["--expect", &list]);
    assert!(done.refused(65).contains("line 1"), "{done:?}");
}

/// A server on a copy of a data directory, changed before it starts.
fn liar(data: &Path, copy: &Path, lie: impl FnOnce(&Path)) -> Server {
    copy_data(data, copy);
    lie(copy);
    Server::setup().data(copy).start()
}

/// Alice with a second device that came and went: leaves 0, 1 and 3, and pam at 2.
async fn came_and_went(server: &Server) -> (Native, Native) {
    let alice = Native::new(server, "alice").await;
    let mut line = Line::of(&alice);
    let guest = alice.sibling(server);
    let add = line.draw(&alice.key, &Change::Add(full(&guest))).accepted(&guest.key);
    server.wire().post("/account/events", &add.json()).await.ok();
    line.took(add);
    Plain::new(server, "pam").await;
    let device = id_of(&guest.key);
    let revoke = line.draw(&alice.key, &Change::Revoke { device, reason: b"lost" });
    server.wire().post("/account/events", &revoke.json()).await.ok();
    (alice, guest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_is_hidden_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let (data, copy) = (temp.path().join("data"), temp.path().join("copy"));
    let mut server = Server::setup().data(&data).start();
    let (alice, guest) = came_and_went(&server).await;
    let reader = Reader::of(&server);
    let shown = reader.keys(&server, "alice", &["--json"]).objects().remove(0);
    let events = shown["events"].as_array().unwrap().iter();
    let events: Vec<_> =
        events.map(|e| (number(&e["index"]), number(&e["seq"]), text(&e["change"]))).collect();
    let event = |index, seq, change: &str| (index, seq, change.to_owned());
    let wanted = [event(0, 0, "genesis"), event(1, 1, "add_device"), event(3, 2, "revoke_device")];
    assert_eq!(events, wanted);
    let devices = shown["devices"].as_array().unwrap();
    let active: Vec<_> = devices.iter().map(|d| (&d["device_id"], &d["active"])).collect();
    let ids = [&alice, &guest].map(|native| Value::from(native.device.clone()));
    assert_eq!(active, [(&ids[0], &true.into()), (&ids[1], &false.into())]);
    // One that came and went is foreign all the same.
    let list = reader.list(&alice.device);
    let foreign = reader.found(&server, "alice", &["--expect", &list], 80, "foreign_device");
    assert_eq!(foreign["foreign"], serde_json::json!([guest.device]));
    server.terminate();

    for leaf in [3, 1] {
        let hidden = liar(&data, &copy, |copy| forget_event(copy, leaf));
        let detail = reader.found(&hidden, "alice", &[], 96, "sigchain_violation");
        assert_eq!(detail["index"], leaf);
        assert!(detail["cause"].as_str().unwrap().contains("withholds"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_hidden_or_changed_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let (data, copy) = (temp.path().join("data"), temp.path().join("copy"));
    let mut server = Server::setup().data(&data).start();
    let alice = Native::new(&server, "alice").await;
    Native::new(&server, "bob").await;
    let reader = Reader::of(&server);
    reader.keys(&server, "alice", &[]).ok();
    server.terminate();

    let hidden = liar(&data, &copy, |copy| forget_event(copy, 0));
    let detail = reader.found(&hidden, "alice", &[], 96, "sigchain_violation");
    assert_eq!((&detail["index"], &detail["handle"]), (&0.into(), &"alice".into()));
    assert!(detail["cause"].as_str().unwrap().contains("withholds"), "{detail}");
    // Bob's chain is as it was.
    reader.keys(&hidden, "bob", &[]).ok();
    drop(hidden);
    let changed = liar(&data, &copy, |copy| alter_event(copy, 0, |event| event[40] ^= 1));
    let detail = reader.found(&changed, "alice", &[], 96, "sigchain_violation");
    assert!(detail["cause"].as_str().unwrap().contains("its entry was made of"), "{detail}");
    drop(changed);
    assert_eq!(alice.handle, "alice");
}
