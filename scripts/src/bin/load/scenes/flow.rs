//! Conversations of two sockets, one of which sends, and when each message was where.
//!
//! The time a message was sent at is part of its id, so that whoever receives it knows how long
//! it took; this process is everybody, and has one clock.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use nexo_scripts::stats::Window;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::seen::{Seen, since_start, stamp};
use super::wire::{self, Stream, next_text};
use crate::drive::{DriveError, Phase, Target, cpu_between};
use crate::shape::{Letters, Placed, Shape, Talk};

/// How long after the window the last messages may come.
const DRAIN: Duration = Duration::from_secs(30);

/// Items that a listener acknowledges together.
const ACK_EVERY: usize = 128;

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// So many in flight at each sender.
    InFlight(usize),
    /// So many a second, all senders together.
    Rate(f64),
}

/// Conversations of two sockets, one for each participant: the first sends, both are sent all.
pub(super) async fn relay(
    target: &Target,
    conversations: usize,
    pace: Pace,
    phase: Phase,
) -> Result<Seen, DriveError> {
    let server = target.addresses[0];
    let (count, mut listeners) = (target.seats.len(), JoinSet::new());
    let mut senders = Vec::with_capacity(conversations);
    for number in 0..conversations {
        let (seat, other) = (&target.seats[number], &target.seats[(number + 1) % count]);
        let talk = Shape::Socket { connections: 1, in_flight: 1, talk: Talk::Acks };
        let letters = Letters::new(seat, talk, phase.payload);
        let (done, sent) = watch::channel(None);
        let stream = wire::listen(server, other, Some(&seat.conv), number).await?;
        let hearing = hear(Ear::new(stream, letters.clone()), sent.clone());
        listeners.spawn(timeout_from(sent, hearing));
        let stream = wire::listen(server, seat, Some(&seat.conv), number).await?;
        senders.push((Ear::new(stream, letters), done));
    }
    let window = opens_now(phase);
    let mut workers = JoinSet::new();
    for (number, (ear, done)) in senders.into_iter().enumerate() {
        let clock = Clock::new(pace, conversations, number, window);
        workers.spawn(say(ear, clock, done));
    }
    gather(target, window, workers, listeners).await
}

/// The same frames on sockets of an echo: two for each conversation.
pub(super) async fn echo(
    target: &Target,
    conversations: usize,
    pace: Pace,
    phase: Phase,
    frame: usize,
) -> Result<Seen, DriveError> {
    let sockets = 2 * conversations;
    let mut streams = Vec::with_capacity(sockets);
    for number in 0..sockets {
        streams.push(wire::open(target.addresses[0], "/echo", "t", number).await?);
    }
    let window = opens_now(phase);
    let mut workers = JoinSet::new();
    for (number, stream) in streams.into_iter().enumerate() {
        let clock = Clock::new(pace, sockets, number, window);
        workers.spawn(echoed(stream, clock, frame));
    }
    gather(target, window, workers, JoinSet::new()).await
}

fn opens_now(phase: Phase) -> Window {
    let opens = Instant::now() + phase.warm_up;
    Window { opens, shuts: opens + phase.measured }
}

/// Waits for everybody, and puts together what they saw.
async fn gather(
    target: &Target,
    window: Window,
    mut workers: JoinSet<Result<Seen, DriveError>>,
    mut listeners: JoinSet<Result<Seen, DriveError>>,
) -> Result<Seen, DriveError> {
    let cpu = tokio::spawn(cpu_between(target.pids.clone(), window));
    let mut seen = Seen::default();
    while let Some(done) = workers.join_next().await {
        seen.add(done??);
    }
    while let Some(done) = listeners.join_next().await {
        seen.add(done??);
    }
    seen.window = (since_start(window.opens), since_start(window.shuts));
    seen.cpu = cpu.await?;
    Ok(seen)
}

/// When a sender sends.
struct Clock {
    window: Window,
    in_flight: usize,
    /// Between two messages, where the rate is given.
    every: Option<Duration>,
    next: Instant,
    count: u64,
}

