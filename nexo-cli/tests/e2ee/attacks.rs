//! Whole messages, honest and not.

use crate::fixture::{Delivery, Device, NOW, ORIGIN, content_key, hex, hex_n, load, randomness};
use nexo_cli::e2ee::envelope::{RecipientsRefused, message_leaf};
use nexo_cli::e2ee::padding::{BodyTooLong, MAX_BODY, pad};
use nexo_cli::e2ee::tombstone::tombstone_leaf;
use nexo_cli::e2ee::{
    AccountId, ConversationId, DeviceSecret, FallbackSecret, KeyPacket, LocalParty, MessageContext,
    MessageId, OneShotRandomness, OpenRefused, Outgoing, Party, Purpose, Recipient, SealRefused,
    SignedFallback, Validity, account_fingerprint, nx_open, nx_seal, seal_oneshot,
};
use proptest::prelude::*;

#[test]
fn kat_oneshot_whole_message() {
    let (draft, want) = (load("nexo/kat_draft.json"), load("nexo/kat_oneshot.json"));
    let s = &draft["session_fallback_only"];
    let origin = s["origin"].as_str().unwrap();
    let account = |who: &str| AccountId::from_bytes(hex_n(&draft[who]["account_id_placeholder"]));
    let secret = |who: &str| DeviceSecret::from_seed(&hex_n(&draft[who]["ed25519_seed"]));
    let (alice, bob) = (secret("device_alice"), secret("device_bob"));
    let fallback = FallbackSecret::from_seeds(7, hex_n(&s["spk_secret"]), hex_n(&s["mlkem_seed"]));
    let prekey = SignedFallback::sign(&bob, origin, &fallback, Validity::longest(NOW).unwrap())
        .verify(origin, &bob.public(), NOW)
        .unwrap();
    let outgoing = Outgoing {
        origin,
        conversation: ConversationId::from_bytes(hex_n(&s["conv_id"])),
        message: MessageId::from_bytes(hex_n(&s["msg_id"])),
        body: br#"{"t":"text","text":"hi"}"#,
    };
    let mut draws = ["cek", "payload_rand32", "ephemeral_secret", "kem_m", "kp_rand32"].iter();
    let randomness = OneShotRandomness::draw(1, |out| {
        out.copy_from_slice(&hex(&s[*draws.next().ok_or(())?]));
        Ok::<(), ()>(())
    })
    .unwrap();
    let me = LocalParty { account: account("device_alice"), secret: &alice };
    let to = [Recipient { account: account("device_bob"), fallback: &prekey }];
    let sent = seal_oneshot(&me, &outgoing, &to, randomness).unwrap();
    assert_eq!(sent.sealed, hex(&s["sealed_payload"]));
    assert_eq!(sent.packets, [(bob.public().device_id(), hex(&want["key_packet"]))]);
    assert_eq!(sent.envelope.as_bytes()[..], hex(&want["envelope_hash"]));
    assert_eq!(sent.leaf(), hex(&want["message_leaf"]));
    let tombstone = tombstone_leaf(&hex(&s["tombstone_message"]), &hex_n(&s["tombstone_sig"]));
    assert_eq!(tombstone, hex(&want["tombstone_leaf"]));
    assert_eq!(account_fingerprint(account("device_bob")), want["fingerprint_bob"]);
}

#[test]
fn a_message_opens_on_every_addressed_device() {
    let alice = Device::new(1, 1);
    let (bob, phone, tablet) = (Device::new(2, 2), Device::new(2, 3), Device::new(1, 4));
    let (delivery, sent) = Delivery::seal(&alice, &[&bob, &phone, &tablet], 9, b"hello");
    for device in [&bob, &phone, &tablet] {
        let opened = delivery.open(device).unwrap();
        assert_eq!(opened.body[..], b"hello"[..]);
        // Everyone computes the entry the sender expects in the log.
        assert_eq!(message_leaf(opened.envelope), sent.leaf());
    }
    assert!(sent.packets.is_sorted_by_key(|(device, _)| *device));
}

