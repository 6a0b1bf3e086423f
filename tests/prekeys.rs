//! Prekeys: published by their device alone, listed, and handed out once each (design/e2ee.md
//! 2.7; attack F9 of 4.F).

use std::collections::BTreeSet;

use futures_util::future::join_all;
use nexo_cli::e2ee::{FallbackSecret, Handle, SignedGenesis, Validity};
use nexo_schema::bytes::{from_base64, to_base64, to_hex};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::note::{Checkpoint, leaf_hash};
use crate::harness::{Engine, Native, Plain, Server, both, now, number, random};

/// Nora, who publishes, and otto, who has a conversation with her.
async fn pair(engine: Engine) -> (Server, Native, Native) {
    let server = engine.start();
    let (nora, otto) = (Native::new(&server, "nora").await, Native::new(&server, "otto").await);
    otto.conversation("nora").await;
    (server, nora, otto)
}

/// The ids of the one-time prekeys that the relay still holds.
async fn held(device: &Native) -> Vec<u64> {
    let stock = device.get("/prekeys").await.ok();
    stock["one_time"].as_array().unwrap().iter().map(|key| number(&key["id"])).collect()
}

/// Claims nora's one-time prekey; her one device's part of the bundle.
async fn claim(by: &Native) -> Value {
    let bundle = by.post("/accounts/nora/bundle", &json!({})).await.ok();
    assert_eq!(bundle["devices"].as_array().unwrap().len(), 1);
    bundle["devices"][0].clone()
}

fn fingerprint(key: &Value) -> String {
    let part = |name: &str| from_base64(key[name].as_str().unwrap()).unwrap();
    to_hex(&Sha256::new().chain_update(part("x25519")).chain_update(part("kem")).finalize())
}

both!(async what_is_published_is_listed_by_id_and_hash);
async fn what_is_published_is_listed_by_id_and_hash(engine: Engine) {
    let (_server, nora, _otto) = pair(engine).await;
    let keys: Vec<Value> = (1..=3).map(|id| nora.one_time_json(id)).collect();
    let answer = nora.post("/prekeys", &json!({"one_time": keys})).await.ok();
    let fallback = nora.fallback_json(0);
    let reference = |key: &Value| json!({"id": key["id"], "hash": fingerprint(key)});
    let expected = json!({"fallback": reference(&fallback),
                          "one_time": keys.iter().map(reference).collect::<Vec<_>>()});
    assert_eq!(answer, expected);
    assert_eq!(nora.get("/prekeys").await.ok(), expected);
    // Those whose private half is gone are taken back; a number that is not there is no matter.
    let less = nora.post("/prekeys", &json!({"remove": [2, 77]})).await.ok();
    assert_eq!(less["one_time"], json!([reference(&keys[0]), reference(&keys[2])]));
}

both!(async publishing_the_same_again_changes_nothing);
async fn publishing_the_same_again_changes_nothing(engine: Engine) {
    let (_server, nora, otto) = pair(engine).await;
    let keys: Vec<Value> = (1..=3).map(|id| nora.one_time_json(id)).collect();
    let upload = json!({"fallback": nora.fallback_json(0), "one_time": keys});
    let first = nora.post("/prekeys", &upload).await.ok();
    for _ in 0..2 {
        assert_eq!(nora.post("/prekeys", &upload).await.ok(), first);
    }
    // After a claim the retry would bring a used key back: that one is refused.
    assert_eq!(claim(&otto).await["otk"]["id"], 1);
    nora.post("/prekeys", &upload).await.problem(409, "prekey_reused");
    assert_eq!(held(&nora).await, [2, 3]);
    let rest = json!({"one_time": keys[1..]});
    nora.post("/prekeys", &rest).await.ok();
}

both!(async an_id_is_used_once);
async fn an_id_is_used_once(engine: Engine) {
    let (_server, nora, otto) = pair(engine).await;
    nora.publish(1..=5).await.ok();
    // Another key under an id that is there, was claimed, was removed, or was skipped over.
    nora.post("/prekeys", &json!({"remove": [5]})).await.ok();
    assert_eq!(claim(&otto).await["otk"]["id"], 1);
    nora.publish(9..=9).await.ok();
    for id in [1, 3, 5, 7, 9, 0] {
        let refused = nora.publish(id..=id).await;
        assert_eq!(refused.problem(409, "prekey_reused")["status"], 409, "{id}");
    }
    assert_eq!(held(&nora).await, [2, 3, 4, 9]);
    nora.publish(10..=10).await.ok();
    // Fallback prekeys count for themselves.
    nora.post("/prekeys", &json!({"fallback": nora.fallback_json(4)})).await.ok();
    for id in [2, 3] {
        let upload = json!({"fallback": nora.fallback_json(id)});
        nora.post("/prekeys", &upload).await.problem(409, "prekey_reused");
    }
    let other = FallbackSecret::from_seeds(4, random(), random());
    let other = nora.sign_fallback(&other, nora.prekey.validity());
    nora.post("/prekeys", &json!({"fallback": other})).await.problem(409, "prekey_reused");
    assert_eq!(nora.get("/prekeys").await.ok()["fallback"]["id"], 4);
}

