//! Black-box tests: real processes of the real programs, spoken to over real sockets.
//!
//! What a file tests is its name; what it needs is in [`harness`]. Nothing here reaches into the
//! server: what cannot be seen from outside is tested beside the code.
//!
//! | file | asks |
//! |---|---|
//! | `contract`, `contract_ws` | does a client written from the seed still work, route by route |
//! | `socket_send` | is a message sent by `send` and told by `ack` as sure as a POST |
//! | `socket_stream` | do messages come once, in order, proved, and again from where acks stopped |
//! | `abuse` | who stalls, floods or sends garbage: do the others go on, is its cost bounded |
//! | `holes/` | is each hole of the seed closed (design/e2ee.md 4.B and 4.F) |
//! | `malformed/` | is every malformed request refused, and nothing stored |
//! | `tokens`, `dpop` | which tokens are taken, and with which proofs |
//! | `admission` | who may make an account, and how often anybody may ask |
//! | `proxy` | does all of it work behind nginx, and is a client who it is |
//! | `prekeys` | publishing and claiming prekeys |
//! | `devices/` | do chains take what follows their rules and nothing else, is a device's end its end |
//! | `cli_devices/` | does nexo-cli's account of several devices hold together, and see intruders |
//! | `reading` | is the public log what its specifications say, at every size |
//! | `caching` | what may be kept, asked about again, compressed, and read by web pages |
//! | `proofs` | does a file prove offline what is in the log, and who gets one by name |
//! | `events` | who may read key events in bulk, and are they what was logged |
//! | `tlog` | does code that none of us wrote agree with the log |
//! | `metrics` | is the operator told what the relay does, and nobody else |
//! | `concurrent` | is it one line, however many stand in it |
//! | `shutdown` | is everybody told of its end, and is what was taken kept |
//! | `restart`, `crash` | what is kept over a restart and a power cut, and what is refused |
//! | `sessions` | does nexo-cli keep its sessions, whatever is lost, killed or done at once |
//! | `send_lines` | is each line sent once and in order, whatever becomes of the connection |
//! | `soak` | does an auditor ever find anything in an honest log under load |
//! | `kills` | the same, hundreds of times, when asked for |
//! | `replicas` | are servers on one PostgreSQL one log, and does each outlive the others |
//! | `faults` | what happens when a disk is full or may not be written |
//! | `audit` | does the auditor find every lie of a server |
//! | `audit_files` | do its commands on files tell proofs, heads and evidence apart |
//! | `audit_liar/` | does it find every lie that a log or a network can tell |
//! | `audit_watch` | is everybody told who has to be, once at least, and does a watch outlive everything |
//! | `audit_kill` | is its memory the old one or the new one, whenever it is killed |
//! | `audit_keys` | is an account's history the one that was logged, and is what is hidden found |
//! | `story` | does the story of the README happen, with the real programs |
//! | `exits` | which exit code does each refusal of nexo-cli have |
//! | `bench` | are the figures of nexo-cli bench those of messages that arrived |
//! | `tail_follow` | does tail get everything, whatever becomes of the connection |
//! | `tail_kills` | the same under load, with everything killed all the time; for long when asked for |
//! | `tail_sinks` | do handlers and files get every message, however tail ends |
//! | `stateless` | can a script send with a line of text and no home |
//! | `tools` | does an fsck find each thing that is wrong, is a copy the same log, does a lost one end
//! | `two_trees` | do the builder and the checker of the tree agree |
//! | `retry` | who may ask for a message again, and who may answer |
//! | `cli_faults` | does nexo-cli keep its promises on full disks, under kills and clocks |
//! | `attacks` | has every attack and every hole of the design a test |
//! | `house` | is the architecture what the documents say |
//! | `protocol` | does PROTOCOL.md say what the code does |

#[cfg(test)]
mod harness;

#[cfg(test)]
mod abuse;
#[cfg(test)]
mod admission;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod audit_files;
#[cfg(test)]
mod audit_keys;
#[cfg(test)]
mod audit_kill;
#[cfg(test)]
mod audit_liar;
#[cfg(test)]
mod audit_watch;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod caching;
#[cfg(test)]
mod cli_devices;
#[cfg(test)]
mod cli_faults;
#[cfg(test)]
mod concurrent;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod contract_ws;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod dpop;
#[cfg(test)]
mod events;
#[cfg(test)]
mod exits;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod holes;
#[cfg(test)]
mod house;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod prekeys;
#[cfg(test)]
mod proofs;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod retry;
#[cfg(test)]
mod send_lines;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod socket_send;
#[cfg(test)]
mod socket_stream;
#[cfg(test)]
mod stateless;
#[cfg(test)]
mod story;
#[cfg(test)]
mod tail_follow;
#[cfg(test)]
mod tail_kills;
#[cfg(test)]
mod tail_sinks;
#[cfg(test)]
mod tlog;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod two_trees;
