//! PostgreSQL's half of a batch in three statements: lock and read the head, read the edge if
//! another server moved it, write tree and head.
//!
//! Every statement is a round trip during which the head is locked and other servers wait, so
//! what SQLite does in a handful of calls is one statement here. All are fixed texts, prepared
//! once per connection. Items are in `admit/rows.rs`.

use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text};
use nexo_schema::ids::AccountId;

use super::edge::{CHANNEL, Moved, stored};
use super::schema::log_head;
use super::tree::{HeadRow, StoredHeadRow, head};
use super::{StoreError, hash32, signed, unsigned};
use crate::log::Staged;

/// What servers that make the first head together wait for; later ones wait for its row.
const FIRST_HEAD: &str = "SELECT pg_advisory_xact_lock(715827884)";

/// The newest head, locked until the transaction ends. Whoever waited for the lock reads the
/// row as the other server left it (READ COMMITTED).
pub(super) fn lock_head(conn: &mut PgConnection) -> Result<Option<StoredHeadRow>, StoreError> {
    if let Some(found) = locked(conn)? {
        return Ok(Some(found));
    }
    diesel::sql_query(FIRST_HEAD).execute(conn)?;
    locked(conn)
}

fn locked(conn: &mut PgConnection) -> Result<Option<StoredHeadRow>, StoreError> {
    let row = log_head::table
        .select((log_head::size, log_head::root, log_head::note, log_head::time))
        .for_update()
        .get_result::<HeadRow>(conn)
        .optional()?;
    row.map(head).transpose()
}

/// The edge under a head and what changed with it: kind or level, position, bytes.
#[derive(QueryId)]
struct ReadEdge {
    size: i64,
    before: i64,
}

/// The kinds of rows of [`ReadEdge`] that are no tiles.
const TAIL: i32 = 0;
const STAGED: i32 = -1;
const CHANGED: i32 = -2;

impl QueryFragment<Pg> for ReadEdge {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        // The partial tile of level l is the one that the leaf `size` will be under.
        out.push_sql("WITH v (size, before) AS (VALUES (");
        out.push_bind_param::<BigInt, _>(&self.size)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.before)?;
        out.push_sql(
            ")) (SELECT 0, start, entries FROM tail ORDER BY start) \
             UNION ALL SELECT t.level, t.idx, t.hashes FROM v, generate_series(1, 6) AS l \
             JOIN tiles t ON t.level = l AND t.idx = (SELECT size FROM v) >> (8 * (l + 1)) \
             UNION ALL SELECT -1, h.staged_at, ''::bytea FROM v JOIN heads h ON h.size = v.size \
             UNION ALL SELECT -2, 0, d.account_id FROM v JOIN devices d \
             ON d.added_index > v.before \
             UNION ALL SELECT -2, 0, k.account_id FROM v JOIN key_events k \
             ON k.sth_index > v.before",
        );
        Ok(())
    }
}

impl Query for ReadEdge {
    type SqlType = (Integer, BigInt, Binary);
}

impl RunQueryDsl<PgConnection> for ReadEdge {}

/// What another server made of the log behind position `expected`.
pub(super) fn moved(
    conn: &mut PgConnection,
    head: StoredHeadRow,
    expected: u64,
) -> Result<Moved, StoreError> {
    let query = ReadEdge { size: signed(head.size), before: signed(expected) };
    let mut rows: Vec<(i32, i64, Vec<u8>)> = query.load(conn)?;
    rows.sort_by_key(|(kind, position, _)| (*kind, *position));
    let (mut tiles, mut tail, mut last_staged, mut keys_changed) = (vec![], vec![], 0, vec![]);
    for (kind, position, bytes) in rows {
        match kind {
            TAIL => tail.extend(bytes),
            STAGED => last_staged = unsigned("heads", position)?,
            CHANGED => keys_changed.push(AccountId(hash32("devices", &bytes)?)),
            level => {
                let level = u8::try_from(level);
                tiles.push((level.map_err(|_| StoreError::corrupt("tiles", "a level"))?, bytes));
            }
        }
    }
    Ok(Moved { stored: stored(head, tiles, tail), last_staged, keys_changed })
}

