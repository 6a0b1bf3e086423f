//! The wire of one socket: what can happen next on it, and frames on their way out.
//!
//! Frames are gathered ([`Line::put`]) and leave together ([`Line::flush`]): everything that
//! one batch has for a socket is one write.

use std::time::Duration;

use rocket::Shutdown;
use rocket::futures::stream::FuturesUnordered;
use rocket::futures::{SinkExt as _, StreamExt as _};
use rocket::tokio::select;
use rocket::tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use rocket_ws::Message;
use rocket_ws::frame::CloseCode;
use rocket_ws::result::Error;
use rocket_ws::stream::DuplexStream;

use super::close;
use super::follow::Follower;
use super::rooms::{Bell, Word};
use super::stream::Stream;

/// Envelopes of one socket that may wait for their commit; then it is not read.
pub(super) const IN_FLIGHT: usize = 256;

/// How long a reader may take to make room; a stalled one is cut off, and resumes by cursor.
pub(super) const SEND_WITHIN: Duration = Duration::from_secs(30);

/// Why a socket ends.
pub(super) enum End {
    /// The peer left, or is not reading.
    Gone,
    /// The relay closes it.
    Close(CloseCode, &'static str),
}

/// What a socket waits for besides its peer.
pub(super) enum Place {
    /// The seed's socket: a conversation.
    Conversation(Follower),
    /// Without `conv_id`: that there is something new for the account.
    Account(Bell),
    /// The same, once it has said hello: the messages themselves.
    Stream(Box<Stream>),
}

/// What happens next on a socket.
pub(super) enum Event<T> {
    /// The peer sent something, or left.
    Heard(Option<Result<Message, Error>>),
    /// An envelope has its answer.
    Answered(T),
    /// The conversation's room says something, or the account's to a stream.
    Told(Word),
    /// The log has this size, and something in it is new to the account.
    Rung(u64),
    /// The account's devices have changed, or few prekeys of one are left.
    Devices,
    /// It is time to ask whether anyone is there.
    Tick,
    /// The relay shuts down.
    Closing,
}

/// An open socket whose envelopes in flight are answered by futures `F`.
pub(super) struct Line<F> {
    stream: DuplexStream,
    waiting: FuturesUnordered<F>,
    ping: Interval,
    shutdown: Shutdown,
    /// Whether frames were put that have not left.
    unsent: bool,
}

impl<F: Future> Line<F> {
    /// `ping_every`: how often a silent socket is asked whether anyone is there.
    pub(super) fn new(stream: DuplexStream, shutdown: Shutdown, ping_every: Duration) -> Self {
        let mut ping = interval_at(Instant::now() + ping_every, ping_every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { stream, waiting: FuturesUnordered::new(), ping, shutdown, unsent: false }
    }

    /// Waits for what an envelope becomes.
    pub(super) fn await_answer(&mut self, answer: F) {
        self.waiting.push(answer);
    }

    /// The next envelope's answer; `None` when none waits.
    pub(super) async fn answered(&mut self) -> Option<F::Output> {
        self.waiting.next().await
    }

    /// The next event. Cancel safe: dropped before it is ready, it has taken nothing.
    pub(super) async fn event(
        &mut self,
        place: &mut Place,
        devices: &mut Bell,
    ) -> Event<F::Output> {
        let in_flight = self.waiting.len();
        select! {
            _ = &mut self.shutdown => Event::Closing,
            frame = self.stream.next(), if in_flight < IN_FLIGHT => Event::Heard(frame),
            Some(answer) = self.waiting.next(), if in_flight > 0 => Event::Answered(answer),
            news = news(place) => news,
            _ = devices.rung() => Event::Devices,
            _ = self.ping.tick() => Event::Tick,
        }
    }

    /// Puts a frame on its way; it leaves with the next flush, or when the buffer is full.
    pub(super) async fn put(&mut self, text: Option<String>) -> Result<(), End> {
        let Some(text) = text else { return Ok(()) };
        self.put_message(Message::Text(text)).await
    }

    pub(super) async fn put_message(&mut self, message: Message) -> Result<(), End> {
        self.unsent = true;
        within(self.stream.feed(message)).await
    }

    /// Sends what was put.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        if !std::mem::take(&mut self.unsent) {
            return Ok(());
        }
        within(self.stream.flush()).await
    }

    /// Ends the socket; what was put leaves before the close frame.
    pub(super) async fn end(mut self, end: End) {
        if let End::Close(code, reason) = end {
            close(&mut self.stream, code, reason).await;
        }
    }
}

async fn news<T>(place: &mut Place) -> Event<T> {
    match place {
        Place::Conversation(follower) => Event::Told(follower.word().await),
        Place::Account(bell) => Event::Rung(bell.rung().await),
        Place::Stream(stream) => Event::Told(stream.word().await),
    }
}

/// A reader that makes no room in time is not waited for.
async fn within<E>(sent: impl Future<Output = Result<(), E>>) -> Result<(), End> {
    match timeout(SEND_WITHIN, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Gone),
    }
}
