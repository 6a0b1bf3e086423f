//! The relay: ciphertext in, ciphertext out, and every step in one signed log.
//!
//! ```text
//! http, relay ──► auth ──► store          config is read in main and serve only
//!      │                     ▲
//!      └────────► log ───────┘            log knows its Ledger, store implements it
//! ```
//!
//! `http` and `relay` are two corridors to the log's one door, [`app::App::submit`]. `auth`
//! judges keys, tokens and proofs as values. `store` holds all SQL. There is no decryption
//! here: the crate does not depend on nexo-cli, and so cannot read a message.

pub mod app;
pub mod auth;
pub mod clock;
pub mod config;
pub mod devices;
pub mod error;
pub mod exit;
pub mod http;
pub mod log;
mod private_file;
pub mod program;
pub mod relay;
pub mod serve;
pub mod shutdown;
pub mod store;
mod telemetry;
pub mod tools;

pub use app::App;

/// What the log gives for a placed item.
pub type LogReceipt = log::Receipt<store::Placed>;