both!(async a_key_that_its_device_did_not_sign_is_refused);
async fn a_key_that_its_device_did_not_sign_is_refused(engine: Engine) {
    let (server, nora, otto) = pair(engine).await;
    nora.publish(1..=2).await.ok();
    let before = nora.get("/prekeys").await.ok();
    let (good, fallback) = (nora.one_time_json(10), nora.fallback_json(10));
    let other = engine.start();
    let mut elsewhere = Native::unregistered(&other, "nora", Default::default());
    elsewhere.secret = nexo_cli::e2ee::DeviceSecret::from_seed(&nora.secret.seed());
    let bend = |key: &Value, field: &str, value: Value| {
        let mut key = key.clone();
        key[field] = value;
        key
    };
    let swapped = bend(&good, "sig", fallback["sig"].clone());
    let as_fallback = json!({"id": 10, "x25519": good["x25519"], "kem": good["kem"],
        "not_before": fallback["not_before"], "not_after": fallback["not_after"], "sig": good["sig"]});
    let as_one_time = json!({"id": 10, "x25519": fallback["x25519"], "kem": fallback["kem"],
                             "sig": fallback["sig"]});
    let later = json!(number(&fallback["not_after"]) - 1);
    for upload in [
        json!({"one_time": [otto.one_time_json(10)]}),
        json!({"one_time": [elsewhere.one_time_json(10)]}),
        json!({"one_time": [bend(&good, "id", json!(11))]}),
        json!({"one_time": [bend(&good, "x25519", json!(to_base64(&[9; 32])))]}),
        json!({"one_time": [bend(&good, "kem", json!(to_base64(&[0; 1184])))]}),
        json!({"one_time": [swapped]}),
        json!({"one_time": [as_one_time]}),
        json!({"fallback": otto.fallback_json(10)}),
        json!({"fallback": as_fallback}),
        json!({"fallback": bend(&fallback, "not_after", later)}),
        json!({"fallback": bend(&fallback, "sig", json!(to_base64(&[0; 64])))}),
        // One bad key among good ones: nothing of the publication is taken.
        json!({"one_time": [nora.one_time_json(20), otto.one_time_json(21)]}),
        json!({"fallback": fallback, "one_time": [otto.one_time_json(21)], "remove": [1]}),
    ] {
        nora.post("/prekeys", &upload).await.problem(400, "bad_request");
        assert_eq!(nora.get("/prekeys").await.ok(), before, "{upload}");
    }
    assert_ne!(server.origin(), other.origin());
    nora.post("/prekeys", &json!({"fallback": fallback, "one_time": [good]})).await.ok();
}

both!(async keys_of_the_wrong_shape_are_refused);
async fn keys_of_the_wrong_shape_are_refused(engine: Engine) {
    let (_server, nora, _otto) = pair(engine).await;
    let before = nora.get("/prekeys").await.ok();
    let good = nora.one_time_json(10);
    for (field, value) in [
        ("x25519", json!(to_base64(&[1; 31]))),
        ("x25519", json!(to_base64(&[1; 33]))),
        ("x25519", json!("*")),
        ("kem", json!(to_base64(&[1; 1183]))),
        ("kem", json!(to_base64(&[1; 1185]))),
        ("kem", json!("")),
        ("sig", json!(to_base64(&[1; 63]))),
        ("sig", json!("")),
        ("id", json!(4_294_967_296_u64)),
        ("id", json!("10")),
        ("not_after", json!(now() + 1000)),
        ("not_before", json!(0)),
    ] {
        let mut key = good.clone();
        key[field] = value;
        nora.post("/prekeys", &json!({"one_time": [key]})).await.problem(400, "bad_request");
    }
    let too_many: Vec<Value> = vec![good.clone(); 101];
    nora.post("/prekeys", &json!({"one_time": too_many})).await.problem(413, "too_large");
    let twice = json!({"one_time": [good, nora.one_time_json(10)]});
    nora.post("/prekeys", &twice).await.problem(409, "prekey_reused");
    assert_eq!(nora.get("/prekeys").await.ok(), before);
}

