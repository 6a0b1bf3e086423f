//! Many messages over one socket, each as sure as one by itself.
//!
//! They are sealed and stored in the order in which they come, several in a transaction, and
//! leave in that order. No more than a window of them waits for the relay. A socket that ends is
//! replaced, and what was not acknowledged is sent again, the same bytes under the same id. What
//! the relay refuses for the moment is sent again when all that was sent after it is answered.
//!
//! Answers come in any order; [`Flow::done`] tells them in the order of the messages.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use nexo_schema::error::{ErrorCode, Problem};
use nexo_schema::ids::MsgId;
use tokio::time::{Instant, sleep_until};

use super::queue::{MOST_WAITING, Queue};
use super::sealing::{put_all, reseal};
use super::{Addressees, DeliverError, Delivered, Letter, is_repeat_of_stateless, open, verified};
use crate::api::{Ack, ApiError, Heard, Socket};
use crate::body::Matter;
use crate::profile::Session;
use crate::trust::{PeerError, TrustError};
use crate::vault::OutboxRow;

/// Between sockets: from a fifth of a second to five seconds, with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How all of them are sent.
#[derive(Debug, Clone, Copy)]
pub struct Manner<'a> {
    /// Message n (from 1) has this key and its number as its key; see [`Flow::put`].
    pub key: Option<&'a str>,
    /// See [`Letter::expect`].
    pub expect: Option<crate::e2ee::AccountId>,
    /// See [`Letter::oneshot`].
    pub oneshot: bool,
}

/// Messages on their way to one account.
pub struct Flow<'a> {
    session: &'a Session<'a>,
    manner: Manner<'a>,
    socket: Option<Socket>,
    queue: Queue,
    /// Messages that have come.
    count: u64,
    /// What was heard and not acted upon.
    heard: Vec<Heard>,
    /// Why the socket has ended, if more was heard before.
    ended: Option<ApiError>,
    pauses: ExponentialBackoff,
    /// Nothing is sent before.
    rests_until: Option<Instant>,
    /// Whether a token was refused since the last ack.
    renewed: bool,
}

impl<'a> Flow<'a> {
    /// Nothing is sent yet.
    #[must_use]
    pub fn new(session: &'a Session<'a>, manner: Manner<'a>) -> Self {
        Self {
            session,
            manner,
            socket: None,
            queue: Queue::default(),
            count: 0,
            heard: Vec::new(),
            ended: None,
            pauses: pauses(),
            rests_until: None,
            renewed: false,
        }
    }

