//! `tamper DATA_DIR ENTRY_INDEX`: alters one stored entry of a relay's log, by one bit.
//!
//! For the demo, and for anyone who wants to see what an altered log looks like from outside.
//! It changes only what an operator with a database shell could change: the entry's bytes in
//! `bundles`, or in `tail` as long as its bundle is not full. Stored tiles and the signed head
//! stay as they are, because nobody can make those fit. Doing it twice puts the entry back.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use nexo_schema::bytes::to_hex;

diesel::table! {
    bundles (idx) {
        idx -> BigInt,
        entries -> Binary,
    }
}

diesel::table! {
    tail (start) {
        start -> BigInt,
        entries -> Binary,
    }
}

/// Entries in a bundle (C2SP tlog-tiles).
const BUNDLE: u64 = 256;

/// Alters one stored entry of a relay's log, by one bit
#[derive(Parser)]
#[command(name = "tamper", version)]
struct Args {
    /// The relay's data directory, holding nexo.db
    data_dir: PathBuf,
    /// The entry, counted from 0: one less than the sth_index that `nexo-cli send` prints
    entry_index: u64,
}

/// Why nothing was altered.
#[derive(Debug, thiserror::Error)]
enum TamperError {
    /// SQLite would make a new file.
    #[error("there is no database {0}")]
    NoDatabase(PathBuf),
    /// It does not open.
    #[error("the database does not open: {0}")]
    Open(#[from] ConnectionError),
    /// It does not answer.
    #[error("the database: {0}")]
    Query(#[from] diesel::result::Error),
    /// Not in this log.
    #[error("the log has no entry {index}")]
    NoEntry {
        /// Which one.
        index: u64,
    },
    /// The lengths in the bundle do not add up.
    #[error("bundle {bundle} is torn")]
    Torn {
        /// Which one.
        bundle: u64,
    },
    /// No entry of ours ends without a hash.
    #[error("entry {index} is shorter than a hash")]
    Short {
        /// Which one.
        index: u64,
    },
}

impl TamperError {
    /// sysexits, as the other programs.
    fn exit_code(&self) -> u8 {
        match self {
            Self::NoDatabase(_) | Self::NoEntry { .. } => 66,
            Self::Torn { .. } | Self::Short { .. } => 65,
            Self::Open(_) | Self::Query(_) => 74,
        }
    }
}

/// The last hash of an entry, as it was and as it is.
#[derive(Debug, PartialEq, Eq)]
struct Flip {
    before: [u8; 32],
    after: [u8; 32],
}

fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os()))
}

fn run(argv: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::try_parse_from(argv) {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { 64 } else { 0 };
            // clap knows which stream.
            let _ = error.print();
            return code;
        }
    };
    let index = args.entry_index;
    match tamper(&args.data_dir, index) {
        Ok(Flip { before, after }) => {
            let _ = writeln!(
                std::io::stdout(),
                "altered the stored entry {index} (sth_index {}), one bit of its hash\n\
                 was  {}\nis   {}",
                index.saturating_add(1),
                to_hex(&before),
                to_hex(&after)
            );
            0
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tamper: {error}");
            error.exit_code()
        }
    }
}

/// Flips the last bit of entry `index` in the database of `data_dir`. A relay may be serving
/// it meanwhile: that is how an operator would do it.
fn tamper(data_dir: &Path, index: u64) -> Result<Flip, TamperError> {
    let path = data_dir.join("nexo.db");
    if !path.is_file() {
        return Err(TamperError::NoDatabase(path));
    }
    let mut conn = SqliteConnection::establish(&path.to_string_lossy())?;
    conn.batch_execute("PRAGMA busy_timeout = 10000")?;
    conn.immediate_transaction(|conn| match tamper_full(conn, index)? {
        Some(flip) => Ok(flip),
        None => tamper_tail(conn, index),
    })
}

/// In a full bundle, if the entry is in one.
fn tamper_full(conn: &mut SqliteConnection, index: u64) -> Result<Option<Flip>, TamperError> {
    let row = bundles::table.find(place(index / BUNDLE));
    let stored = row.select(bundles::entries).first::<Vec<u8>>(conn).optional()?;
    let Some(mut entries) = stored else { return Ok(None) };
    let flip = flip(&mut entries, index % BUNDLE, index)?;
    let changed = diesel::update(row).set(bundles::entries.eq(entries)).execute(conn)?;
    if changed == 1 { Ok(Some(flip)) } else { Err(TamperError::NoEntry { index }) }
}

/// Behind the last full bundle: in the row of the batch that placed it.
fn tamper_tail(conn: &mut SqliteConnection, index: u64) -> Result<Flip, TamperError> {
    let stored = tail::table
        .filter(tail::start.le(place(index)))
        .order(tail::start.desc())
        .first::<(i64, Vec<u8>)>(conn)
        .optional()?;
    let (start, mut entries) = stored.ok_or(TamperError::NoEntry { index })?;
    let number = index - start.unsigned_abs();
    let flip = flip(&mut entries, number, index)?;
    diesel::update(tail::table.find(start)).set(tail::entries.eq(entries)).execute(conn)?;
    Ok(flip)
}

