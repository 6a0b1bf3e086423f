//! Who a request is from, as far as bytes and keys can tell.
//!
//! Keys, tokens, proofs and challenges are judged here, from values and a time handed in.
//! Nothing in this folder asks the database: whether a device exists or is revoked is the
//! guard's question (`http/guard.rs`), and so is what a refusal looks like (`error.rs`).

pub mod auditor;
mod binding;
pub mod chain;
pub mod challenge;
pub mod dpop;
pub mod keys;
pub mod proposal;
pub mod provider;
pub mod public_url;
pub mod replay;
pub mod seen;
pub mod token;
