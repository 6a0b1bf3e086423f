//! What no row may break, whatever the log says: references, counters, and that nothing lies
//! outside the log. One query each; both engines take the same words.
//!
//! PostgreSQL has no foreign keys where batches write, and SQLite only checks those it has when
//! a row is written: a damaged or hand-edited database keeps neither.

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::super::{Conn, StoreError};
use crate::log::{TILE_WIDTH, level_hashes};

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// What a row points at is not there.
    Reference,
    /// A counter is behind what it counts.
    Counter,
    /// A row lies where the log has nothing.
    Surplus,
}

/// A condition that no row of a table may fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What is wrong with a row that does.
    pub broken: Broken,
    /// The table, which the query calls `t`.
    pub table: &'static str,
    /// In words.
    pub what: &'static str,
    /// Whether the rule is asked for a range of `sth_index`.
    pub ranged: bool,
    /// What names a row: columns of text or numbers, and of bytes with `0x` in front.
    key: &'static [&'static str],
    condition: String,
}

/// The places of at most `limit` rows that break the rule; within the positions `range` (1-based,
/// inclusive) if the rule is ranged.
///
/// # Errors
/// [`StoreError`].
pub fn broken(
    conn: &mut Conn,
    rule: &Rule,
    range: (u64, u64),
    limit: usize,
) -> Result<Vec<String>, StoreError> {
    #[derive(QueryableByName)]
    struct Place {
        #[diesel(sql_type = Text)]
        place: String,
    }
    let hex = match conn {
        Conn::Sqlite(_) => |column: &str| format!("lower(hex(t.{column}))"),
        Conn::Postgres(_) => |column: &str| format!("encode(t.{column}, 'hex')"),
    };
    let name = |column: &&str| match column.strip_prefix("0x") {
        Some(bytes) => hex(bytes),
        None => format!("CAST(t.{column} AS TEXT)"),
    };
    let place = rule.key.iter().map(name).collect::<Vec<_>>().join(" || ' ' || ");
    let Rule { table, condition, .. } = rule;
    let within = match rule.ranged {
        true => format!("t.sth_index BETWEEN {} AND {} AND ", range.0, range.1),
        false => String::new(),
    };
    let query =
        format!("SELECT {place} AS place FROM {table} t WHERE {within}({condition}) LIMIT {limit}");
    let rows: Vec<Place> = diesel::sql_query(query).load(conn)?;
    Ok(rows.into_iter().map(|row| format!("{table} {}", row.place)).collect())
}

/// Every rule, for a log of `size` entries.
#[must_use]
pub fn rules(size: u64) -> Vec<Rule> {
    let mut all = Vec::new();
    references(&mut all);
    ranged_references(&mut all);
    counters(&mut all);
    surplus(&mut all, size);
    all
}

/// `NOT EXISTS` of a row of `table` for which `on` holds.
fn none(table: &str, on: &str) -> String {
    format!("NOT EXISTS (SELECT 1 FROM {table} o WHERE {on})")
}

fn references(all: &mut Vec<Rule>) {
    let mut rule = |table, key, what, condition| {
        all.push(Rule { broken: Broken::Reference, table, what, ranged: false, key, condition });
    };
    let account = || none("accounts", "o.account_id = t.account_id");
    let device = || none("devices", "o.device_id = t.device_id");
    let no_account = "its account is not there";
    let no_device = "its device is not there";
    rule("devices", &["device_id"], no_account, account());
    rule("key_events", &["sth_index"], no_account, account());
    rule("participants", &["0xconv_id", "0xaccount_id"], no_account, account());
    let conversation = none("conversations", "o.conv_id = t.conv_id");
    let no_conversation = "its conversation is not there";
    rule("participants", &["0xconv_id", "0xaccount_id"], no_conversation, conversation);
    rule("send_counters", &["device_id"], no_device, device());
    rule("refresh_tokens", &["0xhash"], no_device, device());
    rule("fallback_prekeys", &["device_id"], no_device, device());
    rule("one_time_prekeys", &["device_id", "id"], no_device, device());
    rule("prekey_marks", &["device_id"], no_device, device());
}

