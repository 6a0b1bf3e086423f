//! Two servers on one database: ours, whose ledger fails, and another, whose does not.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use diesel::prelude::*;
use nexo_schema::ids::{ConvId, Origin};

use super::super::suite::{Engine, Place, fallback_key};
use super::super::{
    Conn, Pending, Placed, Refusal, SqlLedger, Store, StoreError, exclusive, open_conversation,
    publish, put_challenge,
};
use super::failing::{Failing, Fault, Plan};
use super::people::{NATIVE, NUMBERS, PLAIN, People, newcomers};
use super::witness::{Content, Witness};
use crate::clock::Clock;
use crate::log::{
    Denied, Halt, Head, Ledger, Log, LogKeys, Options, Receipt, StartError, Ticket, Writer,
};

/// What became of an item. One that was not even queued counts as not committed.
pub(super) type Outcome = Result<Receipt<Placed>, Denied<Refusal>>;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A running server, and someone who listens to its heads.
struct Server<L: Ledger> {
    log: Log<L>,
    writer: Writer,
    ear: JoinHandle<Vec<Arc<Head>>>,
}

impl<L: Ledger> Server<L> {
    fn start(ledger: L, keys: LogKeys, dir: &Path, clock: &Clock) -> Result<Self, StartError> {
        let clock = clock.clone();
        let options = Options::new(Box::new(move || clock.seconds()));
        let (log, writer) = Log::start(ledger, keys, dir, options)?;
        let mut heads = log.heads();
        let ear = thread::spawn(move || {
            let mut heard = vec![heads.borrow_and_update().clone()];
            wait(async {
                while heads.changed().await.is_ok() {
                    heard.push(heads.borrow_and_update().clone());
                }
            });
            heard
        });
        Ok(Self { log, writer, ear })
    }

    /// How it ended, and what it said.
    fn stop(self) -> (Result<(), Halt>, Vec<Arc<Head>>) {
        let ended = self.writer.shutdown();
        (ended, self.ear.join().unwrap())
    }
}

/// Says something on the other server, from whatever thread.
struct Other {
    log: Log<SqlLedger>,
    people: Arc<People>,
    next: Arc<AtomicU64>,
    told: Mutex<Vec<(u64, Receipt<Placed>)>>,
}

impl Other {
    /// Until it has a receipt: its connection may have been cut.
    fn say(&self) {
        let number = loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if !People::unsays(number) {
                break number;
            }
        };
        let until = Instant::now() + PATIENCE;
        loop {
            let ticket = self.log.submit(self.people.item(number)).unwrap();
            // The writer's thread that this may be called on has a runtime already.
            match thread::scope(|scope| scope.spawn(|| wait(ticket.receipt())).join().unwrap()) {
                Ok(receipt) => return self.told.lock().unwrap().push((number, receipt)),
                Err(denied) => assert!(Instant::now() < until, "{number}: {denied:?}"),
            }
        }
    }
}

/// A relay with two servers and its clients. The database goes last.
pub(super) struct Relay {
    ours: Option<Server<Failing>>,
    /// What our server has its connections from, and its handlers after it.
    store: Option<Store>,
    pub(super) plan: Plan,
    theirs: Option<Server<SqlLedger>>,
    other: Arc<Other>,
    people: Arc<People>,
    next: Arc<AtomicU64>,
    witness: Witness,
    /// Numbers that were said not to be in the log.
    denied: BTreeSet<u64>,
    clock: Clock,
    origin: Origin,
    /// Keys and marker of our server.
    dir: tempfile::TempDir,
    _their_dir: tempfile::TempDir,
    place: Place,
}

