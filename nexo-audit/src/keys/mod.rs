//! The keys of one account: every entry that the log has for its handle, what each was made of,
//! and whether that follows the rules.
//!
//! ```text
//! 1 scan     every entry under the verified head is hashed into its root; those with the
//!            handle's label are kept                     -> nothing can be left out
//! 2 fetch    /log/events, the event behind each of them  -> a missing one was withheld
//! 3 place    /log/inclusion, verified                    -> the proof that anybody can be shown
//! 4 replay   the rules of chains ([`crate::sigchain`])   -> or the rule that is broken
//! ```
//!
//! The scan reads the whole log, because only the entries say how many events there are: a server
//! that hides a revocation has it in the log and not in its answers. It does so at each run: what
//! an earlier one found could be kept and verified entry by entry, but that there were no others
//! is covered by no root, so a file that lacks one would hide it for ever. `expect` compares what was
//! found with what somebody knows of the account.

pub(crate) mod expect;
mod export;

use crate::checkpoint::SignedHead;
use crate::download::{AHEAD, Download};
use crate::entry::{Entry, split_bundle};
use crate::fetch::{FetchError, Source};
use crate::finding::{Finding, Malformed};
use crate::key::LogKey;
use crate::merkle::{CompactRange, Hash, leaf_hash, verify_inclusion};
use crate::rebuild::{Chunk, Rebuild};
use crate::sigchain::{Body, Handle, History, Logged, Violation, label, replay};
use crate::tile::{WIDTH, spans};
use std::sync::Arc;

/// Most entries of one handle. An account that changes its keys daily has as many in 25 years.
const MAX_EVENTS: usize = 10_000;

/// Whose keys, and under which head.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The account's handle.
    pub handle: &'a Handle,
    /// The log's key.
    pub log_key: &'a LogKey,
    /// A head that an audit verified.
    pub head: &'a SignedHead,
}

/// An entry of the handle, proved to be under the head, and what is shown for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// RFC 6962 leaf index, from 0.
    pub index: u64,
    /// The entry, as in its bundle.
    pub entry: Vec<u8>,
    /// Its audit path under the head, the leaf's sibling first.
    pub path: Vec<Hash>,
    /// What it was made of; `None` when that is withheld.
    pub body: Option<Body>,
}

/// An account whose every event is there and follows the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What happened, and what came of it.
    pub history: History,
    /// The entries behind it.
    pub proved: Vec<Proved>,
}

/// Why there is no [`Account`], and what was proved until then: the evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{finding}")]
pub struct Broken {
    /// What was found.
    pub finding: Finding,
    /// The entries of the handle, as far as they were proved.
    pub proved: Vec<Proved>,
}

