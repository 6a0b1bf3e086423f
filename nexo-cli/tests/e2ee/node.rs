//! Devices that talk in sessions: each keeps nothing but stored bytes, as a vault
//! does, and reads them anew for every message.

use crate::fixture::{Device, ORIGIN};
use nexo_cli::e2ee::envelope::RecipientHash;
use nexo_cli::e2ee::fanout::PacketDraw;
use nexo_cli::e2ee::ids::EnvelopeHash;
use nexo_cli::e2ee::oneshot::ReplayKey;
use nexo_cli::e2ee::packet::PacketRefused;
use nexo_cli::e2ee::resend::KeptMessage;
use nexo_cli::e2ee::skipped::SkippedKey;
use nexo_cli::e2ee::{
    Address, Arrival, ArrivalRefused, ConversationId, DeviceId, FanoutRandomness, FanoutRefused,
    MessageContext, MessageId, Nature, OnReset, OneTimePrekey, OneTimeSecret, Outgoing, Packet,
    Party, Peer, PrekeySecrets, Prekeys, Session, SessionEvent, SessionId, SessionPacket, Sessions,
    SignedOneTime, SkippedKeys, open_handshake, open_in_session, seal_fanout,
};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

/// The rows about one device of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    pair: Option<Vec<u8>>,
    sessions: BTreeMap<SessionId, Vec<u8>>,
    skipped: BTreeMap<(SessionId, u64), Vec<u8>>,
}

/// All that a device keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) peers: BTreeMap<DeviceId, Rows>,
    pub(crate) handshakes: Vec<ReplayKey>,
    /// Ids of one-time prekeys whose secrets are held.
    pub(crate) one_time: BTreeSet<u32>,
}

/// A device with sessions.
pub(crate) struct Node {
    pub(crate) device: Device,
    pub(crate) kept: Kept,
    /// Seeds the random bytes, so that no two nodes or draws share any.
    name: u8,
    draws: u64,
}

/// A message in the relay's hands, each part open to change.
#[derive(Clone)]
pub(crate) struct Envelope {
    pub(crate) sender: Party,
    pub(crate) conversation: ConversationId,
    pub(crate) message: MessageId,
    pub(crate) sealed: Vec<u8>,
    pub(crate) packets: Vec<(DeviceId, Vec<u8>)>,
    pub(crate) hash: EnvelopeHash,
    /// The hash that the log has of the packet, if another one is delivered.
    pub(crate) logged: Option<[u8; 32]>,
}

/// A sealed message and what its sender has to keep.
pub(crate) struct Sent {
    pub(crate) envelope: Envelope,
    pub(crate) sessions: Vec<(Peer, Sessions)>,
    pub(crate) kept: KeptMessage,
}

/// Why a message is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Packet(PacketRefused),
    Arrival(ArrivalRefused),
}

impl From<ArrivalRefused> for Refused {
    fn from(reason: ArrivalRefused) -> Self {
        Self::Arrival(reason)
    }
}

/// What came out of a message.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) body: Vec<u8>,
    pub(crate) event: Option<SessionEvent>,
    pub(crate) envelope: EnvelopeHash,
}

impl Node {
    pub(crate) fn new(account: u8, n: u8) -> Self {
        Self { device: Device::new(account, n), kept: Kept::default(), name: n, draws: 0 }
    }

    /// The same device elsewhere, with what was kept here and other random bytes.
    pub(crate) fn copy(&self, n: u8) -> Self {
        let secret = nexo_cli::e2ee::DeviceSecret::from_seed(&self.device.secret.seed());
        let device = Device::of(self.device.account, secret, self.name);
        Self { device, kept: self.kept.clone(), name: self.name, draws: u64::from(n) << 32 }
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::from(&self.device.local().party())
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.device.id()
    }

    fn one_time_secret(&self, id: u32) -> OneTimeSecret {
        let seed = |what: &str| -> [u8; 32] {
            Sha256::digest([what.as_bytes(), &[self.name], &id.to_be_bytes()].concat()).into()
        };
        let kem = [seed("kem 1"), seed("kem 2")].concat();
        OneTimeSecret::from_seeds(id, seed("dh"), kem.try_into().unwrap())
    }

    /// Publishes a one-time prekey.
    pub(crate) fn one_time(&mut self, id: u32) -> OneTimePrekey {
        self.kept.one_time.insert(id);
        SignedOneTime::sign(&self.device.secret, ORIGIN, &self.one_time_secret(id))
            .verify(ORIGIN, &self.device.secret.public())
            .unwrap()
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        self.draws += 1;
        let seed = [&b"draw"[..], &[self.name], &self.draws.to_be_bytes()].concat();
        out.copy_from_slice(&Sha256::digest(seed));
    }

