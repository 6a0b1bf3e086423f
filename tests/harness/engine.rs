//! On which database a server runs, and tests that are written once and run on each.
//!
//! `both!(name);` above `fn name(engine: Engine)` makes two tests of it, `name::on_sqlite` and
//! `name::on_postgres`; `both!(async name);` does so with an `async fn`. A function whose line
//! was forgotten is dead code, which the lints refuse.

use std::sync::Arc;

use super::Server;
use super::postgres::{self, Database};
use super::server::Setup;

/// What a server keeps its accounts, messages and log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// A file in its data directory.
    Sqlite,
    /// A database of a PostgreSQL that all tests share.
    Postgres,
}

impl Engine {
    /// A server with a fresh data directory and database and no rate limits.
    pub(crate) fn start(self) -> Server {
        self.setup().start()
    }

    /// To be configured and started, with a fresh database.
    pub(crate) fn setup(self) -> Setup {
        self.with(postgres::database)
    }

    /// As [`Engine::setup`], where commits wait for the disk.
    pub(crate) fn durable(self) -> Setup {
        self.with(postgres::durable_database)
    }

    fn with(self, database: fn() -> Database) -> Setup {
        match self {
            Self::Sqlite => Setup::default(),
            Self::Postgres => Setup::default().database(Arc::new(database())),
        }
    }
}

/// See the top.
macro_rules! both {
    (async $name:ident) => {
        mod $name {
            use crate::harness::Engine;

            #[tokio::test(flavor = "multi_thread")]
            async fn on_sqlite() {
                super::$name(Engine::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_postgres() {
                super::$name(Engine::Postgres).await;
            }
        }
    };
    ($name:ident) => {
        mod $name {
            use crate::harness::Engine;

            #[test]
            fn on_sqlite() {
                super::$name(Engine::Sqlite);
            }

            #[test]
            fn on_postgres() {
                super::$name(Engine::Postgres);
            }
        }
    };
}
pub(crate) use both;
