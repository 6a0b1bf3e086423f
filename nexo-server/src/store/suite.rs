//! The store's test-suite, on real databases: every test runs on both engines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::prelude::*;
use nexo_schema::ids::{AccountId, ConvId, CursorName, DeviceId, Handle, MsgId, Origin};
use nexo_schema::limits::{CLAIMS_PER_HOUR, MAX_CHALLENGES, MAX_CURSORS};
use nexo_schema::sigchain::caps;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::clock::Clock;
use crate::log::{Admission, BundleWrite, CommitError, Ledger as _, Staged, Staging, Step, Stored};

#[path = "../../../tests/harness/postgres.rs"]
#[expect(dead_code, reason = "the black-box tests ask more of it")]
mod postgres;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Sqlite,
    Postgres,
}

/// Every test of the suite, once per engine.
macro_rules! on_both_engines {
    ($($test:ident,)*) => {
        mod on_sqlite {
            $(#[test]
            fn $test() {
                super::$test(super::Engine::Sqlite);
            })*
        }
        mod on_postgres {
            $(#[test]
            fn $test() {
                super::$test(super::Engine::Postgres);
            })*
        }
    };
}

pub(super) use on_both_engines;

on_both_engines! {
    a_registration_uses_its_challenge_and_takes_the_handle,
    an_invite_is_spent_once_and_not_by_a_refused_registration,
    a_retry_finds_its_place_and_other_content_is_a_conflict,
    parallel_sends_in_any_order_raise_nothing,
    who_may_send_where_and_to_whom,
    an_event_follows_the_newest_one_and_has_its_effect_at_once,
    an_event_is_judged_by_the_time_of_its_batch,
    other_servers_hear_whose_devices_changed,
    link_requests_end_by_themselves_and_are_answered_by_one_account,
    cursors_move_forward_and_are_few,
    a_proof_is_used_once_until_it_is_void,
    notes_to_self_go_to_the_own_device,
    a_deletion_clears_what_was_said_and_keeps_what_was_logged,
    positions_and_times_agree_and_time_never_runs_back,
    pages_are_cut_by_rows_and_by_bytes_and_lose_nothing,
    a_batch_on_another_head_writes_nothing,
    a_batch_goes_on_from_where_another_server_left_the_log,
    what_nobody_waits_for_is_not_looked_up,
    a_quota_counts_what_is_stored_and_gives_back_what_is_deleted,
    two_servers_do_not_exceed_a_quota_between_them,
    a_batch_is_told_as_the_database_has_it,
    what_a_failed_batch_read_is_forgotten,
    f3_challenges_are_used_once_expire_and_crowd_out_only_the_oldest,
    refresh_tokens_rotate_and_reuse_ends_the_family,
    prekeys_are_never_reused_and_claimed_once_by_few,
    more_one_time_prekeys_than_are_kept_is_refused,
    the_schema_in_rust_is_the_schema_on_disk,
    a_database_of_a_newer_program_is_refused,
}

/// A database of its own, and what goes when it goes.
pub(super) struct Place {
    pub(super) database: Database,
    _dir: Option<tempfile::TempDir>,
    _postgres: Option<postgres::Database>,
}

impl Place {
    pub(super) fn new(on: Engine) -> Self {
        match on {
            Engine::Sqlite => {
                let dir = tempfile::tempdir().unwrap();
                let database = Database::File(dir.path().join("nexo.db"));
                Self { database, _dir: Some(dir), _postgres: None }
            }
            Engine::Postgres => {
                let server = postgres::database();
                let database = Database::Postgres(server.url());
                Self { database, _dir: None, _postgres: Some(server) }
            }
        }
    }
}

/// A store of its own. The database goes last.
struct Fixture {
    store: Store,
    ledger: SqlLedger,
    clock: Clock,
    size: u64,
    rung: Arc<Mutex<Vec<Fresh>>>,
    place: Place,
}

/// The log's side of a commit, with a tree of zeros.
#[derive(Default)]
struct Zeros {
    size: u64,
    time: u64,
    outcomes: Vec<Outcome>,
    /// Whether a head that another server moved is gone on from.
    follows: bool,
    /// Whether what is staged cannot be written.
    fails: bool,
}

impl Staging<Item, Placed, Refusal> for Zeros {
    fn gather(&mut self, _: &mut Vec<Item>) {}

    fn moved(&mut self, stored: Stored) -> Option<u64> {
        self.size = stored.head?.size;
        self.follows.then_some(self.size)
    }

    fn stage(&mut self, admissions: Vec<Outcome>) -> Option<Arc<Staged>> {
        let placed = admissions.iter().filter(|a| matches!(a, Admission::Placed { .. })).count();
        self.outcomes = admissions;
        self.size += placed as u64;
        (placed > 0).then(|| {
            let bundle = BundleWrite { index: 0, data: vec![] };
            Arc::new(Staged {
                size: self.size,
                root: [0; 32],
                note: b"note".to_vec(),
                time: self.time,
                tiles: vec![],
                bundles: vec![bundle; if self.fails { 2 } else { 0 }],
                tail: None,
            })
        })
    }

    fn done(&mut self, _: Step) {}
}

type Outcome = Admission<Placed, Refusal>;

impl Fixture {
    /// As if the server was started again, with this quota.
    fn quota(&mut self, quota: StorageQuota) {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let origin = Origin::parse("o").unwrap();
        self.ledger = SqlLedger::new(store, origin, clock, Box::new(|_| {})).with_quota(quota);
    }

    fn new(on: Engine) -> Self {
        let place = Place::new(on);
        let store = Store::open(&place.database).unwrap();
        let clock = Clock::fixed(1_000);
        let rung = Arc::new(Mutex::new(Vec::new()));
        let bell = rung.clone();
        let ring = Box::new(move |fresh: Fresh| bell.lock().unwrap().push(fresh));
        let origin = Origin::parse("o").unwrap();
        let ledger = SqlLedger::new(store.clone(), origin, clock.clone(), ring);
        Self { store, ledger, clock, size: 0, rung, place }
    }

    /// Commits items as the log would, with a tree of zeros.
    fn commit(&mut self, mut items: Vec<Item>) -> Vec<Outcome> {
        let mut tree = Zeros { size: self.size, time: self.clock.seconds(), ..Zeros::default() };
        self.ledger.commit(self.size, &mut items, &mut tree).unwrap();
        self.size = tree.size;
        self.ledger.adopted(self.size, items);
        tree.outcomes
    }

