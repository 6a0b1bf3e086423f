//! A private PostgreSQL for a test program: made, started, and gone with the program.
//!
//! One cluster serves all tests of a program, each with a fresh database. It listens on a socket
//! in a directory of its own and nowhere else, so that it meets no other PostgreSQL. Where none
//! is installed the test fails and says what to install: a test that is skipped proves nothing.
//!
//! This file needs nothing but std and tempfile: the server's unit tests include it as well.
//!
//! ```text
//! /tmp/nexo-pg-XXXXXX/         0700, of the user that runs PostgreSQL
//!   data/  log  .s.PGSQL.5432
//! test program ──pipe──► sh: reads until the pipe ends, stops PostgreSQL, removes the directory
//! ```
//! The pipe ends with the test program, however it ends, so nothing has to be dropped in time.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// What is needed of an installation.
const TOOLS: [&str; 5] = ["initdb", "pg_ctl", "pg_dump", "postgres", "psql"];

const MISSING: &str = "the tests need PostgreSQL, and neither PATH nor /usr/lib/postgresql/*/bin \
     has initdb, pg_ctl, pg_dump, postgres and psql: install it (Debian and Ubuntu: apt-get \
     install postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql)";

/// A socket's path is bounded (107 bytes on Linux), and TMPDIR may be closed to the user that
/// runs PostgreSQL.
const PARENT: &str = "/tmp";

/// Waits for the end of its input, which is the end of the test program.
/// `$1`: the tools' directory, `$2`: the cluster's.
const WATCHDOG: &str =
    r#"cat >/dev/null; "$1/pg_ctl" -D "$2/data" -m immediate stop >/dev/null 2>&1; rm -rf "$2""#;

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// `fsync = off`, for tests that ask what is answered. Commits still reach the kernel before
    /// they are answered; only a power cut of the whole machine would lose one.
    Lazy,
    /// As in production, for tests that ask what survives.
    Durable,
}

/// A fresh database in the program's cluster for what needs no durability.
pub(crate) fn database() -> Database {
    static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(Disk::Lazy)).database()
}

/// A fresh database in the program's durable cluster.
pub(crate) fn durable_database() -> Database {
    static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(Disk::Durable)).database()
}

/// A running PostgreSQL with its own data.
pub(crate) struct Cluster {
    tools: PathBuf,
    dir: PathBuf,
    owner: Option<(u32, u32)>,
    databases: AtomicU32,
    /// Its input is the pipe; see the top.
    watchdog: Child,
}

impl Cluster {
    /// Makes a cluster and starts it.
    pub(crate) fn start(disk: Disk) -> Arc<Self> {
        let tools = tools();
        let dir = tempfile::Builder::new().prefix("nexo-pg-").tempdir_in(PARENT).unwrap().keep();
        let owner = unprivileged(&dir);
        let mut watchdog = run_as(owner, "sh", &dir);
        watchdog.args(["-c", WATCHDOG, "watchdog"]).arg(&tools).arg(&dir);
        // In a group of its own: what ends the tests at a terminal does not end it.
        watchdog.stdin(Stdio::piped()).process_group(0);
        let watchdog = watchdog.spawn().unwrap();
        let cluster = Self { tools, dir, owner, databases: AtomicU32::new(0), watchdog };
        cluster.init(disk);
        cluster.go();
        Arc::new(cluster)
    }

