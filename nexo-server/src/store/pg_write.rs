//! PostgreSQL's half of a batch in two statements: lock and read the head, write tree and head.
//!
//! Every statement is a round trip during which the head is locked and other servers wait, so
//! what SQLite does in a handful of calls is one statement here. Both are fixed texts, prepared
//! once per connection. Items are in `admit/rows.rs`.

use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text};

use super::edge::CHANNEL;
use super::schema::log_head;
use super::tree::{HeadRow, StoredHeadRow, head};
use super::{StoreError, signed};
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
             ON CONFLICT (size) DO UPDATE SET note = EXCLUDED.note, time = EXCLUDED.time), \
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
