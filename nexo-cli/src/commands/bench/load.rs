//! One run: sealed messages, the sockets that send them, and the one that hears them arrive.

use std::cell::RefCell;
use std::time::Duration;

use futures_util::future::{try_join, try_join_all};
use nexo_schema::error::Problem;
use nexo_schema::limits::MAX_WINDOW;
use nexo_schema::stream::Hello;
use tokio::time::{Instant, sleep_until};

use super::journeys::{Journeys, Mail};
use crate::api::{ApiError, Heard, Socket};
use crate::body::Matter;
use crate::cli::Bench;
use crate::clock;
use crate::commands::Context;
use crate::deliver::{Addressees, Letter, prepare};
use crate::error::CliError;
use crate::profile::Session;

/// A wait that a relay asks for without saying how long.
const SOME_TIME: Duration = Duration::from_secs(1);

/// Sealed messages and open sockets.
pub(super) struct Load {
    mail: Vec<Mail>,
    sockets: Vec<Socket>,
    listener: Socket,
    in_flight: usize,
}

impl Load {
    /// Seals everything and opens the sockets.
    pub(super) async fn prepare(
        context: &Context,
        writer: &Session<'_>,
        reader: &Session<'_>,
        args: &Bench,
    ) -> Result<Self, CliError> {
        let mail = seal(context, writer, reader, args).await?;
        let mut sockets = Vec::new();
        for _ in 0..args.sockets {
            sockets.push(Socket::connect(&writer.member).await?);
        }
        // The proof of the first head that is pushed is from the one held now.
        reader.trust.fetch_head(clock::seconds()).await?;
        let hello = Hello {
            ver: 1,
            cursor: None,
            after: None,
            conversations: None,
            window: MAX_WINDOW,
            proofs: true,
            tree_size: Some(reader.trust.held_size()?),
        };
        let (listener, _) = Socket::hello(&reader.member, &hello).await?;
        Ok(Self { mail, sockets, listener, in_flight: args.in_flight.into() })
    }

    /// Sends everything and waits until all of it has arrived.
    pub(super) async fn run(self, context: &Context) -> Result<Journeys, CliError> {
        let Self { mail, sockets, listener, in_flight } = self;
        let journeys = RefCell::new(Journeys::of(mail));
        let senders = sockets.into_iter().map(|socket| send(socket, &journeys, in_flight));
        let hearing = hear(listener, &journeys, context);
        try_join(try_join_all(senders), hearing).await?;
        Ok(journeys.into_inner())
    }
}

/// Seals texts of the asked length for the reader's device.
async fn seal(
    context: &Context,
    writer: &Session<'_>,
    reader: &Session<'_>,
    args: &Bench,
) -> Result<Vec<Mail>, CliError> {
    let (now, handle) = (clock::seconds(), &reader.profile.identity.handle);
    let to = Addressees::find(writer, handle, None, true, now).await?;
    let text = "x".repeat(args.size.into());
    let letter = Letter { matter: Matter::Text(&text), key: None, expect: None, oneshot: true };
    let progress = context.printer.progress();
    let mut mail = Vec::new();
    for number in 1..=args.messages {
        let row = prepare(writer, &to, &letter, now).await?;
        mail.push(Mail { msg_id: row.msg_id, request: row.request, envelope: row.envelope });
        progress.show(&format!("{number} of {} messages are sealed", args.messages));
    }
    progress.clear();
    Ok(mail)
}

/// Sends what waits, as long as something does and few enough are on their way.
async fn send(
    mut socket: Socket,
    journeys: &RefCell<Journeys>,
    in_flight: usize,
) -> Result<(), CliError> {
    let (mut under_way, mut resting) = (0, None);
    loop {
        if resting.is_some_and(|until| until <= Instant::now()) {
            resting = None;
        }
        while resting.is_none() && under_way < in_flight {
            let Some(request) = journeys.borrow_mut().depart() else { break };
            socket.submit(&request)?;
            under_way += 1;
        }
        if under_way == 0 && resting.is_none() {
            return Ok(());
        }
        let heard = tokio::select! {
            heard = socket.next() => heard?,
            () = rested(resting) => continue,
        };
        match heard {
            Heard::Ack(ack) => {
                journeys.borrow_mut().acked(*ack)?;
                under_way -= 1;
            }
            Heard::Refused { msg_id: Some(id), problem } if is_a_wait(&problem) => {
                let wait = problem.retry_after.map_or(SOME_TIME, Duration::from_secs);
                resting = Some(Instant::now() + wait);
                journeys.borrow_mut().put_back(&id)?;
                under_way -= 1;
            }
            Heard::Refused { problem, .. } => return Err(ApiError::Refused(problem).into()),
            _ => {}
        }
    }
}

fn is_a_wait(problem: &Problem) -> bool {
    ApiError::Refused(problem.clone()).is_temporary()
}

/// Until then, or for ever.
async fn rested(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Notes what arrives, until everything has.
async fn hear(
    mut socket: Socket,
    journeys: &RefCell<Journeys>,
    context: &Context,
) -> Result<(), CliError> {
    let progress = context.printer.progress();
    loop {
        let left = journeys.borrow().under_way();
        let Some(left) = left else { break };
        progress.show(&format!("{left} messages have not arrived"));
        let mut heard = Some(socket.next().await);
        let mut cursor = None;
        // One ack for all that came together.
        while let Some(event) = heard {
            match event? {
                Heard::Head { note, consistency } => {
                    journeys.borrow_mut().head(note, consistency);
                }
                Heard::Item(item) => {
                    cursor = Some(item.sth_index);
                    journeys.borrow_mut().arrived(*item)?;
                }
                Heard::Refused { problem, .. } => return Err(ApiError::Refused(problem).into()),
                _ => {}
            }
            heard = socket.ready();
        }
        if let Some(cursor) = cursor {
            socket.ack(cursor)?;
        }
    }
    progress.clear();
    Ok(())
}
