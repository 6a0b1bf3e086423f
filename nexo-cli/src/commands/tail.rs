//! `tail`: what arrived, verified and decrypted, printed once.
//!
//! A message is committed unprinted, written and flushed, then marked printed. A crash in
//! between prints it again under the same message id: at least once, never lost. Only
//! `--output`, which knows how far it wrote, is exactly once.

mod file;
mod follow;
mod handler;

use std::fmt::Write as _;
use std::time::Duration;

use self::file::OutputFile;
use self::handler::Handler;
use super::show::{EVENT, Shown, event, received};
use super::{Context, input};
use crate::cli::Tail;
use crate::clock;
use crate::deliver;
use crate::e2ee::{Capabilities, ConversationId};
use crate::error::CliError;
use crate::output::Printer;
use crate::profile::{Profile, Session};
use crate::receive;
use crate::trust::{account_of, own_devices};
use crate::upkeep;
use crate::vault::{InboxKind, InboxRow, Reading, Vault, VaultError};

/// The pause before a handler is given a message again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

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
        sink: sink(context, &profile, args).await?,
    };
    // Who follows is brought what is new by the socket, a bounded piece at a time.
    if !args.follow {
        tail.receive().await?;
    }
    if let Some(since) = since {
        tail.print(&Reading { since: Some(since), ..Reading::default() }).await?;
    }
    tail.print_new().await?;
    match args.follow {
        true => tail.follow().await,
        false => tail.settle().await,
    }
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

/// Where messages go.
enum Sink {
    Stdout,
    File(OutputFile),
    Handler(Handler),
}

async fn sink(context: &Context, profile: &Profile, args: &Tail) -> Result<Sink, CliError> {
    if let Some(path) = &args.output {
        let file = OutputFile::open(path, &profile.vault, &context.printer).await?;
        return Ok(Sink::File(file));
    }
    let Some(command) = &args.exec else { return Ok(Sink::Stdout) };
    let default = || context.options.home.join("dead-letters.jsonl");
    let dead_letters = args.dead_letters.clone().unwrap_or_else(default);
    Ok(Sink::Handler(Handler {
        command: command.clone(),
        tries: args.exec_tries,
        limit: Duration::from_secs(args.exec_timeout),
        first_pause: FIRST_PAUSE,
        dead_letters,
    }))
}

/// A stream of messages to where they go.
struct Reader<'a> {
    context: &'a Context,
    session: &'a Session<'a>,
    conversation: Option<ConversationId>,
    /// Messages that may still be printed.
    left: Option<u64>,
    sink: Sink,
}

impl Reader<'_> {
    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Compares the prekeys here and at the relay, and makes good what is missing.
    async fn tend(&self, at_once: bool) {
        if let Err(error) = upkeep::tend(self.session, clock::seconds(), at_once).await {
            self.context.printer.say(&format!("prekeys were not looked after: {error}"));
        }
    }

    /// Looks after the own account: whose devices it has, and whether it can be written to.
    async fn look_after(&self, at_once: bool) -> Result<(), CliError> {
        // A stream may run for months: the own account is looked at every ten minutes of it.
        let (trust, member) = (&self.session.trust, &self.session.member);
        own_devices(trust, member, &self.session.profile.identity, false, clock::seconds()).await?;
        self.tend(at_once).await;
        Ok(())
    }

    /// Reads what is new into the inbox.
    async fn receive(&self) -> Result<(), CliError> {
        let (printer, now) = (&self.context.printer, clock::seconds());
        let progress = printer.progress();
        let warn = |text: &str| printer.warn(text);
        let show = |at: u64, of: u64| progress.show(&format!("received up to {at} of {of}"));
        self.look_after(false).await?;
        let done = receive::sync(self.session, now, &warn, &show).await;
        progress.clear();
        self.context.tell(self.session);
        Ok(done?)
    }

    /// What the protocol owes to others, once what is new is printed: answers to what has waited,
    /// requests for what did not open, and packets that others asked for. Then what has come of
    /// earlier requests.
    async fn settle(&mut self) -> Result<(), CliError> {
        let now = clock::seconds();
        let told = |text: &str| self.context.printer.say(text);
        deliver::settle(self.session, &told, now).await?;
        receive::take_again(self.session, now).await?;
        if self.is_full() { Ok(()) } else { self.print_new().await }
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
        self.put(&rows).await?;
        self.left = self.left.map(|left| left.saturating_sub(rows.len() as u64));
        Ok(())
    }

    /// Hands messages over, then marks them.
    async fn put(&mut self, rows: &[InboxRow]) -> Result<(), CliError> {
        let (printer, vault) = (&self.context.printer, &self.session.profile.vault);
        match &mut self.sink {
            Sink::Stdout => {
                for line in rows.iter().flat_map(|row| lines(printer, row)) {
                    printer.line(&line)?;
                }
                printer.flush()?;
                mark(vault, rows).await
            }
            Sink::File(file) => {
                let mut text = String::new();
                for line in rows.iter().flat_map(|row| lines(printer, row)) {
                    let _ = writeln!(text, "{line}");
                }
                file.write(&text, rows, vault).await
            }
            Sink::Handler(handler) => {
                for row in rows {
                    for shown in shown(row) {
                        tell(printer, &shown);
                        if shown.object["schema"] != EVENT {
                            handler.give(&shown.object, printer).await?;
                        }
                    }
                    mark(vault, std::slice::from_ref(row)).await?;
                }
                Ok(())
            }
        }
    }
}

async fn mark(vault: &Vault, rows: &[InboxRow]) -> Result<(), CliError> {
    let indexes: Vec<u64> = rows.iter().map(|row| row.sth_index).collect();
    Ok(vault.write(|tx| tx.set_printed(&indexes)).await.map_err(|e: VaultError| e)?)
}

/// What there is to say of a row: what became of the session, and the message. Control messages
/// are between programs.
fn shown(row: &InboxRow) -> Vec<Shown> {
    let message = (row.kind != InboxKind::Control).then(|| received(row));
    event(row).into_iter().chain(message).collect()
}

/// The word on stderr.
fn tell(printer: &Printer, shown: &Shown) {
    if let Some(alarm) = &shown.alarm {
        printer.warn(alarm);
    }
}

/// A row as lines. What cannot be read is an object for scripts and a word on stderr for people.
fn lines(printer: &Printer, row: &InboxRow) -> Vec<String> {
    let line = |shown: Shown| {
        tell(printer, &shown);
        let line = if printer.is_json() { shown.object.to_string() } else { shown.text };
        (!line.is_empty()).then_some(line)
    };
    shown(row).into_iter().filter_map(line).collect()
}
