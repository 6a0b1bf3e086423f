//! Reads `schema/vectors` for the unit tests, and checks the known answers that
//! show values no public function returns (shared secrets, message keys).

use super::envelope::{MessageContext, PayloadDigest, RecipientHash, envelope_hash, packet_aad};
use super::ids::{AccountId, ConversationId, MessageId};
use super::kdf::hash;
use super::keys::{DeviceSecret, DhPublic, FallbackSecret, LocalParty, OneTimeSecret, Party};
use super::oneshot::message_key;
use super::packet::{PrekeyBlock, header_bytes};
use super::pqxdh::{self, HandshakeRandomness};
use super::prekey::{FallbackPrekey, OneTimePrekey, SignedFallback, SignedOneTime, Validity};
use super::seal::{Purpose, nx_open, nx_seal};
use super::{padding, tombstone::Tombstone};
use serde_json::Value;

macro_rules! vector {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/vectors/", $path))
    };
}

/// The parsed vector file at `schema/vectors/<path>`. Compiled in, so that not
/// even the tests of this folder do I/O.
pub(super) fn load(path: &str) -> Value {
    let text = match path {
        "nexo/kat_draft.json" => vector!("nexo/kat_draft.json"),
        "nexo/kat_session.json" => vector!("nexo/kat_session.json"),
        "nexo/ed25519_to_x25519.json" => vector!("nexo/ed25519_to_x25519.json"),
        "nexo/salamander_xchacha20poly1305.json" => {
            vector!("nexo/salamander_xchacha20poly1305.json")
        }
        "rfc_vectors.json" => vector!("rfc_vectors.json"),
        "wycheproof/hkdf_sha256_test.json" => vector!("wycheproof/hkdf_sha256_test.json"),
        "wycheproof/hmac_sha256_test.json" => vector!("wycheproof/hmac_sha256_test.json"),
        "wycheproof/x25519_test.json" => vector!("wycheproof/x25519_test.json"),
        other => panic!("no vector file {other} is compiled in"),
    };
    serde_json::from_str(text).unwrap()
}

/// The bytes of a hex string of any length.
pub(super) fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// The bytes of a hex string of a fixed length.
pub(super) fn hex_n<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().unwrap()
}

/// Alice, Bob and one of the two worked sessions between them.
pub(super) struct Session {
    pub(super) kat: Value,
    pub(super) name: &'static str,
    pub(super) alice: DeviceSecret,
    pub(super) bob: DeviceSecret,
    pub(super) fallback: FallbackSecret,
    pub(super) one_time: Option<OneTimeSecret>,
}

impl Session {
    pub(super) fn all() -> Vec<Self> {
        ["session_fallback_only", "session_with_otk"].map(Self::named).into()
    }

    pub(super) fn named(name: &'static str) -> Self {
        let kat = load("nexo/kat_draft.json");
        let s = &kat[name];
        let kem = hex_n(&s["mlkem_seed"]);
        let one_time = s["otk_id"].as_u64().map(|id| {
            OneTimeSecret::from_seeds(u32::try_from(id).unwrap(), hex_n(&s["otk_secret"]), kem)
        });
        Self {
            alice: DeviceSecret::from_seed(&hex_n(&kat["device_alice"]["ed25519_seed"])),
            bob: DeviceSecret::from_seed(&hex_n(&kat["device_bob"]["ed25519_seed"])),
            fallback: FallbackSecret::from_seeds(7, hex_n(&s["spk_secret"]), kem),
            one_time,
            name,
            kat,
        }
    }

    pub(super) fn value(&self, key: &str) -> &Value {
        &self.kat[self.name][key]
    }

    fn bytes(&self, key: &str) -> Vec<u8> {
        hex(self.value(key))
    }

    pub(super) fn fixed<const N: usize>(&self, key: &str) -> [u8; N] {
        hex_n(self.value(key))
    }

    pub(super) fn origin(&self) -> &str {
        self.value("origin").as_str().unwrap()
    }

    fn account(&self, who: &str) -> AccountId {
        AccountId::from_bytes(hex_n(&self.kat[who]["account_id_placeholder"]))
    }

    pub(super) fn alice_account(&self) -> AccountId {
        self.account("device_alice")
    }

    pub(super) fn bob_account(&self) -> AccountId {
        self.account("device_bob")
    }

    pub(super) fn alice_party(&self) -> Party {
        Party { account: self.alice_account(), device: self.alice.public() }
    }