both!(async a_fallback_prekey_is_valid_for_37_days_at_most_and_not_yet_over);
async fn a_fallback_prekey_is_valid_for_37_days_at_most_and_not_yet_over(engine: Engine) {
    let (_server, nora, otto) = pair(engine).await;
    const DAYS_37: u64 = 37 * 86_400;
    let signed = |id, from, to| {
        let secret = FallbackSecret::from_seeds(id, random(), random());
        nora.sign_fallback(&secret, Validity::new(from, to).unwrap())
    };
    let over = signed(10, now() - DAYS_37, now() - 1);
    nora.post("/prekeys", &json!({"fallback": over})).await.problem(400, "bad_request");
    for (name, value) in
        [("not_after", json!(now() + DAYS_37 + 10)), ("not_before", json!(now() + DAYS_37))]
    {
        let mut longer = signed(10, now() - 10, now() + DAYS_37 - 10);
        longer[name] = value;
        nora.post("/prekeys", &json!({"fallback": longer})).await.problem(400, "bad_request");
    }
    let mut bare = signed(10, now(), now() + 1000);
    bare.as_object_mut().unwrap().remove("not_before");
    nora.post("/prekeys", &json!({"fallback": bare})).await.problem(400, "bad_request");
    assert_eq!(nora.get("/prekeys").await.ok()["fallback"]["id"], 1);
    // One that is not valid yet is kept, and not handed out: the device cannot be reached.
    let early = signed(10, now() + 3600, now() + DAYS_37);
    nora.post("/prekeys", &json!({"fallback": early})).await.ok();
    let bundle = otto.get("/accounts/nora/bundle").await.ok();
    assert_eq!(bundle["devices"][0].get("fpk"), None);
    let current = signed(11, now() - 10, now() + 1000);
    nora.post("/prekeys", &json!({"fallback": current})).await.ok();
    assert_eq!(claim(&otto).await["fpk"], current);
}

both!(async prekeys_are_for_native_devices);
async fn prekeys_are_for_native_devices(engine: Engine) {
    let (server, nora, _otto) = pair(engine).await;
    let alice = Plain::new(&server, "alice").await;
    alice.get("/prekeys").await.problem(403, "forbidden");
    let upload = json!({"fallback": nora.fallback_json(2)});
    alice.post("/prekeys", &upload).await.problem(403, "forbidden");
    server.wire().get("/prekeys").await.problem(401, "unauthorized");
    server.wire().post("/prekeys", &upload).await.problem(401, "unauthorized");
    // A plain account has no chain and no device that could be addressed.
    let bundle = nora.get("/accounts/alice/bundle").await.ok();
    assert_eq!((&bundle["events"], &bundle["devices"]), (&json!([]), &json!([])));
}

both!(async a_bundle_proves_the_account_it_shows);
async fn a_bundle_proves_the_account_it_shows(engine: Engine) {
    let (server, nora, otto) = pair(engine).await;
    nora.publish(1..=1).await.ok();
    let bundle = otto.get("/accounts/nora/bundle").await.ok();
    assert_eq!(
        (&bundle["handle"], &bundle["account_id"]),
        (&json!("nora"), &json!(nora.account.to_string()))
    );
    let event = &bundle["events"][0];
    let bytes = |name: &str| from_base64(event[name].as_str().unwrap()).unwrap();
    let genesis = SignedGenesis {
        event: bytes("event"),
        signature: bytes("sig").try_into().unwrap(),
        accept_signature: bytes("accept_sig").try_into().unwrap(),
    };
    assert_eq!(genesis, nora.genesis);
    let handle = Handle::parse("nora").unwrap();
    genesis.verify(server.origin(), &handle).unwrap();
    let head = Checkpoint::verify(bundle["head"].as_str().unwrap(), server.vkey());
    let leaf = leaf_hash(&genesis.leaf(server.origin(), &handle));
    head.holds(&leaf, number(&event["sth_index"]), &event["inclusion"]);
    let device = &bundle["devices"][0];
    assert_eq!(
        (&device["device_id"], &device["fpk"]),
        (&json!(nora.device), &nora.fallback_json(0))
    );
    let dh = to_base64(nora.secret.public().dh_public().as_bytes());
    assert_eq!(device["x25519_pub"], dh);
    // The same by account id, and with a consistency proof from an older size.
    let by_id = format!("/accounts/by-id/{}/bundle?tree_size=1", nora.account);
    let again = otto.get(&by_id).await.ok();
    assert_eq!(again["events"][0]["event"], event["event"]);
    assert!(again["consistency"].is_array() && bundle.get("consistency").is_none());
}

