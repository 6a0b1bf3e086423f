//! Those who do as they should, beside those who do not: what the others notice of a reader that
//! has stalled, a flood, garbage, half a frame, and connections that say nothing.
//!
//! The relay of this scene has its rate limits on, as it would where such clients are.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::SinkExt as _;
use nexo_scripts::account::{Seat, take_tokens};
use nexo_scripts::process::resident;
use nexo_scripts::stats::{Sample, Summary, ratio};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

use super::flow::{self, Pace};
use super::wire;
use super::{SceneError, heading, line};
use crate::args::Plan;
use crate::contest::progress;
use crate::drive::{DriveError, Phase, Target};
use crate::servers::Servers;
use crate::shape::{Letters, Shape, Talk};

/// Messages a second of the pair that is watched.
const RATE: f64 = 200.0;

/// Bytes of ciphertext that the flooder and the stalled reader's correspondent send: their
/// conversation is to fill buffers.
const LARGE: usize = 16 * 1024;

/// A frame longer than any that is taken (`limits::MAX_BODY`).
const OVERSIZE: usize = 300 * 1024;

/// Readers that stall, half of them on the seed's socket.
const STALLED: usize = 4;

/// Connections that say nothing, and sockets that say half a frame.
const SILENT: usize = 50;

/// Who misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Stalled,
    Flood,
    Garbage,
    Silence,
}

impl Trouble {
    const ALL: [Self; 4] = [Self::Stalled, Self::Flood, Self::Garbage, Self::Silence];

    fn name(self) -> &'static str {
        match self {
            Self::Stalled => "a stalled reader",
            Self::Flood => "a flooder",
            Self::Garbage => "garbage, oversize",
            Self::Silence => "half frames, nothing",
        }
    }
}

/// See the top.
pub(super) async fn play(
    plan: &Plan,
    program: &Path,
    servers: &mut Servers,
) -> Result<String, SceneError> {
    let relay = servers.relay(program, "abuse", 4, true).await?;
    let strangers = take_tokens(relay.addresses[0], 1).await?;
    let mut text = heading("abuse");
    let mut alone = Sample::default();
    let mut troubled = [(); Trouble::ALL.len()].map(|()| Sample::default());
    let before = memory(&relay);
    for round in 0..plan.rounds {
        progress(format_args!("abuse: alone, round {} ...", round + 1));
        alone.add(watched(plan, &relay).await?);
        for (trouble, sample) in Trouble::ALL.into_iter().zip(&mut troubled) {
            progress(format_args!("abuse: {}, round {} ...", trouble.name(), round + 1));
            let mut making = make(trouble, &relay, &strangers[0]).await?;
            sample.add(watched(plan, &relay).await?);
            making.shutdown().await;
        }
    }
    let alone = alone.summary();
    text += &line("1 x 2", "alone", &alone);
    for (trouble, sample) in Trouble::ALL.into_iter().zip(troubled) {
        text += &beside(trouble, &sample.summary(), &alone);
    }
    let mib = |bytes: Option<u64>| bytes.unwrap_or(0) as f64 / 1024.0 / 1024.0;
    let (from, to) = (mib(before), mib(memory(&relay)));
    Ok(text + &format!("memory of the relay: {from:.1} MiB before, {to:.1} MiB after\n"))
}

fn beside(trouble: Trouble, figures: &Summary, alone: &Summary) -> String {
    let (p50, p99) = (ratio(figures.p50, alone.p50), ratio(figures.p99, alone.p99));
    let name = trouble.name();
    line("", name, figures)
        + &format!("{:<26} {:<20} {:>11} {p50:>9} {p99:>9}\n", "", "  to alone", "")
}

fn memory(relay: &Target) -> Option<u64> {
    relay.pids.iter().map(|&pid| resident(pid)).sum()
}

/// The pair that does as it should.
async fn watched(plan: &Plan, relay: &Target) -> Result<Sample, SceneError> {
    let seen = flow::relay(relay, 1, Pace::Rate(RATE), Phase::of(plan)).await?;
    Ok(seen.end_to_end())
}

