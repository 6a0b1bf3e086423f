//! Scenes: what is not one shape of load on a server, but several at once, or one after another.
//!
//! | scene | asks |
//! |---|---|
//! | `fanout` | how fast is what one sends at those who listen, beside a bare echo of such frames |
//! | `idle` | what do ten thousand silent sockets cost, in memory and in others' time |
//! | `abuse` | what do others notice of a reader that stalls, a flood, garbage, or silence |
//!
//! Each has servers of its own, which have held nothing else before: memory is part of the
//! answer. `wire` is the sockets, `flow` messages over them, `seen` when each arrived.

mod abuse;
mod fanout;
mod flow;
mod idle;
mod seen;
mod wire;

use std::io::{self, Write};
use std::path::Path;

use nexo_scripts::account::AccountError;
use nexo_scripts::stats::Summary;

use crate::args::{Plan, Scene};
use crate::drive::DriveError;
use crate::servers::{Servers, ServersError};

/// Why a scene has no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SceneError {
    /// No servers.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// No accounts.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The traffic.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// So many sockets cannot be opened.
    #[error("{wanted} sockets take more open files than the {limit} allowed; see ulimit -n")]
    Files {
        /// Sockets.
        wanted: usize,
        /// The soft limit.
        limit: usize,
    },
    /// The figures could not be printed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Plays a scene and prints what came of it.
///
/// # Errors
/// [`SceneError`].
pub(crate) async fn play(
    scene: Scene,
    plan: &Plan,
    program: &Path,
    servers: &mut Servers,
) -> Result<(), SceneError> {
    let text = match scene {
        Scene::Fanout => fanout::play(plan, program, servers).await?,
        Scene::Idle => idle::play(plan, program, servers).await?,
        Scene::Abuse => abuse::play(plan, program, servers).await?,
    };
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

/// A line of a table of deliveries.
fn line(what: &str, who: &str, figures: &Summary) -> String {
    let Summary { rate, p50, p99, max, cpu, .. } = figures;
    let cpu = cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.1}"));
    format!("{what:<26} {who:<20} {rate:>11.0} {p50:>9.3} {p99:>9.3} {max:>9.3} {cpu:>10}\n")
}

/// What stands over such lines.
fn heading(title: &str) -> String {
    let columns = ["delivered/s", "p50 ms", "p99 ms", "max ms", "CPU us/msg"];
    let [rate, p50, p99, max, cpu] = columns;
    format!("{title:<26} {:<20} {rate:>11} {p50:>9} {p99:>9} {max:>9} {cpu:>10}\n", "")
}
