//! One connection: what is done about each thing that happens on it.

use std::sync::Arc;
use std::time::Duration;

use nexo_schema::error::ErrorCode;
use nexo_schema::ids::{ConvId, DeviceId, MsgId};
use nexo_schema::limits::PREKEYS_LOW;
use nexo_schema::sigchain::caps;
use nexo_schema::stream::Control;
use rocket::Shutdown;
use rocket::futures::FutureExt as _;
use rocket::tokio::time::timeout;
use rocket_ws::Message;
use rocket_ws::frame::CloseCode;
use rocket_ws::result::Error;
use rocket_ws::stream::DuplexStream;

use super::batch::Batch;
use super::follow::Follower;
use super::frames::{self, Answer, Asked, Frame, ack, bell, nack};
use super::line::{End, Event, Line, Place};
use super::rooms::{Bell, Word};
use super::{CLOSE_FORBIDDEN, CLOSE_MALFORMED, CLOSE_UNAUTHORIZED};
use crate::app::Waiting;
use crate::error::ApiError;
use crate::http::present;
use crate::store::{Device, Feed, PageSize, StoreError, feed, message_by_id, one_time_left};
use crate::{App, LogReceipt};

/// Read from the database for one socket at a time. A reader that stalls holds as much, besides
/// the frames in its buffer.
pub(super) const PAGE: PageSize = PageSize { rows: 256, bytes: 64 * 1024 };

/// Events that may be handled before what they put on the wire is sent.
const EVENTS_A_FLUSH: usize = 256;

/// Pings that may go unanswered.
const SILENT_PINGS: u32 = 2;

/// A socket that was let in.
pub(super) struct Socket {
    pub(super) app: App,
    pub(super) device: Device,
    /// The seed's socket has one.
    conv: Option<ConvId>,
    pub(super) place: Place,
    /// Rings when the account's devices change.
    devices: Bell,
    silent_pings: u32,
}

/// What became of an envelope.
struct Settled {
    asked: Asked,
    outcome: Result<LogReceipt, ApiError>,
}

impl Socket {
    /// The cursor was taken before the upgrade, and what has been committed since is read when
    /// the seat is taken: whatever is sent once the client sees the socket open comes through.
    pub(super) fn new(app: App, device: Device, conv: Option<ConvId>, cursor: u64) -> Self {
        let place = match conv {
            Some(conv) => Place::Conversation(Follower::enter(&app.rooms, conv, cursor)),
            None => Place::Account(app.rooms.listen(device.account)),
        };
        let devices = app.rooms.watch_devices(device.account);
        Self { app, device, conv, place, devices, silent_pings: 0 }
    }

    /// Serves the socket until either side ends it.
    pub(super) async fn run(mut self, stream: DuplexStream, shutdown: Shutdown) {
        let ping_every = Duration::from_secs(self.app.config.ping_every.into());
        let mut line = Line::new(stream, shutdown, ping_every);
        let end = match self.begin(&mut line).await {
            Ok(()) => self.turn(&mut line, settled).await,
            Err(end) => end,
        };
        if matches!(end, End::Close(CloseCode::Away, _)) {
            self.drain(&mut line).await;
        }
        Box::pin(self.farewell(&end, &mut line)).await;
        line.end(end).await;
    }

    /// Answers what was taken before the relay began to shut down: the log goes on until the
    /// sockets are closed.
    async fn drain<F>(&self, line: &mut Line<F>)
    where
        F: Future<Output = Settled>,
    {
        let within = Duration::from_secs(self.app.config.grace.into()) / 2;
        let answers = async {
            while let Some(settled) = line.answered().await {
                self.answer(settled, line).await?;
            }
            Ok::<_, End>(())
        };
        // A sender that hears nothing sends the same again.
        let _ = timeout(within, answers).await;
    }

    /// What changed since the door is not told any more, so it is asked.
    async fn begin<F: Future>(&mut self, line: &mut Line<F>) -> Result<(), End> {
        self.still_allowed().await?;
        self.catch_up(line).await?;
        line.flush().await
    }