/// Makes trouble until it is ended. Seats 2 and 3 are those of the trouble makers, who have
/// nothing to do with the pair.
async fn make(trouble: Trouble, relay: &Target, stranger: &str) -> Result<JoinSet<()>, DriveError> {
    let server = relay.addresses[0];
    let mut making = JoinSet::new();
    let seat = relay.seats[2].clone();
    match trouble {
        Trouble::Stalled => {
            let conv = seat.conv.clone();
            let mut readers = Vec::new();
            for number in 0..STALLED {
                let path = format!("/ws?conv_id={conv}&after=0");
                let path = if number % 2 == 0 { path.as_str() } else { "/ws" };
                let tcp = wire::narrow(server, number).await?;
                readers.push(wire::open_over(tcp, server, path, &seat.token).await?);
            }
            for reader in readers.iter_mut().skip(1).step_by(2) {
                let hello = r#"{"type":"hello","after":0,"window":1024}"#;
                reader.send(Message::text(hello)).await.map_err(Box::new)?;
            }
            making.spawn(flood(relay.clone(), seat, Duration::from_millis(50)));
            making.spawn(async move {
                let _readers = readers;
                std::future::pending::<()>().await;
            });
        }
        Trouble::Flood => {
            for _ in 0..4 {
                making.spawn(flood(relay.clone(), seat.clone(), Duration::ZERO));
            }
        }
        Trouble::Garbage => {
            let token = stranger.to_owned();
            making.spawn(async move {
                // It ends with the task; a relay that is gone is somebody else's finding.
                while garbage(server, &token).await.is_ok() {}
            });
        }
        Trouble::Silence => {
            let mut sockets = Vec::new();
            for number in 0..SILENT {
                let mut silent = wire::tcp(server, number).await?;
                let half = wire::open(server, "/ws", stranger, number).await?;
                let _ = silent.write_all(b"GET /ws HTTP/1.1\r\nHost: ").await;
                sockets.push((silent, half));
            }
            for (_, half) in &mut sockets {
                // Text, masked, 126: a length of two bytes that does not come.
                let _ = half.get_mut().write_all(&[0x81, 0xfe, 0x01]).await;
            }
            making.spawn(async move {
                let _sockets = sockets;
                std::future::pending::<()>().await;
            });
        }
    }
    Ok(making)
}

/// Sends large messages as fast as it may, and does not care what is answered.
async fn flood(relay: Target, seat: Seat, pause: Duration) {
    let shape = Shape::Socket { connections: 1, in_flight: 1, talk: Talk::Acks };
    let letters = Letters::new(&seat, shape, LARGE);
    let Ok(mut stream) = wire::open(relay.addresses[0], "/ws", &seat.token, 0).await else {
        return;
    };
    for number in 0u64.. {
        let sent = stream.send(Message::text(letters.write(number))).await;
        // Read, so that it is the relay that holds the flood back.
        let read = wire::next_text(&mut stream).await;
        if sent.is_err() || read.is_err() {
            return;
        }
        if pause > Duration::ZERO {
            sleep(pause).await;
        }
    }
}

/// One after the other: text that is no frame, bytes that are no text, a frame too long, noise.
async fn garbage(server: SocketAddr, token: &str) -> Result<(), DriveError> {
    for message in [
        Message::text("{\"type\":"),
        Message::binary(vec![0xff; 1000]),
        Message::text("x".repeat(OVERSIZE)),
    ] {
        let mut stream = wire::open(server, "/ws", token, 0).await?;
        // Refused in the middle or at the end.
        let _ = stream.send(message).await;
        while wire::next_text(&mut stream).await.is_ok() {}
    }
    let mut noise = wire::tcp(server, 0).await?;
    let _ = noise.write_all(&[0xa5; 4096]).await;
    sleep(Duration::from_millis(2)).await;
    Ok(())
}
