//! Every durable step of the log failed on the real databases: before it persists, inside of its
//! transaction, at its very end, and after. Whatever happens, every receipt that was given
//! stays true, every head that was seen is the beginning of the newest, and `log verify` finds
//! nothing.
//!
//! `log/scenarios.rs` asks the same of the sequencer alone, over a ledger in memory. What kills
//! the process or the machine is tested with the real programs (`tests/`).
//!
//! `failing.rs` the ledger that fails · `people.rs` who says what · `servers.rs` two servers and
//! their clients · `witness.rs` what was told, and whether the database keeps to it ·
//! `spoiled.rs` statements that fail inside of the database

mod failing;
mod people;
mod servers;
mod spoiled;
mod witness;

use std::thread;
use std::time::{Duration, Instant};

use nexo_schema::ids::ConvId;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use self::failing::Fault;
use self::servers::{Relay, all_are, placed};
use super::suite::{Engine, on_both_engines};
use crate::log::{Denied, Halt, LoadError, StartError, Step};

on_both_engines! {
    a_batch_that_never_reached_the_database_left_nothing,
    a_commit_whose_answer_is_lost_is_answered_from_the_database,
    a_commit_in_doubt_under_another_servers_head_stays_in_doubt,
    a_batch_goes_on_from_another_servers_head,
    a_batch_that_the_log_does_not_stage_leaves_nothing,
    a_writer_that_panics_leaves_all_of_a_batch_or_nothing,
    a_head_that_cannot_be_read_is_waited_for,
    a_first_head_that_fails_is_told_to_nobody,
    whatever_fails_the_log_is_whole_and_receipts_are_true,
}

fn a_batch_that_never_reached_the_database_left_nothing(on: Engine) {
    let mut relay = Relay::new(on);
    let cases = [(Fault::RolledBack, Denied::NotCommitted), (Fault::Lost, Denied::OutcomeUnknown)];
    for (fault, denial) in cases {
        let numbers = relay.numbers(20);
        let outcomes = relay.batch(numbers.clone(), [Fault::None, fault]);
        assert!(all_are(&outcomes, denial), "{fault:?}: {outcomes:?}");
        assert_eq!(relay.there(numbers), 1, "{fault:?}: the one before it alone");
    }
    relay.survives();
}

fn a_commit_whose_answer_is_lost_is_answered_from_the_database(on: Engine) {
    let mut relay = Relay::new(on);
    for _ in 0..2 {
        let numbers = relay.numbers(20);
        let outcomes = relay.batch(numbers, [Fault::None, Fault::Forgotten]);
        assert!(placed(&outcomes), "{outcomes:?}");
    }
    relay.survives();
}

fn a_commit_in_doubt_under_another_servers_head_stays_in_doubt(on: Engine) {
    let mut relay = Relay::new(on);
    let numbers = relay.numbers(16);
    let outcomes = relay.batch(numbers.clone(), [Fault::None, Fault::Buried]);
    assert!(all_are(&outcomes, Denied::OutcomeUnknown), "{outcomes:?}");
    assert_eq!(relay.there(numbers), 16, "there nevertheless");
    let (head, content) = (relay.log().head(), relay.check());
    assert_eq!(head.size, content.size, "the other server's head is taken over");
    relay.survives();
}

fn a_batch_goes_on_from_another_servers_head(on: Engine) {
    let mut relay = Relay::new(on);
    let numbers = relay.numbers(20);
    let outcomes = relay.batch(numbers.clone(), [Fault::Overtaken, Fault::Overtaken]);
    assert!(placed(&outcomes), "{outcomes:?}");
    // Both servers at once, on the same devices' counters.
    let (ours, theirs) = (relay.numbers(40), relay.numbers(40));
    assert!(placed(&relay.submit(ours, theirs)));
    relay.survives();
}

