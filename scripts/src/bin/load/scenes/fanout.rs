//! One conversation with two sockets, and many with two each: deliveries a second, and how long
//! each took, beside a bare echo of the same frames.

use std::path::Path;

use nexo_scripts::stats::{Sample, Summary, ratio};

use super::flow::{self, Pace};
use super::seen::Seen;
use super::{SceneError, heading, line};
use crate::args::Plan;
use crate::contest::progress;
use crate::drive::{Phase, Target};
use crate::servers::Servers;

/// Conversations of the large case.
const MANY: usize = 64;

/// What all rounds measured.
#[derive(Default)]
struct Total {
    echo: Sample,
    relay: Sample,
    /// The echo at half of its own load, and at as many deliveries as the relay.
    half_echo: Sample,
    same_echo: Sample,
    half: Sample,
    after_commit: Sample,
}

/// See the top.
pub(super) async fn play(
    plan: &Plan,
    program: &Path,
    servers: &mut Servers,
) -> Result<String, SceneError> {
    let relay = servers.relay(program, "fanout", MANY.max(3), false).await?;
    let echo = servers.echo("fanout-echo", &relay)?;
    let mut text = heading("fan-out");
    for conversations in [1, MANY] {
        let mut total = Total::default();
        for round in 0..plan.rounds {
            progress(format_args!("fan-out {conversations} x 2, round {} ...", round + 1));
            measure(plan, &relay, &echo, conversations, &mut total).await?;
        }
        text.push_str(&said(conversations, &total));
    }
    Ok(text)
}

/// A round: as much as goes, then half of that, each beside the echo; half of what goes there is
/// more.
async fn measure(
    plan: &Plan,
    relay: &Target,
    echo: &Target,
    conversations: usize,
    total: &mut Total,
) -> Result<(), SceneError> {
    let phase = Phase::of(plan);
    let full = Pace::InFlight(plan.ws.1);
    let seen = flow::relay(relay, conversations, full, phase).await?;
    let frame = seen.frame;
    let rate = seen.end_to_end().summary().rate;
    total.relay.add(seen.end_to_end());
    let echoed = |pace| flow::echo(echo, conversations, pace, phase, frame);
    let echo_seen = echoed(full).await?.end_to_end();
    let echo_rate = echo_seen.summary().rate;
    total.echo.add(echo_seen);
    // Each message is delivered twice.
    let half: Seen = flow::relay(relay, conversations, Pace::Rate(rate / 4.0), phase).await?;
    total.after_commit.add(half.after_commit());
    total.half.add(half.end_to_end());
    total.half_echo.add(echoed(Pace::Rate(echo_rate / 2.0)).await?.end_to_end());
    total.same_echo.add(echoed(Pace::Rate(rate / 2.0)).await?.end_to_end());
    Ok(())
}

/// The lines of a case.
fn said(conversations: usize, total: &Total) -> String {
    let [echo, relay] = [&total.echo, &total.relay].map(Sample::summary);
    let [half_echo, same_echo] = [&total.half_echo, &total.same_echo].map(Sample::summary);
    let [half, after_commit] = [&total.half, &total.after_commit].map(Sample::summary);
    let case = format!("{conversations} x 2");
    let mut text = line(&case, "bare echo", &echo) + &line("", "relay", &relay);
    text += &ratios("relay/echo", &relay, &echo);
    text += &line(&format!("{case}, half load"), "bare echo", &half_echo);
    text += &line("", "bare echo, same rate", &same_echo);
    text += &line("", "relay, from send", &half);
    text += &line("", "relay, from commit", &after_commit);
    // The first that was heard of the commit took one way, as half an echo does.
    let way = same_echo.p50 / 2.0;
    let (p50, p99) = (after_commit.p50 + way, after_commit.p99 + way);
    let to_half = ratio(p99, half_echo.p99);
    let to_same = ratio(p99, same_echo.p99);
    text += &format!(
        "{:<26} {:<20} {:>11} {p50:>9.3} {p99:>9.3}   p99 {to_half} of the echo's, {to_same} at \
         the same rate\n",
        "", "commit to delivery", "",
    );
    text
}

fn ratios(who: &str, one: &Summary, other: &Summary) -> String {
    let rate = ratio(one.rate, other.rate);
    let (p50, p99, max) =
        (ratio(one.p50, other.p50), ratio(one.p99, other.p99), ratio(one.max, other.max));
    format!("{:<26} {who:<20} {rate:>11} {p50:>9} {p99:>9} {max:>9}\n", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_commit_is_one_way_before_it_is_heard_of() {
        let took = |micros| {
            let mut sample = Sample::default();
            sample.took(Duration::from_micros(micros));
            sample.measured = Duration::from_secs(1);
            sample
        };
        let total = Total {
            half_echo: took(2_000),
            same_echo: took(1_000),
            after_commit: took(500),
            ..Total::default()
        };
        let text = said(64, &total);
        let last = text.lines().last().unwrap();
        assert!(last.contains("commit to delivery") && last.contains("1.000"), "{last}");
        assert!(last.ends_with("p99 0.50x of the echo's, 1.00x at the same rate"), "{last}");
    }
}
