//! Access tokens as attacked in design/e2ee.md 4.G, and refresh tokens (design/README.md 7). What
//! binds a token to a key is in `dpop`.

use futures_util::future::join_all;
use nexo_schema::bytes::{to_base64, to_base64url};
use serde_json::{Value, json};

use crate::harness::plain::message;
use crate::harness::proof::{claims_of, jwt, jwt_of};
use crate::harness::{Engine, Native, Plain, Reply, Server, Socket, Wire, both, now, random, text};

/// A relay whose secret the test knows, and a token it gave.
struct Mint {
    server: Server,
    alice: Plain,
    secret: String,
    head: Value,
    claims: Value,
}

impl Mint {
    async fn new(engine: Engine) -> Self {
        let secret = to_base64url(&random::<32>());
        let server = engine.setup().env("JWT_SECRET", &secret).start();
        let alice = Plain::new(&server, "alice").await;
        let claims = claims_of(alice.token());
        Self { server, alice, secret, head: json!({"typ": "JWT", "alg": "HS256"}), claims }
    }

    fn sign(&self, head: &Value, claims: &Value) -> String {
        jwt(head, claims, self.secret.as_bytes())
    }

    async fn show(&self, token: &str) -> Reply {
        self.server.wire().with_token(token).get("/devices/x25519_pub").await
    }

    /// Refused everywhere: on routes and at the door of the socket.
    async fn refused(&self, what: &str, token: &str) {
        let reply = self.show(token).await;
        assert_eq!(reply.problem(401, "unauthorized")["status"], 401, "{what}");
        let header = [("Authorization", format!("Bearer {token}"))];
        let header = header.each_ref().map(|(name, value)| (*name, value.as_str()));
        let mut socket = Socket::open(self.server.url(), "", &header).await;
        assert_eq!(socket.closed().await, 4401, "{what}");
    }
}

fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    match value {
        Value::Null => drop(object.as_object_mut().unwrap().remove(name)),
        value => object[name] = value,
    }
    object
}

both!(async a_token_with_the_relays_signature_and_claims_is_good);
async fn a_token_with_the_relays_signature_and_claims_is_good(engine: Engine) {
    // What the other tests change is the reason they are refused.
    let mint = Mint::new(engine).await;
    mint.show(&mint.sign(&mint.head, &mint.claims)).await.ok();
    let plain_head = json!({"alg": "HS256"});
    mint.show(&mint.sign(&plain_head, &mint.claims)).await.ok();
}

both!(async g_headers_of_tokens_that_are_not_ours);
async fn g_headers_of_tokens_that_are_not_ours(engine: Engine) {
    let mint = Mint::new(engine).await;
    for alg in ["none", "None", "HS384", "HS512", "hs256", "RS256", "ES256", "EdDSA", "PS256", ""] {
        let token = mint.sign(&with(&mint.head, "alg", json!(alg)), &mint.claims);
        mint.refused(alg, &token).await;
        // Without a signature as well, which is what `none` means.
        let bare = token.rsplit_once('.').unwrap().0;
        mint.refused(alg, &format!("{bare}.")).await;
    }
    mint.refused("no alg", &mint.sign(&json!({"typ": "JWT"}), &mint.claims)).await;
    for (name, value) in [
        ("kid", json!("1")),
        ("kid", json!("../../dev/null")),
        ("jku", json!("https://evil.test/keys")),
        ("jwk", json!({"kty": "oct", "k": "AAAA"})),
        ("x5u", json!("https://evil.test/cert")),
        ("x5c", json!(["AAAA"])),
        ("crit", json!(["exp"])),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("typ", json!("dpop+jwt")),
        ("typ", json!("at+jwt")),
        ("b64", json!(false)),
    ] {
        let token = mint.sign(&with(&mint.head, name, value.clone()), &mint.claims);
        mint.refused(&format!("{name} {value}"), &token).await;
    }
}