impl Relay {
    /// With everyone registered and both conversations open.
    pub(super) fn new(on: Engine) -> Self {
        let (place, origin, clock) =
            (Place::new(on), Origin::parse("o").unwrap(), Clock::fixed(1_000));
        let (dir, their_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let keys = || LogKeys::open(dir.path(), Some(&origin)).unwrap();
        let (people, next) = (Arc::new(People::new(&origin)), Arc::default());
        let store = Store::open(&place.database).unwrap();
        let ledger = ledger(&store, &origin, &clock);
        let theirs = Server::start(ledger, keys(), their_dir.path(), &clock).unwrap();
        let (log, told) = (theirs.log.clone(), Mutex::default());
        let other =
            Arc::new(Other { log, people: Arc::clone(&people), next: Arc::clone(&next), told });
        let mut relay = Self {
            ours: None,
            store: None,
            plan: Plan::default(),
            theirs: Some(theirs),
            other,
            people,
            next,
            witness: Witness::default(),
            denied: BTreeSet::new(),
            clock,
            origin,
            dir,
            _their_dir: their_dir,
            place,
        };
        relay.settle_everyone();
        relay.start().unwrap();
        relay
    }

    fn settle_everyone(&self) {
        let mut conn = self.place.database.connect().unwrap();
        let challenges = newcomers(&self.origin)
            .map(|(number, device)| (format!("newcomer-{number}"), device))
            .chain(self.people.named());
        conn.transaction(|conn| {
            for (handle, device) in challenges {
                let pending = Pending { nonce: format!("nonce of {handle}"), request: vec![] };
                put_challenge(conn, &device, &pending, 1 << 40, 0)?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
        for who in &self.people.all {
            let ticket = self.other.log.submit(self.people.join(who)).unwrap();
            wait(ticket.receipt()).unwrap();
        }
        let [alice, bob, carol, dave] = &self.people.all;
        for who in [alice, bob] {
            let key = fallback_key(1);
            publish(&mut conn, &who.device, Some(&key), &[], &[], 200).unwrap().unwrap();
        }
        open_conversation(&mut conn, &NATIVE, &alice.account, &bob.account, 0).unwrap();
        open_conversation(&mut conn, &PLAIN, &carol.account, &dave.account, 0).unwrap();
    }

    pub(super) fn conn(&self) -> Conn {
        self.place.database.connect().unwrap()
    }

    fn keys(&self) -> LogKeys {
        LogKeys::open(self.dir.path(), None).unwrap()
    }

    /// Opens a conversation of alice and bob, as a handler of our server does.
    pub(super) fn open_another(&self, conv: ConvId) {
        let [alice, bob, ..] = &self.people.all;
        self.on_writer(|conn| {
            exclusive(conn, None, |c| open_conversation(c, &conv, &alice.account, &bob.account, 0))
                .unwrap();
        });
    }

    /// Uses a writer's connection of our server; on SQLite the one that the log has.
    pub(super) fn on_writer(&self, work: impl FnOnce(&mut Conn)) {
        let writer = self.store.as_ref().expect("a store that is open").writer().unwrap();
        work(&mut writer.lock().unwrap());
    }

    /// Starts our server, a second later, as a process does: with nothing of the last one.
    pub(super) fn start(&mut self) -> Result<(), StartError> {
        self.clock.step(Duration::from_secs(1));
        self.store = None;
        let store = self.store.insert(Store::open(&self.place.database).unwrap());
        let other = Arc::clone(&self.other);
        let failing = Failing {
            inner: ledger(store, &self.origin, &self.clock),
            plan: self.plan.clone(),
            database: self.place.database.clone(),
            meanwhile: Box::new(move || other.say()),
        };
        self.ours = Some(Server::start(failing, self.keys(), self.dir.path(), &self.clock)?);
        Ok(())
    }

    /// Stops our server.
    pub(super) fn stop(&mut self) -> Result<(), Halt> {
        let (ended, heard) = self.ours.take().expect("a server that runs").stop();
        let keys = self.keys();
        heard.iter().for_each(|head| self.witness.hear(head, &keys));
        ended
    }

    pub(super) fn log(&self) -> &Log<Failing> {
        &self.ours.as_ref().expect("a server that runs").log
    }

    /// So many new numbers.
    pub(super) fn numbers(&self, count: u64) -> Range<u64> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        assert!(first + count <= NUMBERS, "newcomers beyond have no challenge");
        first..first + count
    }

    /// Submits, to our server and as many to the other at the same time.
    pub(super) fn submit(&mut self, ours: Range<u64>, theirs: Range<u64>) -> Vec<Outcome> {
        let send = |log: &Log<Failing>, n| log.submit(self.people.item(n)).ok();
        let tickets: Vec<_> = ours.clone().map(|n| send(self.log(), n)).collect();
        let others: Vec<_> =
            theirs.clone().map(|n| self.other.log.submit(self.people.item(n)).ok()).collect();
        let outcomes = self.settle(ours, tickets);
        if self.plan.lock().fallen {
            // The process ends, and with it the transaction that keeps SQLite's file locked.
            self.store = None;
        }
        self.settle(theirs, others);
        outcomes
    }

    /// Submits an item alone and then all others in one batch, each with its fault; what became
    /// of the others.
    pub(super) fn batch(&mut self, numbers: Range<u64>, faults: [Fault; 2]) -> Vec<Outcome> {
        let plan = self.plan.clone();
        let mut held = plan.lock();
        held.commits = faults.into();
        let send = |n| self.log().submit(self.people.item(n)).ok();
        let first = send(numbers.start);
        let until = Instant::now() + PATIENCE;
        while self.log().waiting().0 > 0 {
            assert!(Instant::now() < until, "the writer does not take what waits");
            thread::yield_now();
        }
        let rest = numbers.clone().skip(1).map(send);
        let tickets: Vec<_> = [first].into_iter().chain(rest).collect();
        drop(held);
        self.settle(numbers, tickets).split_off(1)
    }

    fn settle(
        &mut self,
        numbers: Range<u64>,
        tickets: Vec<Option<Ticket<Placed, Refusal>>>,
    ) -> Vec<Outcome> {
        let keys = self.keys();
        let mut outcomes = Vec::new();
        for (number, ticket) in numbers.zip(tickets) {
            let outcome = ticket.map_or(Err(Denied::NotCommitted), |t| wait(t.receipt()));
            match &outcome {
                Ok(receipt) => {
                    assert!(!self.denied.contains(&number) || !receipt.known, "number {number}");
                    self.denied.remove(&number);
                    let said = (number, &self.people.item(number));
                    self.witness.take(said, receipt, &self.people, &keys);
                }
                Err(Denied::Refused(why)) => {
                    assert!(People::unsays(number) && *why == Refusal::NoTarget, "{number}: {why}");
                    self.denied.insert(number);
                }
                Err(Denied::NotCommitted) => drop(self.denied.insert(number)),
                Err(Denied::OutcomeUnknown) => drop(self.denied.remove(&number)),
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Holds the database to everything that was told so far.
    pub(super) fn check(&mut self) -> Content {
        let keys = self.keys();
        for (number, receipt) in std::mem::take(&mut *self.other.told.lock().unwrap()) {
            let said = (number, &self.people.item(number));
            self.witness.take(said, &receipt, &self.people, &keys);
        }
        if let Some(ours) = &self.ours {
            self.witness.hear(&ours.log.head(), &keys);
        }
        let content =
            self.witness.check(&self.people, &self.place.database, &keys, self.dir.path());
        for &number in &self.denied {
            let found = content.place_of(&self.people, &self.people.item(number));
            assert_eq!(found, None, "number {number} was said not to be there");
        }
        content
    }

    /// How many of these the log has.
    pub(super) fn there(&mut self, numbers: Range<u64>) -> usize {
        let content = self.check();
        let has = |n: &u64| content.place_of(&self.people, &self.people.item(*n)).is_some();
        numbers.filter(has).count()
    }

    /// What clients do after all that: everything again, until there is a receipt. Then nothing
    /// may be missing, and nothing may be there twice.
    pub(super) fn survives(mut self) {
        self.plan.clear();
        self.check();
        if self.ours.is_some() {
            self.stop().unwrap();
        }
        self.start().unwrap();
        let before = self.check();
        let last = self.next.load(Ordering::Relaxed);
        let receipts = self.submit(0..last, 0..0);
        for (number, outcome) in (0..last).zip(receipts) {
            let receipt = outcome.unwrap_or_else(|denied| panic!("number {number}: {denied}"));
            let place = before.place_of(&self.people, &self.people.item(number));
            assert_eq!(receipt.known, place.is_some(), "number {number}");
            assert!(place.is_none_or(|place| place == receipt.index), "number {number}");
        }
        assert_eq!(self.check().size, last + self.people.all.len() as u64);
        self.stop().unwrap();
        let (ended, heard) = self.theirs.take().expect("a server that runs").stop();
        ended.unwrap();
        let keys = self.keys();
        heard.iter().for_each(|head| self.witness.hear(head, &keys));
        self.check();
    }
}

fn ledger(store: &Store, origin: &Origin, clock: &Clock) -> SqlLedger {
    SqlLedger::new(store.clone(), origin.clone(), clock.clone(), Box::new(|_| {}))
}

/// Whether all of them were given a place; what takes back something that never came may not.
pub(super) fn placed(outcomes: &[Outcome]) -> bool {
    let refused = |o: &Outcome| matches!(o, Err(Denied::Refused(Refusal::NoTarget)));
    let new = |o: &Outcome| o.as_ref().is_ok_and(|receipt| !receipt.known);
    outcomes.iter().all(|o| new(o) || refused(o)) && outcomes.iter().any(new)
}

/// Whether all of them were denied in this way.
pub(super) fn all_are(outcomes: &[Outcome], denial: Denied<Refusal>) -> bool {
    !outcomes.is_empty() && outcomes.iter().all(|o| o.as_ref().err() == Some(&denial))
}