impl Clock {
    /// Of sender `number` among `senders`.
    fn new(pace: Pace, senders: usize, number: usize, window: Window) -> Self {
        let (in_flight, every) = match pace {
            Pace::InFlight(in_flight) => (in_flight, None),
            Pace::Rate(rate) => {
                (usize::MAX, Some(Duration::from_secs_f64(senders as f64 / rate.max(1.0))))
            }
        };
        // One after the other, not all at once.
        let offset = every.unwrap_or_default().mul_f64(number as f64 / senders as f64);
        Self { window, in_flight, every, next: Instant::now() + offset, count: 0 }
    }

    /// The number of a message that is to be sent now, if one is, with `waiting` unanswered.
    fn due(&mut self, waiting: usize) -> Option<u64> {
        let now_is = Instant::now();
        if waiting >= self.in_flight || now_is >= self.window.shuts {
            return None;
        }
        if let Some(every) = self.every {
            if now_is < self.next {
                return None;
            }
            self.next += every;
        }
        self.count += 1;
        Some(stamp(self.count))
    }

    /// Whether nothing is sent any more.
    fn is_over(&self) -> bool {
        Instant::now() >= self.window.shuts
    }

    /// When the next one may be due; with answers to wait for, they come first.
    async fn tick(&self) {
        let until = match self.every {
            Some(_) => self.next.min(self.window.shuts),
            None => self.window.shuts,
        };
        sleep_until(until.into()).await;
    }
}

/// What is looked at of a frame.
#[derive(Deserialize)]
struct Told<'a> {
    /// Of a message that is pushed.
    #[serde(borrow)]
    item: Option<Placed<'a>>,
    /// Of an acknowledgement.
    msg_id: Option<&'a str>,
    sth_index: Option<u64>,
}

/// A socket that said hello.
struct Ear {
    stream: Stream,
    letters: Letters,
    seen: Seen,
    /// Messages of its own that are committed.
    acked: usize,
}

impl Ear {
    fn new(stream: Stream, letters: Letters) -> Self {
        Self { stream, letters, seen: Seen::default(), acked: 0 }
    }

