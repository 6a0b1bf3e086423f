//! The transactions that seal: counters, sessions and the exact bytes to send become durable
//! together, before the network hears of any (e2ee 2.13).

use nexo_schema::bytes::to_base64;
use nexo_schema::http::SendRequest;
use nexo_schema::ids::{Handle, MsgId};
use serde_json::value::RawValue;

use super::addressees::{End, ready};
use super::{Addressees, DeliverError, Letter};
use crate::api::ApiError;
use crate::body::{self, AD, Draft};
use crate::clock;
use crate::e2ee::{
    AccountId, Address, ConversationId, Fanout, FanoutRandomness, MessageId, Outgoing,
    SealedMessage, seal_fanout,
};
use crate::profile::{Profile, Session};
use crate::random;
use crate::trust::{RosterEntry, TrustError};
use crate::vault::{Counters, NewOutbox, OutboxRow, OutboxState, Tx, VaultError};
use crate::wire;

/// A message and the place it goes to.
struct Place<'a> {
    conversation: ConversationId,
    message: MessageId,
    to: &'a Handle,
    ends: &'a [End],
    /// The accounts, as they are known here.
    roster: &'a [RosterEntry],
    now: u64,
}

/// Seals a letter and stores it, or finds what another process stored under its key.
pub(super) async fn put(
    session: &Session<'_>,
    to: &Addressees,
    conversation: ConversationId,
    letter: &Letter<'_>,
    now: u64,
) -> Result<OutboxRow, DeliverError> {
    let rows = put_all(session, to, conversation, std::slice::from_ref(letter), now).await?;
    rows.into_iter().next().ok_or(lost().into())
}

