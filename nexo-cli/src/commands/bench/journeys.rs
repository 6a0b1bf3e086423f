//! What became of each message: when it left, was acked and arrived, and what proves it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use nexo_schema::entry;
use nexo_schema::http::{Item, Receipt};
use nexo_schema::ids::MsgId;
use tokio::time::Instant;

use crate::api::{Ack, ApiError, path};
use crate::deliver::DeliverError;
use crate::e2ee::EnvelopeHash;
use crate::error::CliError;
use crate::profile::Session;
use crate::trust::verify_receipt;

/// A sealed message: its exact bytes, and the hash that the log will have of them.
pub(super) struct Mail {
    pub(super) msg_id: MsgId,
    pub(super) request: Vec<u8>,
    pub(super) envelope: EnvelopeHash,
}

/// One message.
struct Journey {
    mail: Mail,
    left: Option<Instant>,
    acked: Option<(Instant, Option<Receipt>)>,
    arrived: Option<Arrival>,
}

/// How it came.
struct Arrival {
    at: Instant,
    sth_index: u64,
    inclusion: Vec<String>,
    /// Which of the heads told its path leads to.
    head: usize,
}

/// All of them.
pub(super) struct Journeys {
    all: Vec<Journey>,
    by_id: HashMap<MsgId, usize>,
    waiting: VecDeque<usize>,
    /// Heads as the listener was told them, with their consistency proofs.
    heads: Vec<(String, Option<Vec<String>>)>,
    missing: usize,
    /// Refusals that asked to wait.
    pub(super) limited: u64,
}

/// What was measured.
#[derive(Default)]
pub(super) struct Times {
    /// From the first submission of each message to its ack.
    pub(super) acks: Vec<Duration>,
    /// From there to its arrival.
    pub(super) arrivals: Vec<Duration>,
    /// From the first submission of all to the last ack.
    pub(super) acked_in: Duration,
    /// From there to the last arrival.
    pub(super) arrived_in: Duration,
}

impl Journeys {
    pub(super) fn of(mail: Vec<Mail>) -> Self {
        let by_id = mail.iter().enumerate().map(|(n, mail)| (mail.msg_id.clone(), n)).collect();
        let missing = mail.len();
        let journey = |mail| Journey { mail, left: None, acked: None, arrived: None };
        let all: Vec<_> = mail.into_iter().map(journey).collect();
        let waiting = (0..all.len()).collect();
        Self { all, by_id, waiting, heads: Vec::new(), missing, limited: 0 }
    }

    /// The bytes of the next message, which leaves now.
    pub(super) fn depart(&mut self) -> Option<Vec<u8>> {
        let journey = &mut self.all[self.waiting.pop_front()?];
        journey.left.get_or_insert_with(Instant::now);
        Some(journey.mail.request.clone())
    }

    /// A message that the relay did not take yet.
    pub(super) fn put_back(&mut self, id: &MsgId) -> Result<(), CliError> {
        let number = *self.by_id.get(id).ok_or_else(|| wrong("a refusal of what was sent"))?;
        self.waiting.push_back(number);
        self.limited += 1;
        Ok(())
    }

    pub(super) fn acked(&mut self, ack: Ack) -> Result<(), CliError> {
        let now = Instant::now();
        let journey = self.journey(&ack.msg_id, "an ack of what was sent")?;
        if journey.acked.replace((now, ack.receipt)).is_some() {
            return Err(wrong("one ack of each message"));
        }
        Ok(())
    }

    pub(super) fn head(&mut self, note: String, consistency: Option<Vec<String>>) {
        self.heads.push((note, consistency));
    }

    pub(super) fn arrived(&mut self, item: Item) -> Result<(), CliError> {
        let at = Instant::now();
        let head =
            self.heads.len().checked_sub(1).ok_or_else(|| wrong("a head before the items"))?;
        let journey = self.journey(&item.msg_id, "what was sent to this account")?;
        let inclusion = item.inclusion.ok_or_else(|| wrong("an item with its proof"))?;
        let arrival = Arrival { at, sth_index: item.sth_index, inclusion, head };
        if journey.arrived.replace(arrival).is_some() {
            return Err(wrong("each message once"));
        }
        self.missing -= 1;
        Ok(())
    }