fn place(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Flips the last bit of entry `index`, the `number`th (from 0) of the entries that are stored
/// together.
///
/// ```text
/// bundle = (u16be length || entry)*          at most 256
/// entry  = ... || hash 32                    every kind of entry ends in a hash
/// ```
fn flip(bundle: &mut [u8], number: u64, index: u64) -> Result<Flip, TamperError> {
    let torn = TamperError::Torn { bundle: index / BUNDLE };
    let mut rest = bundle;
    for _ in 0..number {
        rest = split(rest).ok_or(TamperError::NoEntry { index })?.1;
    }
    if rest.is_empty() {
        return Err(TamperError::NoEntry { index });
    }
    let (entry, _) = split(rest).ok_or(torn)?;
    let hash = entry.last_chunk_mut::<32>().ok_or(TamperError::Short { index })?;
    let before = *hash;
    hash[31] ^= 1;
    Ok(Flip { before, after: *hash })
}

/// The first entry of a bundle, and what follows it.
fn split(bundle: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let (length, rest) = bundle.split_first_chunk_mut::<2>()?;
    rest.split_at_mut_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(entries: &[&[u8]]) -> Vec<u8> {
        let with_length = |entry: &&[u8]| {
            let length = u16::try_from(entry.len()).unwrap().to_be_bytes();
            [&length[..], entry].concat()
        };
        entries.iter().flat_map(with_length).collect()
    }

    #[test]
    fn one_bit_of_one_entry_changes_and_changes_back() {
        let entries: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 40 + usize::from(n)]).collect();
        let all: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        let before = bundle(&all);
        for (at, entry) in entries.iter().enumerate() {
            let index = 256 * 7 + u64::try_from(at).unwrap();
            let mut after = before.clone();
            let flipped = flip(&mut after, index % BUNDLE, index).unwrap();
            let mut altered = entry.clone();
            *altered.last_mut().unwrap() ^= 1;
            let mut expected = all.clone();
            expected[at] = &altered;
            assert_eq!(after, bundle(&expected));
            let (was, is) = (entry.last_chunk().unwrap(), altered.last_chunk().unwrap());
            assert_eq!((&flipped.before, &flipped.after), (was, is));
            flip(&mut after, index % BUNDLE, index).unwrap();
            assert_eq!(after, before);
        }
    }

    #[test]
    fn what_is_not_there_is_not_altered() {
        let refused = |mut bytes: Vec<u8>, index| {
            let before = bytes.clone();
            let error = flip(&mut bytes, index, index).unwrap_err();
            assert_eq!(bytes, before);
            error.exit_code()
        };
        assert_eq!(refused(bundle(&[&[1; 40]]), 1), 66, "behind the last entry");
        assert_eq!(refused(bundle(&[&[1; 40]])[..41].to_vec(), 0), 65, "a torn bundle");
        assert_eq!(refused(bundle(&[&[1; 31]]), 0), 65, "no room for a hash");
        assert_eq!(refused(vec![], 0), 66);
    }

    #[test]
    fn a_stored_entry_is_altered_where_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(tamper(dir.path(), 0).unwrap_err().exit_code(), 66);
        let path = dir.path().join("nexo.db");
        let mut conn = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        conn.batch_execute("CREATE TABLE bundles (idx INTEGER PRIMARY KEY, entries BLOB NOT NULL)")
            .unwrap();
        conn.batch_execute("CREATE TABLE tail (start INTEGER PRIMARY KEY, entries BLOB NOT NULL)")
            .unwrap();
        for (start, byte) in [(512i64, 5), (513, 6)] {
            diesel::insert_into(tail::table)
                .values((tail::start.eq(start), tail::entries.eq(bundle(&[&[byte; 60]]))))
                .execute(&mut conn)
                .unwrap();
        }
        for idx in 0..2i64 {
            diesel::insert_into(bundles::table)
                .values((bundles::idx.eq(idx), bundles::entries.eq(bundle(&[&[9; 60]]))))
                .execute(&mut conn)
                .unwrap();
        }
        let place = dir.path().to_str().unwrap();
        assert_eq!(run(["tamper", place, "256"].map(OsString::from)), 0);
        let all: Vec<Vec<u8>> =
            bundles::table.order(bundles::idx).select(bundles::entries).load(&mut conn).unwrap();
        let altered = [vec![9; 59], vec![8]].concat();
        assert_eq!(all, [bundle(&[&[9; 60]]), bundle(&[&altered])]);
        assert_eq!(run(["tamper", place, "257"].map(OsString::from)), 66);
        assert_eq!(run(["tamper", place, "513"].map(OsString::from)), 0);
        let all: Vec<Vec<u8>> =
            tail::table.order(tail::start).select(tail::entries).load(&mut conn).unwrap();
        let altered = [vec![6; 59], vec![7]].concat();
        assert_eq!(all, [bundle(&[&[5; 60]]), bundle(&[&altered])]);
        assert_eq!(run(["tamper", place, "514"].map(OsString::from)), 66);
        assert_eq!(run(["tamper", place, "-1"].map(OsString::from)), 64);
        assert_eq!(run(["tamper", "--help"].map(OsString::from)), 0);
    }
}