    /// Takes what the relay says: that a message is committed, or the message.
    async fn take(&mut self, text: &str) -> Result<(), DriveError> {
        let stray = || DriveError::Stray(text.to_owned());
        let told: Told<'_> = serde_json::from_str(text).map_err(|_| stray())?;
        let pushed = told.item.is_some();
        let (msg_id, place) = match told.item {
            Some(item) => (item.msg_id, item.sth_index),
            None => (told.msg_id, told.sth_index),
        };
        // A refusal has no place.
        let place = place.ok_or_else(stray)?;
        let number = msg_id.and_then(|id| self.letters.number(id)).ok_or_else(stray)?;
        if !pushed {
            self.seen.committed(place);
            self.acked += 1;
            return Ok(());
        }
        self.seen.delivered(number, place, text.len());
        if self.seen.deliveries().is_multiple_of(ACK_EVERY) {
            let ack = format!(r#"{{"type":"ack","cursor":{place}}}"#);
            self.stream.send(Message::text(ack)).await.map_err(Box::new)?;
        }
        Ok(())
    }
}

/// Sends until the window shuts, hears all of it, and says how much it was.
async fn say(
    mut ear: Ear,
    mut clock: Clock,
    done: watch::Sender<Option<usize>>,
) -> Result<Seen, DriveError> {
    let mut sent = 0;
    let deadline = clock.window.shuts + DRAIN;
    while ear.acked < sent || ear.seen.deliveries() < sent || !clock.is_over() {
        let before = sent;
        while let Some(number) = clock.due(sent - ear.acked) {
            let letter = Message::text(ear.letters.write(number));
            ear.stream.feed(letter).await.map_err(Box::new)?;
            sent += 1;
        }
        if sent > before {
            ear.stream.flush().await.map_err(Box::new)?;
        }
        tokio::select! {
            text = next_text(&mut ear.stream) => ear.take(&text?).await?,
            () = clock.tick(), if !clock.is_over() => {}
            () = sleep_until(deadline.into()) => return Err(DriveError::Hung),
        }
    }
    let _ = done.send(Some(sent));
    let _ = ear.stream.close(None).await;
    Ok(ear.seen)
}

/// Hears all that the sender says it sent.
async fn hear(mut ear: Ear, mut sent: watch::Receiver<Option<usize>>) -> Result<Seen, DriveError> {
    let mut total = None;
    while total.is_none_or(|total| ear.seen.deliveries() < total) {
        tokio::select! {
            text = next_text(&mut ear.stream) => ear.take(&text?).await?,
            told = wait_for_total(&mut sent), if total.is_none() => match told {
                Some(_) => total = told,
                // The sender has failed, and says why itself.
                None => return Ok(ear.seen),
            },
        }
    }
    let _ = ear.stream.close(None).await;
    Ok(ear.seen)
}

/// What the sender says it sent; `None` if it ended without a word.
async fn wait_for_total(sent: &mut watch::Receiver<Option<usize>>) -> Option<usize> {
    *sent.wait_for(Option::is_some).await.ok()?
}

/// Does not wait for ever once everything was sent.
async fn timeout_from(
    mut sent: watch::Receiver<Option<usize>>,
    hearing: impl Future<Output = Result<Seen, DriveError>>,
) -> Result<Seen, DriveError> {
    let mut hearing = std::pin::pin!(hearing);
    tokio::select! {
        heard = &mut hearing => return heard,
        _ = sent.wait_for(Option::is_some) => {}
    }
    timeout(DRAIN, hearing).await.map_err(|_| DriveError::Hung)?
}

/// Sends frames of a length and hears them come back.
async fn echoed(mut stream: Stream, mut clock: Clock, frame: usize) -> Result<Seen, DriveError> {
    let (mut seen, mut waiting) = (Seen::default(), 0);
    let deadline = clock.window.shuts + DRAIN;
    while waiting > 0 || !clock.is_over() {
        let mut wrote = false;
        while let Some(number) = clock.due(waiting) {
            let text = format!("{number:0frame$}");
            stream.feed(Message::text(text)).await.map_err(Box::new)?;
            (wrote, waiting) = (true, waiting + 1);
        }
        if wrote {
            stream.flush().await.map_err(Box::new)?;
        }
        tokio::select! {
            text = next_text(&mut stream), if waiting > 0 => {
                let text = text?;
                let number = text.parse().map_err(|_| DriveError::Stray(text.to_string()))?;
                seen.delivered(number, 0, text.len());
                waiting -= 1;
            }
            () = clock.tick(), if !clock.is_over() => {}
            () = sleep_until(deadline.into()) => return Err(DriveError::Hung),
        }
    }
    let _ = stream.close(None).await;
    Ok(seen)
}

/// Keeps sockets open that say nothing, until they are dropped: pings are answered.
pub(super) fn keep(streams: Vec<Stream>) -> JoinSet<()> {
    let mut kept = JoinSet::new();
    for mut stream in streams {
        kept.spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_keeps_its_pace() {
        let opens = Instant::now();
        let window = Window { opens, shuts: opens + Duration::from_secs(60) };
        let mut clock = Clock::new(Pace::InFlight(2), 1, 0, window);
        let (one, two) = (clock.due(0).unwrap(), clock.due(1).unwrap());
        assert!(one != two && clock.due(2).is_none() && !clock.is_over());
        let mut clock = Clock::new(Pace::Rate(0.5), 2, 0, window);
        assert!(clock.due(9).is_some() && clock.due(0).is_none(), "one every second");
        assert!(Clock::new(Pace::Rate(1.0), 2, 1, window).due(0).is_none(), "they take turns");
        let mut over = Clock::new(Pace::InFlight(2), 1, 0, Window { opens, shuts: opens });
        assert!(over.is_over() && over.due(0).is_none());
    }
}
