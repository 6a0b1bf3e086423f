//! Accounts' chains: taking the next event, and showing what is there (e2ee 2.5).
//!
//! An event proves itself: by the signature of a device that the account has, or of its recovery
//! key, and where it brings a key by that key's acceptance. So it comes without a token; whoever
//! has lost every device has none. `auth/chain.rs` has the rules, `store/admit/event.rs` what is
//! judged again at the commit.

use nexo_schema::bytes::{from_base64, to_base64};
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{ChainPage, EventPlaced, LoggedEvent, Receipt, SignedEvent};
use nexo_schema::ids::AccountId;
use nexo_schema::limits::{DEFAULT_PAGE, MAX_PAGE, MAX_REGISTER};
use rocket::serde::json::Json;
use rocket::{State, get, post};

use super::body::Body;
use super::guard::{Asker, Stranger};
use super::prekeys::Who;
use super::present;
use super::query::number;
use crate::App;
use crate::auth::chain::{self, Chain};
use crate::error::ApiError;
use crate::store::{
    Account, Conn, EventBytes, EventRow, Item, StoredHeadRow, StoredTiles, events, events_from,
    find_account_by_id, newest_head,
};

/// Bytes of events in one page, before it is cut. A page holds at least one, if there is one.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

#[post("/account/events", data = "<body>")]
pub(super) async fn submit(
    body: Body<SignedEvent>,
    _stranger: Stranger,
    app: &State<App>,
) -> Result<Json<EventPlaced>, ApiError> {
    bounded(&body.bytes)?;
    let signed = EventBytes {
        event: decoded("event", &body.value.event)?,
        sig: decoded("sig", &body.value.sig)?,
        accept_sig: decoded("accept_sig", &body.value.accept_sig)?,
    };
    place(app, signed).await
}

#[get("/accounts/<handle>/chain?<from>&<limit>&<tree_size>")]
pub(super) async fn of_handle(
    handle: &str,
    from: Option<&str>,
    limit: Option<&str>,
    tree_size: Option<&str>,
    _asker: Asker,
    app: &State<App>,
) -> Result<Json<ChainPage>, ApiError> {
    let range = Range::read(from, limit, tree_size)?;
    show(app, Who::handle(handle)?, range).await
}

#[get("/accounts/by-id/<account_id>/chain?<from>&<limit>&<tree_size>")]
pub(super) async fn of_id(
    account_id: &str,
    from: Option<&str>,
    limit: Option<&str>,
    tree_size: Option<&str>,
    _asker: Asker,
    app: &State<App>,
) -> Result<Json<ChainPage>, ApiError> {
    let range = Range::read(from, limit, tree_size)?;
    show(app, Who::id(account_id)?, range).await
}

/// Events are small, and so are the requests that hold one.
pub(super) fn bounded(body: &[u8]) -> Result<(), ApiError> {
    if body.len() <= MAX_REGISTER {
        return Ok(());
    }
    let detail = format!("a request with an event is at most {MAX_REGISTER} bytes long");
    Err(ApiError::new(ErrorCode::TooLarge, detail))
}

/// Bytes of a field.
pub(super) fn decoded(field: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    from_base64(text).map_err(|e| bad(format!("{field}: {e}")))
}

/// Brings an event into the log, or finds it there.
pub(super) async fn place(app: &App, signed: EventBytes) -> Result<Json<EventPlaced>, ApiError> {
    let (account_id, seq) = {
        let (event, _) = chain::read(&app.origin, &signed.event)?;
        (AccountId(event.account), event.seq)
    };
    let (account, events) = app.store.snapshot(move |conn| history(conn, &account_id)).await?;
    let stored = usize::try_from(seq).ok().and_then(|seq| events.get(seq));
    if let Some((place, _)) = stored.filter(|(_, [event, ..])| *event == signed.event) {
        let (sth_index, receipt) = (*place, again(app, *place).await?);
        return Ok(Json(EventPlaced { account_id, seq, sth_index, duplicate: true, receipt }));
    }
    let next =
        replayed(&events)?.judge(&app.origin, &signed.event, &signed.sig, app.clock.seconds())?;
    next.accepted(&signed.accept_sig)?;
    let item = next.into_item(&app.origin, &account.handle, account_id, signed);
    let placed = app.submit(Item::Event(item)).await?;
    let receipt = present::receipt(app, &placed).await?;
    let (sth_index, duplicate) = (placed.index + 1, placed.known);
    Ok(Json(EventPlaced { account_id, seq, sth_index, duplicate, receipt }))
}

