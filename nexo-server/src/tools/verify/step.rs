//! The rows at the places of one bundle, against its entries. One function per check.
//!
//! A row says where it lies (`sth_index`, from 1) and the entry there says what it must hash to.
//! Entries that could not be read were reported when they were read; what would have to be
//! compared with them is left out here.

use std::collections::{BTreeMap, BTreeSet};

use nexo_schema::entry::{self, PlainMessage};
use nexo_schema::envelope::{self, Route};
use nexo_schema::ids::{DeviceId, MsgId, Origin};
use nexo_schema::sigchain::{self, Event, GENESIS, Genesis};
use sha2::{Digest as _, Sha256};

use super::accounts::Claimed;
use super::entry::Logged;
use super::findings::{Findings, Kind};
use crate::log::{Hash, LogKeys};
use crate::store::whole::{DeletionRow, EventRow, HeadRow, MessageRow, PacketRow, Span};

/// One bundle's entries and rows.
pub(super) struct Step<'a> {
    /// The log's name.
    pub(super) origin: &'a Origin,
    /// The log's keys.
    pub(super) keys: &'a LogKeys,
    /// Place of the first entry, from 1.
    pub(super) first: u64,
    /// The entries; `None` for those that could not be read.
    pub(super) entries: &'a [Option<Logged>],
    /// The rows.
    pub(super) rows: &'a Span,
    /// Places that plain accounts lie at.
    pub(super) claimed: &'a Claimed,
    /// Where findings go.
    pub(super) findings: &'a Findings,
}