    fn one(&mut self, item: Item) -> Outcome {
        self.commit(vec![item]).remove(0)
    }

    fn conn<T>(&self, look: impl FnOnce(&mut Conn) -> T) -> T {
        let writer = self.store.writer().unwrap();
        look(&mut writer.lock().unwrap())
    }

    /// A native account with one device, and a prekey so that it can be reached.
    fn account(&mut self, name: &str, caps: u16) -> DeviceId {
        let device = device(name);
        let challenge = Pending { nonce: format!("nonce of {name}"), request: vec![] };
        self.conn(|c| put_challenge(c, &device, &challenge, 9_999, 0)).unwrap();
        let outcome = self.one(Item::Register(registration(name, caps)));
        assert!(matches!(outcome, Admission::Placed { .. }), "{outcome:?}");
        let key = fallback_key(1);
        self.conn(|c| publish(c, &device, Some(&key), &[], &[], 200)).unwrap().unwrap();
        device
    }

    /// alice and bob, and their conversation.
    fn pair(on: Engine) -> (Self, ConvId) {
        let mut fixture = Self::new(on);
        fixture.account("alice", caps::SEND | caps::RECV);
        fixture.account("bob", caps::SEND | caps::RECV);
        let conv = ConvId([9; 32]);
        fixture
            .conn(|c| open_conversation(c, &conv, &account("alice"), &account("bob"), 0))
            .unwrap();
        (fixture, conv)
    }
}

fn bytes_of(name: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out[..name.len()].copy_from_slice(name.as_bytes());
    out
}

fn device(name: &str) -> DeviceId {
    DeviceId::native(&bytes_of(name))
}

fn account(name: &str) -> AccountId {
    AccountId(bytes_of(name))
}

fn registration(name: &str, caps: u16) -> Registration {
    Registration {
        handle: Handle::parse(name).unwrap(),
        account: account(name),
        device: device(name),
        key: bytes_of(name),
        x25519: [3; 32],
        caps,
        not_after: 0,
        nonce: format!("nonce of {name}"),
        invite: None,
        genesis: Some(EventBytes { event: vec![1], sig: vec![2], accept_sig: vec![3] }),
        entry: vec![1],
    }
}

pub(super) fn fallback_key(id: u32) -> PrekeyRow {
    let mut key = one_time_key(id);
    key.validity = Some((0, 100_000));
    key
}

fn one_time_key(id: u32) -> PrekeyRow {
    PrekeyRow { id, x25519: vec![1; 32], kem: vec![2; 3], validity: None, sig: vec![4] }
}

fn message(conv: ConvId, id: &str, from: &str, to: &[&str], dseq: Option<u64>) -> NewMessage {
    let packet = |name: &&str| Packet { device: device(name), bytes: vec![5], hash: [6; 32] };
    NewMessage {
        conv,
        msg_id: MsgId::parse(id).unwrap(),
        device: device(from),
        nonce_len: 0,
        cipher: b"sealed".to_vec(),
        ad: b"{}".to_vec(),
        native: Some(NativeMessage {
            envelope: bytes_of(id),
            packets: to.iter().map(packet).collect(),
            dseq,
        }),
    }
}

fn index_of(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Admission::Known { index, .. } => Some(*index),
        _ => None,
    }
}

fn refusal(outcome: &Outcome) -> Option<Refusal> {
    match outcome {
        Admission::Refused(refusal) => Some(*refusal),
        _ => None,
    }
}

fn a_registration_uses_its_challenge_and_takes_the_handle(on: Engine) {
    let mut fixture = Fixture::new(on);
    let item = || Item::Register(registration("alice", caps::SEND));
    assert_eq!(refusal(&fixture.one(item())), Some(Refusal::ChallengeGone));
    assert_eq!(fixture.conn(count_accounts).unwrap(), 0, "a refusal writes nothing");
    fixture.account("alice", caps::SEND);
    let again = fixture.one(item());
    assert_eq!(index_of(&again), Some(0), "the same account again is known");
    let mut other = registration("alice", caps::SEND);
    other.account = AccountId([8; 32]);
    assert_eq!(refusal(&fixture.one(Item::Register(other))), Some(Refusal::HandleTaken));
}

fn an_invite_is_spent_once_and_not_by_a_refused_registration(on: Engine) {
    let mut fixture = Fixture::new(on);
    fixture.conn(|c| put_invite(c, &[7; 32], 1, 9_999)).unwrap();
    let invited = |name| {
        let mut new = registration(name, caps::SEND);
        new.invite = Some([7; 32]);
        Item::Register(new)
    };
    assert_eq!(refusal(&fixture.one(invited("alice"))), Some(Refusal::ChallengeGone));
    for name in ["alice", "bob"] {
        let challenge = Pending { nonce: format!("nonce of {name}"), request: vec![] };
        fixture.conn(|c| put_challenge(c, &device(name), &challenge, 9_999, 0)).unwrap();
    }
    let outcomes = fixture.commit(vec![invited("alice"), invited("bob")]);
    assert!(matches!(outcomes[0], Admission::Placed { .. }));
    assert_eq!(refusal(&outcomes[1]), Some(Refusal::InviteSpent));
    assert!(fixture.conn(|c| take_challenge(c, "nonce of bob", 0)).unwrap(), "not used up");
}

fn a_retry_finds_its_place_and_other_content_is_a_conflict(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    let send = |id, dseq| Item::Message(message(conv, id, "alice", &["bob"], Some(dseq)));
    // Twice in one batch, and again later, under a number that is used by now.
    let outcomes = fixture.commit(vec![send("m1", 1), send("m1", 1)]);
    assert!(matches!(outcomes[0], Admission::Placed { .. }));
    assert_eq!(index_of(&outcomes[1]), Some(2));
    assert_eq!(index_of(&fixture.one(send("m1", 1))), Some(2));
    let mut other = message(conv, "m1", "alice", &["bob"], Some(2));
    other.native.as_mut().unwrap().envelope = [1; 32];
    assert_eq!(refusal(&fixture.one(Item::Message(other))), Some(Refusal::Conflict));
    assert_eq!(refusal(&fixture.one(send("m2", 1))), Some(Refusal::CounterUsed));
    assert!(matches!(fixture.one(send("m2", 2)), Admission::Placed { .. }), "2 was not used up");
}

