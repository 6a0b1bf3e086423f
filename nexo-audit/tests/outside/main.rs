//! The auditor's library from outside, on bytes that no one here wrote or that nobody should.
//!
//! | file | asks |
//! |---|---|
//! | `corpus` | does every reader take what it should of the fuzzer's seeds, and never panic |
//! | `framing` | can evidence be made against an honest log |
//! | `tessera` | is another project's log what it says, at each of its sizes |

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod framing;
#[cfg(test)]
mod tessera;
