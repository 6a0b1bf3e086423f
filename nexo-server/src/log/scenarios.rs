//! The log as its users see it, over a ledger that fails on demand.

use super::memory::{Disk, Fault, Item, Memory, audit};
use super::signer::tests::keys;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

const ORIGIN: &str = "relay.example.org";

/// A server: its disk, its data directory, its clock.
struct Server {
    disk: Disk,
    dir: tempfile::TempDir,
    clock: Arc<AtomicU64>,
}

type Running = (Log<Memory>, Writer);

impl Server {
    fn new() -> Self {
        let clock = Arc::new(AtomicU64::new(1_700_000_000));
        Self { disk: Disk::default(), dir: tempfile::tempdir().unwrap(), clock }
    }

    fn options(&self) -> Options {
        let clock = Arc::clone(&self.clock);
        Options::new(Box::new(move || clock.load(Ordering::Relaxed)))
    }

    fn start_with(&self, keys: LogKeys, options: Options) -> Result<Running, StartError> {
        let ledger = Memory { disk: self.disk.clone(), keys: self::keys(ORIGIN, 1) };
        Log::start(ledger, keys, self.dir.path(), options)
    }

    fn start(&self) -> Running {
        self.start_with(keys(ORIGIN, 1), self.options()).unwrap()
    }

    fn refusal(&self, keys: LogKeys) -> StartError {
        self.start_with(keys, self.options()).map(|_| ()).unwrap_err()
    }

    fn audit(&self) {
        audit(&self.disk, &keys(ORIGIN, 1));
    }
}

fn message(id: impl std::fmt::Display) -> Item {
    Item::Message(id.to_string())
}

type Outcome = Result<Receipt<String>, Denied<&'static str>>;

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn send(log: &Log<Memory>, item: Item) -> Outcome {
    let ticket = log.submit(item).unwrap();
    wait(ticket.receipt())
}

