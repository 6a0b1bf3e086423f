//! JSON that is none, fields of another kind, and sizes beyond the limits.

use nexo_schema::bytes::to_base64;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::Stage;
use crate::harness::native::{Kind, genesis_json};
use crate::harness::plain::{frame, message, new_key, public};
use crate::harness::wire::raw;
use crate::harness::{Native, random, text};

#[tokio::test]
async fn f11_bodies_that_are_no_json_object() {
    let stage = Stage::new().await;
    let nested = |open: &str, n: usize| open.repeat(n).into_bytes();
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b" ".to_vec(),
        b"{".to_vec(),
        b"}".to_vec(),
        b"null".to_vec(),
        b"true".to_vec(),
        b"[{}]".to_vec(),
        b"7".to_vec(),
        b"\"text\"".to_vec(),
        b"{}".to_vec(),
        b"{\"\":1}".to_vec(),
        b"{'handle':'x'}".to_vec(),
        b"handle=x&device_id=y".to_vec(),
        b"\xff\xfe{\0}\0".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
        b"{\"handle\":\"\xc3\x28\"}".to_vec(),
        b"{\"handle\":\"\\ud800\"}".to_vec(),
        b"\x1f\x8b\x08\0\0\0\0\0".to_vec(),
        vec![0; 1000],
        nested("[", 100_000),
        nested("{\"a\":", 50_000),
    ];
    for request in stage.requests().await {
        let wire = request.wire(&stage.server);
        for body in &bodies {
            // A publication may be empty, and members that nobody knows are not looked into.
            let empty = body == b"{}" || body.starts_with(b"{\"");
            if request.path == "/prekeys" && empty {
                continue;
            }
            let reply = wire.post_bytes(request.path, body.clone()).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(30)]);
            assert_eq!(reply.refusal()["code"], "bad_request", "{} {shown}", request.path);
        }
        // Two bodies, or one and something after it.
        let good = request.body.to_string();
        for tail in ["x", "{}", "\0", ",", &good] {
            let reply = wire.post_bytes(request.path, format!("{good}{tail}")).await;
            reply.problem(400, "bad_request");
        }
    }
    stage.untouched().await;
}

#[tokio::test]
async fn bodies_that_are_arrays_of_the_fields() {
    let stage = Stage::new().await;
    let (key, conv) = (public(&new_key()), &stage.conv);
    let alice = stage.alice.token();
    for (path, token, body) in [
        ("/auth/register", "", json!(["carol", null, key, null, null])),
        ("/auth/verify", "", json!([stage.alice.device, to_base64(&[0; 64])])),
        ("/auth/refresh", "", json!([stage.alice.refresh])),
        ("/conversations", alice, json!(["nora"])),
        ("/messages", alice, json!([conv, "aGk=", {}, "m-1", null, null])),
        ("/messages/delete", alice, json!([conv, "m-1", null, null])),
        ("/prekeys", stage.nora.token(), json!([])),
    ] {
        let reply = stage.server.wire().with_token(token).post(path, &body).await;
        reply.problem(400, "bad_request");
    }
    stage.untouched().await;
}

#[tokio::test]
async fn fields_of_another_kind_or_missing_or_twice() {
    let stage = Stage::new().await;
    for request in stage.requests().await {
        let wire = request.wire(&stage.server);
        let required: Vec<String> = request.body.as_object().unwrap().keys().cloned().collect();
        let fields = required.iter().map(String::as_str).chain(request.optional.iter().copied());
        for field in fields {
            for wrong in
                [json!(true), json!(-1), json!(1.5), json!([1]), json!([[]]), json!({"x": 1})]
            {
                // An `ad` may be any object, and prekey 1 may be removed.
                if (field == "ad" && wrong.is_object()) || (field == "remove" && wrong[0] == 1) {
                    continue;
                }
                let mut body = request.body.clone();
                body[field] = wrong.clone();
                let reply = wire.post(request.path, &body).await;
                assert_eq!(reply.refusal()["code"], "bad_request", "{field} {wrong}: {reply:?}");
            }
        }
        for field in required.iter().filter(|_| request.path != "/prekeys") {
            let mut body = request.body.clone();
            let value = body.as_object_mut().unwrap().remove(field).unwrap();
            wire.post(request.path, &body).await.problem(400, "bad_request");
            body[field] = Value::Null;
            wire.post(request.path, &body).await.problem(400, "bad_request");
            // The same member twice: two readers could see two requests.
            let text = request.body.to_string();
            let twice = format!("{{\"{field}\":{value},{}", &text[1..]);
            wire.post_bytes(request.path, twice).await.problem(400, "bad_request");
        }
    }
    stage.untouched().await;
}

