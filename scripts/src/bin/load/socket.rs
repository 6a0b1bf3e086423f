//! A WebSocket client with many messages in flight: its own envelope coming back, with its
//! place in the log, is the acknowledgement.

use std::collections::HashMap;
use std::time::Instant;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, http};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::drive::{DriveError, Placed, Worker};
use crate::http::HttpError;
use crate::stats::Sample;

/// tungstenite's default of 128 KiB a socket buys nothing with frames of this size.
const READ_BUFFER: usize = 8 * 1024;

/// Keeps `in_flight` messages in flight until the window shuts, then waits for the last.
pub(crate) async fn work(worker: Worker, in_flight: usize) -> Result<Sample, DriveError> {
    let mut stream = connect(&worker).await?;
    let Worker { window, letters, .. } = worker;
    let mut sample = Sample::default();
    let mut sent = HashMap::with_capacity(in_flight);
    let mut next = 0;
    loop {
        let mut wrote = false;
        while sent.len() < in_flight && window.is_open() {
            stream.feed(Message::text(letters.write(next))).await.map_err(Box::new)?;
            sent.insert(next, Instant::now());
            next += 1;
            wrote = true;
        }
        if wrote {
            stream.flush().await.map_err(Box::new)?;
        }
        if sent.is_empty() {
            break;
        }
        let text = match stream.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => {
                return Err(DriveError::Closed(format!("{frame:?}")));
            }
            // Pings are answered by tungstenite.
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(Box::new(error).into()),
            None => return Err(DriveError::Closed("without a word".into())),
        };
        let stray = || DriveError::Stray(text.to_string());
        let placed: Placed<'_> = serde_json::from_str(&text).map_err(|_| stray())?;
        let number = placed.msg_id.and_then(|id| letters.number(id)).ok_or_else(stray)?;
        let since = sent.remove(&number).ok_or_else(stray)?;
        match placed.sth_index {
            Some(place) => sample.acked(window, since, place),
            None => sample.refused(|| text.to_string()),
        }
    }
    // The server may be gone already; all that was sent is answered.
    let _ = stream.close(None).await;
    Ok(sample)
}

async fn connect(worker: &Worker) -> Result<WebSocketStream<TcpStream>, DriveError> {
    let url = format!("ws://{}/ws?conv_id={}", worker.address, worker.seat.conv);
    let mut request = url.into_client_request().map_err(Box::new)?;
    let token = http::HeaderValue::try_from(format!("Bearer {}", worker.seat.token))
        .map_err(|e| Box::new(Error::HttpFormat(e.into())))?;
    request.headers_mut().insert(http::header::AUTHORIZATION, token);
    let stream = TcpStream::connect(worker.address).await.map_err(HttpError::from)?;
    stream.set_nodelay(true).map_err(HttpError::from)?;
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let upgraded = client_async_with_config(request, stream, Some(config)).await;
    Ok(upgraded.map_err(Box::new)?.0)
}