    fn init(&self, disk: Disk) {
        let mut initdb = self.tool("initdb");
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]);
        run(initdb.args(["--no-sync", "-D"]).arg(self.data()));
        let mut config = fs::read_to_string(self.data().join("postgresql.conf")).unwrap();
        let socket = self.dir.display();
        write!(config, "\nlisten_addresses = ''\nunix_socket_directories = '{socket}'\n").unwrap();
        config.push_str("max_connections = 200\nmax_wal_size = 256MB\nsynchronous_commit = on\n");
        if disk == Disk::Lazy {
            config.push_str("fsync = off\nfull_page_writes = off\n");
        }
        fs::write(self.data().join("postgresql.conf"), config).unwrap();
    }

    /// Starts it, the first time or after [`Cluster::crash`], and waits until it serves.
    pub(crate) fn go(&self) {
        let mut start = self.tool("pg_ctl");
        start.args(["start", "-w", "-t", "60", "-D"]).arg(self.data());
        run(start.arg("-l").arg(self.dir.join("log")));
    }

    /// Ends it at once, as when its machine fails: the next start recovers from its journal.
    pub(crate) fn crash(&self) {
        run(self.tool("pg_ctl").args(["stop", "-w", "-m", "immediate", "-D"]).arg(self.data()));
    }

    /// A fresh database.
    pub(crate) fn database(self: &Arc<Self>) -> Database {
        self.made_of("template1")
    }

    fn made_of(self: &Arc<Self>, template: &str) -> Database {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("nexo{number}");
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"));
        Database { cluster: Arc::clone(self), name }
    }

    /// Runs one statement; its result, a line per row.
    fn sql(&self, database: &str, statement: &str) -> String {
        run(self.client("psql", database).args(["-X", "-q", "-A", "-t", "-c", statement]))
    }

    /// A client program on one of the databases.
    fn client(&self, name: &str, database: &str) -> Command {
        let mut command = self.tool(name);
        command.arg("-h").arg(&self.dir).args(["-p", "5432", "-U", "postgres", "-d", database]);
        command
    }

    fn tool(&self, name: &str) -> Command {
        run_as(self.owner, self.tools.join(name), &self.dir)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The pipe ends here; what is left is the watchdog's.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// A database of a test. Dropped with this handle, whoever is still connected.
pub(crate) struct Database {
    cluster: Arc<Cluster>,
    name: String,
}

impl Database {
    /// As `DB_URL` takes it.
    pub(crate) fn url(&self) -> String {
        let Self { cluster, name } = self;
        format!("postgres://postgres@/{name}?host={}&port=5432", cluster.dir.display())
    }

    /// Runs one statement; its result, a line per row and `|` between columns.
    pub(crate) fn sql(&self, statement: &str) -> String {
        self.cluster.sql(&self.name, statement)
    }

    /// A copy of the database as it is. Nobody may be connected to it.
    pub(crate) fn copy(&self) -> Self {
        self.cluster.made_of(&self.name)
    }

    /// A copy of the database as it is, made while it is in use, as a backup is: with pg_dump.
    pub(crate) fn backup(&self) -> Self {
        let copy = self.cluster.database();
        let file = self.cluster.dir.join(format!("{}.sql", copy.name));
        run(self.cluster.client("pg_dump", &self.name).arg("-f").arg(&file));
        let mut restore = self.cluster.client("psql", &copy.name);
        run(restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file));
        fs::remove_file(file).unwrap();
        copy
    }

    /// Changes places with another database of the cluster, whoever is connected: as when an
    /// operator restores a backup under running servers.
    pub(crate) fn swap(&self, other: &Self) {
        let (ours, theirs) = (&self.name, &other.name);
        for statement in [
            format!("ALTER DATABASE {ours} ALLOW_CONNECTIONS false"),
            format!(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{ours}'"
            ),
            format!("ALTER DATABASE {ours} RENAME TO swapped"),
            format!("ALTER DATABASE {theirs} RENAME TO {ours}"),
            format!("ALTER DATABASE swapped RENAME TO {theirs}"),
            format!("ALTER DATABASE {theirs} ALLOW_CONNECTIONS true"),
        ] {
            self.cluster.sql("postgres", &statement);
        }
    }

    /// Everything that PostgreSQL keeps in the database's files.
    pub(crate) fn files(&self) -> Vec<Vec<u8>> {
        self.sql("CHECKPOINT");
        let select = format!("SELECT oid FROM pg_database WHERE datname = '{}'", self.name);
        let folder = self.cluster.data().join("base").join(self.sql(&select).trim());
        fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A cluster that a failed test left stopped keeps it; it goes with the directory.
        let mut psql = self.cluster.client("psql", "postgres");
        let _ = psql.args(["-X", "-q", "-c", &drop]).output();
    }
}

/// The directory of the first complete installation: in PATH, else the newest of the system's.
fn tools() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian and Red Hat keep each version in a directory of its own, and out of PATH.
    let mut versions: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix, bin) in [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin")] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let version =
                entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            versions.extend(version.map(|version| (version, entry.path().join(bin))));
        }
    }
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let mut found = std::env::split_paths(&path).chain(versions.into_iter().map(|(_, bin)| bin));
    let complete = |bin: &PathBuf| TOOLS.iter().all(|tool| bin.join(tool).exists());
    found.find(complete).unwrap_or_else(|| panic!("{MISSING}"))
}

/// PostgreSQL refuses to run as root: then another user gets the directory and runs it.
fn unprivileged(dir: &Path) -> Option<(u32, u32)> {
    if fs::metadata(dir).unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let line = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let mut fields = line.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let (user, group) = ids("postgres").or_else(|| ids("nobody")).expect("a user besides root");
    chown(dir, Some(user), Some(group)).unwrap();
    Some((user, group))
}

fn run_as(owner: Option<(u32, u32)>, program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    // psql and pg_ctl take settings from variables; none of the caller's is meant.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PG")) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).current_dir(dir);
    command
}

/// Runs a program to its end; what it printed.
fn run(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {}: {said}", done.status);
    String::from_utf8(done.stdout).unwrap()
}
