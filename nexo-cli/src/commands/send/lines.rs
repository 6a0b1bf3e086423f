//! `send --stdin-lines`: each line of stdin is a message, and all of them go over one socket.
//!
//! A line is sealed and stored before the network hears of it, as one by itself is. The lines
//! are told of in their order, each when its receipt was verified. `--timeout` bounds how long
//! lines wait for an acknowledgement without any coming; that nobody writes a line is no delay.
//!
//! They stand in the log in their order, but for one case: a line that the relay refuses for the
//! moment, because of its limits, comes behind those that had left after it.
//!
//! Killed in between, what was not told of stands in the outbox, as after a killed `send`. Run
//! again with the same `--idempotency-key` and the same lines, nothing is sent twice: each line's
//! key is made of that one and its number.

use std::time::Duration;

use nexo_schema::ids::Handle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{recipient, show};
use crate::cli::Send;
use crate::clock;
use crate::commands::Context;
use crate::commands::input::Lines;
use crate::deliver::{DeliverError, Flow, Manner};
use crate::e2ee::AccountId;
use crate::error::CliError;
use crate::profile::{Profile, Session};
use crate::upkeep;

/// Lines that are sealed in one transaction: others who wait for the state wait no longer.
const AT_ONCE: usize = 50;

/// However late it is, what was heard is looked at for so long.
const LEAST: Duration = Duration::from_secs(1);

/// Sends every line, and waits for the last receipt.
pub(super) async fn run(
    context: &Context,
    profile: &Profile,
    handle: &Handle,
    expect: Option<AccountId>,
    args: &Send,
) -> Result<(), CliError> {
    let relay = profile.relay(&context.options, &context.printer)?;
    relay.persist(true);
    let session = profile.session(&relay, None);
    let manner = Manner { key: args.idempotency_key.as_deref(), expect, oneshot: args.oneshot };
    let mut sender = Sender {
        context,
        session: &session,
        handle,
        manner,
        flow: Flow::new(&session, manner),
        limit: context.options.deadline(),
        moved: Instant::now(),
        input: Some(Lines::of_stdin()),
        failure: None,
    };
    let done = sender.send_all().await;
    // What was acknowledged is told, whatever has become of the rest.
    for delivered in sender.flow.end() {
        show(context, profile, handle, &delivered)?;
    }
    context.printer.flush()?;
    if done.is_ok() {
        tend(context, &session, false).await;
    }
    done
}

struct Sender<'a> {
    context: &'a Context,
    session: &'a Session<'a>,
    handle: &'a Handle,
    manner: Manner<'a>,
    flow: Flow<'a>,
    /// See the top.
    limit: Duration,
    /// When a line was last told of, or began to wait where none did.
    moved: Instant,
    /// `None` once nothing more is read.
    input: Option<Lines>,
    /// Why not, if it was not the end.
    failure: Option<CliError>,
}

impl Sender<'_> {
    async fn send_all(&mut self) -> Result<(), CliError> {
        loop {
            self.tell()?;
            if !self.flow.is_waiting() && self.input.is_none() {
                return self.failure.take().map_or(Ok(()), Err);
            }
            let until = self.moved + self.limit;
            if self.flow.is_waiting() && !self.flow.is_connected() {
                let printer = &self.context.printer;
                let told = |text: &str| printer.say(text);
                match timeout_at(until, self.flow.connect(&told)).await {
                    Ok(connected) => connected?,
                    Err(_) => return Err(self.too_late()),
                }
                continue;
            }
            let room = self.flow.room().min(AT_ONCE);
            let (waits, input) = (self.flow.is_waiting(), self.input.as_mut().filter(|_| room > 0));
            tokio::select! {
                heard = self.flow.hear() => match heard {
                    Ok(()) => self.settle().await?,
                    Err(error) => self.lost(error.into())?,
                },
                lines = more(input, room) => self.take(lines).await?,
                () = sleep_until(until), if waits => return Err(self.too_late()),
            }
        }
    }

    /// Seals lines, and sends them.
    async fn take(&mut self, lines: Result<Vec<String>, CliError>) -> Result<(), CliError> {
        let lines = match lines {
            Ok(lines) if !lines.is_empty() => lines,
            other => {
                (self.input, self.failure) = (None, other.err());
                return Ok(());
            }
        };
        if !self.flow.is_waiting() {
            self.moved = Instant::now();
        }
        match timeout(self.limit, self.put(&lines)).await {
            Ok(done) => done,
            Err(_) => Err(self.too_late()),
        }
    }

    async fn put(&mut self, lines: &[String]) -> Result<(), CliError> {
        let now = clock::seconds();
        let expect = self.manner.expect;
        let to = recipient(self.context, self.session, self.handle, expect, now).await?;
        match self.flow.put(&to, lines, now).await {
            // One of them cannot be sent. Those before it can.
            Err(error) if is_of_one(&error) => {
                for line in lines {
                    if let Err(error) = self.flow.put(&to, std::slice::from_ref(line), now).await {
                        (self.input, self.failure) = (None, Some(error.into()));
                        break;
                    }
                }
                Ok(())
            }
            done => Ok(done?),
        }
    }

    async fn settle(&mut self) -> Result<(), CliError> {
        let until = (self.moved + self.limit).max(Instant::now() + LEAST);
        match timeout_at(until, self.flow.settle(clock::seconds())).await {
            Ok(Ok(false)) => Ok(()),
            Ok(Ok(true)) => {
                tend(self.context, self.session, true).await;
                Ok(())
            }
            Ok(Err(error)) => self.lost(error),
            Err(_) => Err(self.too_late()),
        }
    }

    fn lost(&mut self, error: DeliverError) -> Result<(), CliError> {
        let printer = &self.context.printer;
        let told = |text: &str| printer.say(text);
        Ok(self.flow.lost(error, &told)?)
    }

    /// Tells of the lines that are done, in their order.
    fn tell(&mut self) -> Result<(), CliError> {
        let done = self.flow.done();
        if done.is_empty() {
            return Ok(());
        }
        self.moved = Instant::now();
        for delivered in done {
            show(self.context, self.session.profile, self.handle, &delivered)?;
        }
        Ok(self.context.printer.flush()?)
    }

    fn too_late(&self) -> CliError {
        let waiting = match self.flow.unacked() {
            0 => None,
            1 => Some("1 line is not acknowledged".to_owned()),
            count => Some(format!("{count} lines are not acknowledged")),
        };
        CliError::Timeout { seconds: self.limit.as_secs(), waiting }
    }
}

/// Looks after the prekeys. It is not for them that lines wait.
async fn tend(context: &Context, session: &Session<'_>, at_once: bool) {
    let relay = session.member.relay();
    relay.persist(false);
    if let Err(error) = upkeep::tend(session, clock::seconds(), at_once).await {
        context.printer.say(&format!("prekeys were not looked after: {error}"));
    }
    relay.persist(true);
}

/// The next lines, at most `most`; none at the end. For ever where nothing is read.
async fn more(input: Option<&mut Lines>, most: usize) -> Result<Vec<String>, CliError> {
    match input {
        Some(lines) => lines.next(most).await,
        None => std::future::pending().await,
    }
}

/// Whether it is the fault of one text of several.
fn is_of_one(error: &DeliverError) -> bool {
    matches!(error, DeliverError::Seal(_) | DeliverError::OtherText | DeliverError::Deleted)
}
