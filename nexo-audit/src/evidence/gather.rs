//! From a finding to its evidence: what was signed, and what the log serves around it.
//!
//! A finding says what is wrong, in a few numbers. What proves it to others is fetched here, once
//! more: the nodes of the larger tree, a path to an entry, the tile that differs. The log may
//! answer differently by now. So what was gathered is put to [`verify`] like a stranger's file,
//! and if it does not show what was found, the heads alone are kept where they are signed.

use super::{Event, Evidence, Leaf, PlainKey, Resource, verify};
use crate::check::MAX_PROOF;
use crate::checkpoint::{SignedHead, parse_log_keys};
use crate::compare::relate;
use crate::entry::split_bundle;
use crate::fetch::Source;
use crate::finding::{Finding, Verdict};
use crate::key::LogKey;
use crate::keys::Proved;
use crate::merkle::{Hash, leaf_hash, verify_inclusion};
use crate::nodes::Nodes;
use crate::note::MAX_NOTE;
use crate::sigchain::{Body, Handle, SignedEvent};
use crate::state::Memory;
use crate::tile::{Span, WIDTH, level_path, spans};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// Longest that a log is asked for more: the finding is there, and must not wait for one that
/// answers slowly, nor be without the evidence that is already at hand.
const PATIENCE: Duration = Duration::from_secs(60);
/// A full tile.
const MAX_TILE: usize = 256 * 32;
/// Longest bundle that is read.
const MAX_BUNDLE: usize = 1 << 20;
/// Most bytes of bundles that a file takes for a root that does not fit. Beyond that the heads have
/// to do, and the file says so: with more it would be longer than what is read, and it would be the
/// word of its writer all the same, because nobody signed what was served.
const MAX_ENTRIES: usize = 2 << 20;
/// Added to the words of a finding whose entries are not in its file.
pub(super) const TOO_MUCH: &str =
    " (the entries are not in this file: they could not all be had, or are more than 2 MiB)";

/// A finding, and what is known around it.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The log's key.
    pub key: &'a LogKey,
    /// What was found.
    pub finding: &'a Finding,
    /// The head that was judged, when the log signed one.
    pub head: Option<&'a str>,
    /// The head that it contradicts: the remembered one, or a witness's.
    pub other: Option<&'a str>,
    /// What was remembered of the log.
    pub memory: Option<&'a Memory>,
    /// The trust file, where the finding is about witnesses.
    pub policy: Option<&'a str>,
    /// When it was found, POSIX seconds.
    pub now: u64,
}

/// Makes the evidence of a finding about the log at `source`. `None` for a finding without any: a
/// log that does not answer has signed nothing. Takes a minute at most: of a log that stalls, what
/// was signed is kept. Runs inside a Tokio runtime with its clock.
pub async fn gather<S: Source>(source: &S, case: &Case<'_>) -> Option<Evidence> {
    gather_within(source, case, PATIENCE).await
}

pub(super) async fn gather_within<S: Source>(
    source: &S,
    case: &Case<'_>,
    patience: Duration,
) -> Option<Evidence> {
    let verdict = case.finding.verdict();
    let mut evidence = Evidence::new(verdict, case.key, case.now);
    evidence.message = case.finding.to_string();
    evidence.detail = serde_json::to_value(case.finding).unwrap_or(Value::Null);
    evidence.held = case.other.map(str::to_owned);
    evidence.shown = case.head.map(str::to_owned);
    if matches!(verdict, Verdict::QuorumLost | Verdict::WitnessDisagrees | Verdict::BadSignature) {
        evidence.policy = case.policy.map(str::to_owned);
    }
    let bare = evidence.clone();
    // What came until then may do; if not, the heads alone do.
    let _ = tokio::time::timeout(patience, add(source, case, &mut evidence)).await;
    let shows = |evidence: &Evidence| verify(evidence, case.key).is_ok();
    [evidence, bare].into_iter().find(shows)
}

/// Makes the evidence of a finding about an account: its entries under the head, and what was
/// shown for each. `None` when they do not show it, as for a handle that has none.
pub(crate) fn of_account(
    key: &LogKey,
    finding: &Finding,
    head: &str,
    handle: &Handle,
    proved: &[Proved],
    now: u64,
) -> Option<Evidence> {
    let mut evidence = Evidence::new(finding.verdict(), key, now);
    evidence.message = finding.to_string();
    evidence.detail = serde_json::to_value(finding).unwrap_or(Value::Null);
    evidence.shown = Some(head.to_owned());
    evidence.handle = Some(handle.as_str().to_owned());
    evidence.leaves = proved.iter().map(Leaf::of).collect();
    Some(evidence).filter(|evidence| verify(evidence, key).is_ok())
}