fn parallel_sends_in_any_order_raise_nothing(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    let ids: Vec<String> = (1..=50).map(|n| format!("m{n}")).collect();
    let items: Vec<_> = (1..=50u64)
        .rev()
        .zip(&ids)
        .map(|(dseq, id)| Item::Message(message(conv, id, "alice", &["bob"], Some(dseq))))
        .collect();
    assert!(fixture.commit(items).iter().all(|o| matches!(o, Admission::Placed { .. })));
}

fn who_may_send_where_and_to_whom(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    fixture.account("carol", caps::SEND | caps::RECV);
    fixture.account("dave", caps::RECV);
    fixture.account("ci", caps::SEND | caps::STATELESS);
    let cases = [
        (message(conv, "m", "carol", &["bob"], Some(1)), Refusal::NotParticipant),
        (message(ConvId([1; 32]), "m", "alice", &["bob"], Some(1)), Refusal::NotParticipant),
        (message(conv, "m", "dave", &["bob"], Some(1)), Refusal::DeviceBarred),
        (message(conv, "m", "nobody", &["bob"], Some(1)), Refusal::DeviceBarred),
        (message(conv, "m", "alice", &["carol"], Some(1)), Refusal::DevicesChanged),
        (message(conv, "m", "alice", &[], Some(1)), Refusal::DevicesChanged),
        (message(conv, "m", "alice", &["alice", "bob"], Some(1)), Refusal::DevicesChanged),
        (message(conv, "m", "alice", &["bob"], None), Refusal::CounterForm),
        (message(conv, "m", "alice", &["bob"], Some(0)), Refusal::CounterUsed),
    ];
    for (new, expected) in cases {
        let what = format!("{new:?}");
        assert_eq!(refusal(&fixture.one(Item::Message(new))), Some(expected), "{what}");
    }
    let with_ci = ConvId([2; 32]);
    fixture.conn(|c| open_conversation(c, &with_ci, &account("ci"), &account("bob"), 0)).unwrap();
    let numbered = message(with_ci, "m", "ci", &["bob"], Some(1));
    assert_eq!(refusal(&fixture.one(Item::Message(numbered))), Some(Refusal::CounterForm));
    let bare = message(with_ci, "m", "ci", &["bob"], None);
    assert!(matches!(fixture.one(Item::Message(bare)), Admission::Placed { .. }));
}

/// The event behind `before` in the chain of `name`, signed by its first device.
fn event(name: &str, seq: u64, before: &[u8], effect: Effect) -> NewEvent {
    NewEvent {
        account: account(name),
        seq,
        prev: Sha256::digest(before).into(),
        signer: Some(device(name)),
        signed: EventBytes {
            event: format!("{name} {seq} {effect:?}").into_bytes(),
            sig: vec![],
            accept_sig: vec![],
        },
        effect,
        entry: vec![1],
    }
}

fn new_device(name: &str) -> NewDevice {
    NewDevice {
        id: device(name),
        key: bytes_of(name),
        x25519: [3; 32],
        caps: caps::SEND | caps::RECV,
        not_after: 0,
        conversations: vec![],
    }
}

/// What a genesis of the suite is.
const GENESIS: &[u8] = &[1];

fn an_event_follows_the_newest_one_and_has_its_effect_at_once(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    let login = Login { device: device("tab"), jkt: None, family: [7; 16] };
    let add = || event("alice", 1, GENESIS, Effect::Add(new_device("tab")));
    let other = event("alice", 1, GENESIS, Effect::Add(new_device("pad")));
    let outcomes = fixture.commit(vec![Item::Event(add()), Item::Event(other), Item::Event(add())]);
    assert!(matches!(outcomes[0], Admission::Placed { .. }), "{outcomes:?}");
    assert_eq!(refusal(&outcomes[1]), Some(Refusal::ChainMoved));
    assert_eq!(index_of(&outcomes[2]), Some(2), "the same again");
    let added = add().signed.event;
    let taken = event("alice", 2, &added, Effect::Add(new_device("bob")));
    assert_eq!(refusal(&fixture.one(Item::Event(taken))), Some(Refusal::DeviceTaken));
    fixture.conn(|c| put_login(c, &login, &[8; 32], 9_999, 0)).unwrap();
    let key = fallback_key(1);
    let keys = [one_time_key(1)];
    fixture.conn(|c| publish(c, &device("tab"), Some(&key), &keys, &[], 9)).unwrap().unwrap();
    // In one batch: it sends, it ends, it would send again.
    let said = |id, dseq| {
        let sent = message(conv, id, "tab", &["alice", "bob"], Some(dseq));
        Item::Message(sent)
    };
    let end = event("alice", 2, &added, Effect::Revoke(device("tab")));
    let ended = end.signed.event.clone();
    let outcomes = fixture.commit(vec![said("m1", 1), Item::Event(end), said("m2", 2)]);
    assert!(matches!(outcomes[0], Admission::Placed { .. }), "{outcomes:?}");
    assert!(matches!(outcomes[1], Admission::Placed { .. }), "{outcomes:?}");
    assert_eq!(refusal(&outcomes[2]), Some(Refusal::DeviceBarred));
    assert!(fixture.conn(|c| login_of(c, &[8; 32], 0)).unwrap().is_none());
    let (fallback, one_time) = fixture.conn(|c| stock(c, &device("tab"))).unwrap();
    assert!(fallback.is_none() && one_time.is_empty());
    assert_eq!(fixture.conn(|c| one_time_left(c, &device("tab"))).unwrap(), None);
    // What was sent to nobody's device any more is refused, and to the others it goes.
    let late = message(conv, "m3", "bob", &["alice", "tab"], Some(1));
    assert_eq!(refusal(&fixture.one(Item::Message(late))), Some(Refusal::DevicesChanged));
    let late = message(conv, "m3", "bob", &["alice"], Some(1));
    assert!(matches!(fixture.one(Item::Message(late)), Admission::Placed { .. }));
    let close = event("alice", 3, &ended, Effect::Close);
    assert!(matches!(fixture.one(Item::Event(close)), Admission::Placed { .. }));
    assert!(fixture.conn(|c| active_devices(c, &account("alice"), 0)).unwrap().is_empty());
    let told = fixture.rung.lock().unwrap();
    assert!(told.iter().rev().take(2).any(|fresh| fresh.keys_changed == [account("alice")]));
}

