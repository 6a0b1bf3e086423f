//! A WebSocket client with many messages in flight: what names its message and a place in the
//! log is the acknowledgement, be it an `ack` or its own envelope coming back.

use std::collections::HashMap;
use std::time::Instant;

use futures_util::{SinkExt as _, StreamExt as _};
use nexo_scripts::http::HttpError;
use nexo_scripts::stats::Sample;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes, http};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::drive::{DriveError, Worker};
use crate::shape::{Letters, Placed, Talk};

/// tungstenite's default of 128 KiB a socket buys nothing with frames of this size.
const READ_BUFFER: usize = 8 * 1024;

type Stream = WebSocketStream<TcpStream>;

/// Keeps `in_flight` messages in flight until the window shuts, then waits for the last.
pub(crate) async fn work(
    worker: Worker,
    in_flight: usize,
    talk: Talk,
) -> Result<Sample, DriveError> {
    let mut stream = connect(&worker, talk).await?;
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
        let text = next_text(&mut stream).await?;
        let Some((number, place)) = read(&text, &letters)? else { continue };
        let since = sent.remove(&number).ok_or_else(|| DriveError::Stray(text.to_string()))?;
        match place {
            Some(place) => sample.acked(window, since, place),
            None => sample.refused(|| text.to_string()),
        }
    }
    // The server may be gone already; all that was sent is answered.
    let _ = stream.close(None).await;
    Ok(sample)
}

async fn next_text(stream: &mut Stream) -> Result<Utf8Bytes, DriveError> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text),
            Some(Ok(Message::Close(frame))) => {
                return Err(DriveError::Closed(format!("{frame:?}")));
            }
            // Pings are answered by tungstenite.
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(Box::new(error).into()),
            None => return Err(DriveError::Closed("without a word".into())),
        }
    }
}

/// The number of a message and its place, if it got one; `None` for a bell.
fn read(text: &str, letters: &Letters) -> Result<Option<(u64, Option<u64>)>, DriveError> {
    let stray = || DriveError::Stray(text.to_owned());
    let placed: Placed<'_> = serde_json::from_str(text).map_err(|_| stray())?;
    if placed.is_bell() {
        return Ok(None);
    }
    let number = placed.msg_id.and_then(|id| letters.number(id)).ok_or_else(stray)?;
    Ok(Some((number, placed.sth_index)))
}

async fn connect(worker: &Worker, talk: Talk) -> Result<Stream, DriveError> {
    let url = match talk {
        Talk::Acks | Talk::Receipts => format!("ws://{}/ws", worker.address),
        Talk::Seed => format!("ws://{}/ws?conv_id={}", worker.address, worker.seat.conv),
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;
    use nexo_scripts::account::Seat;

    #[test]
    fn answers_are_told_from_bells_and_from_what_is_neither() {
        let seat = Seat { token: "t".into(), device: "d".into(), conv: "ab".repeat(32) };
        let letters = Letters::new(&seat, Shape::Rest { clients: 1 }, 1);
        let letter: serde_json::Value = serde_json::from_str(&letters.write(5)).unwrap();
        let id = letter["msg_id"].as_str().unwrap();
        let said = |text: &str| read(&text.replace('@', id), &letters);
        let placed = said(r#"{"type":"ack","msg_id":"@","sth_index":9,"ts":1}"#);
        assert_eq!(placed.unwrap(), Some((5, Some(9))));
        assert_eq!(said(r#"{"type":"nack","msg_id":"@"}"#).unwrap(), Some((5, None)));
        assert_eq!(said(r#"{"type":"head","size":9}"#).unwrap(), None);
        for stray in ["", "{}", r#"{"type":"ack","msg_id":"x","sth_index":9}"#] {
            assert!(matches!(said(stray), Err(DriveError::Stray(_))), "{stray}");
        }
    }
}