fn a_batch_that_the_log_does_not_stage_leaves_nothing(on: Engine) {
    let mut relay = Relay::new(on);
    for fault in [Fault::TooShort, Fault::Disowned] {
        let numbers = relay.numbers(20);
        let outcomes = relay.batch(numbers.clone(), [Fault::None, fault]);
        assert!(all_are(&outcomes, Denied::OutcomeUnknown), "{fault:?}: {outcomes:?}");
        assert_eq!(relay.there(numbers), 1, "{fault:?}");
        // What the batch had read of devices and counters is not believed any more.
        let more = relay.numbers(20);
        assert!(placed(&relay.submit(more, 0..0)), "{fault:?}");
    }
    relay.survives();
}

fn a_writer_that_panics_leaves_all_of_a_batch_or_nothing(on: Engine) {
    let mut relay = Relay::new(on);
    let before = [
        Fault::PanicBefore,
        Fault::PanicAt(Step::Admit),
        Fault::PanicAt(Step::Insert),
        Fault::PanicAt(Step::Stage),
        Fault::PanicAt(Step::Tree),
    ];
    let after = [Fault::PanicAt(Step::Commit), Fault::PanicAfter];
    let cases = before.map(|fault| (fault, 1)).into_iter().chain(after.map(|fault| (fault, 16)));
    for (round, (fault, there)) in (0u8..).zip(cases) {
        let numbers = relay.numbers(16);
        let outcomes = relay.batch(numbers.clone(), [Fault::None, fault]);
        assert!(all_are(&outcomes, Denied::OutcomeUnknown), "{fault:?}: {outcomes:?}");
        assert!(matches!(relay.stop(), Err(Halt::Panicked)), "{fault:?}");
        // The handlers of such a process go on for a moment, on the connection that it left.
        relay.open_another(ConvId([100 + round; 32]));
        assert_eq!(relay.there(numbers), there, "{fault:?}");
        relay.start().unwrap();
    }
    relay.survives();
}

fn a_head_that_cannot_be_read_is_waited_for(on: Engine) {
    let mut relay = Relay::new(on);
    relay.plan.lock().loads = u32::MAX;
    let numbers = relay.numbers(16);
    let outcomes = relay.batch(numbers.clone(), [Fault::None, Fault::Forgotten]);
    assert!(all_are(&outcomes, Denied::OutcomeUnknown), "{outcomes:?}");
    let told = relay.log().head().size;
    let later = relay.numbers(8);
    assert!(all_are(&relay.submit(later, 0..0), Denied::NotCommitted));
    assert_eq!(relay.there(numbers), 16);
    assert_eq!(relay.log().head().size, told, "what cannot be read is not told");

    relay.plan.clear();
    let until = Instant::now() + Duration::from_secs(10);
    while relay.log().head().size == told {
        assert!(Instant::now() < until, "the log does not go on");
        thread::sleep(Duration::from_millis(5));
    }
    let more = relay.numbers(16);
    assert!(placed(&relay.submit(more, 0..0)));

    relay.stop().unwrap();
    relay.plan.lock().loads = 1;
    let refused = relay.start().unwrap_err();
    assert!(matches!(refused, StartError::Load(LoadError::Ledger(_))), "{refused}");
    relay.survives();
}

fn a_first_head_that_fails_is_told_to_nobody(on: Engine) {
    let mut relay = Relay::new(on);
    let numbers = relay.numbers(16);
    relay.submit(numbers, 0..0);
    relay.stop().unwrap();
    for fault in [Fault::RolledBack, Fault::Lost, Fault::Disowned] {
        relay.plan.lock().commits = [fault].into();
        let refused = relay.start().unwrap_err();
        assert!(matches!(refused, StartError::FirstHead(_)), "{fault:?}: {refused}");
        relay.check();
    }
    // One whose answer alone was lost, or that another server came before, is as good as any.
    for fault in [Fault::Forgotten, Fault::Overtaken] {
        relay.plan.lock().commits = [fault].into();
        relay.start().unwrap();
        relay.check();
        relay.stop().unwrap();
    }
    relay.survives();
}

