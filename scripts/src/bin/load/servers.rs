//! The servers of a run, started and filled with accounts; all of it goes when this does.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexo_scripts::account::{AccountError, Seat, take_seats};
use nexo_scripts::postgres::{Cluster, PostgresError};
use nexo_scripts::process::{Process, StartError};
use tempfile::TempDir;

use crate::args::{Plan, Relay};
use crate::bare;
use crate::contest::Contender;
use crate::drive::Target;

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServersError {
    /// No place for the databases.
    #[error("no directory for the databases: {0}")]
    Directory(#[from] io::Error),
    /// A server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// PostgreSQL did not.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The relay did not take the accounts.
    #[error("registering accounts: {0}")]
    Account(#[from] AccountError),
}

/// Servers that run, and what goes with them. Fields are dropped in this order: servers before
/// the database they use, and all of them before their files.
#[derive(Debug)]
pub(crate) struct Servers {
    processes: Vec<Process>,
    cluster: Option<Cluster>,
    dir: TempDir,
    /// Accounts on each.
    seats: usize,
}

impl Servers {
    /// No servers yet, in a directory of their own.
    ///
    /// # Errors
    /// [`io::Error`].
    pub(crate) fn none(plan: &Plan, seats: usize) -> io::Result<Self> {
        let dir = match &plan.dir {
            Some(parent) => TempDir::new_in(parent),
            None => TempDir::new(),
        }?;
        // PostgreSQL, which is somebody else where this is root, has to get at its folder.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))?;
        Ok(Self { processes: Vec::new(), cluster: None, dir, seats })
    }

    /// The directory of the run.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The relay, and the bare loop it is compared with.
    ///
    /// # Errors
    /// [`ServersError`].
    pub(crate) async fn beside_bare(
        &mut self,
        plan: &Plan,
    ) -> Result<Vec<Contender>, ServersError> {
        let relay = match plan.relay() {
            Relay::Spawn(program) => self.relays(program, "relay", 1, None).await?,
            Relay::Runs { address, pid } => Target {
                addresses: vec![address],
                pids: pid.into_iter().collect(),
                seats: Arc::new(take_seats(address, self.seats).await?),
            },
        };
        let bare = self.bare("bare", &relay.seats)?;
        Ok(vec![
            Contender { name: "bare", target: bare, against: None },
            Contender { name: "relay", target: relay, against: Some(0) },
        ])
    }

    /// The relay on SQLite, on PostgreSQL, and as two servers on one PostgreSQL.
    ///
    /// # Errors
    /// [`ServersError`].
    pub(crate) async fn on_both_engines(
        &mut self,
        program: &Path,
    ) -> Result<Vec<Contender>, ServersError> {
        let sqlite = self.relays(program, "sqlite", 1, None).await?;
        let cluster = Cluster::start(self.dir())?;
        let (first, second) = (cluster.database("one")?, cluster.database("two")?);
        let postmaster = cluster.pid()?;
        self.cluster = Some(cluster);
        let mut one = self.relays(program, "one", 1, Some(&first)).await?;
        let mut two = self.relays(program, "two", 2, Some(&second)).await?;
        // The database works for the relay as SQLite does inside it.
        one.pids.push(postmaster);
        two.pids.push(postmaster);
        Ok(vec![
            Contender { name: "SQLite", target: sqlite, against: None },
            Contender { name: "Pg", target: one, against: Some(0) },
            Contender { name: "2 x Pg", target: two, against: Some(1) },
        ])
    }

    /// A relay that has held nothing yet, with accounts on it, with rate limits or without.
    ///
    /// # Errors
    /// [`ServersError`].
    pub(crate) async fn relay(
        &mut self,
        program: &Path,
        name: &str,
        seats: usize,
        limited: bool,
    ) -> Result<Target, ServersError> {
        let args = relay_args(&self.dir().join(name), None, limited);
        let relay = Process::start(program, &args, None)?;
        let (addresses, pids) = (vec![relay.address], vec![relay.pid()]);
        self.processes.push(relay);
        let seats = Arc::new(take_seats(addresses[0], seats).await?);
        Ok(Target { addresses, pids, seats })
    }

    /// A bare echo that has held nothing yet, for the clients of a relay.
    ///
    /// # Errors
    /// [`ServersError`].
    pub(crate) fn echo(&mut self, name: &str, relay: &Target) -> Result<Target, ServersError> {
        self.bare(name, &relay.seats)
    }

    /// Starts relays that share a log, with keys in one place and a data directory each.
    async fn relays(
        &mut self,
        program: &Path,
        name: &str,
        count: usize,
        database: Option<&str>,
    ) -> Result<Target, ServersError> {
        let (mut addresses, mut pids) = (Vec::new(), Vec::new());
        let keys = self.dir().join(format!("{name}-0"));
        for number in 0..count {
            let data = self.dir().join(format!("{name}-{number}"));
            let args = relay_args(&data, (number > 0).then_some(&keys), false);
            let relay = Process::start(program, &args, database)?;
            addresses.push(relay.address);
            pids.push(relay.pid());
            self.processes.push(relay);
        }
        let first: SocketAddr = addresses[0];
        Ok(Target { addresses, pids, seats: Arc::new(take_seats(first, self.seats).await?) })
    }

    /// Starts the bare loop. It gets the same bytes as the relay, and reads the token as little
    /// as the name.
    fn bare(&mut self, name: &str, like: &[Seat]) -> Result<Target, ServersError> {
        let data = self.dir().join(name);
        let mut args: Vec<OsString> = ["bare", "--dir"].map(Into::into).into();
        args.extend([data.into(), "--seats".into(), like.len().to_string().into()]);
        let bare = Process::start(&std::env::current_exe()?, &args, None)?;
        let seats = like.iter().enumerate().map(|(number, seat)| bare::seat(number, &seat.token));
        let target = Target {
            addresses: vec![bare.address],
            pids: vec![bare.pid()],
            seats: Arc::new(seats.collect()),
        };
        self.processes.push(bare);
        Ok(target)
    }
}

fn relay_args(data: &Path, keys: Option<&PathBuf>, limited: bool) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["serve", "--data-dir"].map(Into::into).into();
    args.push(data.into());
    let limits = if limited { "on" } else { "off" };
    args.extend(["--listen", "127.0.0.1:0", "--rate-limit", limits].map(OsString::from));
    if let Some(keys) = keys {
        args.extend(["--keys".into(), keys.into()]);
    }
    args
}