/// As [`put`], for several letters that are sent in this order: all of them in one transaction,
/// or none.
pub(super) async fn put_all(
    session: &Session<'_>,
    to: &Addressees,
    conversation: ConversationId,
    letters: &[Letter<'_>],
    now: u64,
) -> Result<Vec<OutboxRow>, DeliverError> {
    let profile = session.profile;
    let mut messages = Vec::with_capacity(letters.len());
    for letter in letters {
        messages.push(match letter.key {
            Some(key) => MessageId::for_idempotency_key(&profile.identity.idem, conversation, key),
            None => MessageId::from_bytes(MsgId::timed(clock::millis(), random::array()?)),
        });
    }
    let oneshot = letters.iter().any(|letter| letter.oneshot);
    let ends = ready(session, to, conversation, oneshot, now).await?;
    let roster = to.roster();
    profile
        .vault
        .write(|tx| {
            let mut rows = Vec::with_capacity(letters.len());
            for (letter, &message) in letters.iter().zip(&messages) {
                let (to, ends, roster) = (&to.to, &ends[..], &roster[..]);
                let handle = &to.handle;
                let place = Place { conversation, message, to: handle, ends, roster, now };
                rows.push(put_one(profile, tx, &place, to.account.id, letter)?);
            }
            tx.wipe_old_keys(now)?;
            Ok(rows)
        })
        .await
}

fn put_one(
    profile: &Profile,
    tx: &mut Tx<'_>,
    place: &Place<'_>,
    peer: AccountId,
    letter: &Letter<'_>,
) -> Result<OutboxRow, DeliverError> {
    let (msg_id, stored) = (wire::message_out(place.message), letter.stored());
    // Another process with the same key may have been faster.
    if let Some(row) = tx.outbox(&msg_id)? {
        if matches!(row.state, OutboxState::Deleted { .. }) {
            return Err(DeliverError::Deleted);
        }
        let same = row.text.as_ref().is_some_and(|text| **text == *stored);
        return if same { Ok(row) } else { Err(DeliverError::OtherText) };
    }
    let counters = tx.take_counters(place.conversation)?;
    let sealed = seal(profile, tx, place, letter, &counters)?;
    let dseq = (!profile.is_stateless()).then_some(counters.dseq);
    let request = request(place.conversation, &msg_id, &sealed, dseq)?;
    tx.put_outbox(&NewOutbox {
        msg_id: &msg_id,
        conversation: place.conversation,
        peer,
        peer_handle: place.to,
        dseq,
        cseq: counters.cseq,
        envelope: sealed.envelope,
        request: &request,
        text: &stored,
        control: letter.is_control(),
        created_at: place.now,
    })?;
    tx.outbox(&msg_id)?.ok_or(lost().into())
}

/// The relay refused the envelope because devices had changed, and keeps nothing of it: the same
/// message under the same id and counters, in a new envelope and under new message keys, to the
/// devices as they are now. Not if another process has put one there.
pub(super) async fn reseal(
    session: &Session<'_>,
    to: &Addressees,
    letter: &Letter<'_>,
    row: &OutboxRow,
    now: u64,
) -> Result<OutboxRow, DeliverError> {
    if to.to.account.id != row.peer {
        return Err(DeliverError::Conversation);
    }
    let profile = session.profile;
    let message = wire::message(&row.msg_id)
        .ok_or(VaultError::Corrupt { table: "outbox", what: "a message id" })?;
    let ends = ready(session, to, row.conversation, letter.oneshot, now).await?;
    let (conversation, handle, roster) = (row.conversation, &to.to.handle, to.roster());
    let place = Place { conversation, message, to: handle, ends: &ends, roster: &roster, now };
    profile
        .vault
        .write(|tx| {
            let current = tx.outbox(&row.msg_id)?.ok_or_else(lost)?;
            if current.envelope != row.envelope {
                return Ok(current);
            }
            let counters = Counters { dseq: row.dseq.unwrap_or(0), cseq: row.cseq, prev: None };
            let sealed = seal(profile, tx, &place, letter, &counters)?;
            let request = request(row.conversation, &row.msg_id, &sealed, row.dseq)?;
            tx.reseal_outbox(&row.msg_id, row.envelope, sealed.envelope, &request)?;
            tx.outbox(&row.msg_id)?.ok_or(lost().into())
        })
        .await
}

fn lost() -> VaultError {
    VaultError::Corrupt { table: "outbox", what: "a row" }
}

/// Seals in the transaction that stores the result, with the sessions as they are now.
fn seal(
    profile: &Profile,
    tx: &mut Tx<'_>,
    place: &Place<'_>,
    letter: &Letter<'_>,
    counters: &Counters,
) -> Result<SealedMessage, DeliverError> {
    let Place { conversation, message, to, ends, roster, now } = *place;
    let head = tx.newest_head()?.ok_or(TrustError::NoTime)?;
    let body = body::write(&Draft {
        matter: letter.matter,
        sent_at: &clock::rfc3339(now),
        cseq: if profile.is_stateless() { 0 } else { counters.cseq },
        prev: counters.prev.as_ref(),
        from: &profile.identity.handle,
        to,
        sth: &head.note,
        roster,
    });
    let sessions = ends.iter().map(|end| end.sessions(tx)).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<Address<'_>> =
        ends.iter().zip(&sessions).map(|(end, sessions)| end.address(sessions)).collect();
    let origin = profile.pin.origin.as_str();
    let outgoing = Outgoing { origin, conversation, message, body: &body };
    let randomness = FanoutRandomness::draw(addresses.len(), random::fill)?;
    let party = profile.identity.party();
    let Fanout { message: sealed, sessions: after, kept } =
        seal_fanout(&party, &outgoing, &addresses, randomness, now)?;
    for (peer, after) in &after {
        let before = ends.iter().zip(&sessions).find(|(end, _)| end.peer == *peer);
        if let Some((_, before)) = before {
            tx.put_sessions(*peer, before, after)?;
        }
    }
    if !profile.is_stateless() {
        tx.put_kept(&wire::message_out(message), &kept, now)?;
    }
    Ok(sealed)
}

/// The bytes of the request, made once.
fn request(
    conversation: ConversationId,
    msg_id: &MsgId,
    sealed: &SealedMessage,
    dseq: Option<u64>,
) -> Result<Vec<u8>, DeliverError> {
    let packets =
        sealed.packets.iter().map(|(id, packet)| (wire::device_out(*id), to_base64(packet)));
    let request = SendRequest {
        conv_id: wire::conversation_out(conversation),
        cipher: to_base64(&sealed.sealed),
        ad: RawValue::from_string(AD.to_owned()).map_err(|_| ApiError::Encoding)?,
        msg_id: Some(msg_id.clone()),
        packets: Some(packets.collect()),
        dseq,
    };
    Ok(serde_json::to_vec(&request).map_err(|_| ApiError::Encoding)?)
}
