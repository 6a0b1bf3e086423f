//! `tail --follow`: for ever, over sockets that end.
//!
//! What comes is stored, handed over, and only then acknowledged: a slow handler has the relay
//! wait, and nothing is held here but what the relay may send ahead of an ack.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::{Instant, timeout_at};

use super::Reader;
use crate::clock;
use crate::error::CliError;
use crate::receive::{Live, News};

/// How often things are looked after that no message brings up.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between attempts to reconnect: from half a second to a minute, with jitter, for ever.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Reader<'_> {
    /// Until the limit is reached, or something happens that does not pass by itself.
    pub(super) async fn follow(&mut self) -> Result<(), CliError> {
        let mut pauses = pauses();
        loop {
            let (connected, mut brought) = (Instant::now(), false);
            match self.listen(&mut brought).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_temporary() => {
                    if brought || connected.elapsed() > LONGEST_PAUSE {
                        pauses = self::pauses();
                    }
                    // What the relay asks for is asked of everybody: the jitter comes on top.
                    let wish = error.retry_after().unwrap_or_default().min(LONGEST_PAUSE);
                    let pause = wish + pauses.next().unwrap_or(LONGEST_PAUSE);
                    let text = format!("{error}; again in {:.1} s", pause.as_secs_f64());
                    self.context.printer.say(&text);
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Until the limit is reached or the connection ends, which is a temporary error. `brought`
    /// is set once the relay has sent something.
    async fn listen(&mut self, brought: &mut bool) -> Result<(), CliError> {
        if self.is_full() {
            return Ok(());
        }
        let mut live = Live::open(self.session, clock::seconds()).await?;
        self.look_after(true).await?;
        let mut look_at = Instant::now();
        loop {
            if Instant::now() >= look_at {
                self.look_after(false).await?;
                self.settle().await?;
                look_at = Instant::now() + LOOK_EVERY;
            }
            if self.is_full() {
                return Ok(());
            }
            match timeout_at(look_at, live.news()).await {
                Err(_) => {}
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(News::PrekeysLow)) => self.tend(true).await,
                Ok(Ok(News::Items)) => {
                    *brought = true;
                    self.take(&mut live).await?;
                }
            }
        }
    }

    /// Stores what has come, hands it over, and says so.
    async fn take(&mut self, live: &mut Live) -> Result<(), CliError> {
        let warn = |text: &str| self.context.printer.warn(text);
        let stored = live.store(self.session, clock::seconds(), &warn).await;
        self.context.tell(self.session);
        stored?;
        self.print_new().await?;
        live.handled()?;
        self.settle().await
    }
}

fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_never_end() {
        let all: Vec<Duration> = pauses().take(50).collect();
        assert!(all[0] >= FIRST_PAUSE && all[0] <= 2 * FIRST_PAUSE, "{:?}", all[0]);
        assert!(all.iter().all(|pause| *pause <= 2 * LONGEST_PAUSE));
        assert!(all[49] >= LONGEST_PAUSE);
    }
}