#[test]
fn a_note_to_self_opens_on_the_device_that_wrote_it() {
    let alice = Device::new(1, 1);
    let (delivery, _) = Delivery::seal(&alice, &[&alice], 9, b"remember");
    assert_eq!(delivery.body(&alice).as_deref(), Ok(&b"remember"[..]));
    // It is bound to the conversation with oneself like any other.
    let bob = Device::new(2, 2);
    let conversation = ConversationId::direct(ORIGIN, alice.account, bob.account);
    let moved = Delivery { conversation, ..delivery };
    assert_eq!(moved.open(&alice), Err(OpenRefused::Broken));
}

#[test]
fn b1_a_message_relayed_as_somebody_elses_does_not_open() {
    let (alice, bob, carol) = (Device::new(1, 1), Device::new(2, 2), Device::new(3, 3));
    let (honest, _) = Delivery::seal(&alice, &[&bob], 9, b"hi");
    let posed = Delivery { sender: carol.local().party(), ..honest.clone() };
    assert_eq!(posed.open(&bob), Err(OpenRefused::Broken));
    // Alice's key under Carol's account, and the other way round.
    let (a, c) = (alice.local().party(), carol.local().party());
    for sender in [
        Party { account: c.account, device: a.device },
        Party { account: a.account, device: c.device },
    ] {
        let posed = Delivery { sender, ..honest.clone() };
        assert_eq!(posed.open(&bob), Err(OpenRefused::Broken));
    }
}

#[test]
fn b3_a_message_for_another_account_or_device_does_not_open() {
    let (alice, bob, carol) = (Device::new(1, 1), Device::new(2, 2), Device::new(3, 3));
    let (honest, _) = Delivery::seal(&alice, &[&bob], 9, b"hi");
    // Bob's key listed under another account.
    let misbound = LocalParty { account: carol.account, secret: &bob.secret };
    let opened = honest.open_with(&bob, &misbound, &bob.fallback);
    assert_eq!(opened, Err(OpenRefused::Broken));
    // Another device of Bob's account, which holds the same prekey.
    let phone = DeviceSecret::from_seed(&[7; 32]);
    let other = LocalParty { account: bob.account, secret: &phone };
    assert_eq!(honest.open_with(&bob, &other, &bob.fallback), Err(OpenRefused::Broken));
    // Carol's packet delivered to Bob in place of his own.
    let (mut swapped, _) = Delivery::seal(&alice, &[&bob, &carol], 9, b"hi");
    let (one, other) = swapped.packets.split_at_mut(1);
    std::mem::swap(&mut one[0].1, &mut other[0].1);
    for device in [&bob, &carol] {
        let id = device.fallback.id();
        let (dh, kem) = device.fallback.seeds();
        let named = if id == 2 { 3 } else { 2 };
        assert_eq!(swapped.open(device), Err(OpenRefused::OtherPrekey { named }));
        let relabelled = FallbackSecret::from_seeds(named, *dh, *kem);
        let opened = swapped.open_with(device, &device.local(), &relabelled);
        assert_eq!(opened, Err(OpenRefused::Broken));
    }
}

#[test]
fn b7_a_prekey_with_another_kem_half_does_not_open_it() {
    let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
    let (honest, _) = Delivery::seal(&alice, &[&bob], 9, b"hi");
    let (dh, kem) = bob.fallback.seeds();
    for fallback in [
        FallbackSecret::from_seeds(bob.fallback.id(), *dh, [0x77; 64]),
        FallbackSecret::from_seeds(bob.fallback.id(), [0x77; 32], *kem),
    ] {
        let opened = honest.open_with(&bob, &bob.local(), &fallback);
        assert_eq!(opened, Err(OpenRefused::Broken));
    }
    let gone = FallbackSecret::from_seeds(99, *dh, *kem);
    let opened = honest.open_with(&bob, &bob.local(), &gone);
    assert_eq!(opened, Err(OpenRefused::OtherPrekey { named: bob.fallback.id() }));
}

