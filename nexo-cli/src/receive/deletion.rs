//! Deletions: honoured only if the author of the target signed them (e2ee 2.16).

use nexo_schema::bytes::from_base64;
use nexo_schema::http::{Item, Tombstone as WireTombstone};

use super::unreadable::Unreadable;
use super::{ReceiveError, Taken, inclusion, unverified};
use crate::e2ee::tombstone::{TombstoneRefused, tombstone_leaf};
use crate::e2ee::{AccountId, DeviceId, DevicePublic, Tombstone};
use crate::profile::Session;
use crate::trust::{judge_sender, sender_of};
use crate::vault::HeldHead;
use crate::wire;

/// Judges one deletion of a page.
pub(super) async fn take(
    session: &Session<'_>,
    item: &Item,
    tombstone: &WireTombstone,
    head: &HeldHead,
    now: u64,
) -> Result<Taken, ReceiveError> {
    let (Some(statement), Some(sig)) = (&tombstone.statement, &tombstone.sig) else {
        // Plain accounts sign nothing; nothing of theirs is kept here as text.
        return Ok(Taken::Nothing);
    };
    let malformed = |_| ReceiveError::Page("has a malformed deletion");
    let statement = from_base64(statement).map_err(malformed)?;
    let sig = from_base64(sig).map_err(malformed)?;
    let sig: [u8; 64] =
        sig.try_into().map_err(|_| ReceiveError::Page("has a malformed deletion"))?;
    let leaf = tombstone_leaf(&statement, &sig);
    session.trust.included("a deletion", head, &leaf, item.sth_index, &inclusion(item)?)?;
    let refused = |reason: String| {
        let id = &item.msg_id;
        Ok(Taken::Refused(format!("a deletion of message {id} is not honoured: {reason}")))
    };
    let claimed = match Tombstone::parse(&statement) {
        Ok(claimed) => claimed,
        Err(error) => return refused(error.to_string()),
    };
    let place = (item.sth_index, head);
    let key = match author_key(session, claimed.account, claimed.device, place, now).await? {
        Ok(key) => key,
        Err(error) => return refused(error.to_string()),
    };
    let verified: Result<_, TombstoneRefused> =
        Tombstone::verify(session.trust.origin(), &statement, &sig, &key);
    match verified {
        Ok(signed) if signed.conversation != wire::conversation(item.conv_id) => {
            refused("it was signed for another conversation".to_owned())
        }
        Ok(signed) => Ok(Taken::Deletion {
            author: signed.account,
            msg_id: wire::message_out(signed.target),
            envelope: signed.target_envelope,
        }),
        Err(error) => refused(error.to_string()),
    }
}

/// The key of the device that signed, if it might do so at its deletion's place in the log
/// (position, a head that covers it).
async fn author_key(
    session: &Session<'_>,
    author: AccountId,
    device: DeviceId,
    (sth_index, head): (u64, &HeldHead),
    now: u64,
) -> Result<Result<DevicePublic, Unreadable>, ReceiveError> {
    let found = sender_of(&session.trust, &session.member, author, device, now).await;
    let judged = match found {
        Ok(found) => judge_sender(&session.trust, found, device, sth_index, head, now).await,
        Err(error) => Err(error),
    };
    match judged {
        Ok(sender) => Ok(Ok(sender.device.key)),
        Err(error) => unverified(error).map(Err),
    }
}
