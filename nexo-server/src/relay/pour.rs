//! The messages themselves on a socket that says hello: in log order, with their proofs, as far as
//! the window lets them. [`stream`](super::stream) says which come from the room and which from
//! the database; here they are read and sent.

use nexo_schema::error::ErrorCode;
use nexo_schema::ids::{AccountId, CursorName};
use nexo_schema::limits::{MAX_BODY, MAX_CURSORS, MAX_SUBSCRIPTIONS, MAX_WINDOW};
use nexo_schema::sigchain::caps;
use nexo_schema::stream::Hello;
use nexo_schema::ws::{Farewell, Notice};
use rocket_ws::frame::CloseCode;

use super::batch::Batch;
use super::frames::{nack, push};
use super::line::{End, IN_FLIGHT, Line, Place};
use super::rooms::Word;
use super::socket::{PAGE, Socket, lost};
use super::stream::Stream;
use super::window::Window;
use super::{CLOSE_FORBIDDEN, CLOSE_MALFORMED, CLOSE_UNAUTHORIZED};
use crate::App;
use crate::error::ApiError;
use crate::http::page::{page_of, prove};
use crate::store::{Device, Feed, PageSize, cursor_of, feed, open_cursor};

/// Seconds after which a client that was sent away may come back.
const COME_BACK: u64 = 1;
/// The same where the relay has failed.
const COME_BACK_LATER: u64 = 5;

impl Socket {
    /// Answers a hello, and sends what is there already.
    pub(super) async fn greet<F: Future>(
        &mut self,
        hello: Hello,
        line: &mut Line<F>,
    ) -> Result<(), End> {
        if !matches!(&self.place, Place::Account(_)) {
            return Err(End::Close(
                CLOSE_MALFORMED.into(),
                "one hello, on a socket without conv_id",
            ));
        }
        match self.open(hello).await {
            Ok((opened, answer)) => {
                self.place = Place::Stream(Box::new(opened));
                line.put(serde_json::to_string(&answer).ok()).await?;
                self.pour(line).await
            }
            Err(error) => {
                line.put(nack(None, &error)).await?;
                Err(sent_away(&error))
            }
        }
    }

    async fn open(&self, hello: Hello) -> Result<(Stream, Notice), ApiError> {
        if hello.ver != 1 {
            return Err(ApiError::new(ErrorCode::BadRequest, "ver: this relay speaks 1"));
        }
        if !(1..=MAX_WINDOW).contains(&hello.window) {
            let detail = format!("window: 1 to {MAX_WINDOW}");
            return Err(ApiError::new(ErrorCode::BadRequest, detail));
        }
        let wanted = subscription(&self.app, &self.device, hello.conversations).await?;
        let size = self.app.newest_head().await.size;
        if hello.tree_size.is_some_and(|known| known > size) {
            return Err(ApiError::new(
                ErrorCode::BadRequest,
                "tree_size: the log is not that large",
            ));
        }
        let after = match &hello.cursor {
            Some(name) => self.place_of(name, hello.after).await?,
            None => hello.after.unwrap_or(size),
        };
        let answer = Notice::Hello {
            ver: 1,
            device_id: self.device.id.clone(),
            after,
            window: hello.window,
            ping_every: self.app.config.ping_every,
            max_frame: MAX_BODY,
            max_in_flight: IN_FLIGHT,
            size,
        };
        let (window, told) =
            (Window::new(after, hello.window), hello.proofs.then_some(hello.tree_size));
        // The seat is taken before the first look at the database.
        let seat = self.app.rooms.stream(self.device.account);
        Ok((Stream::new(seat, wanted, window, hello.cursor, told), answer))
    }

