//! One connection.

use std::time::Duration;

use nexo_schema::ids::{ConvId, DeviceId, MsgId};
use rocket::Shutdown;
use rocket::futures::stream::FuturesUnordered;
use rocket::futures::{SinkExt as _, StreamExt as _};
use rocket::tokio::select;
use rocket::tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use rocket_ws::Message;
use rocket_ws::frame::CloseCode;
use rocket_ws::result::Error;
use rocket_ws::stream::DuplexStream;

use super::frames::{Frame, bell, nack, read};
use super::{CLOSE_MALFORMED, CLOSE_UNAUTHORIZED, PING_EVERY, Seat, Topic, close};
use crate::app::Waiting;
use crate::error::ApiError;
use crate::http::present;
use crate::store::{Conn, Device, Feed, Rows, StoreError, device_by_id, feed, is_participant};
use crate::{App, LogReceipt};

/// Envelopes of one socket that may wait for their commit; then it is not read.
const IN_FLIGHT: usize = 256;

/// Messages read from the database at a time.
const PAGE: u32 = 256;

/// How long a reader may take to make room; a stalled one is cut off, and resumes by cursor.
pub(super) const SEND_WITHIN: Duration = Duration::from_secs(30);

/// Why a socket ends.
enum End {
    /// The peer left, or is not reading.
    Gone,
    /// The relay closes it.
    Close(CloseCode, &'static str),
}

/// A socket that was let in.
pub(super) struct Socket {
    app: App,
    device: Device,
    /// The seed's socket has one; without it the socket only rings.
    conv: Option<ConvId>,
    /// Position up to which this socket has been served.
    cursor: u64,
    seat: Seat,
}

impl Socket {
    /// The cursor was taken before the upgrade, and what has been committed since is read when
    /// the seat is taken: whatever is sent once the client sees the socket open comes through.
    pub(super) fn new(app: App, device: Device, conv: Option<ConvId>, cursor: u64) -> Self {
        let topic = match conv {
            Some(conv) => Topic::Conversation(conv),
            None => Topic::Account(device.account),
        };
        let seat = app.rooms.enter(topic);
        Self { app, device, conv, cursor, seat }
    }

    /// Serves the socket until either side ends it.
    pub(super) async fn run(mut self, mut stream: DuplexStream, shutdown: Shutdown) {
        let end = match self.catch_up(&mut stream).await {
            Ok(()) => self.turn(&mut stream, shutdown).await,
            Err(end) => end,
        };
        if let End::Close(code, reason) = end {
            close(&mut stream, code, reason).await;
        }
    }

