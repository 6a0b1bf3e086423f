//! One key, one spelling; one handle, one spelling.

use nexo_schema::bytes::{from_hex, to_base64};
use serde_json::json;

use crate::harness::plain::{new_key, public};
use crate::harness::{Server, Snapshot, vectors};

#[tokio::test]
async fn a4_hole_32_keys_outside_the_prime_order_group_are_refused() {
    let server = Server::start();
    let before = Snapshot::of(&server).await;
    let file = vectors("nexo/ed25519_to_x25519.json");
    let cases = file["reject"].as_array().unwrap();
    assert_eq!(cases.len(), 31);
    for case in cases {
        let key: [u8; 32] = from_hex(case["ed25519_pub"].as_str().unwrap()).unwrap();
        let request = json!({"handle": "alice", "ed25519_pub": to_base64(&key)});
        let refused = server.wire().post("/auth/register", &request).await;
        assert_eq!(refused.problem(400, "bad_request")["status"], 400, "{}", case["why"]);
    }
    before.unchanged(&server).await;
}

#[tokio::test]
async fn hole_33_a_key_has_one_spelling() {
    let server = Server::start();
    let good = public(&new_key());
    let bare = good.trim_end_matches('=');
    // The last character before the padding carries two bits that must be zero.
    let last = bare.chars().last().unwrap();
    let bent = {
        const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let at = ALPHABET.find(last).unwrap();
        format!("{}{}=", &bare[..bare.len() - 1], &ALPHABET[at + 1..at + 2])
    };
    let spellings = [
        bare.to_owned(),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{}\n{}", &good[..20], &good[20..]),
        format!("{}*{}", &good[..20], &good[20..]),
        format!("{}===={}", &good[..20], &good[20..]),
        bent,
        to_base64(&[1; 31]),
        to_base64(&[1; 33]),
        String::new(),
        "\u{0}".to_owned(),
    ];
    for spelling in &spellings {
        let request = json!({"handle": "alice", "ed25519_pub": spelling});
        let refused = server.wire().post("/auth/register", &request).await;
        assert_eq!(refused.problem(400, "bad_request")["status"], 400, "{spelling:?}");
    }
    let request = json!({"handle": "alice", "ed25519_pub": good});
    server.wire().post("/auth/register", &request).await.ok();
}

#[tokio::test]
async fn hole_33_bytes_of_messages_have_one_spelling_too() {
    let server = Server::start();
    let alice = crate::harness::Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let before = Snapshot::of(&server).await;
    for cipher in ["aGk", "aGk==", "aG k=", "aGl=", "a", "====", "aGk=\n", "_-==", "é", ""] {
        let body = json!({"conv_id": conv, "cipher": cipher, "ad": {}});
        let refused = alice.post("/messages", &body).await;
        assert_eq!(refused.problem(400, "bad_request")["status"], 400, "{cipher:?}");
    }
    before.unchanged(&server).await;
}

#[tokio::test]
async fn hole_34_a_handle_has_one_spelling_and_no_look_alike() {
    let server = Server::start();
    let before = Snapshot::of(&server).await;
    let handles = [
        "",
        "a",
        " ",
        &"a".repeat(33),
        ".alice",
        "-alice",
        "_alice",
        "al ice",
        "al\tice",
        "alice\u{0}",
        "al/ice",
        "al%69ce",
        "\u{430}lice",         // Cyrillic a
        "alic\u{435}",         // Cyrillic ie
        "al\u{200b}ice",       // zero width space
        "alice\u{200d}",       // zero width joiner
        "\u{feff}alice",       // byte order mark
        "\u{a0}alice",         // no-break space, which Unicode trims
        "\u{ff41}\u{ff4c}ice", // full width
        "al\u{131}ce",         // dotless i
        "AL\u{130}CE",         // dotted capital I
        "\u{212a}ate",         // the Kelvin sign, which Unicode lowers to k
        "a\u{301}lice",        // combining accent
        "\u{202e}ecila",       // right-to-left override
    ];
    for handle in handles {
        let request = json!({"handle": handle, "ed25519_pub": public(&new_key())});
        let refused = server.wire().post("/auth/register", &request).await;
        assert_eq!(refused.problem(400, "bad_request")["status"], 400, "{handle:?}");
    }
    before.unchanged(&server).await;
}