    pub(super) fn bob_party(&self) -> Party {
        Party { account: self.bob_account(), device: self.bob.public() }
    }

    pub(super) fn context(&self) -> MessageContext<'_> {
        MessageContext {
            origin: self.origin(),
            conversation: ConversationId::from_bytes(self.fixed("conv_id")),
            message: MessageId::from_bytes(self.fixed("msg_id")),
            sender: self.alice_party(),
        }
    }

    pub(super) fn prekeys(&self) -> (FallbackPrekey, Option<OneTimePrekey>) {
        let validity = Validity::new(1_700_000_000, 1_700_604_800).unwrap();
        let signed = SignedFallback::sign(&self.bob, self.origin(), &self.fallback, validity);
        let fallback = signed.verify(self.origin(), &self.bob.public(), 1_700_000_000).unwrap();
        let one_time = self.one_time.as_ref().map(|secret| {
            let signed = SignedOneTime::sign(&self.bob, self.origin(), secret);
            signed.verify(self.origin(), &self.bob.public()).unwrap()
        });
        (fallback, one_time)
    }

    /// Prekeys of Bob, correctly signed, one of which has `low` as its X25519 half.
    fn prekeys_with_low_order(
        &self,
        low: DhPublic,
        fallback_is_low: bool,
    ) -> (FallbackPrekey, OneTimePrekey) {
        let (origin, bob) = (self.origin(), self.bob.public());
        let validity = Validity::new(1_700_000_000, 1_700_604_800).unwrap();
        let mut fallback = SignedFallback::sign(&self.bob, origin, &self.fallback, validity);
        let mut one_time = SignedOneTime::sign(&self.bob, origin, self.one_time.as_ref().unwrap());
        if fallback_is_low {
            fallback.dh = low;
            fallback.signature = self.bob.sign(&fallback.statement(origin, bob.device_id()));
        } else {
            one_time.dh = low;
            one_time.signature = self.bob.sign(&one_time.statement(origin, bob.device_id()));
        }
        let fallback = fallback.verify(origin, &bob, 1_700_000_000).unwrap();
        (fallback, one_time.verify(origin, &bob).unwrap())
    }

    fn initiate(&self) -> (PrekeyBlock, pqxdh::Handshake) {
        let (fallback, one_time) = self.prekeys();
        let me = LocalParty { account: self.alice_account(), secret: &self.alice };
        let to = self.bob_account();
        let randomness = HandshakeRandomness {
            ephemeral: self.fixed("ephemeral_secret"),
            kem: self.fixed("kem_m"),
        };
        pqxdh::initiate(self.origin(), &me, to, &fallback, one_time.as_ref(), &randomness).unwrap()
    }

    fn respond(&self, block: &PrekeyBlock) -> pqxdh::Handshake {
        let me = LocalParty { account: self.bob_account(), secret: &self.bob };
        let one_time = self.one_time.as_ref();
        pqxdh::respond(self.origin(), &self.alice_party(), &me, &self.fallback, one_time, block)
            .unwrap()
    }
}

#[test]
fn kat_device_keys() {
    let s = Session::named("session_fallback_only");
    for (name, secret) in [("device_alice", &s.alice), ("device_bob", &s.bob)] {
        let want = &s.kat[name];
        assert_eq!(secret.public().as_bytes()[..], hex(&want["ed25519_pub"]));
        assert_eq!(secret.public().device_id().as_bytes()[..], hex(&want["device_id"]));
        assert_eq!(secret.public().dh_public().as_bytes()[..], hex(&want["x25519_pub"]));
        assert_eq!(secret.dh_secret().as_bytes()[..], hex(&want["x25519_secret_unclamped"]));
        assert_eq!(secret.dh_secret().public(), secret.public().dh_public());
    }
    let (a, b) = (s.alice_account(), s.bob_account());
    assert_eq!(ConversationId::direct(s.origin(), a, b).as_bytes()[..], s.bytes("conv_id"));
    assert_eq!(ConversationId::direct(s.origin(), b, a).as_bytes()[..], s.bytes("conv_id"));
}

