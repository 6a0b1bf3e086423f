//! Door plate to come.
