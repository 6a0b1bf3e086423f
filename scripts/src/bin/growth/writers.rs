//! Who writes, and what: plain messages, numbered over the whole run.

use std::sync::atomic::{AtomicU64, Ordering};

use nexo_schema::bytes::to_base64;
use nexo_schema::ids::{ConvId, DeviceId, IdError, MsgId};
use nexo_scripts::account::Seat;
use nexo_server::store::{Item, NewMessage};

use crate::args::Ids;

const AD: &str = "{}";

/// The accounts, and how many messages they have written.
#[derive(Debug)]
pub(crate) struct Writers {
    seats: Vec<Writer>,
    payload: usize,
    ids: Ids,
    next: AtomicU64,
}

#[derive(Debug)]
struct Writer {
    token: String,
    device: DeviceId,
    conv: ConvId,
}

/// A message on its way over REST.
#[derive(Debug)]
pub(crate) struct Letter<'a> {
    /// The writer's access token.
    pub(crate) token: &'a str,
    /// The body of `POST /messages`.
    pub(crate) json: String,
}

impl Writers {
    /// Writers in these seats.
    ///
    /// # Errors
    /// [`IdError`] if a seat is none of a relay's.
    pub(crate) fn new(seats: Vec<Seat>, payload: u16, ids: Ids) -> Result<Self, IdError> {
        let seats = seats.into_iter().map(|Seat { token, device, conv }| {
            let (device, conv) = (DeviceId::parse(&device)?, ConvId::parse(&conv)?);
            Ok(Writer { token, device, conv })
        });
        let seats = seats.collect::<Result<_, _>>()?;
        Ok(Self { seats, payload: payload.into(), ids, next: AtomicU64::new(0) })
    }

    /// The next message, for the log itself.
    pub(crate) fn item(&self) -> Item {
        let (writer, msg_id) = self.take();
        Item::Message(NewMessage {
            conv: writer.conv,
            msg_id,
            device: writer.device.clone(),
            nonce_len: 0,
            cipher: vec![0x5a; self.payload],
            ad: AD.into(),
            native: None,
        })
    }

    /// The next message, for a relay.
    pub(crate) fn letter(&self) -> Letter<'_> {
        let (Writer { token, conv, .. }, msg_id) = self.take();
        let cipher = to_base64(&vec![0x5a; self.payload]);
        let json =
            format!(r#"{{"conv_id":"{conv}","msg_id":"{msg_id}","cipher":"{cipher}","ad":{AD}}}"#);
        Letter { token, json }
    }

    fn take(&self) -> (&Writer, MsgId) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = match self.ids {
            Ids::Timed => {
                let (high, low) = (mixed(number).to_be_bytes(), mixed(!number).to_be_bytes());
                let [a, b, ..] = high;
                let [c, d, e, f, g, h, i, j] = low;
                MsgId::timed(BEGAN + number / A_MILLISECOND, [a, b, c, d, e, f, g, h, i, j])
            }
            Ids::Random => {
                (u128::from(mixed(number)) << 64 | u128::from(mixed(!number))).to_be_bytes()
            }
        };
        let count = self.seats.len().max(1) as u64;
        // Below the number of seats, which is a usize.
        let seat = usize::try_from(number % count).unwrap_or(0);
        (&self.seats[seat], MsgId::native(&id))
    }
}

/// The time in the first timed id, Unix milliseconds; any will do.
const BEGAN: u64 = 1_700_000_000_000;

/// Messages that are named in the same millisecond: about what one relay takes.
const A_MILLISECOND: u64 = 40;

/// A number that looks like a random one, another for each (splitmix64, Steele et al. 2014).
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::http::SendRequest;
    use std::collections::BTreeSet;

    fn writers(ids: Ids) -> Writers {
        let seat = |n: u8| Seat {
            token: format!("t{n}"),
            device: format!("d{n}"),
            conv: format!("{n:064x}"),
        };
        Writers::new((0..3).map(seat).collect(), 40, ids).unwrap()
    }

    #[test]
    fn no_two_messages_have_the_same_id() {
        for ids in [Ids::Random, Ids::Timed] {
            let writers = writers(ids);
            let taken: Vec<MsgId> = (0..1000).map(|_| writers.take().1).collect();
            assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), 1000);
            let times = taken.iter().map(|id| &id.as_str()[..12]);
            assert_eq!(times.is_sorted(), ids == Ids::Timed);
        }
    }

    #[test]
    fn a_message_is_its_writers_on_both_ways() {
        let writers = writers(Ids::Random);
        let Item::Message(first) = writers.item() else { panic!() };
        assert_eq!((first.device.as_str(), first.cipher.len()), ("d0", 40));
        let letter = writers.letter();
        let request: SendRequest = serde_json::from_str(&letter.json).unwrap();
        assert_eq!(letter.token, "t1");
        assert_eq!(request.conv_id, writers.seats[1].conv);
        assert_ne!(request.msg_id.unwrap(), first.msg_id);
    }

    #[test]
    fn a_seat_that_is_none_is_refused() {
        let seat = Seat { token: "t".into(), device: "d".into(), conv: "x".into() };
        assert!(Writers::new(vec![seat], 40, Ids::Random).is_err());
    }
}