    /// Where a named cursor goes on: where the client says, or where it is.
    async fn place_of(&self, name: &CursorName, given: Option<u64>) -> Result<u64, ApiError> {
        let (device, named) = (self.device.id.clone(), name.clone());
        let stored = self.app.store.read(move |conn| cursor_of(conn, &device, &named)).await?;
        let stored = match stored {
            Some(place) => place,
            None => {
                let (device, named, at) = (self.device.id.clone(), name.clone(), given);
                let open = move |conn: &mut _| open_cursor(conn, &device, &named, at.unwrap_or(0));
                let detail = format!("cursor: a device has at most {MAX_CURSORS}");
                let opened = self.app.store.write(open).await?;
                opened.ok_or_else(|| ApiError::new(ErrorCode::TooLarge, detail))?
            }
        };
        let moved = self.app.cursors.moved_to(&self.device.id, name).unwrap_or(0);
        Ok(given.unwrap_or_else(|| stored.max(moved)))
    }

    /// Takes an ack, keeps it, and sends what it made room for.
    pub(super) async fn acked<F: Future>(
        &mut self,
        cursor: u64,
        line: &mut Line<F>,
    ) -> Result<(), End> {
        let Place::Stream(stream) = &mut self.place else {
            return Err(End::Close(CLOSE_MALFORMED.into(), "an ack follows a hello"));
        };
        match stream.window.ack(cursor) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) => {
                let error = ApiError::new(ErrorCode::BadRequest, error.to_string());
                line.put(nack(None, &error)).await?;
                return Err(sent_away(&error));
            }
        }
        if let Some(name) = &stream.name {
            self.app.cursors.moved(&self.device.id, name, cursor);
        }
        self.pour(line).await
    }

    /// Sends what a word of the account's room says is new.
    pub(super) async fn heard_of<F: Future>(
        &mut self,
        word: Word,
        line: &mut Line<F>,
    ) -> Result<(), End> {
        let Place::Stream(stream) = &mut self.place else { return Ok(()) };
        match word {
            Word::Handed(batch) => self.offer(&batch, line).await,
            Word::Look => {
                stream.look();
                self.pour(line).await
            }
        }
    }

    /// Sends what of a batch is for the socket, if it has all that comes before.
    async fn offer<F: Future>(&mut self, batch: &Batch, line: &mut Line<F>) -> Result<(), End> {
        self.still_allowed().await?;
        let Place::Stream(stream) = &mut self.place else { return Ok(()) };
        let Some(due) = stream.due(batch) else { return self.pour(line).await };
        if due.is_empty() {
            return Ok(());
        }
        let Some(proofs) = stream.proofs(&self.app.rooms, batch.size(), &due) else {
            stream.look();
            return self.pour(line).await;
        };
        line.put(proofs.head).await?;
        let mut paths = proofs.paths.into_iter();
        for shown in due {
            let Some(frame) = shown.push(&self.device.id, paths.next()) else {
                stream.look();
                return self.pour(line).await;
            };
            line.put(Some(frame)).await?;
            stream.window.sent(shown.index());
        }
        Ok(())
    }

    /// Sends what the database has behind the socket's position, as far as its window goes.
    pub(super) async fn pour<F: Future>(&mut self, line: &mut Line<F>) -> Result<(), End> {
        loop {
            self.still_allowed().await?;
            let Place::Stream(stream) = &mut self.place else { return Ok(()) };
            let Some(room) = stream.wants() else { return Ok(()) };
            // Nothing is read for one that does not make room.
            line.flush().await?;
            let rows = u32::try_from(room).unwrap_or(PAGE.rows).min(PAGE.rows);
            let (of, reader) = (stream.feed.clone(), self.device.id.clone());
            let (after, told) = (stream.window.sent_to(), stream.told);
            let query = move |conn: &mut _| {
                let rows = feed(conn, &of, &reader, after, PageSize { rows, ..PAGE })?;
                let mut page = page_of(rows, after)?;
                let size = match told {
                    Some(from) if !page.items.is_empty() => prove(conn, &mut page, from)?,
                    _ => 0,
                };
                Ok::<_, ApiError>((page, size))
            };
            let (mut page, size) = self.app.store.snapshot(query).await.map_err(|e| lost(&e))?;
            stream.looked(page.more);
            if let Some(note) = page.head.take() {
                line.put(stream.tell(size, note, page.consistency.take())).await?;
            }
            // One frame at a time: the page is what a reader that stalls may cost, not both.
            for item in page.items {
                let frame = push(&item).map_err(|e| lost(&ApiError::internal(e)))?;
                line.put(Some(frame)).await?;
                stream.window.sent(item.sth_index);
            }
        }
    }

    /// What a socket that said hello is told before it is closed.
    pub(super) async fn farewell<F: Future>(&self, end: &End, line: &mut Line<F>) {
        let (Place::Stream(stream), End::Close(code, _)) = (&self.place, end) else {
            return;
        };
        let (reason, retry_after) = reason(*code);
        if reason == Farewell::Unauthorized && self.is_revoked().await {
            let notice = Notice::DeviceRevoked { device_id: self.device.id.clone() };
            let _ = line.put(serde_json::to_string(&notice).ok()).await;
        }
        let bye = Notice::Bye { reason, retry_after, cursor: stream.window.acked_to() };
        // A peer that does not read it is gone already.
        let _ = line.put(serde_json::to_string(&bye).ok()).await;
    }

    async fn is_revoked(&self) -> bool {
        let device = self.app.device(&self.device.id).await;
        device.is_ok_and(|device| device.is_none_or(|device| device.revoked))
    }
}

