//! Every account's key events in the order of the log, for those who check them all.
//!
//! A native account's events are rows of their own. A plain account has one, which made it, and
//! no row for it: what its entry was made of stands in its account and its device.

use diesel::connection::DefaultLoadingMode;
use diesel::pg::PgRowByRowLoadingMode;
use diesel::prelude::*;
use nexo_schema::ids::{AccountId, DeviceId, Handle};

use super::schema::{accounts, devices, key_events};
use super::{Conn, StoreError, hash32, signed, unsigned};

/// Bytes of events in one page, before it is cut: what a page costs is bounded by its bytes as
/// well as by its rows. A page holds at least one event, if there is one.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// About what a plain account's fields come to.
const PLAIN_BYTES: usize = 256;

/// What an entry for a key was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyEvent {
    /// An event of a chain with its signatures.
    Native {
        /// The event's bytes.
        event: Vec<u8>,
        /// The signer's signature.
        sig: Vec<u8>,
        /// The acceptance; empty where the event needs none.
        accept_sig: Vec<u8>,
    },
    /// The fields of a plain account's record.
    Plain {
        /// Its name.
        handle: Handle,
        /// Its id.
        account: AccountId,
        /// Its one device.
        device: DeviceId,
        /// That device's key.
        key: [u8; 32],
    },
}

/// Key events, and how far they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEvents {
    /// Position in the log (from 1) and event, in the order of the log.
    pub events: Vec<(u64, KeyEvent)>,
    /// Whether there are more behind them.
    pub more: bool,
}

impl KeyEvent {
    fn bytes(&self) -> usize {
        match self {
            Self::Native { event, sig, accept_sig } => event.len() + sig.len() + accept_sig.len(),
            Self::Plain { .. } => PLAIN_BYTES,
        }
    }
}

/// Up to `limit` key events behind position `after` and not behind position `to`.
///
/// # Errors
/// [`StoreError`].
pub fn key_events_after(
    conn: &mut Conn,
    after: u64,
    to: u64,
    limit: u32,
) -> Result<KeyEvents, StoreError> {
    let native = native_after(conn, after, to, limit)?;
    let plain = plain_after(conn, after, to, limit)?;
    // Where one of the two was cut, the other's rows behind it belong to the next page.
    let end = native.end().min(plain.end());
    let mut more = native.more || plain.more;
    let mut events = native.events;
    events.extend(plain.events);
    events.retain(|(place, _)| *place <= end);
    events.sort_unstable_by_key(|(place, _)| *place);
    more |= events.len() > limit as usize;
    events.truncate(limit as usize);
    Ok(KeyEvents { events, more })
}

impl KeyEvents {
    /// The position up to which these are all there are.
    fn end(&self) -> u64 {
        let last = self.events.last().map_or(0, |(place, _)| *place);
        if self.more { last } else { u64::MAX }
    }

    /// Takes rows until `limit` or the page's bytes are reached.
    fn take<R>(
        rows: impl Iterator<Item = QueryResult<R>>,
        limit: u32,
        read: fn(R) -> Result<(u64, KeyEvent), StoreError>,
    ) -> Result<Self, StoreError> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        for row in rows {
            let (place, event) = read(row?)?;
            bytes += event.bytes();
            if events.len() == limit as usize || (bytes > PAGE_BYTES && !events.is_empty()) {
                return Ok(Self { events, more: true });
            }
            events.push((place, event));
        }
        Ok(Self { events, more: false })
    }
}

type NativeRow = (i64, Vec<u8>, Vec<u8>, Vec<u8>);
type PlainRow = (i64, String, Vec<u8>, String, Vec<u8>);

fn native_after(conn: &mut Conn, after: u64, to: u64, limit: u32) -> Result<KeyEvents, StoreError> {
    let query = key_events::table
        .filter(key_events::sth_index.gt(signed(after)))
        .filter(key_events::sth_index.le(signed(to)))
        .order(key_events::sth_index)
        .select((key_events::sth_index, key_events::event, key_events::sig, key_events::accept_sig))
        // One more, to know whether there are more.
        .limit(i64::from(limit) + 1);
    let read = |(place, event, sig, accept_sig): NativeRow| {
        Ok((unsigned("key_events", place)?, KeyEvent::Native { event, sig, accept_sig }))
    };
    match conn {
        Conn::Sqlite(conn) => {
            KeyEvents::take(query.load_iter::<_, DefaultLoadingMode>(conn)?, limit, read)
        }
        Conn::Postgres(conn) => {
            KeyEvents::take(query.load_iter::<_, PgRowByRowLoadingMode>(conn)?, limit, read)
        }
    }
}

fn plain_after(conn: &mut Conn, after: u64, to: u64, limit: u32) -> Result<KeyEvents, StoreError> {
    let rows = accounts::table
        .inner_join(devices::table)
        .filter(accounts::native.eq(false))
        .filter(accounts::created_index.gt(signed(after)))
        .filter(accounts::created_index.le(signed(to)))
        .order(accounts::created_index)
        .select((
            accounts::created_index,
            accounts::handle,
            accounts::account_id,
            devices::device_id,
            devices::ed25519_pub,
        ))
        .limit(i64::from(limit) + 1)
        .load::<PlainRow>(conn)?;
    KeyEvents::take(rows.into_iter().map(Ok), limit, plain)
}

fn plain(row: PlainRow) -> Result<(u64, KeyEvent), StoreError> {
    let (place, handle, account, device, key) = row;
    let event = KeyEvent::Plain {
        handle: Handle::parse(&handle)
            .map_err(|_| StoreError::corrupt("accounts", "the handle is none"))?,
        account: AccountId(hash32("accounts", &account)?),
        device: DeviceId::parse(&device)
            .map_err(|_| StoreError::corrupt("devices", "the device id is none"))?,
        key: hash32("devices", &key)?,
    };
    Ok((unsigned("accounts", place)?, event))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(bytes: usize) -> QueryResult<(u64, usize)> {
        Ok((1, bytes))
    }

    fn read((place, bytes): (u64, usize)) -> Result<(u64, KeyEvent), StoreError> {
        Ok((place, KeyEvent::Native { event: vec![0; bytes], sig: vec![], accept_sig: vec![] }))
    }

    #[test]
    fn a_page_is_cut_by_rows_and_by_bytes_and_is_never_empty_for_nothing() {
        let big = PAGE_BYTES / 2;
        for (rows, limit, taken, more) in [
            (vec![], 5, 0, false),
            (vec![1, 1, 1], 3, 3, false),
            (vec![1, 1, 1], 2, 2, true),
            (vec![big, big], 5, 2, false),
            (vec![big, big, 1], 5, 2, true),
            (vec![PAGE_BYTES + 1, 1], 5, 1, true),
        ] {
            let page = KeyEvents::take(rows.iter().map(|&b| native(b)), limit, read).unwrap();
            assert_eq!((page.events.len(), page.more), (taken, more), "{rows:?}");
        }
    }
}
