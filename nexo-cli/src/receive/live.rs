//! Messages as they come: a socket that goes on where this state has got to.
//!
//! The state says where that is, and the relay keeps no second place for it: what was stored,
//! however the socket, this process or the relay has ended, is not asked for again, and what was
//! not stored is. Items are judged and stored as those of pages are.

use nexo_schema::error::ErrorCode;
use nexo_schema::http::Item;
use nexo_schema::limits::DEFAULT_WINDOW;
use nexo_schema::stream::Hello;
use tokio::time::{Duration, Instant};

use super::{ReceiveError, in_order, store_items};
use crate::api::{ApiError, Heard, Socket, path};
use crate::profile::Session;
use crate::trust::gossip::settle;
use crate::vault::HeldHead;

/// Items that are gathered before they are stored, and bytes of their ciphertext in base64.
const MOST_ITEMS: usize = 200;
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// How often the relay is asked to prove what messages said of the log: a message a millisecond
/// must not become a request a millisecond. What is left is asked for the next time.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// What a socket has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Items, to be stored with [`Live::store`].
    Items,
    /// Few one-time prekeys of this device are left at the relay.
    PrekeysLow,
}

/// A socket that brings everything behind the place this state has got to.
pub struct Live {
    socket: Socket,
    /// Why the socket has ended; told when what came before is stored.
    ended: Option<ReceiveError>,
    gathered: Gathered,
    head: Option<HeldHead>,
    /// Size of the head that the next one's consistency proof is from.
    told: u64,
    /// Position up to which this socket has brought everything and the state has it.
    stored: u64,
    acked: u64,
    settled: Option<Instant>,
}

