//! Devices that make sessions for the tests of the tables.

use std::convert::Infallible;

use crate::e2ee::ids::{ConversationId, MessageId};
use crate::e2ee::resend::KeptMessage;
use crate::e2ee::skipped::{SkippedChange, SkippedKey};
use crate::e2ee::{
    AccountId, Address, Arrival, DeviceSecret, FallbackPrekey, FallbackSecret, Fanout,
    FanoutRandomness, LocalParty, MessageContext, Nature, OnReset, Outgoing, Packet, Party, Peer,
    PrekeySecrets, Prekeys, Sessions, SignedFallback, Validity, open_handshake, seal_fanout,
};
use nexo_schema::bytes::enc;

pub(super) const NOW: u64 = 1_800_000_000;
const ORIGIN: &str = "relay.example.test";

pub(super) struct Talker {
    account: AccountId,
    device: DeviceSecret,
    fallback: FallbackSecret,
    draws: u8,
}

impl Talker {
    pub(super) fn new(n: u8) -> Self {
        Self {
            account: AccountId::from_bytes([n; 32]),
            device: DeviceSecret::from_seed(&[n; 32]),
            fallback: FallbackSecret::from_seeds(1, [n; 32], [n; 64]),
            draws: n,
        }
    }

    pub(super) fn peer(&self) -> Peer {
        Peer { account: self.account, device: self.device.public().device_id() }
    }

    fn local(&self) -> LocalParty<'_> {
        LocalParty { account: self.account, secret: &self.device }
    }

    fn prekey(&self) -> FallbackPrekey {
        let validity = Validity::longest(NOW).unwrap();
        SignedFallback::sign(&self.device, ORIGIN, &self.fallback, validity)
            .verify(ORIGIN, &self.device.public(), NOW)
            .unwrap()
    }

    fn write_to(&mut self, to: &Self, sessions: &Sessions) -> Fanout {
        let (prekey, mut draws) = (to.prekey(), self.draws);
        let Ok(randomness) = FanoutRandomness::draw(1, |out| {
            draws = draws.wrapping_add(16);
            out.fill(draws);
            Ok::<(), Infallible>(())
        });
        self.draws = draws;
        let prekeys = Some(Prekeys { fallback: &prekey, one_time: None });
        let address = Address::Session { to: to.peer(), sessions, prekeys };
        let outgoing = Outgoing {
            origin: ORIGIN,
            conversation: ConversationId::from_bytes([4; 32]),
            message: MessageId::from_bytes([5; 16]),
            body: b"{}",
        };
        seal_fanout(&self.local(), &outgoing, &[address], randomness, NOW).unwrap()
    }

    pub(super) fn sessions_after_writing_to(&mut self, to: &Self, held: &Sessions) -> Sessions {
        self.write_to(to, held).sessions.remove(0).1
    }

    pub(super) fn kept_of_a_message_to(&mut self, to: &Self) -> KeptMessage {
        self.write_to(to, &Sessions::default()).kept
    }

    /// After `from` has written to this one for the first time.
    pub(super) fn sessions_after_hearing(&self, from: &mut Self, held: &Sessions) -> Sessions {
        let sent = from.write_to(self, &Sessions::default()).message;
        let Ok(Packet::Session(packet)) = Packet::parse(&sent.packets[0].1) else {
            panic!("the first message of a session");
        };
        let arrival = Arrival {
            context: MessageContext {
                origin: ORIGIN,
                conversation: ConversationId::from_bytes([4; 32]),
                message: MessageId::from_bytes([5; 16]),
                sender: Party { account: from.account, device: from.device.public() },
            },
            sealed: &sent.sealed,
            packet: &packet,
            others: &[],
            logged: None,
            now: NOW,
        };
        let secrets = PrekeySecrets { fallback: &self.fallback, one_time: None };
        let me = self.local();
        let opened = open_handshake(&me, held, &secrets, &arrival, false, OnReset::Accept);
        opened.unwrap().settle(Nature::Content).sessions
    }

    /// Keys with the serials 0 to `count` - 1, as a message that passed them over brings them.
    pub(super) fn skipped(count: u8) -> SkippedChange {
        let key = |n: u8| {
            let fields: [&[u8]; 6] = [
                &[1],
                &u64::from(n).to_be_bytes(),
                &[9; 32],
                &u32::from(n).to_be_bytes(),
                &[n; 32],
                &NOW.to_be_bytes(),
            ];
            SkippedKey::from_bytes(&enc("nexo/1/state/skipped", &fields)).unwrap()
        };
        SkippedChange { put: (0..count).map(key).collect(), delete: Default::default() }
    }
}