/// A native account and all its events.
pub(super) fn history(
    conn: &mut Conn,
    id: &AccountId,
) -> Result<(Account, Vec<EventRow>), ApiError> {
    let account = find_account_by_id(conn, id)?.filter(|account| account.native);
    let account = account
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no account with a chain has this id"))?;
    Ok((account, events(conn, id)?))
}

/// The chain that stored events are.
pub(super) fn replayed(events: &[EventRow]) -> Result<Chain, ApiError> {
    Chain::replay(events.iter().map(|(place, [event, ..])| (*place, &event[..])))
        .map_err(ApiError::internal)?
        .ok_or_else(|| ApiError::internal("a native account has no events"))
}

/// The receipt of an event that was placed earlier, under the newest head.
async fn again(app: &App, sth_index: u64) -> Result<Receipt, ApiError> {
    let proved = app.store.snapshot(move |conn| {
        let head = head(conn)?;
        let inclusion = present::path(sth_index, head.size, &mut StoredTiles(conn))?;
        let head = String::from_utf8_lossy(&head.note).into_owned();
        Ok::<_, ApiError>(Receipt { sth_index, head, inclusion })
    });
    proved.await
}

fn head(conn: &mut Conn) -> Result<StoredHeadRow, ApiError> {
    newest_head(conn)?.ok_or_else(|| ApiError::internal("there is no head"))
}

/// Which part of a chain is asked for.
struct Range {
    from: u64,
    limit: u32,
    tree_size: Option<u64>,
}

impl Range {
    fn read(
        from: Option<&str>,
        limit: Option<&str>,
        tree_size: Option<&str>,
    ) -> Result<Self, ApiError> {
        let limit = number("limit", limit)?.map_or(DEFAULT_PAGE, |limit| {
            u32::try_from(limit).unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE)
        });
        let from = number("from", from)?.unwrap_or(0);
        Ok(Self { from, limit, tree_size: number("tree_size", tree_size)? })
    }

    fn page(&self, conn: &mut Conn, account: Account) -> Result<ChainPage, ApiError> {
        let head = head(conn)?;
        // One more, to know whether there are more.
        let mut rows = events_from(conn, &account.id, self.from, self.limit + 1)?;
        let kept = fitting(&rows, self.limit);
        let more = rows.len() > kept;
        rows.truncate(kept);
        let next = self.from.saturating_add(kept as u64);
        let events = rows.into_iter().map(|row| logged(conn, row, head.size));
        let events = events.collect::<Result<_, _>>()?;
        let consistency = self
            .tree_size
            .map(|from| present::between(from, head.size, &mut StoredTiles(conn)))
            .transpose()?;
        let (handle, account_id) = (account.handle, account.id);
        let head = String::from_utf8_lossy(&head.note).into_owned();
        Ok(ChainPage { handle, account_id, events, next, more, head, consistency })
    }
}

/// How many of the rows are one page.
fn fitting(rows: &[EventRow], limit: u32) -> usize {
    let mut bytes = 0;
    let fits = rows.iter().take(limit as usize).take_while(|(_, parts)| {
        let first = bytes == 0;
        bytes += parts.iter().map(Vec::len).sum::<usize>();
        first || bytes <= PAGE_BYTES
    });
    fits.count()
}

async fn show(app: &App, who: Who, range: Range) -> Result<Json<ChainPage>, ApiError> {
    let found = app.store.snapshot(move |conn| {
        let account = who.find(conn)?.filter(|account| account.native);
        let account = account
            .ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no such account has a chain"))?;
        range.page(conn, account)
    });
    Ok(Json(found.await?))
}

/// An event with its path in the tree of `size`.
pub(super) fn logged(
    conn: &mut Conn,
    (sth_index, parts): EventRow,
    size: u64,
) -> Result<LoggedEvent, ApiError> {
    let [event, sig, accept_sig] = parts.map(|bytes| to_base64(&bytes));
    let signed = SignedEvent { event, sig, accept_sig };
    let inclusion = present::path(sth_index, size, &mut StoredTiles(conn))?;
    Ok(LoggedEvent { signed, sth_index, inclusion })
}

fn bad(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_by_rows_and_by_bytes_and_is_never_empty_for_nothing() {
        let row = |bytes: usize| (1, [vec![0; bytes], vec![], vec![]]);
        let big = PAGE_BYTES / 2;
        for (rows, limit, kept) in [
            (vec![], 5, 0),
            (vec![1, 1, 1], 3, 3),
            (vec![1, 1, 1], 2, 2),
            (vec![big, big], 5, 2),
            (vec![big, big, 1], 5, 2),
            (vec![PAGE_BYTES + 1, 1], 5, 1),
        ] {
            let rows: Vec<EventRow> = rows.into_iter().map(row).collect();
            assert_eq!(fitting(&rows, limit), kept);
        }
    }
}