both!(async asking_claims_nothing);
async fn asking_claims_nothing(engine: Engine) {
    let (_server, nora, otto) = pair(engine).await;
    nora.publish(1..=2).await.ok();
    for _ in 0..10 {
        let device = otto.get("/accounts/nora/bundle").await.ok()["devices"][0].clone();
        assert_eq!((device.get("otk"), &device["otk_status"]), (None, &json!("not_asked")));
        assert!(device["fpk"].is_object());
    }
    assert_eq!(held(&nora).await, [1, 2]);
}

both!(async strangers_get_no_one_time_prekey);
async fn strangers_get_no_one_time_prekey(engine: Engine) {
    let (server, nora, otto) = pair(engine).await;
    nora.publish(1..=2).await.ok();
    let eve = Native::new(&server, "eve").await;
    let claimed = eve.post("/accounts/nora/bundle", &json!({})).await;
    claimed.problem(403, "forbidden");
    server.wire().post("/accounts/nora/bundle", &json!({})).await.problem(401, "unauthorized");
    eve.post("/accounts/nobody/bundle", &json!({})).await.problem(404, "not_found");
    // A common acquaintance is no conversation.
    eve.conversation("otto").await;
    eve.post("/accounts/nora/bundle", &json!({})).await.problem(403, "forbidden");
    assert_eq!(held(&nora).await, [1, 2]);
    assert_eq!(claim(&otto).await["otk_status"], "ok");
}

both!(async each_one_time_prekey_goes_to_one_claimer);
async fn each_one_time_prekey_goes_to_one_claimer(engine: Engine) {
    let (server, nora, otto) = pair(engine).await;
    nora.publish(1..=6).await.ok();
    let mut claimers = vec![otto];
    for n in 0..4 {
        let claimer = Native::new(&server, &format!("claimer{n}")).await;
        claimer.conversation("nora").await;
        claimers.push(claimer);
    }
    // Ten claims at once, two each, for six keys.
    let claims = join_all((0..10).map(|n| claim(&claimers[n % 5]))).await;
    let got: Vec<u64> = claims.iter().filter_map(|device| device["otk"]["id"].as_u64()).collect();
    assert_eq!(got.iter().copied().collect::<BTreeSet<_>>(), (1..=6).collect());
    assert_eq!(got.len(), 6, "none twice");
    for device in &claims {
        let status = if device.get("otk").is_some() { "ok" } else { "exhausted" };
        assert_eq!(device["otk_status"], status);
        assert_eq!(device["fpk"], nora.fallback_json(0), "always served");
    }
    assert_eq!(held(&nora).await, Vec::<u64>::new());
}

both!(async f9_one_claimer_cannot_drain_a_device);
async fn f9_one_claimer_cannot_drain_a_device(engine: Engine) {
    let (server, nora, otto) = pair(engine).await;
    nora.publish(1..=20).await.ok();
    for n in 1..=5 {
        assert_eq!(claim(&otto).await["otk"]["id"], n, "the oldest first");
    }
    for _ in 0..30 {
        let device = claim(&otto).await;
        assert_eq!((device.get("otk"), &device["otk_status"]), (None, &json!("throttled")));
        assert!(device["fpk"].is_object(), "messages can still be sent");
    }
    assert_eq!(held(&nora).await, (6..=20).collect::<Vec<u64>>());
    // Nor by way of another login of the account; others are not held up.
    let eve = Native::new(&server, "eve").await;
    eve.conversation("nora").await;
    assert_eq!(claim(&eve).await["otk"]["id"], 6);
    otto.say(&nora, "on the fallback prekey").await;
}

both!(async f9_no_more_than_two_hundred_are_kept);
async fn f9_no_more_than_two_hundred_are_kept(engine: Engine) {
    let (_server, nora, _otto) = pair(engine).await;
    nora.publish(1..=100).await.ok();
    nora.publish(101..=200).await.ok();
    nora.publish(201..=201).await.problem(413, "too_large");
    assert_eq!(held(&nora).await.len(), 200);
    // Room is made in the same step.
    let swap = json!({"remove": [1], "one_time": [nora.one_time_json(201)]});
    let stock = nora.post("/prekeys", &swap).await.ok();
    assert_eq!(stock["one_time"].as_array().unwrap().len(), 200);
}