/// A receipt is worth its proof: from the disk, and the same from the head's own tiles.
fn check(receipt: &Receipt<String>, disk: &Disk) {
    let Head { size, root, tiles, note, time, .. } = &*receipt.head;
    let head = keys(ORIGIN, 1).verify_own(note).unwrap();
    assert_eq!((head.size, head.root, head.time), (*size, *root, *time));
    let path = inclusion(receipt.index, *size, &mut disk.clone()).unwrap();
    let quick = tiles.path(receipt.index);
    assert!(quick.is_some() || receipt.known, "a fresh path is in memory");
    assert!(quick.is_none_or(|quick| quick == path));
    // RFC 9162 2.1.3.2.
    let (mut position, mut last) = (receipt.index, size - 1);
    let mut hash = leaf_hash(receipt.placed.as_bytes());
    for sibling in path {
        if position & 1 == 1 || position == last {
            hash = node_hash(&sibling, &hash);
            while position & 1 == 0 && position != 0 {
                (position, last) = (position >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, &sibling);
        }
        (position, last) = (position >> 1, last >> 1);
    }
    assert_eq!((last, hash), (0, *root));
}

#[test]
fn a_new_log_has_a_signed_empty_head() {
    let server = Server::new();
    let (log, writer) = server.start();
    let head = log.head();
    assert_eq!((head.size, head.root, head.time), (0, empty_root(), 1_700_000_000));
    let text = str::from_utf8(&head.note).unwrap();
    assert!(text.starts_with("relay.example.org\n0\n47DEQpj8HBSa"));
    assert!(log.key_list().starts_with(b"nexo/1/log-keys\nrelay.example.org\ntime relay"));
    assert_eq!(log.stats().renewals, 1);
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn items_get_places_and_receipts() {
    let server = Server::new();
    let (log, writer) = server.start();
    let first = send(&log, message("a")).unwrap();
    assert_eq!((first.index, first.known, first.head.size), (0, false, 1));
    let second = send(&log, message("b")).unwrap();
    assert_eq!((second.index, second.head.size), (1, 2));
    let again = send(&log, message("a")).unwrap();
    assert_eq!((again.index, again.known, again.head.size), (0, true, 2));
    for receipt in [&first, &second, &again] {
        check(receipt, &server.disk);
    }
    let commits = server.disk.lock().commits;
    assert_eq!(send(&log, Item::Unwanted).unwrap_err(), Denied::Refused("unwanted"));
    assert_eq!(server.disk.lock().commits, commits, "nothing placed, nothing written");
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn concurrent_submitters_get_every_index_once() {
    let server = Server::new();
    let (log, writer) = server.start();
    let indexes: Vec<u64> = thread::scope(|scope| {
        let senders: Vec<_> = (0..32)
            .map(|sender| {
                let (log, disk) = (log.clone(), server.disk.clone());
                scope.spawn(move || -> Vec<u64> {
                    (0..300)
                        .map(|i| {
                            let receipt = send(&log, message(format!("{sender}-{i}"))).unwrap();
                            assert_eq!(receipt.placed, format!("{sender}-{i}"));
                            check(&receipt, &disk);
                            receipt.index
                        })
                        .collect()
                })
            })
            .collect();
        senders.into_iter().flat_map(|s| s.join().unwrap()).collect()
    });
    let unique: BTreeSet<u64> = indexes.iter().copied().collect();
    assert_eq!(unique, (0..9600).collect());
    let stats = log.stats();
    assert_eq!((stats.leaves, log.head().size), (9600, 9600));
    assert!(stats.batches < 9600, "{stats:?}");
    assert!(stats.spent(Step::Stage) > Duration::ZERO && stats.last_batch > 0, "{stats:?}");
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn a_full_queue_is_an_answer() {
    let server = Server::new();
    let mut options = server.options();
    (options.queue, options.max_batch) = (4, 2);
    let (log, writer) = server.start_with(keys(ORIGIN, 1), options).unwrap();
    let mut tickets = Vec::new();
    let gate = server.disk.lock();
    // The writer has at most one batch in hand and four items in the queue.
    let full = (0..7).find_map(|i| match log.submit(message(i)) {
        Ok(ticket) => {
            tickets.push(ticket);
            None
        }
        Err(refused) => Some(refused),
    });
    assert_eq!(full, Some(SubmitError::Full));
    drop(gate);
    for ticket in tickets {
        wait(ticket.receipt()).unwrap();
    }
    assert!(send(&log, message("later")).is_ok());
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn shutdown_commits_what_waits_and_then_takes_no_more() {
    let server = Server::new();
    let mut options = server.options();
    options.max_batch = 3;
    let (log, writer) = server.start_with(keys(ORIGIN, 1), options).unwrap();
    let gate = server.disk.lock();
    let tickets: Vec<_> = (0..20).map(|i| log.submit(message(i)).unwrap()).collect();
    let closing = thread::spawn(move || writer.shutdown());
    drop(gate);
    closing.join().unwrap().unwrap();
    let indexes: Vec<u64> = tickets.into_iter().map(|t| wait(t.receipt()).unwrap().index).collect();
    assert_eq!(indexes, (0..20).collect::<Vec<_>>());
    assert_eq!(log.submit(message("late")).unwrap_err(), SubmitError::Closed);
    wait(log.closed());
    server.audit();
}

#[test]
fn a_log_without_users_ends() {
    let server = Server::new();
    let (log, writer) = server.start();
    let ticket = log.submit(message("a")).unwrap();
    drop(log);
    assert!(wait(ticket.receipt()).is_ok());
    writer.shutdown().unwrap();
    assert_eq!(server.disk.size(), 1);
}

#[test]
fn a_restart_goes_on_where_the_log_was() {
    let server = Server::new();
    for round in 0..4u64 {
        let (log, writer) = server.start();
        assert_eq!(log.head().size, round * 150);
        let tickets: Vec<_> =
            (0..150).map(|i| log.submit(message(round * 150 + i)).unwrap()).collect();
        for (i, ticket) in tickets.into_iter().enumerate() {
            let receipt = wait(ticket.receipt()).unwrap();
            assert_eq!(receipt.index, round * 150 + i as u64);
            check(&receipt, &server.disk);
        }
        let old = send(&log, message(0)).unwrap();
        assert!(old.known);
        check(&old, &server.disk);
        writer.shutdown().unwrap();
        server.audit();
    }
}

#[test]
fn a_rolled_back_batch_leaves_no_trace() {
    let server = Server::new();
    let (log, writer) = server.start();
    send(&log, message("a")).unwrap();
    let before = log.head();
    server.disk.fault(Fault::RolledBack);
    assert_eq!(send(&log, message("b")).unwrap_err(), Denied::NotCommitted);
    assert_eq!(log.head().note, before.note);
    let receipt = send(&log, message("b")).unwrap();
    assert_eq!((receipt.index, receipt.known), (1, false));
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn a_commit_in_doubt_that_happened_is_answered_as_such() {
    let server = Server::new();
    let (log, writer) = server.start();
    server.disk.fault(Fault::PersistedUnknown);
    let receipt = send(&log, message("a")).unwrap();
    assert_eq!((receipt.index, receipt.known), (0, false));
    check(&receipt, &server.disk);
    assert_eq!(send(&log, message("b")).unwrap().index, 1);
    server.disk.fault(Fault::LostUnknown);
    assert!(send(&log, message("c")).is_err());
    writer.shutdown().unwrap();
    let heard = server.disk.lock().adopted.clone();
    assert_eq!(heard, [(0, 0), (1, 1), (2, 1), (2, 0)], "the ledger hears of what is public");
    server.audit();
}

#[test]
fn a_commit_in_doubt_that_is_not_found_stays_in_doubt() {
    let server = Server::new();
    let (log, writer) = server.start();
    server.disk.fault(Fault::LostUnknown);
    assert_eq!(send(&log, message("a")).unwrap_err(), Denied::OutcomeUnknown);
    let receipt = send(&log, message("a")).unwrap();
    assert_eq!((receipt.index, receipt.known), (0, false));

    server.disk.fault(Fault::BuriedUnknown);
    assert_eq!(send(&log, message("b")).unwrap_err(), Denied::OutcomeUnknown);
    assert_eq!(log.head().size, 3, "the other server's head is taken over");
    let receipt = send(&log, message("b")).unwrap();
    assert_eq!((receipt.index, receipt.known), (1, true));
    check(&receipt, &server.disk);
    assert_eq!(send(&log, message("c")).unwrap().index, 3);
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn a_batch_goes_on_from_where_another_server_left_the_log() {
    let server = Server::new();
    let (log, writer) = server.start();
    server.disk.fault(Fault::OtherServer);
    let receipt = send(&log, message("a")).unwrap();
    assert_eq!((receipt.index, receipt.head.size), (1, 2));
    check(&receipt, &server.disk);

    // Known, refused: nothing is written, but the receipt's head is the one it was known under.
    server.disk.fault(Fault::OtherServer);
    let known = send(&log, message("a")).unwrap();
    assert_eq!((known.index, known.known, known.head.size), (1, true, 3));
    check(&known, &server.disk);
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn what_comes_while_another_server_has_the_lock_joins_the_batch() {
    let server = Server::new();
    let (log, writer) = server.start();
    let mut locked = server.disk.lock();
    locked.faults.push_back(Fault::OtherServer);
    let first = log.submit(message("a")).unwrap();
    while log.waiting().0 > 0 {
        thread::yield_now();
    }
    let second = log.submit(message("b")).unwrap();
    drop(locked);
    let (first, second) = (wait(first.receipt()).unwrap(), wait(second.receipt()).unwrap());
    assert_eq!((first.index, first.head.size), (1, 3));
    assert_eq!((second.index, second.head.size), (2, 3), "one batch");
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn another_servers_bell_is_heard() {
    let server = Server::new();
    let options = server.options();
    let bell = Arc::clone(&options.others);
    let (log, writer) = server.start_with(keys(ORIGIN, 1), options).unwrap();
    server.disk.lock().other_server(&keys(ORIGIN, 1));
    assert_eq!(log.head().size, 0);
    bell.notify_one();
    wait(async { log.heads().wait_for(|head| head.size == 1).await.map(drop) }).unwrap();
    writer.shutdown().unwrap();
    assert_eq!(server.disk.lock().adopted.last(), Some(&(1, 0)));
    server.audit();
}

#[test]
fn a_ledger_that_breaks_its_contract_harms_nobody() {
    let server = Server::new();
    let (log, writer) = server.start();
    for fault in [Fault::NeverStaged, Fault::ShortAnswer] {
        server.disk.fault(fault);
        assert_eq!(send(&log, message("a")).unwrap_err(), Denied::OutcomeUnknown, "{fault:?}");
    }
    assert_eq!(send(&log, message("a")).unwrap().index, 0);
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn a_truth_that_cannot_be_read_is_waited_for() {
    let server = Server::new();
    let (log, writer) = server.start();
    send(&log, message("a")).unwrap();
    server.disk.fault(Fault::PersistedUnknown);
    server.disk.lock().load_fails = true;
    assert_eq!(send(&log, message("b")).unwrap_err(), Denied::OutcomeUnknown);
    assert_eq!(send(&log, message("c")).unwrap_err(), Denied::NotCommitted);
    assert_eq!(log.head().size, 1, "what is not known is not told");

    server.disk.lock().load_fails = false;
    wait(async { log.heads().wait_for(|head| head.size == 2).await.map(drop) }).unwrap();
    let receipt = send(&log, message("b")).unwrap();
    assert_eq!((receipt.index, receipt.known), (1, true));
    assert_eq!(send(&log, message("c")).unwrap().index, 2);
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn a_database_that_goes_back_stops_the_log() {
    let server = Server::new();
    let (log, writer) = server.start();
    send(&log, message("a")).unwrap();
    *server.disk.lock() = memory::Content::default();
    assert_eq!(send(&log, message("b")).unwrap_err(), Denied::OutcomeUnknown);
    let halt = writer.shutdown().unwrap_err();
    assert!(matches!(halt, Halt::Load(LoadError::WentBack { known: 1, stored: 0 })), "{halt}");
}

#[test]
fn a_panicking_ledger_leaves_nobody_waiting() {
    let server = Server::new();
    let (log, writer) = server.start();
    server.disk.fault(Fault::Panic);
    assert_eq!(send(&log, message("a")).unwrap_err(), Denied::OutcomeUnknown);
    wait(log.closed());
    assert!(matches!(writer.shutdown(), Err(Halt::Panicked)));
    let (log, writer) = server.start();
    assert_eq!(send(&log, message("a")).unwrap().index, 0);
    writer.shutdown().unwrap();
}

/// Such an item once stayed in the queue, with nobody left to answer it.
#[test]
fn an_item_on_its_way_into_the_queue_of_a_writer_that_panics_is_answered() {
    for round in 0..500 {
        let server = Server::new();
        let (log, writer) = server.start();
        let submit = || {
            let submitted = iter::from_fn(|| match log.submit(Item::Unwanted) {
                Err(SubmitError::Closed) => None,
                taken => Some(taken.ok()),
            });
            submitted.flatten().collect::<Vec<_>>()
        };
        let tickets = thread::scope(|scope| {
            let submitters = [scope.spawn(submit), scope.spawn(submit)];
            server.disk.fault(Fault::Panic);
            while !writer.thread.is_finished() {
                thread::yield_now();
            }
            submitters.map(|submitter| submitter.join().unwrap())
        });
        assert!(matches!(writer.shutdown(), Err(Halt::Panicked)));
        // What the writer has not answered now, it never will.
        for ticket in tickets.into_iter().flatten() {
            let answer = pin!(ticket.receipt()).poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(answer, Poll::Ready(Err(_))), "round {round}: nobody answers");
        }
    }
}

#[test]
fn an_idle_log_renews_its_time_and_nothing_else() {
    let server = Server::new();
    let mut options = server.options();
    options.renew_every = Duration::from_millis(1);
    let (log, writer) = server.start_with(keys(ORIGIN, 1), options).unwrap();
    let placed = send(&log, message("a")).unwrap().head;
    server.clock.store(1_700_000_060, Ordering::Relaxed);
    let renewed = wait(async {
        let mut bell = log.heads();
        bell.wait_for(|head| head.time == 1_700_000_060).await.unwrap().clone()
    });
    assert_eq!((renewed.size, renewed.root), (placed.size, placed.root));
    assert_ne!(renewed.note, placed.note);
    // A renewal that fails is tried again.
    server.disk.fault(Fault::RolledBack);
    server.clock.store(1_700_000_120, Ordering::Relaxed);
    let renewed = wait(async {
        log.heads().wait_for(|head| head.time == 1_700_000_120).await.unwrap().clone()
    });
    assert_eq!(renewed.size, 1);
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn start_up_refuses_what_differs() {
    let server = Server::new();
    let (log, writer) = server.start();
    for i in 0..300 {
        log.submit(message(i)).unwrap();
    }
    writer.shutdown().unwrap();
    assert_eq!(server.disk.size(), 300);

    let foreign = server.refusal(keys(ORIGIN, 9));
    assert!(matches!(foreign, StartError::Load(LoadError::Note(OwnNoteError::Signers))));

    server.disk.lock().head.as_mut().unwrap().root[0] ^= 1;
    let root = server.refusal(keys(ORIGIN, 1));
    assert!(matches!(root, StartError::Load(LoadError::Root { size: 300, .. })), "{root}");
    server.disk.lock().head.as_mut().unwrap().root[0] ^= 1;

    server.disk.lock().tiles.get_mut(&(1, 0)).unwrap()[7] ^= 1;
    let altered = server.refusal(keys(ORIGIN, 1));
    assert!(matches!(altered, StartError::Load(LoadError::Root { .. })), "{altered}");
    server.disk.lock().tiles.get_mut(&(1, 0)).unwrap()[7] ^= 1;

    server.disk.lock().tail[2] ^= 1;
    let entry = server.refusal(keys(ORIGIN, 1));
    assert!(matches!(entry, StartError::Load(LoadError::Root { .. })), "{entry}");
    server.disk.lock().tail[2] ^= 1;
    let whole = server.disk.lock().tail.clone();
    server.disk.lock().tail.truncate(5);
    let torn = server.refusal(keys(ORIGIN, 1));
    assert!(matches!(torn, StartError::Load(LoadError::Bundle { expected: 44 })), "{torn}");
    server.disk.lock().tail = whole;

    server.disk.fault(Fault::RolledBack);
    assert!(matches!(server.refusal(keys(ORIGIN, 1)), StartError::FirstHead(_)));
    let (_, writer) = server.start();
    writer.shutdown().unwrap();
    server.audit();
}

#[test]
fn start_up_refuses_a_restored_backup() {
    let server = Server::new();
    let backup = Server::new();
    let (log, writer) = server.start();
    send(&log, message("a")).unwrap();
    {
        let (from, mut to) = (server.disk.lock(), backup.disk.lock());
        (to.head, to.tiles) = (from.head.clone(), from.tiles.clone());
        (to.bundles, to.tail) = (from.bundles.clone(), from.tail.clone());
    }
    send(&log, message("b")).unwrap();
    writer.shutdown().unwrap();

    let restored = Server { dir: server.dir, disk: backup.disk, clock: backup.clock };
    let behind = restored.refusal(keys(ORIGIN, 1));
    let StartError::Marker(MarkerError::DatabaseBehind { stored: 1, marked: 2 }) = behind else {
        panic!("{behind}")
    };
    assert!(behind.to_string().contains("new-origin"));

    // The same length grown elsewhere is no better.
    let elsewhere = Server { dir: backup.dir, disk: restored.disk, clock: restored.clock };
    let (log, writer) = elsewhere.start();
    send(&log, message("c")).unwrap();
    writer.shutdown().unwrap();
    let forked = Server { dir: restored.dir, disk: elsewhere.disk, clock: elsewhere.clock };
    let differs = forked.refusal(keys(ORIGIN, 1));
    assert!(matches!(differs, StartError::Marker(MarkerError::Differs { size: 2 })), "{differs}");
}

#[test]
fn a_crash_between_commit_and_marker_is_forgiven() {
    let server = Server::new();
    let (log, writer) = server.start();
    send(&log, message("a")).unwrap();
    let marker = server.dir.path().join(MARKER_FILE);
    let before = std::fs::read(&marker).unwrap();
    send(&log, message("b")).unwrap();
    writer.shutdown().unwrap();
    std::fs::write(&marker, before).unwrap();
    let (log, writer) = server.start();
    assert_eq!(log.head().size, 2);
    assert_ne!(std::fs::read(&marker).unwrap()[..512], [b'\n'; 512]);
    writer.shutdown().unwrap();
    std::fs::remove_file(&marker).unwrap();
    let (_, writer) = server.start();
    writer.shutdown().unwrap();
}

/// Without the marker nobody is told, so without it there is no start.
#[cfg(target_os = "linux")]
#[test]
fn a_marker_that_cannot_be_written_stops_the_log() {
    let server = Server::new();
    let marker = server.dir.path().join(MARKER_FILE);
    std::os::unix::fs::symlink("/dev/full", marker).unwrap();
    let refused = server.refusal(keys(ORIGIN, 1));
    let StartError::FirstHead(source) = refused else { panic!("{refused}") };
    assert!(source.to_string().contains("marker"), "{source}");
}

#[test]
fn foolish_options_do_no_harm() {
    let server = Server::new();
    let mut options = server.options();
    (options.queue, options.max_batch) = (0, 0);
    options.renew_every = Duration::MAX;
    let (log, writer) = server.start_with(keys(ORIGIN, 1), options).unwrap();
    assert_eq!(send(&log, message("a")).unwrap().index, 0);
    writer.shutdown().unwrap();
}

fn faults() -> impl Strategy<Value = Option<Fault>> {
    prop::option::of(prop::sample::select(vec![
        Fault::RolledBack,
        Fault::PersistedUnknown,
        Fault::LostUnknown,
        Fault::BuriedUnknown,
        Fault::OtherServer,
        Fault::NeverStaged,
        Fault::ShortAnswer,
    ]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn whatever_fails_the_log_is_whole_and_receipts_are_true(
        rounds in prop::collection::vec((faults(), 1usize..300, any::<bool>()), 1..10),
    ) {
        let server = Server::new();
        let (mut log, mut writer) = server.start();
        let (mut told, mut sent) = (BTreeMap::new(), 0);
        for (fault, items, restart) in rounds {
            if let Some(fault) = fault {
                server.disk.fault(fault);
            }
            let ids: Vec<String> = (sent..sent + items).map(|i| i.to_string()).collect();
            sent += items;
            let tickets: Vec<_> = ids.iter().map(|id| log.submit(message(id)).unwrap()).collect();
            for (id, ticket) in ids.iter().zip(tickets) {
                if let Ok(receipt) = wait(ticket.receipt()) {
                    prop_assert!(told.insert(id.clone(), receipt.index).is_none());
                    check(&receipt, &server.disk);
                }
            }
            if restart {
                server.disk.lock().faults.clear();
                writer.shutdown().unwrap();
                (log, writer) = server.start();
            }
            server.audit();
        }
        let rows = server.disk.lock().rows.clone();
        prop_assert!(told.iter().all(|(id, index)| rows.get(id) == Some(index)));
        server.disk.lock().faults.clear();
        for id in (0..sent).map(|i| i.to_string()) {
            let receipt = send(&log, message(&id)).unwrap();
            prop_assert_eq!(receipt.known, rows.contains_key(&id));
            prop_assert!(!receipt.known || rows[&id] == receipt.index);
        }
        writer.shutdown().unwrap();
        server.audit();
    }
}