fn an_event_is_judged_by_the_time_of_its_batch(on: Engine) {
    let (mut fixture, _) = Fixture::pair(on);
    let brief = Effect::Update { device: device("alice"), caps: 7, not_after: 1_500 };
    let first = event("alice", 1, GENESIS, brief);
    let before = first.signed.event.clone();
    assert!(matches!(fixture.one(Item::Event(first)), Admission::Placed { .. }));
    let close = || Item::Event(event("alice", 2, &before, Effect::Close));
    fixture.clock.step(Duration::from_secs(500));
    assert_eq!(refusal(&fixture.one(close())), Some(Refusal::DeviceBarred));
    // A recovery is in nobody's name.
    let recover = Effect::Recover(new_device("fresh"));
    let recover = NewEvent { signer: None, ..event("alice", 2, &before, recover) };
    assert!(matches!(fixture.one(Item::Event(recover)), Admission::Placed { .. }));
    let active = fixture.conn(|c| active_devices(c, &account("alice"), 1_500)).unwrap();
    assert_eq!(active.iter().map(|d| d.id.clone()).collect::<Vec<_>>(), [device("fresh")]);
    let ended = fixture.conn(|c| device_by_id(c, &device("alice"))).unwrap().unwrap();
    assert!(ended.revoked);
}

fn other_servers_hear_whose_devices_changed(on: Engine) {
    let (mut fixture, _) = Fixture::pair(on);
    let rung = Arc::new(Mutex::new(Vec::new()));
    let bell = rung.clone();
    let ring = Box::new(move |fresh: Fresh| bell.lock().unwrap().push(fresh));
    let origin = Origin::parse("o").unwrap();
    let mut other = SqlLedger::new(fixture.store.clone(), origin, fixture.clock.clone(), ring);
    other.load().unwrap();
    other.adopted(fixture.size, vec![]);
    // It changes no row's place, and is heard all the same.
    let update = Effect::Update { device: device("alice"), caps: 2, not_after: 0 };
    fixture.one(Item::Event(event("alice", 1, GENESIS, update)));
    other.load().unwrap();
    other.adopted(fixture.size, vec![]);
    let told = rung.lock().unwrap();
    assert_eq!(told.last().unwrap().keys_changed, [account("alice")]);
}

fn link_requests_end_by_themselves_and_are_answered_by_one_account(on: Engine) {
    let (fixture, _) = Fixture::pair(on);
    let link = Link {
        key: [1; 32],
        name: [2; 32],
        opening: vec![3],
        sig: vec![4; 64],
        exp: 1_600,
        offer: None,
    };
    let offer_of = |name, event: &[u8]| Offer {
        account: account(name),
        event: event.to_vec(),
        sig: vec![5; 64],
    };
    fixture.conn(|c| {
        assert_eq!(put_link(c, &[9; 16], &link, 1_000).unwrap(), PutLink::Kept);
        assert!(live_link(c, &[8; 16], 1_000).unwrap().is_none());
        assert!(offer(c, &[9; 16], &offer_of("alice", b"one"), 1_000).unwrap());
        assert!(!offer(c, &[9; 16], &offer_of("bob", b"two"), 1_000).unwrap());
        assert!(offer(c, &[9; 16], &offer_of("alice", b"three"), 1_600).unwrap());
        let found = live_link(c, &[9; 16], 1_600).unwrap().unwrap();
        let event = found.offer.map(|offer| (offer.account, offer.event));
        assert_eq!(event, Some((account("alice"), b"three".to_vec())));
        assert_eq!((found.key, found.name, found.opening), (link.key, link.name, vec![3]));
        assert!(live_link(c, &[9; 16], 1_601).unwrap().is_none());
        assert!(!offer(c, &[9; 16], &offer_of("alice", b"four"), 1_601).unwrap());
        // Asked again: a new request, which nobody has answered.
        let again = Link { exp: 2_200, ..link.clone() };
        assert_eq!(put_link(c, &[9; 16], &again, 1_601).unwrap(), PutLink::Kept);
        let found = live_link(c, &[9; 16], 1_601).unwrap().unwrap();
        assert!(found.offer.is_none());
        assert!(offer(c, &[9; 16], &offer_of("bob", b"two"), 1_601).unwrap());
    });
}

fn a_proof_is_used_once_until_it_is_void(on: Engine) {
    let (fixture, _) = Fixture::pair(on);
    fixture.conn(|c| {
        assert!(use_proof(c, &[1; 16], 100).unwrap());
        assert!(use_proof(c, &[2; 16], 101).unwrap());
        assert!(!use_proof(c, &[1; 16], 200).unwrap());
        forget_proofs(c, 100).unwrap();
        assert!(!use_proof(c, &[1; 16], 200).unwrap(), "it is valid in its last second");
        forget_proofs(c, 101).unwrap();
        assert!(use_proof(c, &[1; 16], 200).unwrap());
        assert!(!use_proof(c, &[2; 16], 200).unwrap());
    });
}

fn cursors_move_forward_and_are_few(on: Engine) {
    let (fixture, _) = Fixture::pair(on);
    let [one, two] = ["one", "two"].map(|id| DeviceId::parse(id).unwrap());
    let name = |n: usize| CursorName::parse(&format!("c{n}")).unwrap();
    fixture.conn(|c| {
        assert_eq!(cursor_of(c, &one, &name(0)).unwrap(), None);
        for n in 0..MAX_CURSORS {
            assert_eq!(open_cursor(c, &one, &name(n), 5).unwrap(), Some(5));
        }
        assert_eq!(open_cursor(c, &one, &name(0), 9).unwrap(), Some(5), "it is there");
        assert_eq!(open_cursor(c, &one, &name(MAX_CURSORS), 5).unwrap(), None);
        assert_eq!(open_cursor(c, &two, &name(0), 1).unwrap(), Some(1), "another's");
        let to = |device: &DeviceId, n, place| {
            let device = device.clone();
            CursorMove { device, name: name(n), place }
        };
        move_cursors(c, &[to(&one, 0, 7), to(&one, 1, 4), to(&two, 3, 8)]).unwrap();
        let mut at = |device: &DeviceId, n| cursor_of(c, device, &name(n)).unwrap();
        assert_eq!((at(&one, 0), at(&one, 1)), (Some(7), Some(5)), "never back");
        assert_eq!((at(&two, 0), at(&two, 3)), (Some(1), None), "none is made");
        move_cursors(c, &[]).unwrap();
    });
}