impl Leaf {
    fn of(proved: &Proved) -> Self {
        let (event, plain) = match proved.body.clone() {
            None => (None, None),
            Some(Body::Native(SignedEvent { event, sig, accept_sig })) => {
                (Some(Event { event, sig, accept_sig }), None)
            }
            Some(Body::Plain(record)) => {
                let plain = PlainKey {
                    handle: record.handle,
                    account_id: record.account.to_vec(),
                    device_id: record.device,
                    ed25519_pub: record.key.to_vec(),
                };
                (None, Some(plain))
            }
        };
        let Proved { index, entry, path, .. } = proved.clone();
        Self { index, entry, path, event, plain }
    }
}

/// Adds what the verdict needs. What cannot be had is left out; [`verify`] has the last word.
async fn add<S: Source>(source: &S, case: &Case<'_>, evidence: &mut Evidence) {
    match case.finding {
        Finding::Inconsistent { .. } => inconsistent(source, case, evidence).await,
        Finding::WitnessDisagrees { .. } => {
            inconsistent(source, case, evidence).await;
            evidence.log_keys = log_keys(source).await;
        }
        Finding::Rollback { .. } | Finding::Stale { .. } | Finding::Clock { .. } => {
            evidence.log_keys = log_keys(source).await;
        }
        Finding::BadSignature { path, .. } => {
            evidence.resources.extend(resource(source, path, MAX_NOTE).await);
            // It may be the time key's line that does not verify.
            let list = log_keys(source).await;
            let is_list = |note: &String| parse_log_keys(note.as_bytes(), case.key).is_ok();
            evidence.log_keys = list.filter(is_list);
        }
        Finding::Malformed { path, .. } => {
            evidence.resources.extend(resource(source, path, MAX_NOTE).await);
        }
        Finding::WrongOrigin { .. } => {
            let served = resource(source, "checkpoint", MAX_NOTE).await;
            evidence.shown = served.and_then(|served| String::from_utf8(served.bytes).ok());
        }
        Finding::RootMismatch { .. } => root(source, case, evidence).await,
        Finding::EntryMismatch { index, .. } | Finding::TileMismatch { index, .. } => {
            leaf(source, case, *index, evidence).await;
            let span = span(*index, size(case));
            evidence.resources.extend(tile(source, 0, span.tile, span.width).await);
        }
        Finding::BadEntry { index, .. } => leaf(source, case, *index, evidence).await,
        Finding::BadTile { path, .. } => {
            evidence.resources.extend(resource(source, path, MAX_TILE).await);
        }
        Finding::UpperTile { path, position, .. } => {
            upper(source, path, *position, evidence).await;
        }
        Finding::BadBundle { path, .. } => {
            evidence.resources.extend(resource(source, path, MAX_BUNDLE).await);
        }
        _ => {}
    }
}

/// The nodes that show the other beginning, or the log's own answer.
async fn inconsistent<S: Source>(source: &S, case: &Case<'_>, evidence: &mut Evidence) {
    let open = |note: Option<&str>| SignedHead::open(note?.as_bytes(), case.key, None).ok();
    let (Some(held), Some(shown)) = (open(case.other), open(case.head)) else { return };
    let prefix = relate(source, &held, &shown).await.err().map(|discord| discord.prefix);
    evidence.prefix = prefix.unwrap_or_default();
    if evidence.prefix.is_empty() {
        let (held, shown) = (held.checkpoint.size, shown.checkpoint.size);
        let (from, to) = (held.min(shown), held.max(shown));
        let path = format!("log/consistency?from={from}&to={to}");
        evidence.resources.extend(resource(source, &path, MAX_PROOF).await);
    }
}

/// The entries after the remembered tree, when they are few.
async fn root<S: Source>(source: &S, case: &Case<'_>, evidence: &mut Evidence) {
    let from = case.memory.map_or(0, |memory| memory.range.size());
    if let Some(memory) = case.memory {
        evidence.held = Some(memory.head.note.clone());
        evidence.peaks = memory.range.peaks().to_vec();
    }
    let mut bytes = 0;
    for span in spans(from, size(case)) {
        let served = bundle(source, span).await;
        bytes += served.as_ref().map_or(MAX_ENTRIES, |(served, _)| served.bytes.len());
        if bytes >= MAX_ENTRIES {
            evidence.resources.clear();
            evidence.message.push_str(TOO_MUCH);
            return;
        }
        evidence.resources.extend(served.map(|(served, _)| served));
    }
}

