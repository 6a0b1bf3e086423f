//! The messages themselves on a socket that says hello: from the database, in log order, with
//! their proofs, as far as the window lets them.
//!
//! The bell rings, what lies behind the socket's position is read and sent, until there is no
//! more or the window is full; an ack makes room. Nothing is left out: the bell was there before
//! the first look at the database, and rings again for what comes after one.

use nexo_schema::error::ErrorCode;
use nexo_schema::http::{Item, Page};
use nexo_schema::ids::{AccountId, CursorName};
use nexo_schema::limits::{MAX_BODY, MAX_CURSORS, MAX_SUBSCRIPTIONS, MAX_WINDOW};
use nexo_schema::sigchain::caps;
use nexo_schema::stream::{Hello, PushKind};
use nexo_schema::ws::{Farewell, Notice};
use rocket_ws::frame::CloseCode;
use serde::Serialize;

use super::frames::nack;
use super::line::{End, IN_FLIGHT, Line, Place};
use super::socket::{PAGE, Socket, lost};
use super::window::Window;
use super::{CLOSE_FORBIDDEN, CLOSE_MALFORMED, CLOSE_UNAUTHORIZED};
use crate::App;
use crate::error::ApiError;
use crate::http::page::{page_of, prove};
use crate::store::{Device, Feed, cursor_of, feed, open_cursor};

/// Seconds after which a client that was sent away may come back.
const COME_BACK: u64 = 1;
/// The same where the relay has failed.
const COME_BACK_LATER: u64 = 5;

/// What a socket is sent, and how far it has got.
pub(super) struct Stream {
    feed: Feed,
    window: Window,
    /// Under which its acks are kept.
    name: Option<CursorName>,
    /// Size of the head told last, or that the client brought; `None` without proofs.
    told: Option<Option<u64>>,
    /// Whether a head has been told on this socket.
    head_told: bool,
    /// Whether there may be something behind what was sent.
    behind: bool,
}

/// An item on its way out: a [`Push`](nexo_schema::stream::Push) that borrows.
#[derive(Serialize)]
struct Pushed<'a> {
    #[serde(rename = "type")]
    kind: PushKind,
    item: &'a Item,
}

impl Stream {
    /// Says that something new is there.
    pub(super) fn rung(&mut self) {
        self.behind = true;
    }

    /// The frame of the head that a page leads to, unless it is the one told last.
    fn head(&mut self, page: &mut Page, size: u64) -> Option<String> {
        let (told, head) = (self.told.as_mut()?, page.head.take()?);
        if *told == Some(size) && self.head_told {
            return None;
        }
        let consistency = page.consistency.take();
        (*told, self.head_told) = (Some(size), true);
        serde_json::to_string(&Notice::Head { size, head: Some(head), consistency }).ok()
    }
}

impl Socket {
    /// Answers a hello, and sends what is there already.
    pub(super) async fn greet<F: Future>(
        &mut self,
        hello: Hello,
        line: &mut Line<F>,
    ) -> Result<(), End> {
        if !matches!(&self.place, Place::Account { stream: None, .. }) {
            return Err(End::Close(
                CLOSE_MALFORMED.into(),
                "one hello, on a socket without conv_id",
            ));
        }
        match self.open(hello).await {
            Ok((opened, answer)) => {
                if let Place::Account { stream, .. } = &mut self.place {
                    *stream = Some(Box::new(opened));
                }
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
        let stream = Stream {
            feed: wanted,
            window: Window::new(after, hello.window),
            name: hello.cursor,
            told: hello.proofs.then_some(hello.tree_size),
            head_told: false,
            behind: true,
        };
        Ok((stream, answer))
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
        let Place::Account { stream: Some(stream), .. } = &mut self.place else {
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

    /// Sends what is behind the socket's position, as far as its window goes.
    pub(super) async fn pour<F: Future>(&mut self, line: &mut Line<F>) -> Result<(), End> {
        loop {
            self.still_allowed().await?;
            let Place::Account { stream: Some(stream), .. } = &mut self.place else {
                return Ok(());
            };
            let room = u32::try_from(stream.window.room()).unwrap_or(PAGE).min(PAGE);
            if !stream.behind || room == 0 {
                return Ok(());
            }
            let (of, reader) = (stream.feed.clone(), self.device.id.clone());
            let (after, told) = (stream.window.sent_to(), stream.told);
            let query = move |conn: &mut _| {
                let mut page = page_of(feed(conn, &of, &reader, after, room)?, after)?;
                let size = match told {
                    Some(from) if !page.items.is_empty() => prove(conn, &mut page, from)?,
                    _ => 0,
                };
                Ok::<_, ApiError>((page, size))
            };
            let (mut page, size) = self.app.store.snapshot(query).await.map_err(|e| lost(&e))?;
            // Before a ring that comes while these are sent.
            stream.behind = page.more;
            line.put(stream.head(&mut page, size)).await?;
            // One frame at a time: the page is what a reader that stalls may cost, not both.
            for item in page.items {
                let push = Pushed { kind: PushKind::of(&item), item: &item };
                let frame = serde_json::to_string(&push);
                line.put(Some(frame.map_err(|e| lost(&ApiError::internal(e)))?)).await?;
                stream.window.sent(item.sth_index);
            }
            line.flush().await?;
        }
    }

    /// What a socket that said hello is told before it is closed.
    pub(super) async fn farewell<F: Future>(&self, end: &End, line: &mut Line<F>) {
        let (Place::Account { stream: Some(stream), .. }, End::Close(code, _)) = (&self.place, end)
        else {
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