fn notes_to_self_go_to_the_own_device(on: Engine) {
    let mut fixture = Fixture::new(on);
    fixture.account("alice", caps::SEND | caps::RECV);
    let conv = ConvId([4; 32]);
    let me = account("alice");
    fixture.conn(|c| open_conversation(c, &conv, &me, &me, 0)).unwrap();
    let note = message(conv, "m", "alice", &["alice"], Some(1));
    assert!(matches!(fixture.one(Item::Message(note)), Admission::Placed { .. }));
}

fn a_deletion_clears_what_was_said_and_keeps_what_was_logged(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    fixture.one(Item::Message(message(conv, "m1", "alice", &["bob"], Some(1))));
    let delete = |from: &str, target: &str, envelope| {
        let native = NativeDeletion { statement: vec![1], sig: vec![2], target_envelope: envelope };
        Item::Deletion(NewDeletion {
            conv,
            target: MsgId::parse(target).unwrap(),
            device: device(from),
            native: Some(native),
        })
    };
    let right = bytes_of("m1");
    assert_eq!(refusal(&fixture.one(delete("bob", "m1", right))), Some(Refusal::NoTarget));
    assert_eq!(refusal(&fixture.one(delete("alice", "m2", right))), Some(Refusal::NoTarget));
    assert_eq!(refusal(&fixture.one(delete("alice", "m1", [0; 32]))), Some(Refusal::WrongTarget));
    assert!(matches!(fixture.one(delete("alice", "m1", right)), Admission::Placed { .. }));
    assert_eq!(index_of(&fixture.one(delete("alice", "m1", right))), Some(3), "deleted once");
    let rows = fixture
        .conn(|c| feed(c, &Feed::Account(account("bob")), &device("bob"), 0, 10))
        .unwrap()
        .items;
    assert_eq!(rows.len(), 2);
    assert!(rows[0].deleted && rows[0].cipher.is_empty() && rows[0].ad.is_empty());
    let packets = rows[0].packets.as_ref().unwrap();
    assert!(packets.own.is_none() && packets.hashes.len() == 1, "hashes outlive packets");
    assert_eq!(rows[1].deletion.as_ref().unwrap().target_index, rows[0].index);
    let retry = Item::Message(message(conv, "m1", "alice", &["bob"], Some(1)));
    assert_eq!(index_of(&fixture.one(retry)), Some(2), "a retry after deletion is known");
}

fn positions_and_times_agree_and_time_never_runs_back(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    let send = |id: &str, dseq| Item::Message(message(conv, id, "alice", &["bob"], Some(dseq)));
    fixture.commit(vec![send("m1", 1), send("m2", 2)]);
    fixture.clock.step(Duration::from_secs(5));
    fixture.commit(vec![send("m3", 3)]);
    let late = Clock::fixed(10);
    fixture.ledger =
        SqlLedger::new(fixture.store.clone(), Origin::parse("o").unwrap(), late, Box::new(|_| {}));
    fixture.commit(vec![send("m4", 4)]);
    let after = |since| fixture.conn(|c| page_since(c, since)).unwrap();
    assert_eq!((after(0), after(999)), (0, 0));
    assert_eq!((after(1_000), after(1_004)), (4, 4), "m1 and m2 are not after second 1000");
    assert_eq!(after(1_005), 6, "the clock went back, the log's time did not");
    let rows = fixture.conn(|c| page_after(c, &conv, &device("bob"), 4, 10)).unwrap().items;
    assert_eq!(rows.iter().map(|r| r.ts).collect::<Vec<_>>(), [1_005, 1_005]);
}

fn pages_are_cut_by_rows_and_by_bytes_and_lose_nothing(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    for n in 1..=60u64 {
        let mut large = message(conv, &format!("m{n}"), "alice", &["bob"], Some(n));
        large.cipher = vec![7; 80 * 1024];
        fixture.one(Item::Message(large));
        if n % 7 == 0 {
            let target_envelope = bytes_of(&format!("m{n}"));
            let native = NativeDeletion { statement: vec![1], sig: vec![2], target_envelope };
            let target = MsgId::parse(&format!("m{n}")).unwrap();
            let gone = NewDeletion { conv, target, device: device("alice"), native: Some(native) };
            fixture.one(Item::Deletion(gone));
        }
    }
    for limit in [1, 5, 200] {
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let of = Feed::Account(account("bob"));
            let rows = fixture.conn(|c| feed(c, &of, &device("bob"), after, limit)).unwrap();
            let bytes: usize = rows.items.iter().map(|row| row.cipher.len()).sum();
            assert!(bytes <= 2 * 1024 * 1024 && rows.items.len() <= limit as usize);
            seen.extend(rows.items.iter().map(|row| row.index));
            after = *seen.last().unwrap();
            if !rows.more {
                break;
            }
        }
        assert_eq!(seen, (3..=70).collect::<Vec<u64>>(), "pages of {limit}");
    }
}

fn a_batch_on_another_head_writes_nothing(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    let mut items = vec![Item::Message(message(conv, "m1", "alice", &["bob"], Some(1)))];
    let mut tree = Zeros::default();
    let moved = fixture.ledger.commit(7, &mut items, &mut tree);
    assert!(matches!(moved, Err(CommitError::HeadMoved)), "{moved:?}");
    assert_eq!((tree.size, tree.outcomes), (2, vec![]));
    // An answer of nothing to write: the test's log gives none for refused items alone.
    let mut barred = vec![Item::Message(message(conv, "m1", "nobody", &["bob"], Some(1)))];
    let mut tree = Zeros { size: 2, ..Zeros::default() };
    assert!(fixture.ledger.commit(2, &mut barred, &mut tree).is_ok());
    assert_eq!(tree.outcomes, [Admission::Refused(Refusal::DeviceBarred)]);
    let rows = fixture.conn(|c| page_after(c, &conv, &device("bob"), 0, 10)).unwrap().items;
    assert!(rows.is_empty());
}