/// The entry that is served at an index, and the path to what the tree has there.
async fn leaf<S: Source>(source: &S, case: &Case<'_>, index: u64, evidence: &mut Evidence) {
    let size = size(case);
    let Some((served, width)) = bundle(source, span(index, size)).await else { return };
    let at = usize::try_from(index % WIDTH).unwrap_or(usize::MAX);
    let entry = split_bundle(&served.bytes, width).ok();
    let Some(entry) = entry.and_then(|entries| entries.get(at).map(|entry| entry.to_vec())) else {
        return;
    };
    let path = path(source, case, index, &entry).await;
    evidence.leaves.push(Leaf { index, entry, path, event: None, plain: None });
}

/// The path to a leaf, from tiles; from the log's own answer when altered tiles lead nowhere.
async fn path<S: Source>(source: &S, case: &Case<'_>, index: u64, entry: &[u8]) -> Vec<Hash> {
    let size = size(case);
    let tiles = Nodes::new(source, size).inclusion(index).await.unwrap_or_default();
    let head = case.head.and_then(|note| SignedHead::open(note.as_bytes(), case.key, None).ok());
    let leaf = leaf_hash(entry);
    let leads = |path: &[Hash]| {
        head.as_ref().is_some_and(|head| {
            verify_inclusion(&leaf, index, size, path, &head.checkpoint.root).is_ok()
        })
    };
    if leads(&tiles) {
        return tiles;
    }
    let answer = format!("log/inclusion?index={index}&size={size}");
    let answer = resource(source, &answer, MAX_PROOF).await;
    let answer = answer.and_then(|answer| read_path(&answer.bytes));
    answer.filter(|path| leads(path)).unwrap_or(tiles)
}

/// Answer of `/log/inclusion?index=&size=`, of which the path alone counts.
#[derive(Deserialize)]
struct InclusionAnswer {
    #[serde(with = "super::base64_hashes")]
    hashes: Vec<Hash>,
}

fn read_path(bytes: &[u8]) -> Option<Vec<Hash>> {
    serde_json::from_slice::<InclusionAnswer>(bytes).ok().map(|answer| answer.hashes)
}

/// A tile and the one below it that it is not made of.
async fn upper<S: Source>(source: &S, path: &str, position: u16, evidence: &mut Evidence) {
    let Some(upper) = resource(source, path, MAX_TILE).await else { return };
    evidence.resources.push(upper);
    let Some((level, tile)) = super::judge::level_and_tile(path) else { return };
    let Some(below) = level.checked_sub(1) else { return };
    let child = tile * WIDTH + u64::from(position);
    evidence.resources.extend(self::tile(source, below, child, 256).await);
}

async fn log_keys<S: Source>(source: &S) -> Option<String> {
    let served = resource(source, "log/keys", MAX_NOTE).await?;
    String::from_utf8(served.bytes).ok()
}

/// A tile, or the full one in place of a partial one that is gone.
async fn tile<S: Source>(source: &S, level: u8, tile: u64, width: u16) -> Option<Resource> {
    match resource(source, &level_path(level, tile, width), MAX_TILE).await {
        None => resource(source, &level_path(level, tile, 256), MAX_TILE).await,
        found => found,
    }
}

/// A bundle with the number of its entries, or the full one likewise.
async fn bundle<S: Source>(source: &S, span: Span) -> Option<(Resource, u16)> {
    match resource(source, &span.bundle_path(), MAX_BUNDLE).await {
        Some(found) => Some((found, span.width)),
        None => {
            let full = resource(source, &span.full().bundle_path(), MAX_BUNDLE).await;
            full.map(|found| (found, 256))
        }
    }
}

async fn resource<S: Source>(source: &S, path: &str, limit: usize) -> Option<Resource> {
    let bytes = source.get(path, limit).await.ok()?;
    Some(Resource { path: path.to_owned(), bytes })
}

/// The span of the tile that holds a leaf.
fn span(index: u64, size: u64) -> Span {
    let tile = index / WIDTH;
    let here = size.saturating_sub(tile * WIDTH).min(WIDTH);
    Span { tile, width: u16::try_from(here).unwrap_or(256), skip: 0 }
}

/// Entries under the head that was judged.
fn size(case: &Case<'_>) -> u64 {
    let head = case.head.and_then(|note| SignedHead::open(note.as_bytes(), case.key, None).ok());
    head.map_or(0, |head| head.checkpoint.size)
}
