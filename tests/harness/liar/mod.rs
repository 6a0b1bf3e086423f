//! A log that lies: a whole log in memory, with its keys, served over HTTP, of which any answer can
//! be made wrong.
//!
//! ```text
//! log    what an honest log of some entries answers: heads, keys, tiles, bundles, proofs
//! http   that log on a port, with the lies put over it
//! ```
//!
//! Hashes, proofs and paths are written here once more, from the recursive definitions of RFC 6962
//! 2.1 and the drawings of C2SP, so that neither the server nor the auditor sets its own exam. The
//! entries are those of the schema crate. A real server's lies, which are those of its operator, are
//! in `audit.rs`; a liar can also say what no server of ours would.

mod http;
mod log;

pub(crate) use http::{Answer, Site};
pub(crate) use log::{Log, Signers, bundle};
