//! Logs of more than one range: going on from a state file, upper tiles, being stopped. What is
//! found in a range is tested with the real programs, in `tests/tools.rs`.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ed25519_dalek::SigningKey;
use indicatif::ProgressBar;
use nexo_schema::bytes::to_base64;
use nexo_schema::http::RegisterRequest;
use nexo_schema::ids::{AccountId, ConvId, DeviceId, MsgId, Origin};

use super::range::RANGE;
use super::*;
use crate::auth::proposal::Proposal;
use crate::clock::Clock;
use crate::log::{Log, Options};
use crate::store::whole::tamper;
use crate::store::{
    Item, NewMessage, Pending, SqlLedger, Store, StoreError, open_conversation, put_challenge,
};

const CONV: ConvId = ConvId([7; 32]);
/// Items on their way at once, fewer than may wait.
const WINDOW: u64 = 4000;

/// A data directory with a log of one account that talks to itself.
struct Fixture {
    dir: tempfile::TempDir,
    database: Database,
    device: DeviceId,
    size: u64,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::File(dir.path().join("nexo.db"));
        let origin = Origin::parse("o").unwrap();
        LogKeys::open(dir.path(), Some(&origin)).unwrap();
        let key = SigningKey::from_bytes(&[5; 32]).verifying_key();
        let request = RegisterRequest {
            handle: "alice".into(),
            ed25519_pub: to_base64(key.as_bytes()),
            device_id: Some("tab".into()),
            genesis: None,
            invite: None,
        };
        let proposal = Proposal::read(&origin, &request).unwrap();
        let device = proposal.device.clone();
        let registration = proposal.into_registration(device.clone(), "nonce".into(), false);
        let (account, whose) = (registration.account, device.clone());
        let mut fixture = Self { dir, database, device, size: 0 };
        fixture.run(vec![Item::Register(registration)], move |conn| {
            let pending = Pending { nonce: "nonce".into(), request: vec![] };
            put_challenge(conn, &whose, &pending, 9_999, 0)
        });
        fixture.grow(0, Some(account));
        fixture
    }

    /// Lets the log take these, as a server would, after `before`.
    fn run(
        &mut self,
        items: Vec<Item>,
        before: impl FnOnce(&mut Conn) -> Result<(), StoreError> + Send + 'static,
    ) {
        let store = Store::open(&self.database).unwrap();
        let (keys, dir) = (self.keys(), self.dir.path().to_owned());
        self.size += items.len() as u64;
        let expected = self.size;
        rocket::execute(async move {
            store.write(before).await.unwrap();
            let clock = Clock::fixed(1_000);
            let ledger =
                SqlLedger::new(store, keys.origin().clone(), clock.clone(), Box::new(|_| ()));
            let options = Options::new(Box::new(move || clock.seconds()));
            let (log, writer) = Log::start(ledger, keys, &dir, options).unwrap();
            let mut items = items.into_iter().peekable();
            while items.peek().is_some() {
                let tickets: Vec<_> = items
                    .by_ref()
                    .take(usize::try_from(WINDOW).unwrap())
                    .map(|item| log.submit(item).unwrap())
                    .collect();
                for ticket in tickets {
                    ticket.receipt().await.unwrap();
                }
            }
            assert_eq!(log.head().size, expected);
            writer.shutdown().unwrap();
        });
    }

    /// Adds messages; `owner` opens the conversation.
    fn grow(&mut self, messages: u64, owner: Option<AccountId>) {
        let message = |n: u64| {
            Item::Message(NewMessage {
                conv: CONV,
                msg_id: MsgId::parse(&format!("m{n}")).unwrap(),
                device: self.device.clone(),
                nonce_len: 0,
                cipher: n.to_be_bytes().to_vec(),
                ad: b"{}".to_vec(),
                native: None,
            })
        };
        let items = (self.size..self.size + messages).map(message).collect();
        self.run(items, move |conn| match owner {
            Some(owner) => open_conversation(conn, &CONV, &owner, &owner, 0).map(drop),
            None => Ok(()),
        });
    }

    fn keys(&self) -> LogKeys {
        LogKeys::open(self.dir.path(), None).unwrap()
    }

    fn verify(&self, state: Option<&Path>, stop: bool) -> Report {
        let order = Order {
            database: &self.database,
            keys: &self.keys(),
            data_dir: self.dir.path(),
            jobs: 2,
            state: state.map(Path::to_owned),
        };
        verify(&order, &ProgressBar::hidden(), &AtomicBool::new(stop)).unwrap()
    }

    fn root(&self) -> Option<Hash> {
        announced(self.dir.path()).unwrap().map(|told| told.root)
    }
}

fn places(report: &Report) -> Vec<String> {
    report.findings.iter().map(|f| format!("{} {}", f.kind, f.place)).collect()
}

#[test]
fn a_later_run_goes_on_where_the_last_one_was() {
    let mut log = Fixture::new();
    log.grow(RANGE + 300, None);
    let path = log.dir.path().join("verified.json");
    let state = Some(&*path);

    // Stopped at once, a run leaves a state to go on from.
    let report = log.verify(state, true);
    assert_eq!((report.stopped, report.root, report.count), (true, None, 0));
    let report = log.verify(state, false);
    assert_eq!((report.size, report.from, report.count), (RANGE + 301, 0, 0));
    assert_eq!(report.root, log.root());

    log.grow(10, None);
    let report = log.verify(state, false);
    assert_eq!((report.size, report.from, report.count), (RANGE + 311, RANGE, 0));
    assert_eq!(report.root, log.root());

    // What was verified is not read again, and what is found is found again.
    tamper(&log.database, "UPDATE messages SET ad = cipher WHERE sth_index = 5");
    assert_eq!(places(&log.verify(state, false)), [""; 0]);
    assert_eq!(places(&log.verify(None, false)), ["message messages 5"]);
    let behind = format!("UPDATE messages SET ad = cipher WHERE sth_index = {}", RANGE + 9);
    tamper(&log.database, &behind);
    for _ in 0..2 {
        let report = log.verify(state, false);
        assert_eq!(places(&report), [format!("message messages {}", RANGE + 9)]);
    }
    // The tree that was verified and the entries behind it are still one tree.
    tamper(&log.database, "UPDATE tiles SET hashes = X'00' WHERE level = 2");
    let found = places(&log.verify(state, false));
    assert_eq!(found, ["tile tiles 2 0".to_owned(), format!("message messages {}", RANGE + 9)]);
}