#[test]
fn kat_dh_and_kem() {
    for s in Session::all() {
        let ephemeral = super::keys::DhSecret::from_bytes(s.fixed("ephemeral_secret"));
        let spk = s.fallback.public().dh;
        let mut dh = vec![
            s.alice.dh_secret().agree(&spk).unwrap(),
            ephemeral.agree(&s.bob.public().dh_public()).unwrap(),
            ephemeral.agree(&spk).unwrap(),
        ];
        if let Some(one_time) = &s.one_time {
            dh.push(ephemeral.agree(&one_time.public().dh).unwrap());
        }
        let want = s.value("dh").as_array().unwrap();
        assert_eq!(dh.len(), want.len());
        for (ours, theirs) in dh.iter().zip(want) {
            assert_eq!(ours[..], hex(theirs));
        }
        assert_eq!(s.fallback.public().kem.to_bytes()[..], s.bytes("mlkem_ek"));
    }
}

#[test]
fn kat_pqxdh_both_sides() {
    for s in Session::all() {
        let (block, alice) = s.initiate();
        let bob = s.respond(&block);
        assert_eq!(block.ciphertext.as_bytes()[..], s.bytes("kem_ct"));
        for handshake in [&alice, &bob] {
            assert_eq!(handshake.transcript()[..], s.bytes("transcript_hash"));
            assert_eq!(handshake.root_key()[..], s.bytes("rk0"));
            assert_eq!(handshake.continuity_key()[..], s.bytes("continuity0"));
            assert_eq!(handshake.session_id().as_bytes()[..], s.bytes("session_id"));
            assert_eq!(message_key(handshake)[..], s.bytes("oneshot_mk_from_rk0"));
        }
    }
}

