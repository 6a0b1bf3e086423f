//! `bench`: how many messages a deployment takes durably, and how soon they arrive.
//!
//! Two accounts are made for the run. One writes from several sockets at once, each with so many
//! envelopes on their way; the other one listens. Messages are sealed before the clock starts and
//! proofs are verified after it has stopped, so that what is measured is the deployment, as far
//! as this machine lets it. At the end every message is acked and has arrived, and each receipt
//! and each path is verified: a figure that was bought with a lie is an error.

mod accounts;
mod figures;
mod journeys;
mod load;

use serde_json::json;

use self::accounts::Guest;
use self::figures::Percentiles;
use self::journeys::Times;
use self::load::Load;
use super::register::{learn, server};
use super::{Context, input};
use crate::cli::Bench;
use crate::clock;
use crate::error::CliError;
use crate::profile::relay;

pub(super) async fn run(context: &Context, args: &Bench) -> Result<(), CliError> {
    let relay = relay(&server(context)?, &context.options, &context.printer)?;
    let pin = learn(context, &relay).await?;
    let invite = args.invite_file.as_deref().map(input::line_of).transpose()?;
    let writer = Guest::writer(&relay, &pin, invite.as_deref()).await?;
    let reader = Guest::reader(&relay, &pin, invite.as_deref()).await?;
    context.printer.say(&format!(
        "{} writes to {}; both stay on the relay, with {} messages",
        writer.handle(),
        reader.handle(),
        args.messages
    ));
    let (writer, reader) = (writer.session(&relay), reader.session(&relay));
    let load = Load::prepare(context, &writer, &reader, args).await?;
    let journeys = load.run(context).await?;
    let times = journeys.verified(&writer, &reader, clock::seconds()).await?;
    show(context, args, &times, journeys.limited)
}

fn show(context: &Context, args: &Bench, times: &Times, limited: u64) -> Result<(), CliError> {
    let seconds = times.acked_in.as_secs_f64();
    let rate = f64::from(args.messages) / seconds.max(f64::EPSILON);
    let (acks, arrivals) = (Percentiles::of(&times.acks), Percentiles::of(&times.arrivals));
    let object = json!({
        "schema": "nexo.bench/1",
        "messages": args.messages,
        "sockets": args.sockets,
        "in_flight": args.in_flight,
        "bytes": args.size,
        "seconds": seconds,
        "acks_per_second": rate,
        "ack_ms": acks.object(),
        "delivery_ms": arrivals.object(),
        "delivered_seconds": times.arrived_in.as_secs_f64(),
        "limited": limited,
    });
    let mut text = format!(
        "{} messages of {} bytes, {} sockets with {} in flight each\n\
         durable acks  {rate:.0} a second, all in {seconds:.2} s; the last arrived after {:.2} s\n\
         ack           {acks}\n\
         delivery      {arrivals}",
        args.messages,
        args.size,
        args.sockets,
        args.in_flight,
        times.arrived_in.as_secs_f64(),
    );
    if limited > 0 {
        let told = format!("\nthe relay asked to wait {limited} times: its limits were measured");
        text.push_str(&told);
    }
    context.printer.result(&object, &text)?;
    Ok(context.printer.flush()?)
}
