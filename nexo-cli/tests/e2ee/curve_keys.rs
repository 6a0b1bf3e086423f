//! The strict key rule and strict signatures against the published edge cases.

use crate::fixture::{Delivery, Device, hex, hex_n, load, wycheproof};
use nexo_cli::e2ee::keys::{DhSecret, KeyRefused, RecoveryPublic};
use nexo_cli::e2ee::sigchain::{GenesisRefused, NewAccount};
use nexo_cli::e2ee::{
    AccountId, Capabilities, DevicePublic, DeviceSecret, Handle, OpenRefused, Party, SignedGenesis,
};

/// Key rule and strict verification together, as every caller applies them.
fn accepted(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    DevicePublic::from_bytes(key).is_ok_and(|key| key.verify(message, signature).is_ok())
}

#[test]
fn wycheproof_ed25519() {
    wycheproof("ed25519", |group, case| {
        let key = hex(&group["publicKey"]["pk"]);
        let valid = accepted(&key, &hex(&case["msg"]), &hex(&case["sig"]));
        assert_eq!(valid, case["result"] == "valid", "case {}", case["tcId"]);
    });
}

#[test]
fn a6_cctv_only_the_honest_signature_is_accepted() {
    let file = load("cctv/ed25519vectors.json");
    let cases = file.as_array().unwrap();
    assert_eq!(cases.len(), 914);
    let mut honest = 0;
    for case in cases {
        let message = case["msg"].as_str().unwrap().as_bytes();
        let plain = case["flags"].as_array().is_none_or(Vec::is_empty);
        let valid = accepted(&hex(&case["key"]), message, &hex(&case["sig"]));
        assert_eq!(valid, plain, "case {}", case["number"]);
        honest += usize::from(plain);
    }
    assert_eq!(honest, 1);
}

#[test]
fn a7_speccheck_none_is_accepted() {
    let file = load("ed25519-speccheck/cases.json");
    let cases = file.as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for (n, case) in cases.iter().enumerate() {
        let (key, message) = (hex(&case["pub_key"]), hex(&case["message"]));
        assert!(!accepted(&key, &message, &hex(&case["signature"])), "case {n}");
    }
}

#[test]
fn a4_keys_outside_the_prime_order_group_are_refused() {
    let file = load("nexo/ed25519_to_x25519.json");
    let cases = file["reject"].as_array().unwrap();
    assert_eq!(cases.len(), 31);
    for case in cases {
        let key = DevicePublic::from_bytes(&hex(&case["ed25519_pub"]));
        assert!(key.is_err(), "{}", case["why"]);
        // The rule is the same wherever a signing key is taken.
        assert!(RecoveryPublic::from_bytes(&hex(&case["ed25519_pub"])).is_err());
    }
    // y = p is a second spelling of y = 0; y = 1 with the sign bit set is one of
    // the neutral point.
    let mut p = [0xff; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    assert!(matches!(
        DevicePublic::from_bytes(&p),
        Err(KeyRefused::NotCanonical | KeyRefused::NotAPoint)
    ));
    let mut minus_zero = [0; 32];
    (minus_zero[0], minus_zero[31]) = (1, 0x80);
    assert_eq!(DevicePublic::from_bytes(&minus_zero), Err(KeyRefused::NotCanonical));
    minus_zero[31] = 0;
    assert_eq!(DevicePublic::from_bytes(&minus_zero), Err(KeyRefused::SmallOrder));
}

#[test]
fn conversion_is_the_one_of_libsodium() {
    let file = load("nexo/ed25519_to_x25519.json");
    for case in file["accept"].as_array().unwrap() {
        let secret = DeviceSecret::from_seed(&hex_n(&case["seed"]));
        assert_eq!(secret.public().as_bytes()[..], hex(&case["ed25519_pub"]));
        assert_eq!(secret.public().dh_public().as_bytes()[..], hex(&case["x25519_pub"]));
        let dh = DhSecret::from_bytes(hex_n(&case["x25519_secret"]));
        assert_eq!(dh.public(), secret.public().dh_public());
    }
}

#[test]
fn a5_keys_with_the_same_agreement_are_other_senders() {
    let file = load("nexo/ed25519_to_x25519.json");
    let alice = DeviceSecret::from_seed(&hex_n(&file["accept"][0]["seed"]));
    let alice = Device::of(AccountId::from_bytes([1; 32]), alice, 1);
    let bob = Device::new(2, 2);
    let (honest, _) = Delivery::seal(&alice, &[&bob], 1, b"hi");
    assert!(honest.open(&bob).is_ok());
    let mut equivalent = 0;
    let cases = file["equivalent_dh"].as_array().unwrap();
    assert_eq!(cases.len(), 16);
    for case in cases {
        let Ok(key) = DevicePublic::from_bytes(&hex(&case["ed25519_pub"])) else { continue };
        if key == alice.secret.public() {
            continue;
        }
        assert_eq!(key.dh_public(), alice.secret.public().dh_public(), "{}", case["why"]);
        equivalent += 1;
        let forged = Delivery { sender: Party { device: key, ..honest.sender }, ..honest.clone() };
        assert_eq!(forged.open(&bob), Err(OpenRefused::Broken), "{}", case["why"]);
    }
    // Of sixteen, the key rule leaves the key itself and its negative.
    assert_eq!(equivalent, 1);
}

#[test]
fn a8_a_malleated_signature_is_refused() {
    let (device, handle) = (DeviceSecret::from_seed(&[1; 32]), Handle::parse("alice").unwrap());
    let account = NewAccount {
        origin: "o",
        handle: &handle,
        capabilities: Capabilities::FIRST,
        not_after: 0,
        name_commitment: [0; 32],
        recovery: RecoveryPublic::of_seed(&[2; 32]),
        time_ms: 0,
    };
    let good = SignedGenesis::sign(&device, &account);
    assert!(good.verify("o", &handle).is_ok());
    // One event has one pair of signatures, so one entry: the log cannot hold it twice.
    let twisted = SignedGenesis { signature: plus_group_order(&good.signature), ..good.clone() };
    assert_eq!(twisted.verify("o", &handle), Err(GenesisRefused::Signature));
    let twisted = SignedGenesis {
        accept_signature: plus_group_order(&good.accept_signature),
        ..good.clone()
    };
    assert_eq!(twisted.verify("o", &handle), Err(GenesisRefused::Acceptance));
}

/// The signature with `S + L` for `S`, which a lax verifier takes as equal.
fn plus_group_order(signature: &[u8; 64]) -> [u8; 64] {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let (mut out, mut carry) = (*signature, 0);
    for (byte, add) in out[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(carry, 0, "S + L fits 32 bytes");
    out
}

#[test]
fn a12_an_x25519_key_is_no_identity_even_if_it_decodes() {
    let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
    let (honest, _) = Delivery::seal(&alice, &[&bob], 1, b"hi");
    let (mut decoded, mut refused) = (0, 0);
    for n in 0..200 {
        let dh = *DeviceSecret::from_seed(&[n; 32]).public().dh_public().as_bytes();
        match DevicePublic::from_bytes(&dh) {
            Err(_) => refused += 1,
            Ok(device) => {
                decoded += 1;
                let forged =
                    Delivery { sender: Party { device, ..honest.sender }, ..honest.clone() };
                assert_eq!(forged.open(&bob), Err(OpenRefused::Broken));
            }
        }
    }
    // Bytes alone do not tell the two kinds apart, so types must.
    assert!(decoded > 0 && refused > 0, "{decoded} decoded, {refused} refused");
}
