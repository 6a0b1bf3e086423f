//! The database as a whole, in one state: for the tools that check all of it or carry it
//! elsewhere. Serving never comes here.
//!
//! Columns come as they are stored, hashes of any length and numbers of any sign, so that a
//! check can say what is wrong with them. Nothing here judges, and nothing changes a database
//! but `copy.rs`, which fills an empty one.
//!
//! `snapshot.rs` several connections on one state · `span.rs` the rows of 256 positions ·
//! `accounts.rs` accounts with their devices · `rules.rs` what no row may break · `copy.rs` all
//! tables from one database into another · `files.rs` SQLite's files

mod accounts;
mod copy;
mod files;
mod rules;
mod snapshot;
mod span;

pub use accounts::{AccountPage, AccountRow, DeviceRow, EventPlace, accounts_from};
pub use copy::{CopyError, TABLES, copy_all, row_counts, transfer};
pub use files::{FileError, database_files, lock_out};
pub use rules::{Broken, Rule, broken, rules};
pub use snapshot::{Snapshot, snapshots};
pub use span::{
    DeletionRow, EventRow, HeadRow, LogHeadRow, MessageRow, PacketRow, Span, bundle_at, log_head,
    span, stored_tile, tail_rows,
};

/// Runs statements on a database behind everyone's back.
#[cfg(test)]
pub(crate) fn tamper(database: &super::Database, statements: &str) {
    use diesel::connection::SimpleConnection as _;
    database.connect().unwrap().batch_execute(statements).unwrap();
}