/// Reads the account. `log` is the log, `export` the same server, asked with whatever it takes to
/// be told key events. `progress` is called with the entries read and the entries to read. Runs
/// inside a Tokio runtime.
///
/// # Errors
/// [`Broken`].
pub async fn read<S: Source, E: Source>(
    log: Arc<S>,
    export: &E,
    question: Question<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Account, Box<Broken>> {
    let mut proved = Vec::new();
    match gather(log, export, question, progress, &mut proved).await {
        Ok(history) => Ok(Account { history, proved }),
        Err(finding) => Err(Box::new(Broken { finding, proved })),
    }
}

async fn gather<S: Source, E: Source>(
    log: Arc<S>,
    export: &E,
    question: Question<'_>,
    progress: &mut dyn FnMut(u64, u64),
    proved: &mut Vec<Proved>,
) -> Result<History, Finding> {
    let Question { handle, log_key, head } = question;
    let broken =
        |index, cause| Finding::SigchainViolation { handle: handle.to_string(), index, cause };
    let mut logged = Vec::new();
    for Found { index, entry, bytes } in scan(Arc::clone(&log), question, progress).await? {
        let path = place(&*log, head, index, &bytes).await?;
        proved.push(Proved { index, entry: bytes, path, body: None });
        let shown = export::event(export, index).await?;
        let body = shown.ok_or_else(|| broken(index, Violation::Withheld))?;
        if let Some(last) = proved.last_mut() {
            last.body = Some(body.clone());
        }
        logged.push(Logged { index, entry, body });
    }
    let history =
        replay(log_key, handle, &logged).map_err(|(index, cause)| broken(index, cause))?;
    history.ok_or_else(|| Finding::UnknownHandle { handle: handle.to_string() })
}

/// An entry of the handle.
struct Found {
    index: u64,
    entry: Entry,
    bytes: Vec<u8>,
}

/// Every entry of the handle. All entries are hashed into the head's root, so that none is left
/// out and none is another.
async fn scan<S: Source>(
    log: Arc<S>,
    Question { handle, log_key, head }: Question<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Found>, Finding> {
    let (wanted, size) = (label(log_key.origin(), handle), head.checkpoint.size);
    let mut found = Vec::new();
    let mut rebuild = Rebuild::from(CompactRange::new());
    let mut chunks = Download::new(log, 0, spans(0, size), AHEAD);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        rebuild.add(&chunk)?;
        found.extend(labelled(&chunk, &wanted)?);
        if let Some(one) = found.get(MAX_EVENTS) {
            let (handle, index, cause) = (handle.to_string(), one.index, Violation::TooMany);
            return Err(Finding::SigchainViolation { handle, index, cause });
        }
        progress(rebuild.size(), size);
    }
    rebuild.finish(&head.checkpoint)?;
    Ok(found)
}

/// The entries of a chunk that are for a key of this label.
fn labelled(chunk: &Chunk, wanted: &Hash) -> Result<Vec<Found>, Finding> {
    let (span, bundle) = (chunk.span, &chunk.bundle);
    let entries = split_bundle(&bundle.bytes, bundle.width)
        .map_err(|cause| Finding::BadBundle { path: bundle.path.clone(), cause })?;
    let leaves = (span.tile * WIDTH..).zip(entries).take(span.width.into());
    let of_label = |(index, bytes): (u64, &[u8])| {
        // One that is malformed is found by the rebuild.
        let entry = Entry::parse(bytes).ok()?;
        let (Entry::KeyEvent { label, .. } | Entry::PlainKey { label, .. }) = &entry else {
            return None;
        };
        (label == wanted).then(|| Found { index, entry, bytes: bytes.to_vec() })
    };
    Ok(leaves.filter_map(of_label).collect())
}

/// The log's own proof that the entry is at `index` under the head.
async fn place<S: Source>(
    log: &S,
    head: &SignedHead,
    index: u64,
    entry: &[u8],
) -> Result<Vec<Hash>, Finding> {
    let (size, root) = (head.checkpoint.size, &head.checkpoint.root);
    let path = format!("log/inclusion?index={index}&size={size}");
    let bytes = log.get(&path, export::MAX_INCLUSION).await;
    let bytes = bytes.map_err(|error| Finding::of_fetch(&path, error))?;
    let proof = export::inclusion(&bytes, index, size)
        .ok_or(Finding::Malformed { path, cause: Malformed::Answer })?;
    verify_inclusion(&leaf_hash(entry), index, size, &proof, root)
        .map_err(|cause| Finding::InclusionMismatch { index, size, cause })?;
    Ok(proof)
}

/// What a failed request for events means: the server may want another token.
fn of_export(path: &str, error: FetchError) -> Finding {
    match error {
        FetchError::Status { status: 401 | 403 } => Finding::NotAllowed { path: path.to_owned() },
        other => Finding::of_fetch(path, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sigchain::SignedEvent;
    use crate::sigchain::testchain::{Account as Chain, Person, log_key};
    use crate::testlog::{ORIGIN, Shelf, TestLog, enc, oracle_inclusion};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    fn alice() -> Handle {
        Handle::parse("alice").unwrap()
    }

    fn entry(signed: &SignedEvent, handle: &Handle) -> Vec<u8> {
        let label = label(ORIGIN, handle);
        let hashes: [&[u8]; 3] = [&label, &signed.event_hash(), &signed.signatures_hash()];
        enc("nexo/1/leaf", &[&[1], hashes[0], hashes[1], hashes[2]])
    }

    /// A log of messages with these events at leaves 3, 300 and 590, of 600.
    fn log(events: &[SignedEvent]) -> TestLog {
        let mut log = TestLog::with(600);
        for (event, at) in events.iter().zip([3, 300, 590]) {
            log.entries[at] = entry(event, &alice());
        }
        // Somebody else's events are nothing to her.
        let bob = Chain::new("bob", &Person::new(7), &Person::new(8));
        log.entries[100] = entry(&bob.events[0], &Handle::parse("bob").unwrap());
        log
    }

    fn shown(index: u64, signed: &SignedEvent) -> Value {
        let [event, sig, accept_sig] =
            [&signed.event, &signed.sig, &signed.accept_sig].map(|bytes| STANDARD.encode(bytes));
        json!({"index": index, "native": {"event": event, "sig": sig, "accept_sig": accept_sig}})
    }

    /// What is asked for each event: the event itself, and its audit path.
    fn publish(log: &TestLog, events: &[(u64, SignedEvent)]) -> Shelf {
        let (shelf, hashes) = (log.publish(&[]), log.hashes());
        for (index, signed) in events {
            tell(&shelf, *index, &json!([shown(*index, signed)]));
            let path = oracle_inclusion(usize::try_from(*index).unwrap(), &hashes);
            let path: Vec<String> = path.iter().map(|hash| STANDARD.encode(hash)).collect();
            let leaf = STANDARD.encode(hashes[usize::try_from(*index).unwrap()]);
            let body = json!({"index": index, "size": 600, "leaf_hash": leaf, "hashes": path});
            let at = format!("log/inclusion?index={index}&size=600");
            shelf.put(&at, body.to_string().into_bytes());
        }
        shelf
    }

    fn tell(shelf: &Shelf, index: u64, events: &Value) {
        let body = json!({"events": events, "next": index + 1, "size": 600}).to_string();
        shelf.put(&format!("log/events?from={index}&limit=1"), body.into_bytes());
    }

    fn placed(chain: &Chain) -> Vec<(u64, SignedEvent)> {
        [3, 300, 590].into_iter().zip(chain.events.clone()).collect()
    }

    async fn ask(log: &TestLog, shelf: Shelf) -> Result<Account, Box<Broken>> {
        let head = SignedHead::open(log.head().as_bytes(), &log_key(), None).unwrap();
        let (log_key, handle, shelf) = (log_key(), alice(), Arc::new(shelf));
        let question = Question { handle: &handle, log_key: &log_key, head: &head };
        read(Arc::clone(&shelf), &*shelf, question, &mut |_, _| {}).await
    }

    async fn finding(log: &TestLog, shelf: Shelf) -> Finding {
        ask(log, shelf).await.map(|account| account.history).unwrap_err().finding
    }

    fn chain() -> Chain {
        let first = Person::new(1);
        let mut chain = Chain::new("alice", &first, &Person::new(2));
        chain.add(&first, &Person::new(3), 7);
        chain.revoke(&first, &Person::new(3));
        chain
    }

    #[tokio::test]
    async fn an_account_is_read_with_its_proofs() {
        let chain = chain();
        let log = log(&chain.events);
        let account = ask(&log, publish(&log, &placed(&chain)).shuffled()).await.unwrap();
        let steps: Vec<_> = account.history.steps.iter().map(|s| (s.index, s.change)).collect();
        assert_eq!(steps, [(3, "genesis"), (300, "add_device"), (590, "revoke_device")]);
        assert_eq!(account.proved.len(), 3);
        assert_eq!(account.proved[1].entry, log.entries[300]);
        assert_eq!(account.proved[1].path, oracle_inclusion(300, &log.hashes()));
        let body = Body::Native(chain.events[1].clone());
        assert_eq!(account.proved[1].body, Some(body));
    }

    #[tokio::test]
    async fn an_event_that_is_logged_and_not_shown_is_withheld() {
        let chain = chain();
        let log = log(&chain.events);
        let withheld = |index| Finding::SigchainViolation {
            handle: "alice".into(),
            index,
            cause: Violation::Withheld,
        };
        // Nothing behind it; the next one instead; the one before.
        for other in [
            json!([]),
            json!([shown(595, &chain.events[2])]),
            json!([shown(300, &chain.events[1])]),
        ] {
            let shelf = publish(&log, &placed(&chain));
            tell(&shelf, 590, &other);
            let broken = ask(&log, shelf).await.unwrap_err();
            assert_eq!(broken.finding, withheld(590));
            assert_eq!((broken.proved.len(), &broken.proved[2].body), (3, &None));
        }
    }

    #[tokio::test]
    async fn another_event_than_the_logged_one_is_no_answer() {
        let chain = chain();
        let log = log(&chain.events);
        let shelf = publish(&log, &placed(&chain));
        tell(&shelf, 590, &json!([shown(590, &chain.events[1])]));
        let cause = Violation::NotLogged;
        let wanted = Finding::SigchainViolation { handle: "alice".into(), index: 590, cause };
        assert_eq!(finding(&log, shelf).await, wanted);
    }

    #[tokio::test]
    async fn a_forked_chain_is_named_with_what_proves_it() {
        let first = Person::new(1);
        let mut chain = Chain::new("alice", &first, &Person::new(2));
        let mut other = chain.clone();
        chain.add(&first, &Person::new(3), 7);
        other.add(&first, &Person::new(4), 7);
        chain.events.extend(other.events.pop());
        let log = log(&chain.events);
        let broken = ask(&log, publish(&log, &placed(&chain))).await.unwrap_err();
        let cause = Violation::Previous;
        let wanted = Finding::SigchainViolation { handle: "alice".into(), index: 590, cause };
        assert_eq!(broken.finding, wanted);
        assert!(broken.proved.len() == 3 && broken.proved.iter().all(|one| one.body.is_some()));
    }

    #[tokio::test]
    async fn who_was_never_logged_is_unknown() {
        let log = log(&[]);
        let unknown = Finding::UnknownHandle { handle: "alice".into() };
        assert_eq!(finding(&log, publish(&log, &[])).await, unknown);
    }

    #[tokio::test]
    async fn entries_and_proofs_are_verified() {
        let chain = chain();
        let log = log(&chain.events);
        let honest = || publish(&log, &placed(&chain));
        // An entry hidden among others, and one that is not there at all.
        let shelf = honest();
        let messages = TestLog::with(600).publish(&[]).take("tile/entries/001");
        shelf.put("tile/entries/001", messages);
        let mismatch = finding(&log, shelf).await;
        assert!(matches!(mismatch, Finding::EntryMismatch { index: 300, .. }), "{mismatch:?}");
        let shelf = honest();
        let path = "log/inclusion?index=300&size=600";
        let other = shelf.take("log/inclusion?index=590&size=600");
        let text = String::from_utf8(other).unwrap().replace("\"index\":590", "\"index\":300");
        shelf.put(path, text.into_bytes());
        let mismatch = finding(&log, shelf).await;
        assert!(matches!(mismatch, Finding::InclusionMismatch { index: 300, .. }), "{mismatch:?}");
        let shelf = honest();
        shelf.put(path, b"{}".to_vec());
        assert!(matches!(finding(&log, shelf).await, Finding::Malformed { .. }));
    }

    #[test]
    fn a_server_that_wants_a_token_says_so() {
        let path = || "log/events".to_owned();
        for status in [401, 403] {
            let error = FetchError::Status { status };
            assert_eq!(of_export(&path(), error), Finding::NotAllowed { path: path() });
        }
        let error = FetchError::Status { status: 500 };
        assert!(matches!(of_export(&path(), error), Finding::Unreachable { .. }));
    }
}