/// PostgreSQL ends, is restarted, or its network breaks.
#[test]
fn a_connection_that_ends_leaves_all_of_a_batch_or_nothing() {
    let mut relay = Relay::new(Engine::Postgres);
    let cases = [
        (Fault::HangUp, Denied::NotCommitted),
        (Fault::CutAt(Step::Admit), Denied::NotCommitted),
        (Fault::CutAt(Step::Insert), Denied::NotCommitted),
        (Fault::CutAt(Step::Stage), Denied::NotCommitted),
        (Fault::CutAt(Step::Tree), Denied::OutcomeUnknown),
    ];
    for (fault, denial) in cases {
        let numbers = relay.numbers(16);
        let outcomes = relay.batch(numbers.clone(), [Fault::None, fault]);
        assert!(all_are(&outcomes, denial), "{fault:?}: {outcomes:?}");
        assert_eq!(relay.there(numbers), 1, "{fault:?}");
        let more = relay.numbers(16);
        assert!(placed(&relay.submit(more, 0..0)), "{fault:?}: a new connection at once");
    }
    // Behind the commit it costs the next batch.
    let (numbers, next) = (relay.numbers(16), relay.numbers(1));
    let outcomes = relay.batch(numbers, [Fault::None, Fault::CutAt(Step::Commit)]);
    assert!(placed(&outcomes), "{outcomes:?}");
    assert!(all_are(&relay.submit(next, 0..0), Denied::NotCommitted));
    relay.survives();
}

/// What happens in one round: faults in the order of commits, reads of the head that fail,
/// items for our server and for the other, and whether ours is restarted.
type Round = (Vec<Fault>, u32, u64, u64, bool);

fn rounds(on: Engine) -> impl Strategy<Value = Vec<Round>> {
    let mut faults = vec![
        Fault::None,
        Fault::RolledBack,
        Fault::Lost,
        Fault::Overtaken,
        Fault::Disowned,
        Fault::TooShort,
        Fault::Forgotten,
        Fault::Buried,
        Fault::PanicBefore,
        Fault::PanicAt(Step::Insert),
        Fault::PanicAt(Step::Tree),
        Fault::PanicAt(Step::Commit),
        Fault::PanicAfter,
    ];
    if on == Engine::Postgres {
        let steps = [Step::Admit, Step::Insert, Step::Tree, Step::Commit];
        faults.extend(steps.map(Fault::CutAt).into_iter().chain([Fault::HangUp]));
    }
    let faults = prop::collection::vec(prop::sample::select(faults), 0..4);
    let loads = prop_oneof![4 => Just(0u32), 1 => Just(1)];
    prop::collection::vec((faults, loads, 1u64..60, 0u64..20, any::<bool>()), 1..5)
}

fn whatever_fails_the_log_is_whole_and_receipts_are_true(on: Engine) {
    let cases = if on == Engine::Sqlite { 8 } else { 4 };
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        max_shrink_iters: 64,
        ..Config::with_cases(cases)
    });
    let outcome = runner.run(&rounds(on), |rounds| {
        let mut relay = Relay::new(on);
        for (faults, loads, ours, theirs, restart) in rounds {
            let may_fall = faults.iter().any(|fault| fault.kills());
            {
                let mut plan = relay.plan.lock();
                (plan.commits, plan.loads) = (faults.into(), loads);
            }
            let (ours, theirs) = (relay.numbers(ours), relay.numbers(theirs));
            relay.submit(ours, theirs);
            relay.plan.clear();
            if may_fall || restart {
                let ended = relay.stop();
                prop_assert!(ended.is_ok() || may_fall && matches!(ended, Err(Halt::Panicked)));
                relay.start().unwrap();
            }
            relay.check();
        }
        relay.survives();
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