    fn journey(&mut self, id: &MsgId, what: &'static str) -> Result<&mut Journey, CliError> {
        let number = self.by_id.get(id).copied().ok_or_else(|| wrong(what))?;
        Ok(&mut self.all[number])
    }

    /// How many have not arrived; `None` when all have.
    pub(super) fn under_way(&self) -> Option<usize> {
        Some(self.missing).filter(|&missing| missing > 0)
    }

    /// Verifies every receipt and every path, and that both say the same of each message.
    ///
    /// # Errors
    /// What does not hold.
    pub(super) async fn verified(
        &self,
        writer: &Session<'_>,
        reader: &Session<'_>,
        now: u64,
    ) -> Result<Times, CliError> {
        let mut heads = Vec::with_capacity(self.heads.len());
        let mut told = reader.trust.held_size()?;
        for (note, consistency) in &self.heads {
            let proof = consistency.as_deref().and_then(path).map(|path| (told, path));
            let head = reader.trust.accept_fresh(note.as_bytes(), proof, now).await?;
            told = head.size;
            heads.push(head);
        }
        let begun = self.all.iter().filter_map(|journey| journey.left).min();
        let mut times = Times::default();
        for Journey { mail, left, acked, arrived } in &self.all {
            let (Some(begun), Some(left), Some((acked, receipt)), Some(arrival)) =
                (begun, left, acked, arrived)
            else {
                return Err(wrong("every message"));
            };
            let leaf = entry::message(mail.envelope.as_bytes());
            let receipt = receipt.as_ref().ok_or(DeliverError::NoReceipt)?;
            let place = verify_receipt(&writer.trust, receipt, "the message", &leaf, now).await?;
            if place != arrival.sth_index {
                return Err(wrong("the place that the ack said"));
            }
            let proof = path(&arrival.inclusion).ok_or_else(|| wrong("a path of hashes"))?;
            reader.trust.included("a message", &heads[arrival.head], &leaf, place, &proof)?;
            times.acks.push(*acked - *left);
            times.arrivals.push(arrival.at - *left);
            times.acked_in = times.acked_in.max(*acked - begun);
            times.arrived_in = times.arrived_in.max(arrival.at - begun);
        }
        Ok(times)
    }
}

/// What an honest relay says is `expected`.
fn wrong(expected: &'static str) -> CliError {
    ApiError::Malformed { route: "GET /ws".to_owned(), expected }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journeys(count: u8) -> Journeys {
        let mail = |n: u8| Mail {
            msg_id: MsgId::parse(&format!("m-{n}")).unwrap(),
            request: vec![n],
            envelope: EnvelopeHash::from_bytes([n; 32]),
        };
        Journeys::of((0..count).map(mail).collect())
    }

    fn ack(of: &Journeys, n: usize) -> Ack {
        let msg_id = of.all[n].mail.msg_id.clone();
        Ack { msg_id, sth_index: 1, duplicate: false, receipt: None }
    }

    #[test]
    fn what_has_to_wait_is_sent_again_and_timed_from_its_first_try() {
        let mut journeys = journeys(2);
        assert_eq!(journeys.depart(), Some(vec![0]));
        let first = journeys.all[0].left;
        let id = journeys.all[0].mail.msg_id.clone();
        journeys.put_back(&id).unwrap();
        assert_eq!(journeys.depart(), Some(vec![1]));
        assert_eq!(journeys.depart(), Some(vec![0]));
        assert_eq!((journeys.depart(), journeys.limited), (None, 1));
        assert_eq!(journeys.all[0].left, first);
        assert!(journeys.put_back(&MsgId::parse("m-9").unwrap()).is_err());
    }

    #[test]
    fn what_no_honest_relay_says_ends_the_run() {
        let mut journeys = journeys(1);
        assert_eq!(journeys.under_way(), Some(1));
        let known = ack(&journeys, 0);
        journeys.acked(known.clone()).unwrap();
        assert!(journeys.acked(known).is_err(), "twice");
        let other = ack(&self::journeys(2), 1);
        assert!(journeys.acked(other).is_err(), "never sent");
    }
}