/// It was stored and pushed byte for byte, and whoever was sent it could not read the frame.
#[tokio::test]
async fn an_ad_that_its_readers_could_not_parse_is_refused() {
    let stage = Stage::new().await;
    let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n - 1), "]".repeat(n - 1));
    let bad = [
        r#"{"a":"\ud800"}"#.to_owned(),
        r#"{"\udc00":1}"#.to_owned(),
        r#"{"a":1e999}"#.to_owned(),
        nested(33),
        nested(1000),
    ];
    let whole = message(&stage.conv, "x");
    let with = |mut whole: Value, ad: &str| {
        whole["ad"] = json!("HERE");
        whole.to_string().replace("\"HERE\"", ad)
    };
    for ad in &bad {
        let reply = stage.alice.wire.post_bytes("/messages", with(whole.clone(), ad)).await;
        reply.problem(400, "bad_request");
        let mut socket = stage.alice.socket(&stage.conv).await;
        socket.send_any(Message::text(with(frame(&stage.conv, "m-ad", "x"), ad))).await;
        let nack = socket.next().await;
        assert_eq!(
            (&nack["type"], &nack["problem"]["code"]),
            (&json!("nack"), &json!("bad_request"))
        );
    }
    stage.untouched().await;
    let deepest = with(whole, &nested(32));
    stage.alice.wire.post_bytes("/messages", deepest).await.ok();
}