/// Two servers on one database; SQLite has them too, if someone starts a second by mistake.
fn a_batch_goes_on_from_where_another_server_left_the_log(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    let rung = Arc::new(Mutex::new(Vec::new()));
    let bell = rung.clone();
    let ring = Box::new(move |fresh: Fresh| bell.lock().unwrap().push(fresh));
    let (origin, clock) = (Origin::parse("o").unwrap(), fixture.clock.clone());
    let mut other = SqlLedger::new(fixture.store.clone(), origin, clock, ring);
    assert_eq!(other.load().unwrap().head.unwrap().size, 2);
    other.adopted(2, vec![]);
    let send = |id: &str, dseq| Item::Message(message(conv, id, "alice", &["bob"], Some(dseq)));
    fixture.commit(vec![send("m1", 1), send("m2", 2)]);

    let mut tree = Zeros { follows: true, ..Zeros::default() };
    let mut items = vec![send("m2", 2), send("m3", 2), send("m4", 3)];
    other.commit(2, &mut items, &mut tree).unwrap();
    assert_eq!(index_of(&tree.outcomes[0]), Some(3), "a retry at the other server is known");
    assert_eq!(tree.outcomes[1], Admission::Refused(Refusal::CounterUsed), "used at the other");
    assert!(matches!(tree.outcomes[2], Admission::Placed { .. }));
    other.adopted(tree.size, items);
    let told = std::mem::take(&mut *rung.lock().unwrap());
    let [theirs, ours] = &told[..] else { panic!("{told:?}") };
    assert_eq!((theirs.before, theirs.size, theirs.items.is_none()), (2, 4, true));
    assert_eq!((ours.before, ours.size), (4, 5));
    for fresh in [theirs, ours] {
        assert_eq!(fresh.conversations, [conv]);
        assert_eq!(fresh.accounts, [account("alice"), account("bob")]);
    }

    // And back: the first server hears of it by looking.
    assert_eq!(fixture.ledger.load().unwrap().head.unwrap().size, 5);
    fixture.rung.lock().unwrap().clear();
    fixture.ledger.adopted(5, vec![]);
    let told = fixture.rung.lock().unwrap();
    assert_eq!((told[0].before, told[0].size, told[0].items.is_none()), (4, 5, true));
}

/// One that listens in a part of the house only.
struct Few(Present, Arc<Mutex<Vec<Fresh>>>);

impl Audience for Few {
    fn tell(&self, fresh: Fresh) {
        self.1.lock().unwrap().push(fresh);
    }

    fn present(&self) -> Present {
        self.0
    }
}

fn what_nobody_waits_for_is_not_looked_up(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    let origin = Origin::parse("o").unwrap();
    for (conversations, accounts) in [(false, false), (true, false), (false, true)] {
        let rung = Arc::new(Mutex::new(Vec::new()));
        let few = Box::new(Few(Present { conversations, accounts }, rung.clone()));
        let mut other =
            SqlLedger::new(fixture.store.clone(), origin.clone(), fixture.clock.clone(), few);
        let before = fixture.size;
        other.load().unwrap();
        other.adopted(before, vec![]);
        let id = format!("m{before}");
        let new = message(conv, &id, "alice", &["bob"], Some(before));
        fixture.commit(vec![Item::Message(new)]);
        other.load().unwrap();
        other.adopted(before + 1, vec![]);
        let told = rung.lock().unwrap();
        let [fresh] = &told[..] else { panic!("{told:?}") };
        assert_eq!((fresh.before, fresh.size), (before, before + 1), "nothing is left out");
        assert_eq!(fresh.conversations.is_empty(), !(conversations || accounts));
        assert_eq!(fresh.accounts.is_empty(), !accounts);
    }
}

/// A message of alice's with 100 bytes of ciphertext; `ad` and packet come on top.
fn sized(conv: ConvId, id: &str, dseq: u64) -> NewMessage {
    NewMessage { cipher: vec![b'x'; 100], ..message(conv, id, "alice", &["bob"], Some(dseq)) }
}

/// Bytes of one such message, as they are counted.
fn weight(conv: ConvId) -> u64 {
    let new = sized(conv, "m", 1);
    let packets = new.native.iter().flat_map(|native| &native.packets);
    (new.cipher.len() + new.ad.len() + packets.map(|p| p.bytes.len()).sum::<usize>()) as u64
}

fn a_quota_counts_what_is_stored_and_gives_back_what_is_deleted(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    let send = |id: &str, dseq| Item::Message(sized(conv, id, dseq));
    let delete = |id: &str| {
        Item::Deletion(NewDeletion {
            conv,
            target: MsgId::parse(id).unwrap(),
            device: device("alice"),
            native: Some(NativeDeletion {
                statement: vec![1],
                sig: vec![2],
                target_envelope: bytes_of(id),
            }),
        })
    };
    // Stored, and one of them deleted, before there was a quota.
    fixture.commit(vec![send("m1", 1), send("m2", 2)]);
    fixture.one(delete("m1"));
    let bytes = weight(conv) * 2;
    fixture.quota(StorageQuota { messages: 4, bytes });
    assert!(
        matches!(fixture.one(send("m3", 3)), Admission::Placed { .. }),
        "two of four, in bytes"
    );
    assert_eq!(refusal(&fixture.one(send("m4", 4))), Some(Refusal::BytesUsedUp));
    assert!(matches!(fixture.one(send("m3", 3)), Admission::Known { .. }), "a retry is known");
    let bob = Item::Message(message(conv, "m4", "bob", &["alice"], Some(1)));
    assert!(matches!(fixture.one(bob), Admission::Placed { .. }), "bob has a quota of his own");
    // In one batch: what is deleted makes room at once, and only so much.
    let batch = vec![delete("m2"), send("m4", 4), send("m5", 5)];
    let outcomes = fixture.commit(batch);
    assert!(matches!(outcomes[1], Admission::Placed { .. }), "{outcomes:?}");
    assert_eq!(refusal(&outcomes[2]), Some(Refusal::MessagesUsedUp), "four, deleted or not");
    fixture.one(delete("m3"));
    assert_eq!(refusal(&fixture.one(send("m5", 5))), Some(Refusal::MessagesUsedUp));
    // A server without a quota counts as well, once there was one with.
    fixture.quota(StorageQuota::default());
    assert!(matches!(fixture.one(send("m5", 5)), Admission::Placed { .. }));
    fixture.quota(StorageQuota { messages: 5, bytes: 0 });
    assert_eq!(refusal(&fixture.one(send("m6", 6))), Some(Refusal::MessagesUsedUp));
    fixture.quota(StorageQuota { messages: 6, bytes: 0 });
    assert!(matches!(fixture.one(send("m6", 6)), Admission::Placed { .. }));
}