    async fn turn<F>(&mut self, line: &mut Line<F>, settle: impl Fn(Asked, Waiting) -> F) -> End
    where
        F: Future<Output = Settled>,
    {
        loop {
            let mut event = Some(line.event(&mut self.place, &mut self.devices).await);
            let mut left = EVENTS_A_FLUSH;
            // What one batch has for this socket is ready all at once, and leaves at once.
            while let Some(ready) = event {
                if let Err(end) = self.handle(ready, line, &settle).await {
                    return end;
                }
                left -= 1;
                event = match left {
                    0 => None,
                    _ => line.event(&mut self.place, &mut self.devices).now_or_never(),
                };
            }
            if let Err(end) = line.flush().await {
                return end;
            }
        }
    }

    async fn handle<F>(
        &mut self,
        event: Event<Settled>,
        line: &mut Line<F>,
        settle: &impl Fn(Asked, Waiting) -> F,
    ) -> Result<(), End>
    where
        F: Future<Output = Settled>,
    {
        match event {
            Event::Heard(frame) => {
                self.silent_pings = 0;
                match self.hear(frame)? {
                    Some(Heard::Item(asked, ticket)) => {
                        line.await_answer(settle(asked, ticket));
                        Ok(())
                    }
                    Some(Heard::Refused(msg_id, error)) => {
                        if error.problem().code == ErrorCode::RateLimited {
                            line.rest();
                        }
                        line.put(nack(msg_id, &error)).await
                    }
                    // Boxed, these three: a socket that waits is not to hold their room.
                    Some(Heard::Control(Control::Hello(hello))) => {
                        Box::pin(self.greet(hello, line)).await
                    }
                    Some(Heard::Control(Control::Ack { cursor })) => {
                        Box::pin(self.acked(cursor, line)).await
                    }
                    Some(Heard::Control(Control::Delete(_))) | None => Ok(()),
                }
            }
            Event::Answered(settled) => self.answer(settled, line).await,
            Event::Told(word) if matches!(self.place, Place::Stream(_)) => {
                Box::pin(self.heard_of(word, line)).await
            }
            Event::Told(Word::Handed(batch)) => self.show(&batch, line).await,
            Event::Told(Word::Look) => self.catch_up(line).await,
            Event::Rung(size) => {
                let device = self.still_allowed().await?;
                // What it may read: one that only sends, or is limited, is not rung for.
                if !device.may(caps::RECV) || !device.conversations.is_empty() {
                    return Ok(());
                }
                line.put(bell(size)).await
            }
            Event::Devices => {
                self.still_allowed().await?;
                line.put(self.prekeys_low().await.map_err(failed)?).await
            }
            Event::Tick => {
                self.silent_pings += 1;
                if self.silent_pings > SILENT_PINGS {
                    return Err(End::Gone);
                }
                self.still_allowed().await?;
                line.put_message(Message::Ping(Vec::new())).await
            }
            Event::Closing => Err(End::Close(CloseCode::Away, "the relay is shutting down")),
        }
    }

    /// What a frame asks for. An envelope is queued here and now: a client may send and be gone.
    fn hear(&self, frame: Option<Result<Message, Error>>) -> Result<Option<Heard>, End> {
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
        Ok(Some(match frames::read(&self.app, &self.device, self.conv.as_ref(), &text) {
            Frame::Item(asked, item) => match self.app.enqueue(*item) {
                Ok(ticket) => Heard::Item(asked, ticket),
                Err(error) => Heard::Refused(Some(asked.msg_id), error),
            },
            Frame::Refused(msg_id, error) => Heard::Refused(msg_id, error),
            Frame::Control(control) => Heard::Control(control),
            Frame::Unfit(reason) => return Err(End::Close(CLOSE_MALFORMED.into(), reason)),
        }))
    }

    /// Tells a sender what became of its envelope. One that is to come back by itself does so
    /// through the room; but a duplicate does not, so it is shown to its sender again.
    async fn answer<F: Future>(&self, settled: Settled, line: &mut Line<F>) -> Result<(), End> {
        let Settled { asked: Asked { msg_id, answer }, outcome } = settled;
        match (outcome, answer) {
            (Err(error), _) => line.put(nack(Some(msg_id), &error)).await,
            (Ok(placed), Answer::Ack { receipt, deletes }) => {
                let receipt = present::proved_for(&self.app, &self.device, receipt, &placed).await;
                // The sender asks again.
                let receipt = receipt.map_err(|error| lost(&error))?;
                line.put(ack(&msg_id, deletes, &placed, receipt.as_ref())).await
            }
            (Ok(placed), Answer::Echo) if placed.known => {
                line.put(self.stored(msg_id).await.map_err(failed)?).await
            }
            (Ok(_), Answer::Echo) => Ok(()),
        }
    }

