//! Door plate to come.
pub mod e2ee;
