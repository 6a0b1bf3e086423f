//! Statements that fail inside of the database: each write of a batch, its COMMIT, and all of
//! them when the disk is full. The ledger is as it is; triggers and limits do it.

use diesel::connection::SimpleConnection as _;

use super::super::suite::{Engine, on_both_engines};
use super::super::{Conn, newest_head};
use super::failing::Fault;
use super::servers::{Relay, all_are, placed};
use crate::log::{Denied, StartError};

on_both_engines! {
    every_write_of_a_batch_may_fail,
    a_commit_that_fails_itself_leaves_nothing,
}

/// Every write that a batch makes when it fills a bundle: a table, and what is done to it.
const WRITES: [(&str, &str); 16] = [
    ("challenges", "DELETE"),
    ("accounts", "INSERT"),
    ("devices", "INSERT"),
    ("key_events", "INSERT"),
    ("messages", "INSERT"),
    ("messages", "UPDATE"),
    ("packets", "INSERT"),
    ("packets", "UPDATE"),
    ("deletions", "INSERT"),
    ("send_counters", "UPDATE"),
    ("tiles", "INSERT"),
    ("bundles", "INSERT"),
    ("tail", "DELETE"),
    ("tail", "INSERT"),
    ("log_head", "UPDATE"),
    ("heads", "INSERT"),
];

const RAISE: &str = "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql \
     AS $$ BEGIN RAISE EXCEPTION 'a fault of the test'; END $$";

/// Has every such write fail, before or after it is done.
fn spoil(conn: &mut Conn, when: &str, (table, verb): (&str, &str)) {
    let trigger = format!("CREATE TRIGGER spoil {when} {verb} ON {table}");
    conn.batch_execute(&match conn {
        Conn::Sqlite(_) => {
            format!("{trigger} BEGIN SELECT RAISE(ABORT, 'a fault of the test'); END")
        }
        Conn::Postgres(_) => format!("{RAISE}; {trigger} FOR EACH ROW EXECUTE FUNCTION spoil()"),
    })
    .unwrap();
}

/// Has every COMMIT fail behind which there would be a new head.
fn spoil_commit(conn: &mut Conn) {
    conn.batch_execute(&match conn {
        // No such message.
        Conn::Sqlite(_) => "CREATE TABLE spoiled (place INTEGER REFERENCES messages (sth_index) \
             DEFERRABLE INITIALLY DEFERRED); \
             CREATE TRIGGER spoil AFTER INSERT ON heads BEGIN INSERT INTO spoiled VALUES (-1); END"
            .to_owned(),
        Conn::Postgres(_) => format!(
            "{RAISE}; CREATE CONSTRAINT TRIGGER spoil AFTER INSERT ON heads \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION spoil()"
        ),
    })
    .unwrap();
}

fn mend(conn: &mut Conn, table: &str) {
    conn.batch_execute(&match conn {
        Conn::Sqlite(_) => "DROP TRIGGER spoil; DROP TABLE IF EXISTS spoiled".to_owned(),
        Conn::Postgres(_) => format!("DROP TRIGGER spoil ON {table}; DROP FUNCTION spoil"),
    })
    .unwrap();
}

fn every_write_of_a_batch_may_fail(on: Engine) {
    let mut relay = Relay::new(on);
    let mut conn = relay.conn();
    let fill = relay.numbers(240);
    assert!(placed(&relay.submit(fill, 0..0)));
    let (before, numbers) = (relay.check().size, relay.numbers(32));
    assert_eq!((before, numbers.end), (244, 272), "the batch fills the first bundle");
    for write in WRITES {
        for when in ["BEFORE", "AFTER"] {
            spoil(&mut conn, when, write);
            let outcomes = relay.batch(numbers.clone(), [Fault::RolledBack, Fault::None]);
            mend(&mut conn, write.0);
            assert!(all_are(&outcomes, Denied::NotCommitted), "{when} {write:?}: {outcomes:?}");
            let head = newest_head(&mut conn).unwrap().unwrap();
            assert_eq!(head.size, before, "{when} {write:?}");
        }
    }
    assert_eq!(relay.there(numbers.clone()), 0);
    assert!(placed(&relay.submit(numbers, 0..0)));

    // A renewal is an update of the newest head alone.
    relay.stop().unwrap();
    for when in ["BEFORE", "AFTER"] {
        spoil(&mut conn, when, ("log_head", "UPDATE"));
        let refused = relay.start().unwrap_err();
        mend(&mut conn, "log_head");
        assert!(matches!(refused, StartError::FirstHead(_)), "{refused}");
    }
    relay.survives();
}

fn a_commit_that_fails_itself_leaves_nothing(on: Engine) {
    let mut relay = Relay::new(on);
    let mut conn = relay.conn();
    let numbers = relay.numbers(20);
    spoil_commit(&mut conn);
    for _ in 0..2 {
        let outcomes = relay.batch(numbers.clone(), [Fault::RolledBack, Fault::None]);
        // The ledger cannot know which of COMMIT's errors proves what.
        assert!(all_are(&outcomes, Denied::OutcomeUnknown), "{outcomes:?}");
    }
    mend(&mut conn, "heads");
    assert_eq!(relay.there(numbers.clone()), 0);
    assert!(placed(&relay.submit(numbers, 0..0)));
    relay.survives();
}

/// SQLite may end the transaction by itself then.
#[test]
fn a_full_disk_leaves_nothing_and_is_no_reason_to_stop() {
    let mut relay = Relay::new(Engine::Sqlite);
    let most_pages = |relay: &Relay, most: u32| {
        let limit = format!("PRAGMA max_page_count = {most}");
        relay.on_writer(|conn| conn.batch_execute(&limit).unwrap());
    };
    let numbers = relay.numbers(300);
    for _ in 0..2 {
        // No fewer than there are.
        most_pages(&relay, 1);
        let outcomes = relay.batch(numbers.clone(), [Fault::RolledBack, Fault::None]);
        assert!(all_are(&outcomes, Denied::NotCommitted), "{outcomes:?}");
    }
    assert_eq!(relay.there(numbers.clone()), 0);
    most_pages(&relay, u32::MAX - 1);
    assert!(placed(&relay.submit(numbers, 0..0)));
    relay.survives();
}