/// Every check of a step.
pub(super) const CHECKS: &[fn(&Step<'_>)] =
    &[one_row_per_entry, messages, packets, key_events, deletions, heads];

/// Why a row is wrong; `Ok` if it is not.
type Verdict = Result<(), String>;

impl Step<'_> {
    /// The entry at a place, if it could be read.
    fn logged(&self, place: i64) -> Option<Logged> {
        let offset = u64::try_from(place).ok()?.checked_sub(self.first)?;
        self.entries.get(usize::try_from(offset).ok()?).copied().flatten()
    }

    fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    fn add(&self, kind: Kind, table: &str, place: i64, what: impl Into<String>) {
        self.findings.add(kind, place.unsigned_abs(), format!("{table} {place}"), what);
    }

    /// Whether `ts` is the time of the batch that reached this place. Without the head of that
    /// batch there is nothing to compare with; the tree's check misses it.
    fn timely(&self, place: i64, ts: i64) -> Verdict {
        match self.rows.heads.iter().find(|head| head.size >= place) {
            Some(head) if head.staged_at != ts => Err(format!(
                "its ts is {ts}, but the batch at its place was staged at {}",
                head.staged_at
            )),
            _ => Ok(()),
        }
    }
}

/// Every entry has exactly one row, in the table of its kind.
fn one_row_per_entry(step: &Step<'_>) {
    let mut tables: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    let Span { messages, events, deletions, .. } = step.rows;
    let rows = messages.iter().map(|row| (row.sth_index, "messages"));
    let rows = rows.chain(events.iter().map(|row| (row.sth_index, "key_events")));
    let rows = rows.chain(deletions.iter().map(|row| (row.sth_index, "deletions")));
    for (place, table) in rows {
        tables.entry(place).or_default().insert(table);
    }
    for (place, logged) in (step.first..).zip(step.entries) {
        let Some(logged) = logged else { continue };
        let signed = i64::try_from(place).unwrap_or(i64::MAX);
        let mut there = tables.remove(&signed).unwrap_or_default();
        match logged.table() {
            Some(table) if !there.remove(table) => {
                step.add(Kind::Entry, "entries", signed, format!("it has no row in {table}"));
            }
            None if !step.claimed.has(place) => {
                step.add(Kind::Entry, "entries", signed, "it has no row in accounts");
            }
            _ => {}
        }
        for table in there {
            let what = format!("a row of {table} lies there, but the entry is of another kind");
            step.add(Kind::Entry, "entries", signed, what);
        }
    }
}

/// A message hashes to what its entry holds, as long as there is something to hash.
fn messages(step: &Step<'_>) {
    for row in &step.rows.messages {
        if let Err(what) = message(step, row) {
            step.add(Kind::Message, "messages", row.sth_index, what);
        }
    }
}

fn message(step: &Step<'_>, row: &MessageRow) -> Verdict {
    let (held, native) = match step.logged(row.sth_index) {
        Some(Logged::Message(hash)) => (hash, true),
        Some(Logged::PlainMessage(hash)) => (hash, false),
        _ => return Ok(()),
    };
    if row.native != native {
        let (row, entry) = if native { ("plain", "native") } else { ("native", "plain") };
        return Err(format!("it is {row}, but its entry is of a {entry} message"));
    }
    if row.content_hash != held {
        return Err("its content_hash is not what its entry holds".into());
    }
    step.timely(row.sth_index, row.ts)?;
    match row.deleted_index {
        Some(at) => {
            let named = |d: &&DeletionRow| d.target_index == row.sth_index;
            match step.rows.deleting.iter().find(named) {
                Some(deletion) if deletion.sth_index == at => Ok(()),
                _ => Err(format!("it is marked deleted at {at}, where no deletion of it lies")),
            }
        }
        None if native => native_content(step, row),
        None => plain_content(step, row),
    }
}

fn plain_content(step: &Step<'_>, row: &MessageRow) -> Verdict {
    let conv = hash32("conv_id", &row.conv_id)?;
    let record = entry::plain_message_record(&PlainMessage {
        origin: step.origin.as_str(),
        conv: &conv,
        msg_id: &row.msg_id,
        device: &row.sender_device,
        nonce_len: u32::try_from(row.nonce_len).map_err(|_| "its nonce_len is negative")?,
        cipher: &row.cipher,
        ad: &row.ad,
        ts: u64::try_from(row.ts).map_err(|_| "its ts is negative")?,
    });
    same(&hash(&record), &row.content_hash, "its fields do not hash to its content_hash")
}

fn native_content(step: &Step<'_>, row: &MessageRow) -> Verdict {
    let msg_id = MsgId::parse(&row.msg_id).ok().and_then(|id| id.native_bytes());
    let route = Route {
        origin: step.origin.as_str(),
        conv: &hash32("conv_id", &row.conv_id)?,
        msg_id: &msg_id.ok_or("its msg_id is not one of a native message")?,
        account: &hash32("sender_account", &row.sender_account)?,
        device: &device_bytes(&row.sender_device)?,
    };
    let mut packets = Vec::new();
    for packet in step.rows.packets.iter().filter(|p| p.sth_index == row.sth_index) {
        packets.push((device_bytes(&packet.device_id)?, hash32("a packet's hash", &packet.hash)?));
    }
    packets.sort_unstable();
    let aad = route.payload_aad();
    let digest = hash(&envelope::payload_digest(&aad, &row.cipher));
    let computed = hash(&envelope::envelope(&aad, &digest, &packets));
    same(&computed, &row.content_hash, "its fields and packets do not hash to its content_hash")
}

/// A packet that is there is the one of its hash.
fn packets(step: &Step<'_>) {
    let deleted: BTreeSet<i64> = step
        .rows
        .messages
        .iter()
        .filter(|message| message.deleted_index.is_some())
        .map(|message| message.sth_index)
        .collect();
    for PacketRow { sth_index, device_id, packet, hash: stored } in &step.rows.packets {
        if !deleted.contains(sth_index) && stored[..] != hash(packet) {
            let place = format!("packets {sth_index} {device_id}");
            let what = "it does not hash to its hash";
            step.findings.add(Kind::Packet, sth_index.unsigned_abs(), place, what);
        }
    }
}

/// A key event is the one of its entry, and follows the one before it.
fn key_events(step: &Step<'_>) {
    for row in &step.rows.events {
        if let Err(what) = key_event(step, row) {
            step.add(Kind::KeyEvent, "key_events", row.sth_index, what);
        }
    }
}

fn key_event(step: &Step<'_>, row: &EventRow) -> Verdict {
    let Some(Logged::Event { label, event, signatures }) = step.logged(row.sth_index) else {
        return Ok(());
    };
    same(&hash(&row.event), &event, "the event is not the one of its entry")?;
    let signed = hash(&sigchain::signatures(&row.sig, &row.accept_sig));
    same(&signed, &signatures, "its signatures are not those of its entry")?;
    let read = Event::decode(&row.event).map_err(|e| format!("the event cannot be read: {e}"))?;
    if read.origin != step.origin.as_str().as_bytes() {
        return Err("the event is for another log".into());
    }
    if i64::try_from(read.seq) != Ok(row.seq) {
        return Err(format!("it is event {} of its chain, not {}", read.seq, row.seq));
    }
    if row.seq == 0 {
        return genesis(step, row, &read, &label);
    }
    let before = step
        .rows
        .earlier
        .iter()
        .find(|before| before.account_id == row.account_id && before.seq == row.seq - 1);
    let before = before.ok_or("the event before it is not there")?;
    same(&hash(&before.event), &read.prev, "it does not follow the event before it")?;
    same(&read.account, &row.account_id, "it is of another account")
}

fn genesis(step: &Step<'_>, row: &EventRow, read: &Event<'_>, label: &Hash) -> Verdict {
    if read.kind != GENESIS || read.prev != [0; 32] {
        return Err("the first event of its chain is no genesis".into());
    }
    same(&hash(&row.event), &row.account_id, "its account_id is not its hash")?;
    let body = Genesis::decode(read.body).map_err(|e| format!("its body cannot be read: {e}"))?;
    let handle = str::from_utf8(body.handle).map_err(|_| "its handle is no text")?;
    let named = hash(&entry::label(step.origin.as_str(), handle));
    same(&named, label, "the label of its entry is not the one of its handle")
}

/// A deletion is the one of its entry, and what it deleted is gone.
fn deletions(step: &Step<'_>) {
    for row in &step.rows.deletions {
        if let Err(what) = deletion(step, row) {
            step.add(Kind::Deletion, "deletions", row.sth_index, what);
        }
    }
}

fn deletion(step: &Step<'_>, row: &DeletionRow) -> Verdict {
    let target = step.rows.targets.iter().find(|m| m.sth_index == row.target_index);
    let target = target.filter(|m| m.sth_index < row.sth_index);
    let target = target.ok_or("the message it deletes is not there")?;
    let about = (&target.conv_id, &target.msg_id, &target.sender_account);
    if about != (&row.conv_id, &row.target_msg_id, &row.account_id) {
        return Err("it names another conversation, msg_id or account than its message has".into());
    }
    deleted(step, row, target)?;
    step.timely(row.sth_index, row.ts)?;
    match (step.logged(row.sth_index), &row.statement, &row.sig) {
        (Some(Logged::Tombstone { statement, sig }), Some(said), Some(signed)) => {
            same(&hash(said), &statement, "its statement is not the one of its entry")?;
            same(&hash(signed), &sig, "its signature is not the one of its entry")
        }
        (Some(Logged::PlainDeletion(held)), None, None) => {
            let ts = u64::try_from(row.ts).map_err(|_| "its ts is negative")?;
            let record = entry::plain_deletion_record(
                step.origin.as_str(),
                &hash32("conv_id", &row.conv_id)?,
                &row.device_id,
                &hash32("the content_hash of its message", &target.content_hash)?,
                ts,
            );
            same(&hash(&record), &held, "its fields do not hash to what its entry holds")
        }
        (Some(Logged::Tombstone { .. }), ..) => {
            Err("its entry is of a signed one, and it has no statement or signature".into())
        }
        (Some(Logged::PlainDeletion(_)), ..) => {
            Err("its entry is of an unsigned one, and it has a statement or signature".into())
        }
        _ => Ok(()),
    }
}

fn deleted(step: &Step<'_>, row: &DeletionRow, target: &MessageRow) -> Verdict {
    if target.deleted_index != Some(row.sth_index) {
        return Err(format!("message {} is not marked deleted by it", target.sth_index));
    }
    let mut packets = step.rows.target_packets.iter();
    let kept = packets.any(|p| p.sth_index == target.sth_index && !p.packet.is_empty());
    if kept || !target.cipher.is_empty() || !target.ad.is_empty() {
        return Err(format!("the content of message {} is still there", target.sth_index));
    }
    Ok(())
}

/// Heads are signed by the log's keys, say what their rows say, and their times do not run back.
fn heads(step: &Step<'_>) {
    let mut before: Option<&HeadRow> = None;
    for row in &step.rows.heads {
        let inside = u64::try_from(row.size).is_ok_and(|s| (step.first..=step.last()).contains(&s));
        if inside && let Err(what) = head(step.keys, row) {
            step.add(Kind::Head, "heads", row.size, what);
        }
        if inside && before.is_some_and(|before| before.staged_at > row.staged_at) {
            step.add(Kind::Head, "heads", row.size, "it was staged before the head before it");
        }
        before = Some(row);
    }
}

/// Whether a head's note is ours, and its row says the same.
pub(super) fn head(keys: &LogKeys, row: &HeadRow) -> Verdict {
    let own = keys.verify_own(&row.note).map_err(|e| e.to_string())?;
    let agree = i64::try_from(own.size) == Ok(row.size)
        && own.root[..] == row.root
        && i64::try_from(own.time) == Ok(row.time);
    if agree {
        Ok(())
    } else {
        Err("its note is of another size, root or time than its row".into())
    }
}

fn same(computed: &Hash, stored: &[u8], otherwise: &str) -> Verdict {
    if computed[..] == *stored { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn hash32(name: &str, bytes: &[u8]) -> Result<Hash, String> {
    bytes.try_into().map_err(|_| format!("{name} is not 32 bytes long"))
}

fn device_bytes(id: &str) -> Result<Hash, String> {
    let id = DeviceId::parse(id).ok().and_then(|id| id.native_bytes());
    id.ok_or_else(|| "a device id is not one of a native device".to_owned())
}

fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}
