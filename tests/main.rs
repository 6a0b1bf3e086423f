//! Black-box tests: real processes of the real programs, spoken to over real sockets.
//!
//! What a file tests is its name; what it needs is in [`harness`]. Nothing here reaches into the
//! server: what cannot be seen from outside is tested beside the code.
//!
//! | file | asks |
//! |---|---|
//! | `contract`, `contract_ws` | does a client written from the seed still work, route by route |
//! | `holes/` | is each hole of the seed closed (design/e2ee.md 4.B and 4.F) |
//! | `malformed/` | is every malformed request refused, and nothing stored |
//! | `tokens`, `dpop` | which tokens are taken, and with which proofs |
//! | `admission` | who may make an account, and how often anybody may ask |
//! | `prekeys` | publishing and claiming prekeys |
//! | `reading` | is the public log what its specifications say, at every size |
//! | `concurrent` | is it one line, however many stand in it |
//! | `restart`, `crash` | what is kept over a restart and a power cut, and what is refused |
//! | `audit` | does the auditor find every lie of a server |
//! | `story` | does the story of the README happen, with the real programs |
//! | `exits` | which exit code does each refusal of nexo-cli have |
//! | `stateless` | can a script send with a line of text and no home |
//! | `two_trees` | do the builder and the checker of the tree agree |
//! | `house` | is the architecture what the documents say |
//! | `protocol` | does PROTOCOL.md say what the code does |

#[cfg(test)]
mod harness;

#[cfg(test)]
mod admission;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod concurrent;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod contract_ws;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod dpop;
#[cfg(test)]
mod exits;
#[cfg(test)]
mod holes;
#[cfg(test)]
mod house;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod prekeys;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod stateless;
#[cfg(test)]
mod story;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod two_trees;
