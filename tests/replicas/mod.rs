//! Several servers on one PostgreSQL: one log, one set of accounts, whichever of them is asked,
//! and each goes on without the others.
//!
//! The database is on a disk that is waited for. Pulling its plug is ending PostgreSQL without a
//! goodbye, so that it recovers from its journal; what was acknowledged before must be there.

mod failing;
mod one;
mod refused;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::postgres::{Database, durable_database};
use crate::harness::reader::Reader;
use crate::harness::server::Setup;
use crate::harness::{DEADLINE, Plain, Server, Wire};

/// How soon the rest of the world goes on when one machine has failed.
const SOON: Duration = Duration::from_secs(10);

/// Two servers of one log.
struct Pair {
    a: Server,
    b: Server,
    database: Arc<Database>,
    keys: TempDir,
}

impl Pair {
    fn start() -> Self {
        Self::on(durable_database(), Setup::default())
    }

    fn on(database: Database, setup: Setup) -> Self {
        let (database, keys) = (Arc::new(database), TempDir::new().unwrap());
        let setup = setup.keys(&keys.path().join("keys")).database(Arc::clone(&database));
        let (a, b) = (setup.clone().start(), setup.start());
        assert_eq!((a.origin(), a.vkey()), (b.origin(), b.vkey()));
        Self { a, b, database, keys }
    }

    fn servers(&mut self) -> [&mut Server; 2] {
        [&mut self.a, &mut self.b]
    }

    fn check_up(&mut self) {
        for server in self.servers() {
            assert!(server.is_up());
            server.sound();
        }
    }

    /// Waits until both have told of a log of this size.
    async fn grown(&self, size: u64) {
        for server in [&self.a, &self.b] {
            let (reader, end) = (Reader::of(server), Instant::now() + DEADLINE);
            while reader.head().await.checkpoint.size < size {
                assert!(Instant::now() < end, "{} does not hear of it", server.url());
            }
        }
    }
}

/// The way to a server with the token that another one gave.
fn at(server: &Server, who: &Plain) -> Wire {
    server.wire().with_token(who.token())
}