fn two_servers_do_not_exceed_a_quota_between_them(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    let quota = StorageQuota { messages: 3, bytes: 0 };
    fixture.quota(quota);
    let origin = Origin::parse("o").unwrap();
    let (store, clock) = (fixture.store.clone(), fixture.clock.clone());
    let mut other = SqlLedger::new(store, origin, clock, Box::new(|_| {})).with_quota(quota);
    let send = |dseq: u64| Item::Message(sized(conv, &format!("m{dseq}"), dseq));
    assert!(matches!(fixture.one(send(1)), Admission::Placed { .. }));
    // The other has counted one; meanwhile two more are placed here.
    let mut batch = vec![send(2)];
    let mut tree = Zeros { size: fixture.size, follows: true, ..Zeros::default() };
    other.commit(fixture.size, &mut batch, &mut tree).unwrap();
    assert!(matches!(tree.outcomes[0], Admission::Placed { .. }));
    let mut tree = Zeros { size: fixture.size, follows: true, ..Zeros::default() };
    fixture.ledger.commit(fixture.size, &mut vec![send(3), send(4)], &mut tree).unwrap();
    assert!(matches!(tree.outcomes[0], Admission::Placed { .. }));
    assert_eq!(refusal(&tree.outcomes[1]), Some(Refusal::MessagesUsedUp));
    let mut tree = Zeros { size: tree.size, follows: true, ..Zeros::default() };
    other.commit(fixture.size + 1, &mut vec![send(5)], &mut tree).unwrap();
    assert_eq!(refusal(&tree.outcomes[0]), Some(Refusal::MessagesUsedUp));
}

fn a_batch_is_told_as_the_database_has_it(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    assert_eq!(fixture.rung.lock().unwrap()[0].keys_changed, [account("alice")]);
    assert!(fixture.rung.lock().unwrap().iter().all(|fresh| fresh.conversations.is_empty()));
    fixture.rung.lock().unwrap().clear();
    let send = |id: &str, dseq| Item::Message(message(conv, id, "alice", &["bob"], Some(dseq)));
    let gone = NewDeletion {
        conv,
        target: MsgId::parse("m1").unwrap(),
        device: device("alice"),
        native: Some(NativeDeletion {
            statement: vec![1],
            sig: vec![2],
            target_envelope: bytes_of("m1"),
        }),
    };
    let batch =
        vec![send("m1", 1), send("m1", 1), send("m2", 1), Item::Deletion(gone), send("m3", 2)];
    let outcomes = fixture.commit(batch);
    assert!(matches!(outcomes[1], Admission::Known { index: 2, .. }), "{outcomes:?}");
    assert_eq!(outcomes[2], Admission::Refused(Refusal::CounterUsed));
    let rows =
        fixture.conn(|c| feed(c, &Feed::Conversation(conv), &device("bob"), 0, 10)).unwrap().items;
    let told = fixture.rung.lock().unwrap();
    let [fresh] = &told[..] else { panic!("{told:?}") };
    assert_eq!((fresh.before, fresh.size), (2, 5));
    assert_eq!(fresh.accounts, [account("alice"), account("bob")]);
    assert_eq!(fresh.members[&conv], [account("alice"), account("bob")]);
    let shown = |fresh: &FreshItem| {
        let packets = fresh.packets_of(&device("bob"));
        format!("{:?}", StoredItem { packets, ..fresh.item.clone() })
    };
    let shown: Vec<String> = fresh.items.iter().flatten().map(shown).collect();
    let stored: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
    assert_eq!(shown, stored);
    let own = |row: &StoredItem| row.packets.as_ref().map(|packets| packets.own.is_some());
    let (gone, said) = (Some(false), Some(true));
    assert_eq!(rows.iter().map(own).collect::<Vec<_>>(), [gone, None, said], "m1, its end, m3");
}

fn what_a_failed_batch_read_is_forgotten(on: Engine) {
    let (mut fixture, conv) = Fixture::pair(on);
    // carol's registration is rolled back with the batch in which her device was looked up.
    let challenge = Pending { nonce: "nonce of carol".into(), request: vec![] };
    fixture.conn(|c| put_challenge(c, &device("carol"), &challenge, 9_999, 0)).unwrap();
    let mut batch = vec![
        Item::Register(registration("carol", caps::SEND)),
        Item::Message(message(conv, "m1", "carol", &["bob"], Some(1))),
    ];
    let mut tree = Zeros { size: 2, fails: true, ..Zeros::default() };
    let full = fixture.ledger.commit(2, &mut batch, &mut tree);
    assert!(matches!(full, Err(CommitError::RolledBack(_))), "{full:?}");
    assert_eq!(tree.outcomes[1], Admission::Refused(Refusal::NotParticipant), "she was there");
    let after = fixture.one(Item::Message(message(conv, "m1", "carol", &["bob"], Some(1))));
    assert_eq!(after, Admission::Refused(Refusal::DeviceBarred));
}

fn f3_challenges_are_used_once_expire_and_crowd_out_only_the_oldest(on: Engine) {
    let fixture = Fixture::new(on);
    let (me, other) = (device("alice"), device("bob"));
    let put = |who: &DeviceId, n: u64, exp| {
        let pending = Pending { nonce: format!("{who}-{n}"), request: vec![] };
        fixture.conn(|c| put_challenge(c, who, &pending, exp, 0)).unwrap();
    };
    put(&other, 0, 50);
    for n in 0..=MAX_CHALLENGES as u64 {
        put(&me, n, 100 + n);
    }
    let live = |who: &DeviceId, now| fixture.conn(|c| live_challenges(c, who, now)).unwrap();
    assert_eq!(live(&me, 0).len(), MAX_CHALLENGES);
    assert!(!live(&me, 0).iter().any(|p| p.nonce.ends_with("-0")), "the oldest went");
    assert_eq!(live(&other, 0).len(), 1, "another device's stay");
    assert_eq!(live(&other, 51).len(), 0, "expired");
    let take = |n: &str, now| fixture.conn(|c| take_challenge(c, n, now)).unwrap();
    let nonce = format!("{me}-3");
    assert!(!take(&nonce, 104), "too late");
    assert!(take(&nonce, 103) && !take(&nonce, 103), "once");
}

