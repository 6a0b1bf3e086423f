//! Everything that two parties, or one party and its own past, must agree on.
//!
//! `PROTOCOL.md` beside this crate is the law; this is one reading of it in Rust, used by
//! nexo-server and nexo-cli. nexo-audit reads the text, not the code. Here are types and
//! bytes only: no cryptography, no I/O, no SQL (the migrations beside it are data).

#![warn(missing_docs)]

pub mod auth;
pub mod bytes;
pub mod change;
pub mod checkpoint;
pub mod entry;
pub mod envelope;
pub mod error;
mod exit;
pub mod http;
pub mod ids;
pub mod limits;
pub mod link;
pub mod sigchain;
pub mod stream;
pub mod ws;
