//! `server`: the relay as pinned, and its newest head, verified now.

use std::time::Instant;

use nexo_schema::bytes::to_base64;
use serde_json::json;

use super::Context;
use crate::clock;
use crate::error::CliError;
use crate::profile::Profile;

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    let relay = profile.relay(&context.options, &context.printer)?;
    let session = profile.session(&relay, None);
    let now = clock::seconds();
    let start = Instant::now();
    let head = session.trust.fetch_head(now).await?;
    let latency = start.elapsed();
    let age = now.saturating_sub(head.time);
    let pin = &profile.pin;
    let object = json!({
        "schema": "nexo.server/1",
        "server": pin.url.as_str(),
        "origin": pin.origin,
        "vkey": pin.log_key.to_string(),
        "size": head.size.to_string(),
        "root": to_base64(&head.root),
        "time": clock::rfc3339(head.time),
        "age_seconds": age,
        "latency_ms": u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
    });
    let text = format!(
        "server   {}\norigin   {}\nvkey     {}\nhead     {} entries, root {}\n\
         age      {age} s\nlatency  {:.1} ms",
        pin.url,
        pin.origin,
        pin.log_key,
        head.size,
        to_base64(&head.root),
        latency.as_secs_f64() * 1000.0,
    );
    context.printer.result(&object, &text)?;
    Ok(context.printer.flush()?)
}
