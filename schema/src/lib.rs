//! Door plate to come.
pub mod bytes;