fn ranged_references(all: &mut Vec<Rule>) {
    let mut rule = |table, key, what, condition| {
        all.push(Rule { broken: Broken::Reference, table, what, ranged: true, key, condition });
    };
    let key: &[&str] = &["sth_index"];
    let conversation = || none("conversations", "o.conv_id = t.conv_id");
    let no_conversation = "its conversation is not there";
    let strange = "its device is not there, or is another account's";
    let outsider = "its author takes no part in the conversation";
    rule("messages", key, no_conversation, conversation());
    let sender = "o.device_id = t.sender_device AND o.account_id = t.sender_account";
    rule("messages", key, strange, none("devices", sender));
    let takes_part = "o.conv_id = t.conv_id AND o.account_id = t.sender_account";
    rule("messages", key, outsider, none("participants", takes_part));
    rule("deletions", key, no_conversation, conversation());
    let author = "o.device_id = t.device_id AND o.account_id = t.account_id";
    rule("deletions", key, strange, none("devices", author));
    let takes_part = "o.conv_id = t.conv_id AND o.account_id = t.account_id";
    rule("deletions", key, outsider, none("participants", takes_part));
    let key: &[&str] = &["sth_index", "device_id"];
    let native = "o.sth_index = t.sth_index AND o.native";
    rule("packets", key, "it belongs to no native message", none("messages", native));
    let device = none("devices", "o.device_id = t.device_id");
    rule("packets", key, "its device is not there", device);
}

fn counters(all: &mut Vec<Rule>) {
    let mut rule = |table, key, what, condition: &str| {
        let condition = condition.to_owned();
        all.push(Rule { broken: Broken::Counter, table, what, ranged: false, key, condition });
    };
    let key: &[&str] = &["device_id"];
    let odd = "it stands below 1, or its bitmap has another size";
    rule("send_counters", key, odd, "t.highest < 1 OR length(t.used) <> 512");
    let count = "(SELECT count(*) FROM messages o WHERE o.sender_device = t.device_id)";
    let behind = format!("t.highest >= 1 AND t.highest < {count}");
    rule("send_counters", key, "it stands below the number of messages sent", &behind);
    // Cap 8: stateless devices have no counter, and neither have those of plain accounts.
    let uncounted = "(t.caps / 8) % 2 = 0 \
         AND EXISTS (SELECT 1 FROM accounts o WHERE o.account_id = t.account_id AND o.native) \
         AND EXISTS (SELECT 1 FROM messages o WHERE o.sender_device = t.device_id) \
         AND NOT EXISTS (SELECT 1 FROM send_counters o WHERE o.device_id = t.device_id)";
    rule("devices", key, "it has sent messages and has no send counter", uncounted);
    let reused = "NOT EXISTS (SELECT 1 FROM prekey_marks o \
         WHERE o.device_id = t.device_id AND o.one_time >= t.id)";
    rule("one_time_prekeys", &["device_id", "id"], "its id is above the mark of used ids", reused);
}

fn surplus(all: &mut Vec<Rule>, size: u64) {
    let mut rule = |table, key, what, condition| {
        all.push(Rule { broken: Broken::Surplus, table, what, ranged: false, key, condition });
    };
    let outside = |column: &str| format!("t.{column} < 1 OR t.{column} > {size}");
    let what = "it has a place outside of the log";
    rule("messages", &["sth_index"], what, outside("sth_index"));
    rule("packets", &["sth_index", "device_id"], what, outside("sth_index"));
    rule("key_events", &["sth_index"], what, outside("sth_index"));
    rule("deletions", &["sth_index"], what, outside("sth_index"));
    rule("accounts", &["0xaccount_id"], what, outside("created_index"));
    rule("devices", &["device_id"], what, outside("added_index"));
    let ahead = format!("t.size < 0 OR t.size > {size}");
    rule("heads", &["size"], "it is of another size than any the log had", ahead);
    let full = size / TILE_WIDTH as u64;
    let beyond = format!("t.idx < 0 OR t.idx >= {full}");
    rule("bundles", &["idx"], "the log has no full bundle there", beyond);
    let mut tiles =
        format!("t.idx < 0 OR t.level < 0 OR t.level > 7 OR (t.level = 0 AND t.idx >= {full})");
    for level in 1..8 {
        let there = level_hashes(size, level).div_ceil(TILE_WIDTH as u64);
        tiles.push_str(&format!(" OR (t.level = {level} AND t.idx >= {there})"));
    }
    rule("tiles", &["level", "idx"], "the tree has no such tile", tiles);
}
