//! Sockets that say nothing: memory for each, and what active traffic notices of them.

use std::path::Path;

use nexo_scripts::account::{Seat, take_tokens};
use nexo_scripts::process::resident;
use nexo_scripts::stats::{Sample, ratio};
use tokio::task::JoinSet;

use super::flow::{self, Pace};
use super::wire::{self, Stream};
use super::{SceneError, heading, line};
use crate::args::Plan;
use crate::contest::progress;
use crate::drive::{DriveError, Phase, Target};
use crate::servers::Servers;

/// Active conversations, and their messages a second together.
const ACTIVE: usize = 8;
const RATE: f64 = 500.0;

/// Sockets that are opened at once.
const AT_ONCE: usize = 64;

/// Open files besides the sockets.
const OTHER_FILES: usize = 200;

/// See the top.
pub(super) async fn play(
    plan: &Plan,
    program: &Path,
    servers: &mut Servers,
) -> Result<String, SceneError> {
    let wanted = plan.sockets;
    if let Some(limit) = file_limit().filter(|limit| *limit < wanted + OTHER_FILES) {
        return Err(SceneError::Files { wanted, limit });
    }
    let relay = servers.relay(program, "idle", ACTIVE, false).await?;
    let echo = servers.echo("idle-echo", &relay)?;
    progress(format_args!("idle: {wanted} accounts ..."));
    let tokens = take_tokens(relay.addresses[0], wanted).await?;
    let mut active = Active::default();
    active.measure(plan, &relay, "before").await?;
    progress(format_args!("idle: {wanted} sockets at the relay ..."));
    let (mut lines, mut sizes) = (String::new(), Vec::new());
    let before = memory(&relay);
    let mut kept = flow::keep(listening(&relay, tokens).await?);
    let after = memory(&relay);
    active.measure(plan, &relay, "among them").await?;
    sizes.push(each(before, after, wanted));
    lines += &told("relay", before, after, wanted);
    kept.shutdown().await;
    progress(format_args!("idle: {wanted} sockets at the bare echo ..."));
    let before = memory(&echo);
    let streams = echoing(&echo, wanted).await?;
    let after = memory(&echo);
    drop(streams);
    sizes.push(each(before, after, wanted));
    lines += &told("bare echo", before, after, wanted);
    if let [Some(relay), Some(bare)] = sizes[..] {
        lines += &format!("{:<20} {:>31}\n", "relay/echo", ratio(relay, bare));
    }
    Ok(format!("{wanted} idle sockets\n{lines}\n{}", active.table(wanted)))
}

/// What those who talk noticed.
#[derive(Default)]
struct Active {
    without: Option<Sample>,
    among: Sample,
}

impl Active {
    async fn measure(&mut self, plan: &Plan, relay: &Target, when: &str) -> Result<(), SceneError> {
        let mut sample = Sample::default();
        for round in 0..plan.rounds {
            progress(format_args!("idle: active traffic {when}, round {} ...", round + 1));
            let seen = flow::relay(relay, ACTIVE, Pace::Rate(RATE), Phase::of(plan)).await?;
            sample.add(seen.end_to_end());
        }
        match &self.without {
            None => self.without = Some(sample),
            Some(_) => self.among.add(sample),
        }
        Ok(())
    }

    fn table(&self, wanted: usize) -> String {
        let without = self
            .without
            .as_ref()
            .map(Sample::summary)
            .unwrap_or_else(|| Sample::default().summary());
        let among = self.among.summary();
        let mut text = heading("active traffic");
        text += &line(&format!("{ACTIVE} x 2"), "alone", &without);
        text += &line("", &format!("among {wanted}"), &among);
        let (p50, p99) = (ratio(among.p50, without.p50), ratio(among.p99, without.p99));
        text + &format!("{:<26} {:<20} {:>11} {p50:>9} {p99:>9}\n", "", "among/alone", "")
    }
}

/// A socket that said hello for each account.
async fn listening(relay: &Target, tokens: Vec<String>) -> Result<Vec<Stream>, DriveError> {
    let server = relay.addresses[0];
    open_all(tokens.len(), |number| {
        let seat =
            Seat { token: tokens[number].clone(), device: String::new(), conv: String::new() };
        async move { wire::listen(server, &seat, None, number).await }
    })
    .await
}

/// Sockets of the bare echo, after one echo each: then it has the buffers it needs.
async fn echoing(echo: &Target, wanted: usize) -> Result<Vec<Stream>, DriveError> {
    let server = echo.addresses[0];
    open_all(wanted, |number| async move {
        use futures_util::SinkExt as _;
        use tokio_tungstenite::tungstenite::Message;
        let mut stream = wire::open(server, "/echo", "t", number).await?;
        stream.send(Message::text("x".repeat(100))).await.map_err(Box::new)?;
        wire::next_text(&mut stream).await?;
        Ok(stream)
    })
    .await
}

async fn open_all<F>(count: usize, open: impl Fn(usize) -> F) -> Result<Vec<Stream>, DriveError>
where
    F: Future<Output = Result<Stream, DriveError>> + Send + 'static,
{
    let (mut streams, mut opening) = (Vec::with_capacity(count), JoinSet::new());
    for number in 0..count {
        if opening.len() >= AT_ONCE
            && let Some(opened) = opening.join_next().await
        {
            streams.push(opened??);
        }
        opening.spawn(open(number));
    }
    while let Some(opened) = opening.join_next().await {
        streams.push(opened??);
    }
    Ok(streams)
}

/// Bytes that the server has in use.
fn memory(server: &Target) -> Option<u64> {
    server.pids.iter().map(|&pid| resident(pid)).sum()
}

fn each(before: Option<u64>, after: Option<u64>, sockets: usize) -> Option<f64> {
    Some(after?.saturating_sub(before?) as f64 / sockets as f64)
}

fn told(who: &str, before: Option<u64>, after: Option<u64>, sockets: usize) -> String {
    let mib = |bytes: Option<u64>| bytes.unwrap_or(0) as f64 / 1024.0 / 1024.0;
    let (from, to) = (mib(before), mib(after));
    let each = each(before, after, sockets).unwrap_or(0.0);
    format!("{who:<20} {from:>7.1} -> {to:>7.1} MiB {each:>9.0} bytes a socket\n")
}

/// Files this process may have open; `None` where there is no Linux `/proc`.
fn file_limit() -> Option<usize> {
    parse_limit(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

/// ```text
/// Max open files            1024                 524288               files      proc(5)
/// ```
fn parse_limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_read() {
        let limits =
            "Limit  Soft  Hard\nMax processes  1  2  x\nMax open files   1024  4096  files\n";
        assert_eq!(parse_limit(limits), Some(1024));
        assert_eq!(parse_limit("Max open files  unlimited  unlimited  files"), None);
        assert!(file_limit().is_none_or(|limit| limit > 0));
    }

    #[test]
    fn memory_is_what_the_sockets_added() {
        assert_eq!(each(Some(1_000), Some(21_000), 10), Some(2_000.0));
        assert_eq!(each(None, Some(1), 10), None);
        assert!(told("relay", Some(0), Some(2 << 20), 1024).contains("2048 bytes a socket"));
    }
}