    pub(crate) fn sessions(&self, peer: Peer) -> Sessions {
        let Some(rows) = self.kept.peers.get(&peer.device) else { return Sessions::default() };
        let sessions = rows.sessions.values().map(|bytes| Session::from_bytes(bytes).unwrap());
        Sessions::restore(peer, rows.pair.as_deref(), sessions.collect()).unwrap()
    }

    pub(crate) fn sessions_with(&self, other: &Self) -> Sessions {
        self.sessions(other.peer())
    }

    pub(crate) fn skipped(&self, peer: DeviceId, session: SessionId) -> SkippedKeys {
        let Some(rows) = self.kept.peers.get(&peer) else { return SkippedKeys::default() };
        let rows = rows.skipped.iter().filter(|((of, _), _)| *of == session);
        let rows = rows.map(|(_, bytes)| SkippedKey::from_bytes(bytes).unwrap());
        SkippedKeys::restore(rows.collect()).unwrap()
    }

    /// Writes what changed, as a vault would.
    pub(crate) fn store(&mut self, peer: Peer, after: &Sessions) {
        let writes = after.writes_since(&self.sessions(peer));
        let rows = self.kept.peers.entry(peer.device).or_default();
        for session in writes.put {
            rows.sessions.insert(session.id(), session.to_bytes().to_vec());
        }
        for id in writes.delete {
            rows.sessions.remove(&id);
            rows.skipped.retain(|(of, _), _| *of != id);
        }
        if let Some(pair) = writes.pair {
            rows.pair = Some(pair.to_vec());
        }
    }

    /// Seals without keeping anything.
    pub(crate) fn seal(
        &mut self,
        to: &[(&Self, Option<&OneTimePrekey>)],
        body: &[u8],
        now: u64,
    ) -> Result<Sent, FanoutRefused> {
        let mut id = [0; 32];
        self.fill(&mut id);
        let message = MessageId::from_bytes(id[..16].try_into().unwrap());
        let draws = FanoutRandomness::draw(to.len(), |out| {
            self.fill(out);
            Ok::<(), Infallible>(())
        });
        let Ok(draws) = draws;
        let sessions: Vec<_> = to.iter().map(|(node, _)| self.sessions_with(node)).collect();
        let addresses = to.iter().zip(&sessions).map(|((node, one_time), sessions)| {
            let prekeys = Prekeys { fallback: &node.device.prekey, one_time: *one_time };
            Address::Session { to: node.peer(), sessions, prekeys: Some(prekeys) }
        });
        let conversation = ConversationId::from_bytes([4; 32]);
        let outgoing = Outgoing { origin: ORIGIN, conversation, message, body };
        let addresses: Vec<_> = addresses.collect();
        let sent = seal_fanout(&self.device.local(), &outgoing, &addresses, draws, now)?;
        let envelope = Envelope {
            sender: self.device.local().party(),
            conversation,
            message,
            sealed: sent.message.sealed,
            packets: sent.message.packets,
            hash: sent.message.envelope,
            logged: None,
        };
        Ok(Sent { envelope, sessions: sent.sessions, kept: sent.kept })
    }

    /// Seals and keeps.
    pub(crate) fn send(&mut self, to: &Self, body: &[u8], now: u64) -> Envelope {
        self.send_all(&[(to, None)], body, now).0
    }

    pub(crate) fn send_all(
        &mut self,
        to: &[(&Self, Option<&OneTimePrekey>)],
        body: &[u8],
        now: u64,
    ) -> (Envelope, KeptMessage) {
        let Sent { envelope, sessions, kept } = self.seal(to, body, now).unwrap();
        for (peer, after) in sessions {
            self.store(peer, &after);
        }
        (envelope, kept)
    }

    /// Answers a retry of `to`, and replaces its packet in `envelope`.
    pub(crate) fn resend(
        &mut self,
        kept: &KeptMessage,
        to: &Self,
        envelope: &mut Envelope,
        now: u64,
    ) -> Result<KeptMessage, nexo_cli::e2ee::resend::ResendRefused> {
        let Ok(draw) = PacketDraw::draw(|out| {
            self.fill(out);
            Ok::<(), Infallible>(())
        });
        let sessions = self.sessions_with(to);
        let prekeys = Some(Prekeys { fallback: &to.device.prekey, one_time: None });
        let address = Address::Session { to: to.peer(), sessions: &sessions, prekeys };
        let Envelope { conversation, message, .. } = *envelope;
        let outgoing = Outgoing { origin: ORIGIN, conversation, message, body: b"" };
        let resent = kept.resend(&self.device.local(), &outgoing, &address, &draw, now)?;
        if let Some(after) = resent.sessions {
            self.store(to.peer(), &after);
        }
        for (device, packet) in &mut envelope.packets {
            if *device == to.id() {
                envelope.logged = Some(RecipientHash::of(*device, packet).packet);
                packet.clone_from(&resent.packet);
            }
        }
        Ok(resent.kept)
    }