/// What a close code says, as a bye has it, and when to come back.
fn reason(code: CloseCode) -> (Farewell, Option<u64>) {
    match u16::from(code) {
        1001 => (Farewell::Shutdown, Some(COME_BACK)),
        1013 => (Farewell::Busy, Some(COME_BACK)),
        1011 => (Farewell::Internal, Some(COME_BACK_LATER)),
        CLOSE_UNAUTHORIZED => (Farewell::Unauthorized, None),
        CLOSE_FORBIDDEN => (Farewell::Forbidden, None),
        _ => (Farewell::Malformed, None),
    }
}

/// How a socket ends whose hello or ack cannot be taken.
fn sent_away(error: &ApiError) -> End {
    match error.problem().code {
        ErrorCode::Forbidden => End::Close(CLOSE_FORBIDDEN.into(), "not for this device to read"),
        ErrorCode::BadRequest | ErrorCode::TooLarge => {
            End::Close(CLOSE_MALFORMED.into(), "a frame that cannot be taken")
        }
        _ => lost(error),
    }
}

/// What the device may read of what it asks for.
async fn subscription(
    app: &App,
    device: &Device,
    wanted: Option<Vec<nexo_schema::ids::ConvId>>,
) -> Result<Feed, ApiError> {
    if !device.may(caps::RECV) {
        return Err(ApiError::new(ErrorCode::Forbidden, "this device sends and does not read"));
    }
    let account: AccountId = device.account;
    match wanted {
        None if device.conversations.is_empty() => Ok(Feed::Account(account)),
        None => Ok(Feed::Some(account, device.conversations.clone())),
        Some(wanted) if wanted.is_empty() || wanted.len() > MAX_SUBSCRIPTIONS => {
            let detail = format!("conversations: 1 to {MAX_SUBSCRIPTIONS}, or none named for all");
            Err(ApiError::new(ErrorCode::BadRequest, detail))
        }
        Some(wanted) => {
            for conv in &wanted {
                app.participant(*conv, device).await?;
            }
            Ok(Feed::Some(account, wanted))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_come_back_is_told_when() {
        for (code, farewell, back) in [
            (1001, Farewell::Shutdown, true),
            (1013, Farewell::Busy, true),
            (1011, Farewell::Internal, true),
            (4401, Farewell::Unauthorized, false),
            (4403, Farewell::Forbidden, false),
            (4400, Farewell::Malformed, false),
            (1009, Farewell::Malformed, false),
        ] {
            let (reason, retry_after) = reason(code.into());
            assert_eq!((reason, retry_after.is_some()), (farewell, back), "{code}");
        }
    }
}
