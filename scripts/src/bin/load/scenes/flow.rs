//! Messages from one socket to those who listen, and when each of them was where.
//!
//! The time a message was sent at is part of its id, so that whoever receives it knows how long
//! it took; this process is everybody, and has one clock.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use nexo_scripts::stats::{Sample, Window};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::wire::{self, Stream, next_text};
use crate::drive::{DriveError, Phase, Target, cpu_between};
use crate::shape::{Letters, Placed, Shape, Talk};

/// How long after the window the last messages may come.
const DRAIN: Duration = Duration::from_secs(30);

/// Low bits of a number: of messages of one microsecond.
const COUNT_BITS: u32 = 12;

/// Items that a listener acknowledges together.
const ACK_EVERY: u64 = 128;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds since this program first asked.
fn now() -> u64 {
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// So many in flight at each sender.
    InFlight(usize),
    /// So many a second, all senders together.
    Rate(f64),
}

/// What was seen of a phase.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Number, and when the sender heard of its commit, in microseconds.
    acked: HashMap<u64, u64>,
    /// Number, and when a listener had it.
    delivered: Vec<(u64, u64)>,
    /// Bytes of a delivered frame.
    pub(super) frame: usize,
    window: (u64, u64),
    cpu: Option<Duration>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.acked.extend(other.acked);
        self.delivered.extend(other.delivered);
        self.frame = self.frame.max(other.frame);
    }

    /// Deliveries within the window, each with what it took since `from`.
    fn sample(&self, from: impl Fn(u64) -> Option<u64>) -> Sample {
        let (opens, shuts) = self.window;
        let mut sample = Sample::default();
        for &(number, at) in self.delivered.iter().filter(|(_, at)| (opens..shuts).contains(at)) {
            let since = from(number).unwrap_or(at);
            sample.took(Duration::from_micros(at.saturating_sub(since)));
        }
        sample.measured = Duration::from_micros(shuts - opens);
        sample.cpu = self.cpu;
        sample
    }

    /// From the sender's call to the listener.
    pub(super) fn end_to_end(&self) -> Sample {
        self.sample(|number| Some(number >> COUNT_BITS))
    }

    /// From the acknowledgement at the sender to the listener; nothing where that came first.
    pub(super) fn after_ack(&self) -> Sample {
        self.sample(|number| self.acked.get(&number).copied())
    }
}