#[test]
fn kat_payload_and_key_packet() {
    for s in Session::all() {
        let context = s.context();
        let aad = context.payload_aad();
        assert_eq!(aad, s.bytes("payload_aad"));
        let plaintext = padding::pad(br#"{"t":"text","text":"hi"}"#).unwrap();
        assert_eq!(plaintext[..], s.bytes("payload_plaintext"));
        let hedge = s.fixed("payload_rand32");
        let sealed = nx_seal(&s.fixed("cek"), Purpose::Payload, &aad, &plaintext, &hedge);
        assert_eq!(sealed, s.bytes("sealed_payload"));
        let digest = PayloadDigest::of(&aad, &sealed);
        assert_eq!(digest.as_bytes()[..], s.bytes("payload_digest"));

        // The worked key packet is the first of a session (type 1, mk0): here by
        // its parts, in kat_session.rs through the functions that make it.
        let (block, handshake) = s.initiate();
        let ratchet = super::keys::DhSecret::from_bytes(s.fixed("alice_ratchet_secret0")).public();
        let place = super::ratchet::Place { ratchet, previous: 0, n: 0 };
        let header = header_bytes(1, handshake.session_id(), &place, Some(&block));
        assert_eq!(header, s.bytes("kp_header"));
        let bob = s.bob_party();
        let aad_kp = packet_aad(&context, bob.account, bob.device.device_id(), &digest, &header);
        assert_eq!(aad_kp, s.bytes("kp_aad"));
        let (mk, cek) = (s.fixed("mk0"), s.bytes("cek"));
        let sealed_key = nx_seal(&mk, Purpose::KeyPacket, &aad_kp, &cek, &s.fixed("kp_rand32"));
        assert_eq!(sealed_key, s.bytes("sealed_keypacket"));
        assert_eq!(nx_open(&mk, Purpose::KeyPacket, &aad_kp, &sealed_key).unwrap()[..], cek);

        let packet = [header, sealed_key].concat();
        let hashes = [RecipientHash { device: bob.device.device_id(), packet: hash(&packet) }];
        let eh = envelope_hash(&aad, &digest, &hashes).unwrap();
        assert_eq!(eh.as_bytes()[..], s.bytes("envelope_hash"));
        let sizes = s.value("sizes");
        assert_eq!(
            sealed.len(),
            usize::try_from(sizes["sealed_payload"].as_u64().unwrap()).unwrap()
        );

        let tombstone = Tombstone {
            origin: s.origin(),
            conversation: context.conversation,
            target: context.message,
            target_envelope: eh,
            account: s.alice_account(),
            device: s.alice.public().device_id(),
            time_ms: 1_700_000_100_000,
        };
        assert_eq!(tombstone.message(), s.bytes("tombstone_message"));
        assert_eq!(tombstone.sign(&s.alice).unwrap()[..], s.bytes("tombstone_sig"));
    }
}

#[test]
fn kat_prekey_signatures() {
    let s = Session::named("session_with_otk");
    let want = &s.kat["prekey_signatures"];
    let validity = Validity::new(1_700_000_000, 1_700_604_800).unwrap();
    let fallback = SignedFallback::sign(&s.bob, s.origin(), &s.fallback, validity);
    assert_eq!(fallback.signature[..], hex(&want["fpk_sig"]));
    let bob = s.bob.public().device_id();
    assert_eq!(hash(&fallback.statement(s.origin(), bob))[..], hex(&want["fpk_message_sha256"]));
    let one_time = SignedOneTime::sign(&s.bob, s.origin(), s.one_time.as_ref().unwrap());
    assert_eq!(one_time.signature[..], hex(&want["otk_sig"]));
    assert_eq!(hash(&one_time.statement(s.origin(), bob))[..], hex(&want["otk_message_sha256"]));
}

#[test]
fn b4_one_time_flag_or_prekey_of_the_other_side_changes_the_keys() {
    let s = Session::named("session_with_otk");
    let (block, alice) = s.initiate();
    let me = LocalParty { account: s.bob_account(), secret: &s.bob };
    let from = s.alice_party();
    // Flag removed: Bob answers without his one-time key.
    let stripped = PrekeyBlock { one_time_id: None, ..block.clone() };
    let bob = pqxdh::respond(s.origin(), &from, &me, &s.fallback, None, &stripped).unwrap();
    assert_ne!(alice.transcript(), bob.transcript());
    assert_ne!(alice.root_key(), bob.root_key());
    // Flag kept, but the secret is missing, or is another one.
    for other in [None, Some(OneTimeSecret::from_seeds(43, [9; 32], [9; 64]))] {
        let refused = pqxdh::respond(s.origin(), &from, &me, &s.fallback, other.as_ref(), &block);
        assert_eq!(refused.unwrap_err(), pqxdh::HandshakeRefused::WrongPrekey);
    }
}

#[test]
fn a1_low_order_points_never_make_a_handshake() {
    let s = Session::named("session_with_otk");
    let me = LocalParty { account: s.bob_account(), secret: &s.bob };
    let (block, _) = s.initiate();
    let cases = load("wycheproof/x25519_test.json");
    let mut seen = 0;
    for case in cases["testGroups"][0]["tests"].as_array().unwrap() {
        if !case["flags"].as_array().unwrap().iter().any(|f| f == "ZeroSharedSecret") {
            continue;
        }
        seen += 1;
        let low = DhPublic::from_bytes(hex_n(&case["public"]));
        // As the ephemeral key a stranger sends us.
        let poisoned = PrekeyBlock { ephemeral: low, ..block.clone() };
        let one_time = s.one_time.as_ref();
        let refused =
            pqxdh::respond(s.origin(), &s.alice_party(), &me, &s.fallback, one_time, &poisoned);
        assert_eq!(refused.unwrap_err(), pqxdh::HandshakeRefused::NonContributory);
        // As a fallback or one-time prekey that Bob himself signed.
        for fallback_is_low in [true, false] {
            let (fallback, one_time) = s.prekeys_with_low_order(low, fallback_is_low);
            let alice = LocalParty { account: s.alice_account(), secret: &s.alice };
            let randomness = HandshakeRandomness { ephemeral: [5; 32], kem: [6; 32] };
            let to = s.bob_account();
            let refused =
                pqxdh::initiate(s.origin(), &alice, to, &fallback, Some(&one_time), &randomness);
            assert_eq!(refused.unwrap_err(), pqxdh::HandshakeRefused::NonContributory);
        }
    }
    assert_eq!(seen, 31);
}

#[test]
fn b2_a_leaked_device_key_alone_does_not_let_others_pose_as_alice() {
    // Mallory knows Bob's device key but neither Alice's nor Bob's prekey secret.
    // The best she can compute of DH1 is with a key of her own; Bob computes it
    // with Alice's, so her session is another one.
    let s = Session::named("session_fallback_only");
    let mallory = DeviceSecret::from_seed(&[0x66; 32]);
    let (fallback, _) = s.prekeys();
    let pose = LocalParty { account: s.alice_account(), secret: &mallory };
    let randomness = HandshakeRandomness { ephemeral: [1; 32], kem: [2; 32] };
    let to = s.bob_account();
    let (block, hers) =
        pqxdh::initiate(s.origin(), &pose, to, &fallback, None, &randomness).unwrap();
    let bobs = s.respond(&block);
    assert_ne!(hers.root_key(), bobs.root_key());
}