#[tokio::test]
async fn texts_that_are_no_ids_keys_or_base64() {
    let stage = Stage::new().await;
    let long = "a!".repeat(5_000);
    let texts = ["", " ", "\0", "é", "../..", "' OR 1=1 --", "%00", "\u{202e}", &long];
    for request in stage.requests().await {
        let wire = request.wire(&stage.server);
        let members = request.body.as_object().unwrap();
        for field in members.iter().filter(|(_, v)| v.is_string()).map(|(name, _)| name) {
            for bad in texts {
                let mut body = request.body.clone();
                body[field] = bad.into();
                let reply = wire.post(request.path, &body).await;
                let code = text(&reply.refusal()["code"]);
                // What looks like an id may be one that does not exist; the long text may be too long.
                let fits = ["bad_request", "not_found", "too_large"].contains(&code.as_str());
                assert!(fits || reply.status == 401, "{field} {bad:.20}: {reply:?}");
            }
        }
    }
    // Ids as whole values: a name, a message id, a conversation.
    for id in ["", " x", "x y", "é", "a\u{7f}", &"d".repeat(65)] {
        let body = json!({"handle": "carol", "device_id": id, "ed25519_pub": to_base64(&[9; 32])});
        stage.server.wire().post("/auth/register", &body).await.problem(400, "bad_request");
    }
    for id in ["", "é", "a\nb", "\u{0}", &"m".repeat(65)] {
        let mut body = message(&stage.conv, "x");
        body["msg_id"] = id.into();
        stage.alice.post("/messages", &body).await.problem(400, "bad_request");
    }
    // `ad` is kept as bytes, and must be text all the same.
    for ad in [&b"{\"a\":\"\xc3\x28\"}"[..], b"{\"\xff\":1}", b"{}\xff"] {
        let head = format!(r#"{{"conv_id":"{}","cipher":"aGk=","ad":"#, stage.conv);
        let body = [head.as_bytes(), ad, b"}"].concat();
        stage.alice.wire.post_bytes("/messages", body).await.problem(400, "bad_request");
    }
    let upper = stage.conv.to_uppercase();
    for id in [&stage.conv[..63], &format!("{}0", stage.conv), &upper, "0x00", &"g".repeat(64)] {
        stage.alice.post("/messages", &message(id, "x")).await.problem(400, "bad_request");
    }
    stage.untouched().await;
}

#[tokio::test]
async fn f11_sizes_beyond_the_limits() {
    let stage = Stage::new().await;
    const MOST: usize = 256 * 1024;
    for request in stage.requests().await {
        for size in [MOST + 1, 5_000_000] {
            let body = request.body.to_string();
            let body = format!("{body}{}", " ".repeat(size - body.len()));
            let head = format!(
                "POST {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
                 Content-Length: {size}\r\n\r\n",
                request.path, request.token
            );
            // The relay answers before it has read all; most HTTP libraries call that an error.
            let answer = raw(&stage.server, format!("{head}{body}").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 413 "), "{} {size}: {answer}", request.path);
            assert!(answer.contains("application/problem+json") && answer.contains("too_large"));
        }
    }
    // A body of exactly the limit is read; what is in it has limits of its own.
    let cipher = |bytes: usize| {
        let mut body = message(&stage.conv, "");
        body["cipher"] = to_base64(&vec![7; bytes]).into();
        body
    };
    let large = stage.alice.post("/messages", &cipher(80 * 1024 + 1)).await;
    assert!(large.problem(413, "too_large")["detail"].as_str().unwrap().contains("cipher"));
    stage.before.unchanged(&stage.server).await;
    let mut whole = cipher(80 * 1024).to_string().into_bytes();
    whole.resize(MOST, b' ');
    stage.alice.wire.post_bytes("/messages", whole).await.ok();
    stage.works().await;
}

#[tokio::test]
async fn native_messages_with_packets_that_do_not_fit() {
    let stage = Stage::new().await;
    let otto = Native::new(&stage.server, "otto").await;
    stage.nora.conversation("otto").await;
    let before = crate::harness::Snapshot::of(&stage.server).await;
    let good = stage.nora.seal(&otto, "x").body;
    let packet = good["packets"][&otto.device].clone();
    let with = |packets: Value| {
        let mut body = good.clone();
        body["packets"] = packets;
        body
    };
    let many: serde_json::Map<String, Value> =
        (0..65).map(|n| (format!("{n:064x}"), packet.clone())).collect();
    let one = |device: &str, packet: Value| json!({device: packet});
    for (body, status) in [
        (with(json!({})), 409),
        (with(json!([])), 400),
        (with(one("otto", packet.clone())), 400),
        (with(one(&otto.device.to_uppercase(), packet.clone())), 400),
        (with(one(&"ab".repeat(32), packet.clone())), 409),
        (with(one(&stage.nora.device, packet.clone())), 409),
        (with(one(&otto.device, json!("*"))), 400),
        (with(one(&otto.device, json!(""))), 413),
        (with(one(&otto.device, json!(to_base64(&[1; 4097])))), 413),
        (with(one(&otto.device, json!(null))), 400),
        (with(Value::Object(many)), 413),
    ] {
        let reply = stage.nora.post("/messages", &body).await;
        assert_eq!(reply.refusal()["status"], status, "{}: {reply:?}", body["packets"]);
    }
    for (field, bad) in [("msg_id", json!("m-1")), ("dseq", json!(0)), ("dseq", json!(u64::MAX))] {
        let mut body = good.clone();
        body[field] = bad;
        stage.nora.post("/messages", &body).await.refusal();
    }
    // A plain account sends none, and a native one never goes without.
    let mut plain = message(&stage.conv, "x");
    plain["packets"] = good["packets"].clone();
    stage.alice.post("/messages", &plain).await.problem(400, "bad_request");
    before.unchanged(&stage.server).await;
    stage.nora.post("/messages", &good).await.ok();
    stage.works().await;
}

#[tokio::test]
async fn genesis_events_with_any_byte_changed() {
    let stage = Stage::new().await;
    let dora = Native::unregistered(&stage.server, "dora", Kind::default());
    let good = dora.registration();
    let wire = stage.server.wire();
    let event = &dora.genesis.event;
    for at in 0..event.len() {
        let mut bent = dora.genesis.clone();
        bent.event[at] ^= 1 << (at % 8);
        let mut body = good.clone();
        body["genesis"] = genesis_json(&bent);
        wire.post("/auth/register", &body).await.problem(400, "bad_request");
    }
    for length in [0, 1, 4, 100, event.len() - 1, event.len() + 1] {
        let mut bent = dora.genesis.clone();
        bent.event.resize(length, 0);
        let mut body = good.clone();
        body["genesis"] = genesis_json(&bent);
        wire.post("/auth/register", &body).await.problem(400, "bad_request");
    }
    let mut junk = good.clone();
    junk["genesis"]["event"] = to_base64(&random::<300>()).into();
    wire.post("/auth/register", &junk).await.problem(400, "bad_request");
    stage.untouched().await;
}