#[test]
fn b10_a_repeated_message_has_the_replay_key_it_had() {
    let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
    let (first, _) = Delivery::seal(&alice, &[&bob], 9, b"hi");
    let (second, _) = Delivery::seal(&alice, &[&bob], 10, b"hi");
    let key = |delivery: &Delivery| delivery.open(&bob).unwrap().replay;
    assert_eq!(key(&first), key(&first));
    assert_ne!(key(&first), key(&second));
    assert_eq!(key(&first).fallback_id, bob.fallback.id());
    // It can be known before anything is opened.
    let packet = KeyPacket::parse(&first.packets[0].1).unwrap();
    assert_eq!(packet.block().ephemeral, key(&first).ephemeral);
}

#[test]
fn b12_a_packet_without_kem_or_of_another_suite_is_refused() {
    let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
    let (honest, _) = Delivery::seal(&alice, &[&bob], 9, b"hi");
    let packet = &honest.packets[0].1;
    let without_kem = [&packet[..99], &packet[1187..]].concat();
    assert!(KeyPacket::parse(&without_kem).is_err());
    let mut other = packet.clone();
    other[0] = 2;
    assert!(KeyPacket::parse(&other).is_err());
    // A ciphertext of zeros gives some secret, and nothing opens.
    let mut zeroed = honest.clone();
    zeroed.packets[0].1[99..1187].fill(0);
    assert_eq!(zeroed.open(&bob), Err(OpenRefused::Broken));
}

#[test]
fn a1_an_ephemeral_key_of_small_order_is_refused() {
    let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
    let (mut delivery, _) = Delivery::seal(&alice, &[&bob], 9, b"hi");
    delivery.packets[0].1[58..90].fill(0);
    assert_eq!(delivery.open(&bob), Err(OpenRefused::NonContributory));
}

#[test]
fn d2_a_co_recipient_cannot_replace_the_payload() {
    let (alice, bob, mallory) = (Device::new(1, 1), Device::new(2, 2), Device::new(3, 3));
    let (honest, _) = Delivery::seal(&alice, &[&bob, &mallory], 9, b"pay 1");
    assert_eq!(honest.body(&mallory).as_deref(), Ok(&b"pay 1"[..]));
    // Mallory knows the content key and everything public.
    let context = MessageContext {
        origin: ORIGIN,
        conversation: honest.conversation,
        message: honest.message,
        sender: honest.sender,
    };
    let aad = context.payload_aad();
    let forged_payload = pad(b"pay 9").unwrap();
    let sealed = nx_seal(&content_key(9), Purpose::Payload, &aad, &forged_payload, &[8; 32]);
    let by_itself = nx_open(&content_key(9), Purpose::Payload, &aad, &sealed).unwrap();
    assert_eq!(by_itself, forged_payload, "the payload alone is well made");
    let forged = Delivery { sealed, ..honest };
    assert_eq!(forged.open(&bob), Err(OpenRefused::Broken));
}

#[test]
fn d3_parts_of_two_messages_do_not_mix() {
    let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
    let (one, _) = Delivery::seal(&alice, &[&bob], 9, b"one");
    let (two, _) = Delivery::seal(&alice, &[&bob], 10, b"two");
    let mixed = Delivery { sealed: two.sealed.clone(), ..one.clone() };
    assert_eq!(mixed.open(&bob), Err(OpenRefused::Broken));
    let mixed = Delivery { packets: two.packets.clone(), ..one.clone() };
    assert_eq!(mixed.open(&bob), Err(OpenRefused::Broken));
    let renamed = Delivery { message: two.message, ..one.clone() };
    assert_eq!(renamed.open(&bob), Err(OpenRefused::Broken));
    let elsewhere = Delivery { origin: "relay.example.com".into(), ..one };
    assert_eq!(elsewhere.open(&bob), Err(OpenRefused::Broken));
}

