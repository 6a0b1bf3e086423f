//! The newest head, and what was announced of it.

use nexo_schema::ids::Origin;

use super::findings::{Findings, Kind};
use super::range::{Claim, ClaimBy};
use super::step;
use super::tree::Tree;
use crate::log::{Announced, LogKeys, empty_root};
use crate::store::whole::{HeadRow, log_head, row_counts, span};
use crate::store::{Conn, StoreError};

/// The newest head.
#[derive(Debug)]
pub(super) struct Newest {
    /// Entries in the log.
    pub(super) size: u64,
}

/// Checks the newest head against its note, the log's name, and the row of its size among all
/// heads; and the head of the empty log, which no entry leads to. `None` if nothing was ever
/// signed.
pub(super) fn check(
    conn: &mut Conn,
    keys: &LogKeys,
    findings: &Findings,
) -> Result<Option<Newest>, StoreError> {
    let wrong = |what: &str| findings.add(Kind::Head, 0, "log_head".into(), what);
    let Some(newest) = log_head(conn)? else {
        let left = row_counts(conn)?.into_iter().any(|(table, rows)| {
            rows > 0 && ["accounts", "bundles", "heads", "messages", "tail"].contains(&table)
        });
        if left {
            wrong("there is no head, but rows of a log");
        }
        return Ok(None);
    };
    if newest.origin != keys.origin().as_str() {
        wrong("it is of a log with another name than the keys have");
    }
    let row = HeadRow {
        size: newest.size,
        root: newest.root,
        note: newest.note,
        time: newest.time,
        staged_at: 0,
    };
    if let Err(what) = step::head(keys, &row) {
        wrong(&what);
    }
    let Ok(size) = u64::try_from(newest.size) else {
        wrong("its size is negative");
        return Ok(None);
    };
    let heads = span(conn, size, size)?.heads;
    match heads.iter().find(|head| head.size == row.size) {
        None => wrong("its size is not among all heads"),
        Some(same) if same.root != row.root => {
            wrong("the head of its size among all heads is another one");
        }
        // As it was first signed; an idle log renews the newest alone.
        Some(first) if first.time > row.time => {
            wrong("the head of its size was first signed later");
        }
        Some(_) => {}
    }
    check_empty(conn, keys, findings)?;
    Ok(Some(Newest { size }))
}

/// The head of no entries, if the log was ever announced without any.
fn check_empty(conn: &mut Conn, keys: &LogKeys, findings: &Findings) -> Result<(), StoreError> {
    let heads = span(conn, 1, 1)?.heads;
    let Some(first) = heads.iter().find(|head| head.size == 0) else { return Ok(()) };
    let judged = step::head(keys, first).and_then(|()| {
        if first.root == empty_root() { Ok(()) } else { Err("its root is another".to_owned()) }
    });
    if let Err(what) = judged {
        findings.add(Kind::Head, 0, "heads 0".into(), what);
    }
    Ok(())
}

/// Where to go on: behind what earlier runs verified, if the log still has that.
pub(super) fn resumed(tree: Tree, size: u64, findings: &Findings) -> Tree {
    if tree.entries() <= size {
        return tree;
    }
    let what = format!("the log has {size} entries, but {} were verified before", tree.entries());
    findings.add(Kind::Head, 0, "log_head".into(), what);
    Tree::default()
}

/// What the marker claims, if it is of a tree that the database still has.
pub(super) fn marked(
    marked: Option<Announced>,
    origin: &Origin,
    size: u64,
    findings: &Findings,
) -> Option<Claim> {
    let marked = marked?;
    let place = || "head.marker".to_owned();
    if marked.origin != origin.as_str() {
        if marked.size > 0 {
            let what = format!("it is of the log {}", marked.origin);
            findings.add(Kind::Marker, 0, place(), what);
        }
        return None;
    }
    if marked.size > size {
        let what = format!("{} entries were announced, the database has {size}", marked.size);
        findings.add(Kind::Marker, 0, place(), what);
        return None;
    }
    Some(Claim { size: marked.size, root: marked.root, by: ClaimBy::Marker })
}