/// Tiles, bundles, tail and head of a batch that goes on from a stored head, and the bell for
/// the other servers, which rings at the commit.
#[derive(QueryId)]
pub(super) struct PutTree {
    head: (i64, Vec<u8>, Vec<u8>, i64, i64),
    tiles: (Vec<i32>, Vec<i64>, Vec<Vec<u8>>),
    bundles: (Vec<i64>, Vec<Vec<u8>>),
    /// Where the tail begins now; what is before it goes.
    tail_from: i64,
    tail: (Option<i64>, Option<Vec<u8>>),
    own_name: String,
}

impl PutTree {
    /// `now` is the time of the batch's items, Unix seconds.
    pub(super) fn of(staged: &Staged, now: u64, own_name: &str) -> Self {
        let tiles = &staged.tiles;
        let width = crate::log::TILE_WIDTH as u64;
        Self {
            head: (
                signed(staged.size),
                staged.root.to_vec(),
                staged.note.clone(),
                signed(staged.time),
                signed(now),
            ),
            tiles: (
                tiles.iter().map(|tile| i32::from(tile.level)).collect(),
                tiles.iter().map(|tile| signed(tile.index)).collect(),
                tiles.iter().map(|tile| tile.hashes.clone()).collect(),
            ),
            bundles: (
                staged.bundles.iter().map(|bundle| signed(bundle.index)).collect(),
                staged.bundles.iter().map(|bundle| bundle.data.clone()).collect(),
            ),
            tail_from: signed(staged.size / width * width),
            tail: staged.tail.clone().map(|tail| (signed(tail.start), tail.data)).unzip(),
            own_name: own_name.to_owned(),
        }
    }
}

impl QueryFragment<Pg> for PutTree {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let (size, root, note, time, staged_at) = &self.head;
        out.push_sql("WITH v (size, root, note, time, staged_at, start, entries) AS (VALUES (");
        out.push_bind_param::<BigInt, _>(size)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(root)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(note)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(time)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(staged_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<BigInt>, _>(&self.tail.0)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Binary>, _>(&self.tail.1)?;
        out.push_sql(
            ")), h AS (UPDATE log_head SET size = v.size, root = v.root, note = v.note, \
             time = v.time FROM v), \
             n AS (INSERT INTO heads (size, root, note, time, staged_at) \
             SELECT size, root, note, time, staged_at FROM v \
             ON CONFLICT (size) DO NOTHING), \
             t AS (INSERT INTO tail (start, entries) \
             SELECT start, entries FROM v WHERE start IS NOT NULL), \
             i AS (INSERT INTO tiles (level, idx, hashes) SELECT * FROM unnest(",
        );
        out.push_bind_param::<Array<Integer>, _>(&self.tiles.0)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.tiles.1)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Binary>, _>(&self.tiles.2)?;
        out.push_sql(
            ") ON CONFLICT (level, idx) DO UPDATE SET hashes = EXCLUDED.hashes), \
             b AS (INSERT INTO bundles (idx, entries) SELECT * FROM unnest(",
        );
        out.push_bind_param::<Array<BigInt>, _>(&self.bundles.0)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Binary>, _>(&self.bundles.1)?;
        out.push_sql(")), g AS (DELETE FROM tail WHERE start < ");
        out.push_bind_param::<BigInt, _>(&self.tail_from)?;
        out.push_sql(") SELECT pg_notify(");
        out.push_bind_param::<Text, _>(CHANNEL)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(&self.own_name)?;
        out.push_sql(")");
        Ok(())
    }
}

impl RunQueryDsl<PgConnection> for PutTree {}