    /// The frame of a message that this device sent earlier.
    async fn stored(&self, msg_id: MsgId) -> Result<Option<String>, StoreError> {
        let (Some(conv), reader) = (self.conv, self.device.id.clone()) else { return Ok(None) };
        let query = move |conn: &mut _| message_by_id(conn, &conv, &msg_id, &reader);
        let row = self.app.store.read(query).await?;
        row.as_ref().map(present::frame).transpose()
    }

    /// Sends what is new in a batch.
    async fn show<F: Future>(&mut self, batch: &Batch, line: &mut Line<F>) -> Result<(), End> {
        self.still_allowed().await?;
        let Place::Conversation(follower) = &mut self.place else { return Ok(()) };
        for shown in follower.due(batch) {
            let Some(frame) = shown.frame() else { return self.catch_up(line).await };
            line.put(Some(frame.to_owned())).await?;
            follower.served(shown.index());
        }
        Ok(())
    }

    /// Sends what the database has behind the cursor.
    async fn catch_up<F: Future>(&mut self, line: &mut Line<F>) -> Result<(), End> {
        let Some(conv) = self.conv else { return Ok(()) };
        loop {
            self.still_allowed().await?;
            let Place::Conversation(follower) = &mut self.place else { return Ok(()) };
            // Nothing is read for one that does not make room.
            line.flush().await?;
            let (device, cursor): (DeviceId, u64) = (self.device.id.clone(), follower.cursor());
            let query =
                move |conn: &mut _| feed(conn, &Feed::Conversation(conv), &device, cursor, PAGE);
            let rows = self.app.store.snapshot(query).await.map_err(failed)?;
            for row in rows.items {
                line.put(Some(present::frame(&row).map_err(failed)?)).await?;
                follower.served(row.index);
            }
            if !rows.more {
                return Ok(());
            }
        }
    }

    /// The notice for a device that publishes one-time prekeys and has few left, on a socket
    /// that takes notices.
    async fn prekeys_low(&self) -> Result<Option<String>, StoreError> {
        if self.conv.is_some() || !self.device.native {
            return Ok(None);
        }
        let device = self.device.id.clone();
        let left = self.app.store.read(move |conn| one_time_left(conn, &device)).await?;
        Ok(left.filter(|&left| left < PREKEYS_LOW as u64).and_then(frames::prekeys_low))
    }

    /// A revoked device's socket ends when its end is told, an expired one's with the next ring
    /// or ping. That the account takes part in the conversation was asked at the door: nobody
    /// leaves one.
    pub(super) async fn still_allowed(&self) -> Result<Arc<Device>, End> {
        let device = self.app.device(&self.device.id).await.map_err(failed)?;
        let active = device.filter(|device| device.is_active(self.app.clock.seconds()));
        let Some(device) = active else {
            let reason = "the device is revoked or expired";
            return Err(End::Close(CLOSE_UNAUTHORIZED.into(), reason));
        };
        let reads = matches!(&self.place, Place::Conversation(_) | Place::Stream(_));
        if reads && !device.may(caps::RECV) {
            let reason = "the device may not read any more";
            return Err(End::Close(CLOSE_FORBIDDEN.into(), reason));
        }
        Ok(device)
    }
}

/// What a frame came to.
enum Heard {
    /// An item that is on its way into the log.
    Item(Asked, Waiting),
    /// An envelope that is not.
    Refused(Option<MsgId>, ApiError),
    /// Something about the socket.
    Control(Control),
}

async fn settled(asked: Asked, ticket: Waiting) -> Settled {
    Settled { asked, outcome: App::settled(ticket).await }
}

fn failed(error: StoreError) -> End {
    lost(&error.into())
}

/// The cause was logged where it arose; the socket tells only that it may come back, and
/// whether that is likely to help.
pub(super) fn lost(error: &ApiError) -> End {
    match error.problem().code {
        ErrorCode::Unavailable => {
            End::Close(CloseCode::Again, "the relay is busy; come back with after=")
        }
        _ => End::Close(CloseCode::Error, "internal error; come back with after="),
    }
}
