//! The wire of one socket: what can happen next on it, and frames on their way out.
//!
//! Frames are gathered ([`Line::put`]) and leave together ([`Line::flush`]): everything that
//! one batch has for a socket is one write.

use std::pin::Pin;
use std::time::Duration;

use rocket::Shutdown;
use rocket::futures::stream::FuturesUnordered;
use rocket::futures::{SinkExt as _, StreamExt};
use rocket::tokio::select;
use rocket::tokio::time::{
    Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep, timeout,
};
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

/// How long a socket is not read that sent more than its allowance: refusing takes work as well,
/// and what a flood costs is not to be up to the flood.
const REST: Duration = Duration::from_millis(25);

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
    /// Until when the peer is not heard.
    resting: Option<Pin<Box<Sleep>>>,
    /// Whether frames were put that have not left.
    unsent: bool,
}

impl<F: Future> Line<F> {
    /// `ping_every`: how often a silent socket is asked whether anyone is there.
    pub(super) fn new(stream: DuplexStream, shutdown: Shutdown, ping_every: Duration) -> Self {
        let mut ping = interval_at(Instant::now() + some_of(ping_every), ping_every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let waiting = FuturesUnordered::new();
        Self { stream, waiting, ping, shutdown, resting: None, unsent: false }
    }

    /// Waits for what an envelope becomes.
    pub(super) fn await_answer(&mut self, answer: F) {
        self.waiting.push(answer);
    }

    /// Does not hear the peer for a while.
    pub(super) fn rest(&mut self) {
        self.resting = Some(Box::pin(sleep(REST)));
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
            frame = heard(&mut self.stream, &mut self.resting), if in_flight < IN_FLIGHT => {
                Event::Heard(frame)
            }
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

/// Any part of it: thousands who came at once, after a restart, are not asked at once for ever.
fn some_of(whole: Duration) -> Duration {
    whole.mul_f64(f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX))
}

/// What the peer says, once its rest is over. Cancel safe.
async fn heard<S: StreamExt + Unpin>(
    stream: &mut S,
    resting: &mut Option<Pin<Box<Sleep>>>,
) -> Option<S::Item> {
    if let Some(rest) = resting {
        rest.await;
        *resting = None;
    }
    stream.next().await
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

#[cfg(test)]
mod tests {
    use super::*;
    use rocket::futures::FutureExt as _;
    use rocket::futures::stream::iter;

    #[test]
    fn sockets_that_open_together_are_asked_at_different_times() {
        let whole = Duration::from_secs(30);
        let firsts: Vec<_> = (0..64).map(|_| some_of(whole)).collect();
        assert!(firsts.iter().all(|first| *first <= whole));
        assert!(firsts.iter().any(|first| *first < whole / 2));
        assert!(firsts.iter().any(|first| *first > whole / 2));
    }

    #[test]
    fn who_sent_too_much_is_not_heard_for_a_while() {
        rocket::execute(async {
            let mut said = iter([1, 2]);
            let mut resting = Some(Box::pin(sleep(Duration::from_secs(3600))));
            assert_eq!(heard(&mut said, &mut resting).now_or_never(), None);
            resting = Some(Box::pin(sleep(Duration::ZERO)));
            assert_eq!(heard(&mut said, &mut resting).await, Some(1), "nothing was lost");
            assert!(resting.is_none());
            assert_eq!(heard(&mut said, &mut resting).await, Some(2));
        });
    }
}
