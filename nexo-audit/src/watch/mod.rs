//! Watching: rounds of audits for years, and telling others what they end with.
//!
//! ```text
//! round (an audit) -> judge -> spool -> courier -> hooks, --exec, webhook
//!                       |        |
//!                     status   stdout (JSON lines), metrics, systemd
//! ```
//!
//! A round that ends as the last one did is no news. [`judge`] decides what is; a [notice] says
//! it. A notice is in the spool before anybody is told, and leaves it only when everybody who
//! has to be told has taken it: *at least once*, over crashes, power cuts and receivers that are
//! away. Receivers know a repeat by its `id`.
//!
//! `notice` what is told · `judge` when · `spool` what is kept until it was told · `courier` to
//! whom, again and again · `command` and `webhook` how · `pace` how long to wait · `metrics`
//! counts on a listener of their own · `systemd` the service manager. The loop around them is
//! in `commands/watch.rs`.

pub(crate) mod command;
pub(crate) mod courier;
pub(crate) mod judge;
pub(crate) mod metrics;
pub(crate) mod notice;
pub(crate) mod pace;
pub(crate) mod spool;
pub(crate) mod systemd;
pub(crate) mod webhook;
