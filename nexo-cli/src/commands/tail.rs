//! `tail`: what arrived, verified and decrypted, printed once.
//!
//! A message is committed unprinted, written and flushed, then marked printed. A crash in
//! between prints it again under the same message id: at least once, never lost.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::Instant;

use super::show::{Shown, received};
use super::{Context, input};
use crate::api::{Bell, Ring};
use crate::cli::Tail;
use crate::clock;
use crate::e2ee::{Capabilities, ConversationId};
use crate::error::CliError;
use crate::profile::{Profile, Session};
use crate::receive;
use crate::trust::{account_of, own_devices};
use crate::upkeep;
use crate::vault::{InboxRow, Reading, VaultError};

/// A lost bell must not cost more than this.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between attempts to reconnect: from one second to a minute, with jitter, for ever.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(super) async fn run(context: &Context, args: &Tail) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    if profile.is_stateless() || !profile.capabilities.contains(Capabilities::RECV) {
        return Err(CliError::Stateless("tail"));
    }
    let since = args.since.as_deref().map(|text| input::since(text, clock::seconds()));
    let since = since.transpose()?;
    let relay = profile.relay(&context.options, &context.printer)?;
    let session = profile.session(&relay, None);
    let own =
        own_devices(&session.trust, &session.member, &profile.identity, true, clock::seconds());
    own.await?;
    let mut tail = Reader {
        context,
        session: &session,
        conversation: conversation(&session, args.handle.as_deref()).await?,
        left: args.limit,
    };
    tail.receive().await?;
    if let Some(since) = since {
        tail.print(&Reading { since: Some(since), ..Reading::default() }).await?;
    }
    tail.print_new().await?;
    if args.follow && !tail.is_full() { tail.follow().await } else { Ok(()) }
}

/// The conversation of a handle, which must exist: a misspelt name is not an empty stream.
async fn conversation(
    session: &Session<'_>,
    handle: Option<&str>,
) -> Result<Option<ConversationId>, CliError> {
    let Some(handle) = handle.map(input::handle).transpose()? else { return Ok(None) };
    let own = session.profile.identity.account;
    let peer = if handle == session.profile.identity.handle {
        own
    } else {
        account_of(&session.trust, &session.member, &handle, clock::seconds()).await?
    };
    Ok(Some(ConversationId::direct(session.trust.origin(), own, peer)))
}

/// A stream of messages to stdout.
struct Reader<'a> {
    context: &'a Context,
    session: &'a Session<'a>,
    conversation: Option<ConversationId>,
    /// Messages that may still be printed.
    left: Option<u64>,
}

impl Reader<'_> {
    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Reads what is new into the inbox.
    async fn receive(&self) -> Result<(), CliError> {
        let (printer, now) = (&self.context.printer, clock::seconds());
        let progress = printer.progress();
        let warn = |text: &str| printer.warn(text);
        let show = |at: u64, of: u64| progress.show(&format!("received up to {at} of {of}"));
        // A stream may run for months: the own account is looked at every ten minutes of it.
        let (trust, member) = (&self.session.trust, &self.session.member);
        own_devices(trust, member, &self.session.profile.identity, false, now).await?;
        if let Err(error) = upkeep::tend(self.session, now, false).await {
            printer.say(&format!("prekeys were not looked after: {error}"));
        }
        let done = receive::sync(self.session, now, &warn, &show).await;
        progress.clear();
        self.context.tell(self.session);
        Ok(done?)
    }

    async fn print_new(&mut self) -> Result<(), CliError> {
        self.print(&Reading { unprinted: true, ..Reading::default() }).await
    }

    /// Prints, flushes, then marks.
    async fn print(&mut self, wish: &Reading) -> Result<(), CliError> {
        let wish = Reading { conversation: self.conversation, ..wish.clone() };
        let vault = &self.session.profile.vault;
        let mut rows = vault.read(|tx| tx.inbox(&wish))?;
        if let Some(left) = self.left {
            rows.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        if rows.is_empty() {
            return Ok(());
        }
        for row in &rows {
            self.print_one(row)?;
        }
        self.context.printer.flush()?;
        let indexes: Vec<u64> = rows.iter().map(|row| row.sth_index).collect();
        vault.write(|tx| tx.set_printed(&indexes)).await.map_err(|e: VaultError| e)?;
        self.left = self.left.map(|left| left.saturating_sub(rows.len() as u64));
        Ok(())
    }

    fn print_one(&self, row: &InboxRow) -> Result<(), CliError> {
        let printer = &self.context.printer;
        let Shown { object, text, alarm } = received(row);
        if let Some(alarm) = alarm {
            printer.warn(&alarm);
        }
        // What cannot be read is an object for scripts and a word on stderr for people.
        if printer.is_json() || !text.is_empty() {
            printer.result(&object, &text)?;
        }
        Ok(())
    }

    /// For ever: a bell, and a look every minute in case it was not heard.
    async fn follow(&mut self) -> Result<(), CliError> {
        let mut pauses = pauses();
        loop {
            let connected = Instant::now();
            match self.listen().await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_temporary() => {
                    if connected.elapsed() > LONGEST_PAUSE {
                        pauses = self::pauses();
                    }
                    let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                    let text = format!("{error}; again in {:.0} s", pause.as_secs_f64());
                    self.context.printer.say(&text);
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Until the limit is reached or the connection ends, which is a temporary error.
    async fn listen(&mut self) -> Result<(), CliError> {
        let mut bell = Bell::connect(&self.session.member).await?;
        loop {
            // Also right after connecting: what came while there was no bell.
            self.receive().await?;
            self.print_new().await?;
            if self.is_full() {
                return Ok(());
            }
            match tokio::time::timeout(LOOK_EVERY, bell.heard()).await {
                Ok(Ring::New) | Err(_) => {}
                Ok(Ring::Closed) => {
                    let lost = crate::api::ApiError::Network("the connection ended".to_owned());
                    return Err(lost.into());
                }
            }
        }
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
