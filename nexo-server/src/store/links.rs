//! Link requests: new devices that wait for an account to take them, for ten minutes.
//!
//! Nothing here is in the log. A row is used up by the event that adds its device: a key enters
//! the devices once.

use diesel::prelude::*;
use nexo_schema::ids::AccountId;
use nexo_schema::limits::MAX_LINKS;
use nexo_schema::link::LINK_ID;

use super::schema::link_requests;
use super::{Conn, StoreError, hash32, signed, unsigned};

type LinkId = [u8; LINK_ID];

/// A request that is alive.
#[derive(Debug, Clone)]
pub struct Link {
    /// The new device's key.
    pub key: [u8; 32],
    /// The commitment to its name.
    pub name: [u8; 32],
    /// As it came; empty for none.
    pub opening: Vec<u8>,
    /// The new device's signature.
    pub sig: Vec<u8>,
    /// Unix seconds.
    pub exp: u64,
    /// What an account has answered.
    pub offer: Option<Offer>,
}

/// An event that waits for its acceptance.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Whose chain it would be in.
    pub account: AccountId,
    /// The event.
    pub event: Vec<u8>,
    /// Its signature.
    pub sig: Vec<u8>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutLink {
    /// It is kept.
    Kept,
    /// As many are alive as may be.
    Full,
}

/// Keeps a request, also where the same device asked before: then an offer it had is dropped.
/// Must run in a transaction.
///
/// # Errors
/// [`StoreError`].
pub fn put_link(
    conn: &mut Conn,
    id: &LinkId,
    link: &Link,
    now: u64,
) -> Result<PutLink, StoreError> {
    let over = link_requests::exp.lt(signed(now)).or(link_requests::link_id.eq(&id[..]));
    diesel::delete(link_requests::table.filter(over)).execute(conn)?;
    let alive: i64 = link_requests::table.count().get_result(conn)?;
    if unsigned("link_requests", alive)? >= MAX_LINKS {
        return Ok(PutLink::Full);
    }
    diesel::insert_into(link_requests::table)
        .values((
            link_requests::link_id.eq(&id[..]),
            link_requests::ed25519_pub.eq(&link.key[..]),
            link_requests::name.eq(&link.name[..]),
            link_requests::opening.eq(&link.opening),
            link_requests::sig.eq(&link.sig),
            link_requests::exp.eq(signed(link.exp)),
        ))
        .execute(conn)?;
    Ok(PutLink::Kept)
}

type Row =
    (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, i64, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

/// The request of this id, if it is alive at `now`.
///
/// # Errors
/// [`StoreError`].
pub fn live_link(conn: &mut Conn, id: &LinkId, now: u64) -> Result<Option<Link>, StoreError> {
    let row = link_requests::table
        .find(&id[..])
        .filter(link_requests::exp.ge(signed(now)))
        .select((
            link_requests::ed25519_pub,
            link_requests::name,
            link_requests::opening,
            link_requests::sig,
            link_requests::exp,
            link_requests::account_id,
            link_requests::event,
            link_requests::event_sig,
        ))
        .first::<Row>(conn)
        .optional()?;
    let Some((key, name, opening, sig, exp, account, event, event_sig)) = row else {
        return Ok(None);
    };
    let offer = match (account, event, event_sig) {
        (Some(account), Some(event), Some(sig)) => {
            let account = AccountId(hash32("link_requests", &account)?);
            Some(Offer { account, event, sig })
        }
        _ => None,
    };
    Ok(Some(Link {
        key: hash32("link_requests", &key)?,
        name: hash32("link_requests", &name)?,
        opening,
        sig,
        exp: unsigned("link_requests", exp)?,
        offer,
    }))
}

/// Puts an offer to a live request, also in the place of an earlier one of the same account.
/// `false` if there is no such request, or another account was first.
///
/// # Errors
/// [`StoreError`].
pub fn offer(conn: &mut Conn, id: &LinkId, new: &Offer, now: u64) -> Result<bool, StoreError> {
    let account = new.account.as_bytes();
    let ours = link_requests::account_id.is_null().or(link_requests::account_id.eq(account));
    let changed = diesel::update(link_requests::table)
        .filter(link_requests::link_id.eq(&id[..]))
        .filter(link_requests::exp.ge(signed(now)))
        .filter(ours.assume_not_null())
        .set((
            link_requests::account_id.eq(account),
            link_requests::event.eq(&new.event),
            link_requests::event_sig.eq(&new.sig),
        ))
        .execute(conn)?;
    Ok(changed == 1)
}
