//! What the measuring programs of this package share: servers to start, accounts on them, a lean
//! HTTP connection, a PostgreSQL of one's own, percentiles, disk space.
//!
//! Not a library for anybody else: the programs beside it (`bin/load`, `bin/growth`) are its
//! only users, and it judges nothing.

pub mod account;
pub mod disk;
pub mod http;
pub mod postgres;
pub mod process;
pub mod stats;
pub mod turns;