impl Live {
    /// Connects and says where this state has got to.
    ///
    /// # Errors
    /// [`ReceiveError`]; a relay whose log has become smaller is one that went back.
    pub async fn open(session: &Session<'_>, now: u64) -> Result<Self, ReceiveError> {
        let after = session.profile.vault.read(|tx| tx.cursor())?;
        let told = session.trust.held_size()?;
        let hello = Hello {
            ver: 1,
            // The place is kept here. A second one at the relay could only be an older one.
            cursor: None,
            after: Some(after),
            conversations: None,
            window: DEFAULT_WINDOW,
            proofs: true,
            tree_size: (told > 0).then_some(told),
        };
        let (socket, greeting) = match Socket::hello(&session.member, &hello).await {
            Ok(greeted) => greeted,
            Err(error) if error.code() == Some(ErrorCode::BadRequest) => {
                // It does not know a head that it signed. Either this finds that it went back, or
                // it is one of several servers of that relay and will know it in a moment.
                session.trust.fetch_head(now).await?;
                return Err(ApiError::Network(error.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        };
        if greeting.after != after {
            return Err(ReceiveError::Page("begins somewhere else"));
        }
        Ok(Self {
            socket,
            ended: None,
            gathered: Gathered::default(),
            head: None,
            told,
            stored: after,
            acked: after,
            settled: None,
        })
    }

    /// Waits for news. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ReceiveError`]: the socket has ended. What it brought and was not stored comes again on
    /// the next one.
    pub async fn news(&mut self) -> Result<News, ReceiveError> {
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        while !self.gathered.is_something() {
            let heard = self.socket.next().await?;
            self.gathered.hear(heard)?;
        }
        if self.gathered.prekeys_low() {
            return Ok(News::PrekeysLow);
        }
        // What else is there already goes into the same transaction.
        while self.gathered.has_room() {
            let Some(heard) = self.socket.ready() else { break };
            let heard = heard.map_err(ReceiveError::from);
            if let Err(error) = heard.and_then(|heard| self.gathered.hear(heard)) {
                self.ended = Some(error);
                break;
            }
        }
        Ok(News::Items)
    }

    /// Verifies what was gathered, opens it, and stores it with the place it leads to.
    ///
    /// # Errors
    /// [`ReceiveError`]; the socket is of no more use then.
    pub async fn store(
        &mut self,
        session: &Session<'_>,
        now: u64,
        warn: &dyn Fn(&str),
    ) -> Result<(), ReceiveError> {
        let (shown, items) = self.gathered.take();
        if let Some(Shown { note, consistency }) = shown {
            let proof = consistency.as_deref().and_then(path).map(|path| (self.told, path));
            let head = session.trust.accept_fresh(note.as_bytes(), proof, now).await?;
            self.told = head.size;
            self.head = Some(head);
        }
        let head = self.head.as_ref().ok_or(ReceiveError::Page("has no head"))?;
        let last = in_order(&items, self.stored)?;
        if last > head.size {
            return Err(ReceiveError::Page("shows what its head does not hold"));
        }
        put(session, &items, head, self.stored, warn, now).await?;
        self.stored = last;
        if self.settled.is_none_or(|at| at.elapsed() >= SETTLE_EVERY) {
            // What the messages said of the log is proved once they are safe.
            settle(&session.trust, now).await?;
            self.settled = Some(Instant::now());
        }
        Ok(())
    }

    /// Tells the relay that what was stored is dealt with, which makes room for more.
    ///
    /// # Errors
    /// [`ReceiveError::Api`].
    pub fn handled(&mut self) -> Result<(), ReceiveError> {
        if self.stored > self.acked {
            self.socket.ack(self.stored)?;
            self.acked = self.stored;
        }
        Ok(())
    }
}

/// Stores what the state does not have: another process may have stored some of it. `before` is
/// the position that the first item follows.
async fn put(
    session: &Session<'_>,
    items: &[Item],
    head: &HeldHead,
    before: u64,
    warn: &dyn Fn(&str),
    now: u64,
) -> Result<(), ReceiveError> {
    loop {
        let cursor = session.profile.vault.read(|tx| tx.cursor())?;
        if cursor < before {
            let text = "this state went back in the log".to_owned();
            return Err(ApiError::Network(text).into());
        }
        let left = &items[items.partition_point(|item| item.sth_index <= cursor)..];
        if left.is_empty() || store_items(session, left, head, cursor, warn, now).await? {
            return Ok(());
        }
    }
}

/// A head as it came.
struct Shown {
    note: String,
    consistency: Option<Vec<String>>,
}

/// Items of one head, until they are stored.
#[derive(Default)]
struct Gathered {
    items: Vec<Item>,
    bytes: usize,
    /// The head that the items lead to; `None` if it is the one before.
    shown: Option<Shown>,
    /// A head that came behind them.
    next: Option<Shown>,
    prekeys_low: bool,
}

impl Gathered {
    fn is_something(&self) -> bool {
        self.prekeys_low || !self.items.is_empty()
    }

    fn has_room(&self) -> bool {
        self.next.is_none() && self.items.len() < MOST_ITEMS && self.bytes < MOST_BYTES
    }

    fn prekeys_low(&mut self) -> bool {
        std::mem::take(&mut self.prekeys_low)
    }

    fn hear(&mut self, heard: Heard) -> Result<(), ReceiveError> {
        match heard {
            Heard::Head { note, consistency } => {
                let of = if self.items.is_empty() { &mut self.shown } else { &mut self.next };
                // Its proof is from a head that nobody verified; the relay is asked for another.
                let consistency = consistency.filter(|_| of.is_none());
                *of = Some(Shown { note, consistency });
            }
            Heard::Item(item) => {
                self.bytes += item.cipher.len();
                self.items.push(*item);
            }
            Heard::PrekeysLow => self.prekeys_low = true,
            Heard::Refused { msg_id: None, problem } => {
                return Err(ApiError::Refused(problem).into());
            }
            // Nothing is sent on this socket that would be answered.
            Heard::Greeting(_) | Heard::Ring | Heard::Ack(_) | Heard::Refused { .. } => {}
        }
        Ok(())
    }

    /// The items, and the head they lead to if it is a new one.
    fn take(&mut self) -> (Option<Shown>, Vec<Item>) {
        self.bytes = 0;
        let shown = std::mem::replace(&mut self.shown, self.next.take());
        (shown, std::mem::take(&mut self.items))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::item;
    use super::*;
    use nexo_schema::error::Problem;
    use proptest::prelude::*;

    fn head(note: &str) -> Heard {
        Heard::Head { note: note.to_owned(), consistency: Some(vec!["proof".to_owned()]) }
    }

    fn an_item(index: u64) -> Heard {
        Heard::Item(Box::new(item(index)))
    }

    fn said(shown: Option<Shown>) -> Option<(String, bool)> {
        shown.map(|shown| (shown.note, shown.consistency.is_some()))
    }

    #[test]
    fn a_proof_from_a_head_that_was_passed_over_is_not_used() {
        let mut gathered = Gathered::default();
        gathered.hear(head("one")).unwrap();
        gathered.hear(head("two")).unwrap();
        assert!(!gathered.is_something(), "a head alone is no news");
        gathered.hear(an_item(1)).unwrap();
        assert_eq!(said(gathered.take().0), Some(("two".to_owned(), false)));
    }

    #[test]
    fn what_cannot_be_meant_for_this_socket_is_passed_over_and_a_refusal_is_not() {
        let mut gathered = Gathered::default();
        gathered.hear(Heard::Ring).unwrap();
        gathered.hear(Heard::PrekeysLow).unwrap();
        assert!(gathered.is_something() && gathered.prekeys_low());
        assert!(!gathered.is_something());
        let problem = Problem::new(ErrorCode::BadRequest, "no");
        let refused = gathered.hear(Heard::Refused { msg_id: None, problem });
        assert!(matches!(refused, Err(ReceiveError::Api(ApiError::Refused(_)))));
    }

    proptest! {
        /// However heads and items follow each other: nothing is lost or turned around, and no
        /// item is taken to lead to another head than the one told before it.
        #[test]
        fn each_item_keeps_its_head(frames in prop::collection::vec(0u8..4, 0..400)) {
            let (mut gathered, mut due, mut got) = (Gathered::default(), Vec::new(), Vec::new());
            let (mut told, mut current) = (0u64, String::new());
            let mut take = |gathered: &mut Gathered, got: &mut Vec<(String, u64)>| {
                let (shown, items) = gathered.take();
                if let Some(shown) = shown {
                    current = shown.note;
                }
                got.extend(items.iter().map(|item| (current.clone(), item.sth_index)));
            };
            for (at, frame) in (1u64..).zip(frames) {
                if frame == 0 || told == 0 {
                    told = at;
                    gathered.hear(head(&told.to_string())).unwrap();
                } else {
                    due.push((told.to_string(), at));
                    gathered.hear(an_item(at)).unwrap();
                }
                prop_assert!(gathered.items.len() <= MOST_ITEMS);
                if !gathered.has_room() || frame == 3 {
                    take(&mut gathered, &mut got);
                }
            }
            take(&mut gathered, &mut got);
            take(&mut gathered, &mut got);
            prop_assert_eq!(got, due);
        }
    }
}