    async fn turn(&mut self, stream: &mut DuplexStream, mut shutdown: Shutdown) -> End {
        let mut waiting = FuturesUnordered::new();
        let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_pings = 0;
        loop {
            let step = select! {
                _ = &mut shutdown => {
                    Err(End::Close(CloseCode::Away, "the relay is shutting down"))
                }
                frame = stream.next(), if waiting.len() < IN_FLIGHT => {
                    silent_pings = 0;
                    match self.receive(frame, stream).await {
                        // Queued here and now: a client may send and be gone.
                        Ok(Some((msg_id, item))) => match self.app.enqueue(*item) {
                            Ok(ticket) => {
                                waiting.push(answered(msg_id, ticket));
                                Ok(())
                            }
                            Err(error) => send(stream, nack(Some(msg_id), &error)).await,
                        },
                        Ok(None) => Ok(()),
                        Err(end) => Err(end),
                    }
                }
                Some((msg_id, outcome)) = waiting.next(), if !waiting.is_empty() => {
                    self.settle(msg_id, outcome, stream).await
                }
                size = self.seat.rung() => self.ring(size, stream).await,
                _ = ping.tick() => {
                    silent_pings += 1;
                    if silent_pings > 2 { Err(End::Gone) } else { self.ping(stream).await }
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// An item to submit, if the frame holds one.
    async fn receive(
        &mut self,
        frame: Option<Result<Message, Error>>,
        stream: &mut DuplexStream,
    ) -> Result<Option<(MsgId, Box<crate::store::Item>)>, End> {
        let text = match frame {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => return Ok(None),
            Some(Ok(Message::Binary(_))) => {
                return Err(End::Close(CloseCode::Unsupported, "frames are JSON text"));
            }
            Some(Err(Error::Capacity(_))) => {
                return Err(End::Close(CloseCode::Size, "the frame is too long"));
            }
            Some(Err(Error::Utf8)) => {
                return Err(End::Close(CloseCode::Invalid, "the text is not UTF-8"));
            }
            Some(Err(Error::Protocol(_))) => {
                return Err(End::Close(CloseCode::Protocol, "not a valid frame"));
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(End::Gone),
        };
        let Some(conv) = self.conv else {
            let reason = "this socket only rings; give conv_id to send";
            return Err(End::Close(CLOSE_MALFORMED.into(), reason));
        };
        match read(&self.app, &self.device, &conv, &text) {
            Frame::Item { msg_id, item } => Ok(Some((msg_id, item))),
            Frame::Refused(msg_id, error) => {
                send(stream, nack(msg_id, &error)).await?;
                Ok(None)
            }
            Frame::Garbage => Err(End::Close(CLOSE_MALFORMED.into(), "not an envelope")),
        }
    }

    /// A committed envelope comes back through the room; a duplicate does not, so it is shown
    /// to its sender again; a refused one is answered.
    async fn settle(
        &mut self,
        msg_id: MsgId,
        outcome: Result<LogReceipt, ApiError>,
        stream: &mut DuplexStream,
    ) -> Result<(), End> {
        match outcome {
            Ok(receipt) if receipt.known => {
                let (Some(conv), reader) = (self.conv, self.device.id.clone()) else {
                    return Ok(());
                };
                let row = self
                    .app
                    .store
                    .read(move |conn| crate::store::message_by_id(conn, &conv, &msg_id, &reader))
                    .await
                    .map_err(failed)?;
                let again = row.map(present::envelope).transpose().map_err(failed)?;
                send(stream, again.and_then(|frame| serde_json::to_string(&frame).ok())).await
            }
            Ok(_) => Ok(()),
            Err(error) => send(stream, nack(Some(msg_id), &error)).await,
        }
    }

    async fn ring(&mut self, size: u64, stream: &mut DuplexStream) -> Result<(), End> {
        match self.conv {
            Some(_) => self.catch_up(stream).await,
            None => {
                self.still_allowed().await?;
                send(stream, bell(size)).await
            }
        }
    }

    /// Sends what is behind the cursor.
    async fn catch_up(&mut self, stream: &mut DuplexStream) -> Result<(), End> {
        let Some(conv) = self.conv else { return Ok(()) };
        loop {
            let (device, cursor) = (self.device.id.clone(), self.cursor);
            let now = self.app.clock.seconds();
            let rows = self
                .app
                .store
                .snapshot(move |conn| behind(conn, &conv, &device, cursor, now))
                .await
                .map_err(failed)?;
            let Some(rows) = rows else { return Err(barred()) };
            for row in rows.items {
                let index = row.index;
                let frame = present::envelope(row).map_err(failed)?;
                feed_frame(stream, serde_json::to_string(&frame).ok()).await?;
                self.cursor = index;
            }
            flush(stream).await?;
            if !rows.more {
                return Ok(());
            }
        }
    }

    async fn ping(&mut self, stream: &mut DuplexStream) -> Result<(), End> {
        self.still_allowed().await?;
        within(stream.send(Message::Ping(Vec::new()))).await
    }

    /// A revoked or expired device's socket ends with the next ring or ping.
    async fn still_allowed(&self) -> Result<(), End> {
        let (id, now) = (self.device.id.clone(), self.app.clock.seconds());
        let device =
            self.app.store.read(move |conn| device_by_id(conn, &id)).await.map_err(failed)?;
        if device.is_some_and(|d| d.is_active(now)) { Ok(()) } else { Err(barred()) }
    }
}

/// What is behind the cursor, or `None` if the device may not read here any more.
fn behind(
    conn: &mut Conn,
    conv: &ConvId,
    reader: &DeviceId,
    cursor: u64,
    now: u64,
) -> Result<Option<Rows>, StoreError> {
    let Some(device) = device_by_id(conn, reader)?.filter(|d| d.is_active(now)) else {
        return Ok(None);
    };
    if !is_participant(conn, conv, &device.account)? {
        return Ok(None);
    }
    feed(conn, &Feed::Conversation(*conv), reader, cursor, PAGE).map(Some)
}

async fn answered(msg_id: MsgId, ticket: Waiting) -> (MsgId, Result<LogReceipt, ApiError>) {
    (msg_id, App::settled(ticket).await)
}

fn barred() -> End {
    End::Close(CLOSE_UNAUTHORIZED.into(), "the device is revoked or expired")
}

fn failed(error: StoreError) -> End {
    // Logs the error; the socket tells only that it may come back.
    let _ = ApiError::from(error);
    End::Close(CloseCode::Error, "internal error; come back with after=")
}

async fn send(stream: &mut DuplexStream, text: Option<String>) -> Result<(), End> {
    feed_frame(stream, text).await?;
    flush(stream).await
}

async fn feed_frame(stream: &mut DuplexStream, text: Option<String>) -> Result<(), End> {
    let Some(text) = text else { return Ok(()) };
    within(stream.feed(Message::Text(text))).await
}

async fn flush(stream: &mut DuplexStream) -> Result<(), End> {
    within(stream.flush()).await
}

/// A reader that makes no room in time is not waited for.
async fn within<E>(sent: impl Future<Output = Result<(), E>>) -> Result<(), End> {
    match timeout(SEND_WITHIN, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Gone),
    }
}