#[test]
fn d4_repeated_randomness_does_not_repeat_a_key_stream() {
    let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
    let (one, _) = Delivery::seal(&alice, &[&bob], 9, b"attack at dawn");
    let (two, _) = Delivery::seal(&alice, &[&bob], 9, b"attack at dusk");
    // Same content key, same hedge; yet salt, commitment and all of the ciphertext
    // differ, also where the plaintexts agree.
    assert_ne!(one.sealed[..32], two.sealed[..32]);
    assert_ne!(one.sealed[32..64], two.sealed[32..64]);
    let equal_bytes =
        one.sealed[64..].iter().zip(&two.sealed[64..]).filter(|(a, b)| a == b).count();
    assert!(equal_bytes < 16, "{equal_bytes} of {} bytes agree", one.sealed.len() - 64);
}

#[test]
fn d5_equal_inputs_give_equal_messages() {
    let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
    let seal = || Delivery::seal(&alice, &[&bob], 9, b"hi").1;
    assert_eq!(seal(), seal());
}

#[test]
fn d6_a_changed_recipient_list_changes_the_entry() {
    let (alice, bob, carol) = (Device::new(1, 1), Device::new(2, 2), Device::new(3, 3));
    let (honest, sent) = Delivery::seal(&alice, &[&bob, &carol], 9, b"hi");
    assert_eq!(honest.open(&bob).unwrap().envelope, sent.envelope);
    let mut hidden = honest.clone();
    hidden.packets.retain(|(device, _)| *device == bob.id());
    assert_ne!(hidden.open(&bob).unwrap().envelope, sent.envelope);
    let mut replaced = honest.clone();
    for (device, packet) in &mut replaced.packets {
        if *device == carol.id() {
            packet[1200] ^= 1;
        }
    }
    assert_ne!(replaced.open(&bob).unwrap().envelope, sent.envelope);
    let mut twice = honest;
    let copy = twice.packets.iter().find(|(device, _)| *device == carol.id()).cloned();
    twice.packets.extend(copy);
    let refused = OpenRefused::Recipients(RecipientsRefused::Twice(carol.id()));
    assert_eq!(twice.open(&bob), Err(refused));
}

#[test]
fn c6_every_byte_of_payload_and_packet_counts() {
    let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
    let (honest, _) = Delivery::seal(&alice, &[&bob], 9, b"hello");
    for at in 0..honest.sealed.len() {
        let mut changed = honest.clone();
        changed.sealed[at] ^= 0x80;
        assert_eq!(changed.open(&bob), Err(OpenRefused::Broken), "payload byte {at}");
    }
    for at in 0..honest.packets[0].1.len() {
        let mut changed = honest.clone();
        changed.packets[0].1[at] ^= 0x80;
        let refused = changed.open(&bob).unwrap_err();
        // Bytes 90 to 93 name the prekey; another one is not at hand.
        let named_other = matches!(refused, OpenRefused::OtherPrekey { .. });
        assert_eq!(named_other, (90..94).contains(&at), "packet byte {at}: {refused:?}");
        assert!(named_other || refused == OpenRefused::Broken, "packet byte {at}: {refused:?}");
    }
}

#[test]
fn nothing_is_sealed_for_nobody_twice_or_without_bounds() {
    let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
    let seal = |body: &[u8], recipients: &[Recipient<'_>], drawn| {
        let outgoing = Outgoing {
            origin: ORIGIN,
            conversation: ConversationId::direct(ORIGIN, alice.account, bob.account),
            message: MessageId::from_bytes([1; 16]),
            body,
        };
        seal_oneshot(&alice.local(), &outgoing, recipients, randomness(1, drawn)).map(|_| ())
    };
    let to = bob.recipient();
    assert_eq!(seal(&[0; MAX_BODY], &[to], 1), Ok(()));
    let too_long = SealRefused::Body(BodyTooLong { len: MAX_BODY + 1 });
    assert_eq!(seal(&[0; MAX_BODY + 1], &[to], 1), Err(too_long));
    assert_eq!(seal(b"", &[], 0), Err(SealRefused::Recipients(RecipientsRefused::None)));
    let twice = SealRefused::Recipients(RecipientsRefused::Twice(bob.id()));
    assert_eq!(seal(b"", &[to, to], 2), Err(twice));
    for drawn in [0, 2] {
        let refused = SealRefused::Randomness { drawn, recipients: 1 };
        assert_eq!(seal(b"", &[to], drawn), Err(refused));
    }
}