fn refresh_tokens_rotate_and_reuse_ends_the_family(on: Engine) {
    let mut fixture = Fixture::new(on);
    let device = fixture.account("alice", caps::SEND);
    let login = Login { device, jkt: Some("jkt".into()), family: [1; 16] };
    let token = |n: u8| [n; 32];
    fixture.conn(|c| put_login(c, &login, &token(1), 500, 0)).unwrap();
    let turn = |old: u8, new: u8, now| {
        fixture.conn(|c| rotate(c, &token(old), &token(new), 500, now)).map(|l| l.jkt)
    };
    assert!(matches!(turn(9, 2, 0), Err(RotateError::Unknown)));
    assert_eq!(turn(1, 2, 10).unwrap(), Some("jkt".into()));
    assert!(turn(1, 2, 40).is_ok(), "the answer was lost: the same successor");
    assert!(turn(2, 3, 41).is_ok());
    assert!(matches!(turn(1, 2, 42), Err(RotateError::Reused)), "its successor was used");
    assert!(matches!(turn(3, 4, 43), Err(RotateError::Unknown)), "the family is gone");
    fixture.conn(|c| put_login(c, &login, &token(5), 500, 0)).unwrap();
    assert!(turn(5, 6, 100).is_ok());
    assert!(matches!(turn(5, 6, 131), Err(RotateError::Reused)), "after thirty seconds");
    fixture.conn(|c| put_login(c, &login, &token(7), 500, 0)).unwrap();
    assert!(matches!(turn(7, 8, 501), Err(RotateError::Unknown)), "expired");
}

fn prekeys_are_never_reused_and_claimed_once_by_few(on: Engine) {
    let mut fixture = Fixture::new(on);
    let target = fixture.account("bob", caps::RECV);
    let keys: Vec<_> = (1..=8).map(one_time_key).collect();
    let put = |fallback: Option<&PrekeyRow>, keys: &[PrekeyRow]| {
        fixture.conn(|c| publish(c, &target, fallback, keys, &[], 8)).unwrap()
    };
    assert_eq!(put(None, &keys), Ok(()));
    assert_eq!(put(None, &keys), Ok(()), "the same again");
    let other = PrekeyRow { kem: vec![9; 3], ..one_time_key(8) };
    assert_eq!(put(None, &[other]), Err(PublishRefusal::Reused(8)));
    assert_eq!(put(Some(&fallback_key(1)), &[]), Ok(()), "the same again");
    let changed = PrekeyRow { sig: vec![0], ..fallback_key(1) };
    assert_eq!(put(Some(&changed), &[]), Err(PublishRefusal::Reused(1)));
    let claim =
        |who: &str, now| fixture.conn(|c| claim_one_time(c, &account(who), &target, now)).unwrap();
    for n in 1..=u32::try_from(CLAIMS_PER_HOUR).unwrap() {
        assert_eq!(claim("alice", 10), Claim::Key(one_time_key(n)));
    }
    assert_eq!(claim("alice", 10), Claim::Throttled);
    assert_eq!(claim("carol", 10), Claim::Key(one_time_key(6)), "others go on");
    assert_eq!(claim("alice", 3_700), Claim::Key(one_time_key(7)), "an hour later");
    assert_eq!(put(None, &[one_time_key(7)]), Err(PublishRefusal::Reused(7)), "claimed is used");
    assert_eq!(claim("carol", 11), Claim::Key(one_time_key(8)));
    assert_eq!(claim("carol", 11), Claim::Exhausted);
    assert!(fixture.conn(|c| fallback(c, &target, 100_000)).unwrap().is_none(), "not in force");
}

fn more_one_time_prekeys_than_are_kept_is_refused(on: Engine) {
    let mut fixture = Fixture::new(on);
    let target = fixture.account("bob", caps::RECV);
    let keys: Vec<_> = (1..=9).map(one_time_key).collect();
    let refused = fixture.conn(|c| publish(c, &target, None, &keys, &[], 8)).unwrap();
    assert_eq!(refused, Err(PublishRefusal::TooMany));
}

/// The tables as Diesel sees them are the tables as migrated: a select of every column works.
fn the_schema_in_rust_is_the_schema_on_disk(on: Engine) {
    #[derive(QueryableByName)]
    struct Column {
        #[diesel(sql_type = diesel::sql_types::Text)]
        tbl: String,
        #[diesel(sql_type = diesel::sql_types::Text)]
        col: String,
    }
    let fixture = Fixture::new(on);
    let columns: Vec<Column> = fixture.conn(|conn| {
        diesel::sql_query(match on {
            Engine::Sqlite => {
                "SELECT m.name AS tbl, p.name AS col \
                 FROM sqlite_master m, pragma_table_info(m.name) p \
                 WHERE m.type = 'table' AND m.name NOT LIKE '\\_\\_%' ESCAPE '\\' \
                 AND m.name NOT LIKE 'sqlite%' ORDER BY m.name, p.cid"
            }
            Engine::Postgres => {
                "SELECT table_name::text AS tbl, column_name::text AS col \
                 FROM information_schema.columns WHERE table_schema = 'public' \
                 AND table_name NOT LIKE '\\_\\_%' ORDER BY table_name, ordinal_position"
            }
        })
        .load(conn)
        .unwrap()
    });
    let mut on_disk: HashMap<String, Vec<String>> = HashMap::new();
    for Column { tbl, col } in columns {
        on_disk.entry(tbl).or_default().push(col);
    }
    let in_rust = include_str!("schema.rs");
    for (table, columns) in &on_disk {
        let start = in_rust.find(&format!("    {table} (")).expect(table);
        let block = &in_rust[start..start + in_rust[start..].find("\n    }").unwrap()];
        let named: Vec<&str> = block
            .lines()
            .skip(1)
            .filter_map(|line| line.trim().split_once(" ->"))
            .map(|c| c.0)
            .collect();
        assert_eq!(&named, columns, "{table}");
    }
    assert_eq!(in_rust.matches("table! {").count(), on_disk.len());
}

fn a_database_of_a_newer_program_is_refused(on: Engine) {
    let fixture = Fixture::new(on);
    fixture.conn(|conn| {
        diesel::sql_query(
            "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')",
        )
        .execute(conn)
        .unwrap();
    });
    assert!(matches!(Store::open(&fixture.place.database), Err(StoreError::Migrate(_))));
}
