//! Pages of messages, with the proofs that go with them: one making for REST and sockets.

use nexo_schema::http::Page;

use super::present;
use crate::error::ApiError;
use crate::store::{Conn, Rows, StoreError, StoredTiles, newest_head};

/// A page of these rows, which lie behind position `after`.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub(crate) fn page_of(rows: Rows, after: u64) -> Result<Page, StoreError> {
    let Rows { items, more } = rows;
    let next = items.last().map_or(after, |row| row.index);
    let items = items.into_iter().map(present::item).collect::<Result<_, _>>()?;
    Ok(Page { items, next, more, head: None, consistency: None })
}

/// Proves a page's items under the newest head, whose size it returns; and that head's
/// consistency with the tree of size `from`.
///
/// # Errors
/// [`ApiError`]: a bad request if the log is smaller than `from`.
pub(crate) fn prove(conn: &mut Conn, page: &mut Page, from: Option<u64>) -> Result<u64, ApiError> {
    let head = newest_head(conn)?.ok_or_else(|| ApiError::internal("there is no head"))?;
    for item in &mut page.items {
        let path = present::path(item.sth_index, head.size, &mut StoredTiles(conn))?;
        item.inclusion = Some(path);
    }
    if let Some(from) = from {
        page.consistency = Some(present::between(from, head.size, &mut StoredTiles(conn))?);
    }
    page.head = Some(String::from_utf8_lossy(&head.note).into_owned());
    Ok(head.size)
}