#[test]
fn a_failed_draw_is_handed_on() {
    let mut left = 3;
    let drawn = OneShotRandomness::draw(1, |_| {
        left -= 1;
        if left == 0 { Err("no entropy") } else { Ok(()) }
    });
    assert_eq!(drawn.err(), Some("no entropy"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_sealed_opens_for_all(
        body in prop::collection::vec(any::<u8>(), 0..6000),
        recipients in prop::collection::btree_set(10u8..200, 1..5),
        seed: u8,
    ) {
        let alice = Device::new(1, 1);
        let devices: Vec<_> = recipients.iter().map(|n| Device::new(2, *n)).collect();
        let to: Vec<_> = devices.iter().collect();
        let (delivery, sent) = Delivery::seal(&alice, &to, seed, &body);
        for device in to {
            let opened = delivery.open(device).unwrap();
            prop_assert_eq!(&opened.body[..], &body[..]);
            prop_assert_eq!(opened.envelope, sent.envelope);
        }
        // Nobody else, even with all of the traffic.
        let eve = Device::new(1, 9);
        let first = &devices[0];
        let opened = delivery.open_with(first, &eve.local(), &first.fallback);
        prop_assert_eq!(opened, Err(OpenRefused::Broken));
    }

    #[test]
    fn c6_any_flipped_bit_is_refused(place in 0usize..7, at: prop::sample::Index, bit in 0u8..8) {
        let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
        let (mut delivery, _) = Delivery::seal(&alice, &[&bob], 9, b"hello");
        let flip = |bytes: &mut [u8]| bytes[at.index(bytes.len())] ^= 1 << bit;
        let mut me = bob.account;
        match place {
            0 => flip(&mut delivery.sealed),
            1 | 2 => flip(&mut delivery.packets[0].1),
            3 => {
                let mut id = *delivery.conversation.as_bytes();
                flip(&mut id);
                delivery.conversation = ConversationId::from_bytes(id);
            }
            4 => {
                let mut id = *delivery.message.as_bytes();
                flip(&mut id);
                delivery.message = MessageId::from_bytes(id);
            }
            5 => {
                let mut id = *delivery.sender.account.as_bytes();
                flip(&mut id);
                delivery.sender.account = AccountId::from_bytes(id);
            }
            _ => {
                let mut id = *me.as_bytes();
                flip(&mut id);
                me = AccountId::from_bytes(id);
            }
        }
        let me = LocalParty { account: me, secret: &bob.secret };
        let opened = delivery.open_with(&bob, &me, &bob.fallback);
        prop_assert!(opened.is_err());
    }

    #[test]
    fn every_byte_of_payload_and_origin_counts(at: prop::sample::Index, cut: prop::sample::Index) {
        let (alice, bob) = (Device::new(1, 1), Device::new(2, 2));
        let (honest, _) = Delivery::seal(&alice, &[&bob], 9, b"hello");
        let mut shorter = honest.clone();
        shorter.sealed.truncate(cut.index(honest.sealed.len()));
        prop_assert_eq!(shorter.open(&bob), Err(OpenRefused::Broken));
        let mut longer = honest.clone();
        longer.sealed.push(0);
        prop_assert_eq!(longer.open(&bob), Err(OpenRefused::Broken));
        let mut origin = honest.origin.clone().into_bytes();
        let at = at.index(origin.len());
        origin[at] ^= 1;
        let elsewhere = Delivery { origin: String::from_utf8(origin).unwrap(), ..honest };
        prop_assert_eq!(elsewhere.open(&bob), Err(OpenRefused::Broken));
    }
}