/// Conversations with two listeners each, one for each participant, under `pace`.
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
        let seat = &target.seats[number];
        let talk = Shape::Socket { connections: 1, in_flight: 1, talk: Talk::Acks };
        let letters = Letters::new(seat, talk, phase.payload);
        let (done, sent) = watch::channel(None);
        for who in [seat, &target.seats[(number + 1) % count]] {
            let stream = wire::listen(server, who, Some(&seat.conv), number).await?;
            listeners
                .spawn(timeout_from(sent.clone(), hear(stream, letters.clone(), sent.clone())));
        }
        let stream = wire::open(server, "/ws", &seat.token, number).await?;
        senders.push((stream, letters, done));
    }
    let window = opens_now(phase);
    let mut workers = JoinSet::new();
    for (number, (stream, letters, done)) in senders.into_iter().enumerate() {
        let clock = Clock::new(pace, conversations, number, window);
        workers.spawn(say(stream, letters, clock, done));
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
    let at = |instant: Instant| {
        u64::try_from(instant.duration_since(*START).as_micros()).unwrap_or(u64::MAX)
    };
    seen.window = (at(window.opens), at(window.shuts));
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
        Some(now() << COUNT_BITS | self.count & ((1 << COUNT_BITS) - 1))
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

/// Sends until the window shuts, and says how many there were once all are acknowledged.
async fn say(
    mut stream: Stream,
    letters: Letters,
    mut clock: Clock,
    done: watch::Sender<Option<usize>>,
) -> Result<Seen, DriveError> {
    let (mut seen, mut waiting, mut sent) = (Seen::default(), 0, 0);
    let deadline = clock.window.shuts + DRAIN;
    while waiting > 0 || !clock.is_over() {
        let mut wrote = false;
        while let Some(number) = clock.due(waiting) {
            stream.feed(Message::text(letters.write(number))).await.map_err(Box::new)?;
            (wrote, waiting, sent) = (true, waiting + 1, sent + 1);
        }
        if wrote {
            stream.flush().await.map_err(Box::new)?;
        }
        tokio::select! {
            text = next_text(&mut stream), if waiting > 0 => {
                let text = text?;
                if let Some(number) = acked(&text, &letters)? {
                    seen.acked.insert(number, now());
                    waiting -= 1;
                }
            }
            () = clock.tick(), if !clock.is_over() => {}
            () = sleep_until(deadline.into()) => return Err(DriveError::Hung),
        }
    }
    let _ = done.send(Some(sent));
    let _ = stream.close(None).await;
    Ok(seen)
}

/// The number in an ack; `None` of a ring.
fn acked(text: &str, letters: &Letters) -> Result<Option<u64>, DriveError> {
    let stray = || DriveError::Stray(text.to_owned());
    let placed: Placed<'_> = serde_json::from_str(text).map_err(|_| stray())?;
    if placed.is_bell() {
        return Ok(None);
    }
    // A refusal has no place.
    let number = placed.sth_index.and(placed.msg_id).and_then(|id| letters.number(id));
    number.map(Some).ok_or_else(stray)
}

/// What is looked at of an item that is pushed.
#[derive(Deserialize)]
struct Pushed<'a> {
    #[serde(borrow)]
    item: Placed<'a>,
}

/// Hears all that the sender says it sent.
async fn hear(
    mut stream: Stream,
    letters: Letters,
    mut sent: watch::Receiver<Option<usize>>,
) -> Result<Seen, DriveError> {
    let mut seen = Seen::default();
    let (mut acked, mut total) = (0, None);
    while total.is_none_or(|total| seen.delivered.len() < total) {
        let text = tokio::select! {
            text = next_text(&mut stream) => text?,
            told = wait_for_total(&mut sent), if total.is_none() => match told {
                Some(_) => {
                    total = told;
                    continue;
                }
                // The sender has failed, and says why itself.
                None => return Ok(seen),
            },
        };
        let stray = || DriveError::Stray(text.to_string());
        let Pushed { item } = serde_json::from_str(&text).map_err(|_| stray())?;
        let place = item.sth_index.ok_or_else(stray)?;
        let number = item.msg_id.and_then(|id| letters.number(id)).ok_or_else(stray)?;
        seen.delivered.push((number, now()));
        seen.frame = text.len();
        if seen.delivered.len() as u64 >= acked + ACK_EVERY {
            acked = seen.delivered.len() as u64;
            let ack = format!(r#"{{"type":"ack","cursor":{place}}}"#);
            stream.send(Message::text(ack)).await.map_err(Box::new)?;
        }
    }
    let _ = stream.close(None).await;
    Ok(seen)
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
                seen.delivered.push((number, now()));
                (waiting, seen.frame) = (waiting - 1, text.len());
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
    fn a_delivery_knows_when_it_was_sent_and_acknowledged() {
        let number = |sent: u64, count: u64| sent << COUNT_BITS | count;
        let (early, late) = (number(1_000, 1), number(5_000, 2));
        let seen = Seen {
            acked: HashMap::from([(early, 2_000), (late, 9_000)]),
            // The second came before its ack, the third after the window.
            delivered: vec![(early, 3_000), (late, 8_000), (late, 20_000)],
            window: (0, 10_000),
            ..Seen::default()
        };
        let summary = seen.end_to_end().summary();
        assert_eq!((summary.p50, summary.max, summary.rate), (2.0, 3.0, 200.0));
        let summary = seen.after_ack().summary();
        assert_eq!((summary.p50, summary.max), (0.0, 1.0));
    }

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