    /// How many messages may be put now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.queue.room()
    }

    /// Whether messages were put that are not done.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// How many messages are not acknowledged.
    #[must_use]
    pub fn unacked(&self) -> usize {
        self.queue.unacked()
    }

    /// Whether there is a socket.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// Seals messages and stores them, all or none. What was acknowledged under its key in an
    /// earlier run is done at once, and what was stored then is sent as it was sealed.
    ///
    /// # Errors
    /// [`DeliverError`]; none of them was stored.
    pub async fn put(
        &mut self,
        to: &Addressees,
        texts: &[String],
        now: u64,
    ) -> Result<(), DeliverError> {
        let conversation = open(self.session, to).await?;
        let keys: Vec<Option<String>> = (self.count + 1..)
            .take(texts.len())
            // No argument of a program has a zero byte in it, so this is nobody's own key.
            .map(|number| self.manner.key.map(|key| format!("{key}\0{number}")))
            .collect();
        let letters: Vec<Letter<'_>> =
            texts.iter().zip(&keys).map(|(text, key)| self.letter(text, key.as_deref())).collect();
        let rows = put_all(self.session, to, conversation, &letters, now).await?;
        self.count += rows.len() as u64;
        for (row, key) in rows.into_iter().zip(keys) {
            self.queue.push(key, row);
        }
        self.pump()
    }

    fn letter<'t>(&self, text: &'t str, key: Option<&'t str>) -> Letter<'t> {
        let Manner { expect, oneshot, .. } = self.manner;
        Letter { matter: Matter::Text(text), key, expect, oneshot }
    }

    /// Sends what may leave.
    fn pump(&mut self) -> Result<(), DeliverError> {
        match self.socket.as_mut().filter(|_| self.rests_until.is_none()) {
            Some(socket) => Ok(self.queue.leave(|request| socket.submit(request))?),
            None => Ok(()),
        }
    }

    /// Connects, after a pause where there has to be one, for as long as it takes, and sends
    /// what is not acknowledged. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`DeliverError::Api`] for what does not pass by itself.
    pub async fn connect(&mut self, told: &dyn Fn(&str)) -> Result<(), DeliverError> {
        loop {
            if let Some(until) = self.rests_until {
                sleep_until(until).await;
                self.rests_until = None;
            }
            match Socket::connect(&self.session.member).await {
                Ok(socket) => {
                    self.socket = Some(socket);
                    return self.pump();
                }
                Err(error) => self.lost(error.into(), told)?,
            }
        }
    }

    /// Waits until the relay has said something, or a pause is over; [`Flow::settle`] acts upon
    /// it. For ever without a socket. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ApiError`]: the socket has ended; see [`Flow::lost`].
    pub async fn hear(&mut self) -> Result<(), ApiError> {
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        let Some(socket) = &mut self.socket else { return std::future::pending().await };
        let until = self.rests_until;
        let rested = async move {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let first = tokio::select! {
            first = socket.next() => first?,
            () = rested => {
                self.rests_until = None;
                return Ok(());
            }
        };
        self.heard.push(first);
        while self.heard.len() < MOST_WAITING {
            match socket.ready() {
                Some(Ok(heard)) => self.heard.push(heard),
                Some(Err(error)) => {
                    self.ended = Some(error);
                    break;
                }
                None => break,
            }
        }
        Ok(())
    }

    /// Goes on after the end of a socket, or after a request that failed, if that may help.
    ///
    /// # Errors
    /// The error, if it does not pass by itself.
    pub fn lost(&mut self, error: DeliverError, told: &dyn Fn(&str)) -> Result<(), DeliverError> {
        let Some(cause) = cause(&error) else { return Err(error) };
        if cause.code() == Some(ErrorCode::Unauthorized) && !self.renewed {
            self.renewed = true;
            self.session.member.forget_token();
        } else if !cause.is_temporary() {
            return Err(error);
        }
        let wish = cause.retry_after();
        (self.socket, self.ended) = (None, None);
        self.heard.clear();
        self.queue.lost();
        let pause = self.rest(wish);
        told(&format!("{error}; again in {:.1} s", pause.as_secs_f64()));
        Ok(())
    }

    fn rest(&mut self, wish: Option<Duration>) -> Duration {
        let pause = wish.unwrap_or_default() + self.pauses.next().unwrap_or(LONGEST_PAUSE);
        self.rests_until = Some(Instant::now() + pause);
        pause
    }

    /// Acts upon what was heard: an acknowledgement is believed with its proof only. Whether few
    /// one-time prekeys of this device are left is the answer.
    ///
    /// # Errors
    /// [`DeliverError::Undelivered`] for a message that the relay does not take; others of the
    /// log or the state.
    pub async fn settle(&mut self, now: u64) -> Result<bool, DeliverError> {
        let (mut prekeys_low, mut acked, mut refused) = (false, Vec::new(), Vec::new());
        for heard in std::mem::take(&mut self.heard) {
            match heard {
                Heard::Ack(ack) => acked.push(*ack),
                Heard::Refused { msg_id: Some(msg_id), problem } => refused.push((msg_id, problem)),
                Heard::PrekeysLow => prekeys_low = true,
                _ => {}
            }
        }
        self.acked(acked, now).await?;
        for (msg_id, problem) in refused {
            self.refused(&msg_id, problem)?;
        }
        self.again(now).await?;
        self.pump()?;
        Ok(prekeys_low)
    }

    async fn acked(&mut self, acks: Vec<Ack>, now: u64) -> Result<(), DeliverError> {
        let (mut sent, mut done): (Vec<(MsgId, u64)>, _) = (Vec::new(), Ok(()));
        for ack in acks {
            let Some(one) = self.queue.sent(&ack.msg_id) else { continue };
            match verified(self.session, ack.receipt.as_ref(), one.row.envelope, now).await {
                Ok(place) => {
                    one.done(Some(place), ack.duplicate);
                    sent.push((ack.msg_id, place));
                }
                Err(error) => {
                    done = Err(undelivered(&one.row, error));
                    break;
                }
            }
        }
        if !sent.is_empty() {
            self.queue.widen();
            (self.pauses, self.renewed) = (pauses(), false);
            let vault = &self.session.profile.vault;
            vault.write(|tx| sent.iter().try_for_each(|(id, at)| tx.set_sent(id, *at))).await?;
        }
        done
    }

    fn refused(&mut self, msg_id: &MsgId, problem: Problem) -> Result<(), DeliverError> {
        let profile = self.session.profile;
        let Some(one) = self.queue.sent(msg_id) else { return Ok(()) };
        let stale = problem.code == ErrorCode::DeviceListStale && !one.resealed;
        let error = ApiError::Refused(problem.clone());
        if is_repeat_of_stateless(profile, one.key.is_some(), &error) {
            one.done(None, true);
            return Ok(());
        }
        if !stale && !error.is_temporary() {
            return Err(undelivered(&one.row, error.into()));
        }
        one.refuse(problem);
        Ok(())
    }

    /// Once nothing is on the wire, has what was refused go again, in its order.
    async fn again(&mut self, now: u64) -> Result<(), DeliverError> {
        let (mut wish, mut crowded, mut refresh) = (None, false, true);
        for (place, problem) in self.queue.refused() {
            let resealed = match problem.code {
                // The devices are asked for once for all of them.
                ErrorCode::DeviceListStale => {
                    self.reseal(place, std::mem::take(&mut refresh), now).await?
                }
                _ => {
                    crowded = true;
                    wish = wish.max(problem.retry_after.map(Duration::from_secs));
                    None
                }
            };
            self.queue.again(place, resealed);
        }
        if crowded {
            self.queue.narrow();
            self.rest(wish);
        }
        Ok(())
    }

    async fn reseal(
        &self,
        place: usize,
        refresh: bool,
        now: u64,
    ) -> Result<Option<OutboxRow>, DeliverError> {
        let Some(one) = self.queue.at(place) else { return Ok(None) };
        let text = one.row.text.clone().ok_or(DeliverError::Deleted)?;
        let letter = self.letter(&text, one.key.as_deref());
        let handle = &one.row.peer_handle;
        let to = Addressees::find(self.session, handle, letter.expect, refresh, now).await?;
        let row = reseal(self.session, &to, &letter, &one.row, now).await;
        row.map(Some).map_err(|error| undelivered(&one.row, error))
    }

    /// Messages that are done and have none before them that is not, in their order.
    pub fn done(&mut self) -> Vec<Delivered> {
        self.queue.take_done()
    }

    /// All messages that are done, in their order, at an end that came before the last receipt.
    pub fn end(&mut self) -> Vec<Delivered> {
        self.queue.end()
    }
}

/// What the relay, or the way to it, has to do with an error.
fn cause(error: &DeliverError) -> Option<&ApiError> {
    match error {
        DeliverError::Undelivered { source, .. } => cause(source),
        DeliverError::Api(error)
        | DeliverError::Trust(TrustError::Api(error))
        | DeliverError::Peer(PeerError::Api(error)) => Some(error),
        _ => None,
    }
}

fn undelivered(row: &OutboxRow, error: DeliverError) -> DeliverError {
    let (msg_id, handle) = (row.msg_id.clone(), row.peer_handle.to_string());
    DeliverError::Undelivered { msg_id, handle, source: Box::new(error) }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}