    /// Opens and keeps.
    pub(crate) fn take(&mut self, envelope: &Envelope, now: u64) -> Result<Got, Refused> {
        self.take_as(envelope, Nature::Content, OnReset::Accept, now)
    }

    pub(crate) fn take_as(
        &mut self,
        envelope: &Envelope,
        nature: Nature,
        on_reset: OnReset,
        now: u64,
    ) -> Result<Got, Refused> {
        let me = self.id();
        let is_mine = |device: &DeviceId| *device == me;
        let mine = envelope.packets.iter().find(|(device, _)| is_mine(device));
        let (_, mine) = mine.expect("the message is addressed to this device");
        let others = envelope.packets.iter().filter(|(device, _)| !is_mine(device));
        let others: Vec<_> = others.map(|(id, packet)| RecipientHash::of(*id, packet)).collect();
        let packet = match Packet::parse(mine) {
            Ok(Packet::Session(packet)) => packet,
            Ok(Packet::OneShot(_)) => panic!("nobody sends one-shot here"),
            Err(reason) => return Err(Refused::Packet(reason)),
        };
        let context = MessageContext {
            origin: ORIGIN,
            conversation: envelope.conversation,
            message: envelope.message,
            sender: envelope.sender,
        };
        let (sealed, others, logged) = (&envelope.sealed[..], &others[..], envelope.logged);
        let arrival = Arrival { context, sealed, packet: &packet, others, logged, now };
        let opened = self.open(&packet, &arrival, on_reset)?;
        let (body, hash, session) = (opened.body.to_vec(), opened.envelope, opened.session);
        assert_eq!(arrival.envelope_hash(me), Ok(hash));
        let settled = opened.settle(nature);
        let peer = Peer::from(&envelope.sender);
        self.store(peer, &settled.sessions);
        let rows = self.kept.peers.entry(peer.device).or_default();
        for serial in &settled.skipped.delete {
            rows.skipped.remove(&(session, *serial)).expect("a row to delete is there");
        }
        for key in &settled.skipped.put {
            let old = rows.skipped.insert((session, key.serial()), key.to_bytes().to_vec());
            assert_eq!(old, None, "a serial is used once");
        }
        if let Some(used) = settled.handshake {
            assert_eq!(used.session, session);
            self.kept.handshakes.push(used.replay);
            if let Some(id) = used.one_time {
                assert!(self.kept.one_time.remove(&id), "the prekey was held");
            }
        }
        Ok(Got { body, event: settled.event, envelope: hash })
    }

    fn open(
        &self,
        packet: &SessionPacket<'_>,
        arrival: &Arrival<'_>,
        on_reset: OnReset,
    ) -> Result<nexo_cli::e2ee::arrival::Opened, ArrivalRefused> {
        let (me, peer) = (self.device.local(), Peer::from(&arrival.context.sender));
        let sessions = self.sessions(peer);
        let held = sessions.find(packet.session_id(), arrival.now).is_some();
        let (false, Some(block)) = (held, packet.block()) else {
            let skipped = self.skipped(peer.device, packet.session_id());
            return open_in_session(&me, &sessions, &skipped, arrival);
        };
        let one_time = block.one_time_id.filter(|id| self.kept.one_time.contains(id));
        let one_time = one_time.map(|id| self.one_time_secret(id));
        let (fallback, one_time) = (&self.device.fallback, one_time.as_ref());
        let secrets = PrekeySecrets { fallback, one_time };
        let seen = arrival.replay_key().is_some_and(|key| self.kept.handshakes.contains(&key));
        open_handshake(&me, &sessions, &secrets, arrival, seen, on_reset)
    }

    /// Asserts that `envelope` is refused for this reason and that no stored byte
    /// has changed.
    pub(crate) fn refuses(&mut self, envelope: &Envelope, now: u64) -> Refused {
        let before = self.kept.clone();
        let refused = self.take(envelope, now).unwrap_err();
        assert!(before == self.kept, "a refused message changed the state: {refused:?}");
        refused
    }
}

impl Envelope {
    /// The packet for `node`, open to change.
    pub(crate) fn packet_for(&mut self, node: DeviceId) -> &mut Vec<u8> {
        let found = self.packets.iter_mut().find(|(device, _)| *device == node);
        &mut found.expect("it is addressed").1
    }

    /// Session and place of the packet for the only device.
    pub(crate) fn place(&self) -> (SessionId, [u8; 32], u32) {
        let packet = SessionPacket::parse(&self.packets[0].1).unwrap();
        (packet.session_id(), *packet.place().ratchet.as_bytes(), packet.place().n)
    }

    /// `type` of the packet for the only device.
    pub(crate) fn kind(&self) -> u8 {
        self.packets[0].1[1]
    }
}