both!(async g_claims_that_are_missing_mistyped_or_not_for_here_and_now);
async fn g_claims_that_are_missing_mistyped_or_not_for_here_and_now(engine: Engine) {
    let mint = Mint::new(engine).await;
    for name in ["sub", "hdl", "iss", "aud", "iat", "nbf", "exp", "jti"] {
        for wrong in [json!(null), json!(7.5), json!([]), json!({}), json!(true)] {
            let token = mint.sign(&mint.head, &with(&mint.claims, name, wrong.clone()));
            mint.refused(&format!("{name} {wrong}"), &token).await;
        }
    }
    let now = now();
    for (name, value) in [
        ("iss", json!(7)),
        ("iss", json!("somebody")),
        ("iss", json!(["nexo"])),
        ("aud", json!("other.example.org")),
        ("aud", json!([mint.server.origin()])),
        ("aud", json!("")),
        ("exp", json!("x")),
        ("exp", json!(now.to_string())),
        ("exp", json!(now - 6)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("nbf", json!(now + 600)),
        ("iat", json!(now + 600)),
        ("sub", json!("ghost")),
        ("sub", json!("")),
        ("sub", json!("alice")),
        ("hdl", json!("Alice!")),
        ("cnf", json!("x")),
        ("cnf", json!({})),
        ("scope", json!("admin")),
    ] {
        let token = mint.sign(&mint.head, &with(&mint.claims, name, value.clone()));
        mint.refused(&format!("{name} {value}"), &token).await;
    }
    // A lifetime of its own making is no matter of signatures; the device still is.
    let nobody = with(&mint.claims, "sub", json!("00".repeat(32)));
    mint.refused("no such device", &mint.sign(&mint.head, &nobody)).await;
}

both!(async g_members_that_stand_twice);
async fn g_members_that_stand_twice(engine: Engine) {
    let mint = Mint::new(engine).await;
    let (head, claims) = (mint.head.to_string(), mint.claims.to_string());
    let secret = mint.secret.as_bytes();
    let doubled = |text: &str, member: &str| format!("{{{member},{}", &text[1..]);
    for member in [r#""sub":"ghost""#, r#""exp":1"#, r#""aud":"x""#, r#""iss":"x""#] {
        mint.refused(member, &jwt_of(&head, &doubled(&claims, member), secret)).await;
        // Last one wins in one reader, first in another; none in ours.
        let after = format!("{},{member}}}", claims.strip_suffix('}').unwrap());
        mint.refused(member, &jwt_of(&head, &after, secret)).await;
    }
    let alg = r#""alg":"none""#;
    mint.refused(alg, &jwt_of(&doubled(&head, alg), &claims, secret)).await;
    for (bad_head, bad_claims) in
        [("", ""), ("{", "{"), ("null", "null"), ("[]", "[]"), (&head, ""), ("", &claims)]
    {
        mint.refused(bad_head, &jwt_of(bad_head, bad_claims, secret)).await;
    }
}

both!(async g_tokens_spelled_or_signed_otherwise);
async fn g_tokens_spelled_or_signed_otherwise(engine: Engine) {
    let mint = Mint::new(engine).await;
    let good = mint.sign(&mint.head, &mint.claims);
    mint.show(&good).await.ok();
    let parts: Vec<&str> = good.split('.').collect();
    let [head, claims, sig] = parts[..] else { panic!("{good}") };
    // The last character of a signature has two bits that mean nothing, and must be zero.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(&sig[sig.len() - 1..]).unwrap();
    let bent = format!("{}{}", &sig[..sig.len() - 1], &alphabet[at + 1..at + 2]);
    let padded = format!("{claims}==");
    let other = |secret: &[u8]| jwt(&mint.head, &mint.claims, secret);
    for (what, token) in [
        ("padding", format!("{head}.{claims}.{sig}=")),
        ("padding inside", format!("{head}.{padded}.{sig}")),
        ("bits that mean nothing", format!("{head}.{claims}.{bent}")),
        ("two parts", format!("{head}.{claims}")),
        ("four parts", format!("{good}.{sig}")),
        ("five parts", format!("{good}..")),
        ("no signature", format!("{head}.{claims}.")),
        ("half a signature", format!("{head}.{claims}.{}", &sig[..20])),
        ("a longer signature", format!("{head}.{claims}.{sig}{sig}")),
        ("upper case", format!("{head}.{claims}.{}", sig.to_uppercase())),
        ("a space", format!("{head}. {claims}.{sig}")),
        ("another claim", good.replacen(claims, &to_base64url(b"{}"), 1)),
        ("huge", format!("{head}.{}.{sig}", claims.repeat(20))),
        ("no secret", other(b"")),
        ("another secret", other(&random::<32>())),
        ("the device key as secret", other(mint.alice.key.verifying_key().as_bytes())),
        ("the log key as secret", other(mint.server.vkey().as_bytes())),
        ("the origin as secret", other(mint.server.origin().as_bytes())),
        ("the secret decoded", other(&nexo_schema::bytes::from_base64url(&mint.secret).unwrap())),
        ("the refresh token", mint.alice.refresh.clone()),
    ] {
        mint.refused(what, &token).await;
    }
}

both!(async a_token_outlives_a_restart_but_not_its_secret);
async fn a_token_outlives_a_restart_but_not_its_secret(engine: Engine) {
    let mut server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let show = async |server: &Server| {
        server.wire().with_token(alice.token()).get("/devices/x25519_pub").await
    };
    server.kill9();
    server.restart();
    show(&server).await.ok();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(server.data().join("jwt.secret")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    server.terminate();
    std::fs::remove_file(server.data().join("jwt.secret")).unwrap();
    server.restart();
    show(&server).await.problem(401, "unauthorized");
}

both!(async a_token_in_a_query_is_for_sockets_alone);
async fn a_token_in_a_query_is_for_sockets_alone(engine: Engine) {
    let server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let path = format!("/devices/x25519_pub?token={}", alice.token());
    server.wire().get(&path).await.problem(401, "unauthorized");
    // The header counts where both stand.
    let bearer = format!("Bearer {}", alice.token());
    let header = [("Authorization", bearer.as_str())];
    Socket::open(server.url(), "token=x", &header).await.settled().await;
}

/// Uses a refresh token.
async fn refresh(wire: &Wire, token: &str) -> Reply {
    wire.post("/auth/refresh", &json!({"refresh": token})).await
}

both!(async a_refresh_token_is_rotated_and_its_access_token_works);
async fn a_refresh_token_is_rotated_and_its_access_token_works(engine: Engine) {
    let mut server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let mut newest = alice.refresh.clone();
    for round in 0..3 {
        let tokens = refresh(&server.wire(), &newest).await.ok();
        assert_ne!(tokens["refresh"], newest, "round {round}");
        assert_eq!(tokens["device_id"], alice.device);
        let wire = server.wire().with_token(tokens["access"].as_str().unwrap());
        wire.get("/devices/x25519_pub").await.ok();
        newest = text(&tokens["refresh"]);
        // It is in the database, not in a process.
        server.kill9();
        server.restart();
    }
    refresh(&server.wire(), &newest).await.ok();
}

both!(async a_lost_answer_can_be_asked_for_again);
async fn a_lost_answer_can_be_asked_for_again(engine: Engine) {
    let server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let wire = server.wire();
    let first = refresh(&wire, &alice.refresh).await.ok();
    let again = join_all((0..8).map(|_| refresh(&wire, &alice.refresh))).await;
    for reply in again {
        assert_eq!(reply.ok()["refresh"], first["refresh"]);
    }
    // All of them were the same step; the next one is still open.
    refresh(&wire, first["refresh"].as_str().unwrap()).await.ok();
}

both!(async a_used_refresh_token_ends_the_login_it_belongs_to);
async fn a_used_refresh_token_ends_the_login_it_belongs_to(engine: Engine) {
    let server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let other = Plain::log_in(&server.wire(), "alice", alice.key.clone()).await;
    let wire = server.wire();
    let second = text(&refresh(&wire, &alice.refresh).await.ok()["refresh"]);
    let third = text(&refresh(&wire, &second).await.ok()["refresh"]);
    // The first was used, and so was its successor: somebody has a copy.
    refresh(&wire, &alice.refresh).await.problem(401, "refresh_invalid");
    for token in [&third, &second, &alice.refresh] {
        refresh(&wire, token).await.problem(401, "refresh_invalid");
    }
    // Another login of the device is another matter.
    refresh(&wire, &other.refresh).await.ok();
}

both!(async of_concurrent_refreshes_all_get_one_successor);
async fn of_concurrent_refreshes_all_get_one_successor(engine: Engine) {
    let server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let wire = server.wire();
    let replies = join_all((0..8).map(|_| refresh(&wire, &alice.refresh))).await;
    let successors: Vec<String> = replies.iter().map(|r| text(&r.ok()["refresh"])).collect();
    assert!(successors.iter().all(|token| *token == successors[0]), "{successors:?}");
}

both!(async what_was_never_a_refresh_token);
async fn what_was_never_a_refresh_token(engine: Engine) {
    let server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let wire = server.wire();
    let upper = alice.refresh.to_uppercase();
    let bent = format!("{}=", alice.refresh);
    let random = format!("nxr_{}", to_base64url(&random::<32>()));
    let hashed = to_base64(&random_hash(&alice.refresh));
    for token in ["", "x", "nxr_", &upper, &bent, &random, &hashed, alice.token()] {
        refresh(&wire, token).await.problem(401, "refresh_invalid");
    }
    // An attempt with a wrong one ends nothing.
    refresh(&wire, &alice.refresh).await.ok();
}

fn random_hash(token: &str) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(token).into()
}

both!(async tokens_are_not_kept_in_clear);
async fn tokens_are_not_kept_in_clear(engine: Engine) {
    let mut server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let newest = text(&refresh(&server.wire(), &alice.refresh).await.ok()["refresh"]);
    // All that is in the database is then in its files.
    server.terminate();
    let mut seen = 0;
    for bytes in server.stored() {
        seen += bytes.len();
        for secret in [&alice.refresh, &newest, &alice.wire.token.clone().unwrap()] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{secret}");
        }
    }
    assert!(seen > 10_000, "the database was read");
}

both!(async a_token_of_one_device_is_no_token_of_another);
async fn a_token_of_one_device_is_no_token_of_another(engine: Engine) {
    let server = engine.start();
    let (nora, alice) = (Native::new(&server, "nora").await, Plain::new(&server, "alice").await);
    let conv = alice.conversation("nora").await;
    // Both take part; each acts as itself.
    let stored = alice.say(&conv, "x").await;
    assert_eq!(stored["sender_device"], alice.device);
    nora.post("/messages", &message(&conv, "x")).await.problem(400, "bad_request");
    assert_ne!(
        nora.get("/devices/x25519_pub").await.ok(),
        alice.get("/devices/x25519_pub").await.ok()
    );
}
