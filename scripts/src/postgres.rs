//! A PostgreSQL of one's own: made in a directory, on a socket, gone afterwards.
//!
//! Settings are PostgreSQL's defaults, so fsync and synchronous_commit are on. Its own programs
//! (initdb, pg_ctl, createdb) do the work; they refuse to run as root, so that root runs them
//! as somebody else.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The superuser of the cluster.
const ROLE: &str = "nexo";

/// Where Debian and its relatives keep the programs, one folder a version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Whom root runs PostgreSQL as, the first that there is.
const SERVANTS: [&str; 2] = ["postgres", "nobody"];

/// Why there is no PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// It is not installed.
    #[error(
        "no PostgreSQL: initdb is neither on the PATH nor under {DEBIAN}; install it \
         (apt-get install postgresql, or your system's package)"
    )]
    NotInstalled,
    /// Root, and nobody else.
    #[error("PostgreSQL refuses to run as root, and there is no user postgres or nobody")]
    OnlyRoot,
    /// Files.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// One of its programs failed.
    #[error("{program}: {said}")]
    Program {
        /// Which one.
        program: &'static str,
        /// What it says.
        said: String,
    },
}

/// A running PostgreSQL. Stopped, without ceremony, when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    programs: Programs,
    data: PathBuf,
    /// A socket's path may be 107 bytes long; build directories are longer at times.
    socket: TempDir,
}

impl Cluster {
    /// Makes a cluster in `dir`/postgres and starts it. All folders above must be open to
    /// other users where this runs as root.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub fn start(dir: &Path) -> Result<Self, PostgresError> {
        let programs = Programs { folder: find_programs()?, servant: servant()? };
        let home = dir.join("postgres");
        fs::create_dir(&home).map_err(at(&home))?;
        programs.give(&home)?;
        let socket = TempDir::new().map_err(at(&std::env::temp_dir()))?;
        programs.give(socket.path())?;
        let data = home.join("data");
        let place = data.to_string_lossy().into_owned();
        let line = ["-D", &place, "-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C"];
        programs.run("initdb", &line)?;
        let options = format!("-c listen_addresses='' -k {}", socket.path().display());
        let log = home.join("log").to_string_lossy().into_owned();
        let cluster = Self { programs, data, socket };
        cluster.programs.run(
            "pg_ctl",
            &["-D", &place, "-s", "-w", "-t", "60", "-l", &log, "-o", &options, "start"],
        )?;
        Ok(cluster)
    }

    /// Makes an empty database; the URL a server takes as `DB_URL`.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub fn database(&self, name: &str) -> Result<String, PostgresError> {
        let socket = self.socket.path().to_string_lossy();
        self.programs.run("createdb", &["-h", &socket, "-U", ROLE, name])?;
        Ok(format!("postgres://{ROLE}@/{name}?host={socket}"))
    }

    /// The process that all others of the cluster are children of.
    ///
    /// # Errors
    /// [`PostgresError::Io`] if it has left.
    pub fn pid(&self) -> Result<u32, PostgresError> {
        let path = self.data.join("postmaster.pid");
        let text = fs::read_to_string(&path).map_err(at(&path))?;
        let first = text.lines().next().and_then(|line| line.trim().parse().ok());
        first.ok_or_else(|| at(&path)(io::ErrorKind::InvalidData.into()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let place = self.data.to_string_lossy();
        // Its files go anyway; whoever would hear of a failure is on the way out.
        let _ = self.programs.run("pg_ctl", &["-D", &place, "-s", "-m", "immediate", "stop"]);
    }
}

/// Where PostgreSQL's programs are, and who runs them.
#[derive(Debug)]
struct Programs {
    folder: PathBuf,
    servant: Option<Servant>,
}

/// Another user than root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Servant {
    user: u32,
    group: u32,
}

impl Programs {
    fn run(&self, program: &'static str, args: &[&str]) -> Result<(), PostgresError> {
        let failed = |said: String| PostgresError::Program { program, said };
        let mut command = Command::new(self.folder.join(program));
        // The servant may not look into ours.
        command.args(args).current_dir("/").stdin(Stdio::null());
        // What the environment says of another cluster.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        if let Some(Servant { user, group }) = self.servant {
            command.uid(user).gid(group);
        }
        // pg_ctl's child keeps what it inherits: a pipe would stay open as long as it runs.
        let said = tempfile::tempfile().map_err(|e| failed(e.to_string()))?;
        let copy = || said.try_clone().map_err(|e| failed(e.to_string()));
        let status = command.stdout(copy()?).stderr(copy()?).status();
        if status.map_err(|e| failed(e.to_string()))?.success() {
            return Ok(());
        }
        Err(failed(read_all(said).unwrap_or_default().trim().to_owned()))
    }

    /// Makes a folder the servant's, and nobody else's.
    fn give(&self, folder: &Path) -> Result<(), PostgresError> {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(at(folder))?;
        let Some(Servant { user, group }) = self.servant else { return Ok(()) };
        chown(folder, Some(user), Some(group)).map_err(at(folder))
    }
}

fn read_all(mut file: fs::File) -> io::Result<String> {
    use std::io::{Read as _, Seek as _};
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PostgresError {
    let path = path.to_owned();
    |source| PostgresError::Io { path, source }
}

/// The folder of initdb: on the PATH, else Debian's newest.
fn find_programs() -> Result<PathBuf, PostgresError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file());
    // Links on the PATH may name initdb alone, and its companions lie beside the real one.
    let on_path = on_path.and_then(|folder| fs::canonicalize(folder.join("initdb")).ok());
    let on_path = on_path.and_then(|initdb| initdb.parent().map(Path::to_owned));
    let complete = |folder: &PathBuf| {
        ["initdb", "pg_ctl", "createdb"].iter().all(|program| folder.join(program).is_file())
    };
    let debian = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let mut debian: Vec<(u32, PathBuf)> = debian
        .filter_map(|version| {
            let number = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin")))
        })
        .collect();
    debian.sort_unstable();
    let folders = on_path.into_iter().chain(debian.into_iter().rev().map(|(_, folder)| folder));
    folders.into_iter().find(complete).ok_or(PostgresError::NotInstalled)
}

/// Who runs PostgreSQL if not whoever runs this; `None` if that will do.
fn servant() -> Result<Option<Servant>, PostgresError> {
    let me = Path::new("/proc/self");
    if fs::metadata(me).map_err(at(me))?.uid() != 0 {
        return Ok(None);
    }
    let passwd = Path::new("/etc/passwd");
    let passwd = fs::read_to_string(passwd).map_err(at(passwd))?;
    let found = SERVANTS.iter().find_map(|name| user(&passwd, name));
    found.map(Some).ok_or(PostgresError::OnlyRoot)
}

/// ```text
/// name:password:uid:gid:comment:home:shell      passwd(5)
/// ```
fn user(passwd: &str, name: &str) -> Option<Servant> {
    let mut fields = passwd
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?
        .skip(1);
    let mut number = || fields.next()?.parse().ok().filter(|&id| id != 0);
    Some(Servant { user: number()?, group: number()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name_and_are_not_root() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnobody2:x:9:9:::\nnobody:x:65534:65533:n:/:/x\n\
                      toor:x:0:0:::\nshort:x:7\n";
        assert_eq!(user(passwd, "nobody"), Some(Servant { user: 65_534, group: 65_533 }));
        for name in ["root", "toor", "short", "postgres", ""] {
            assert_eq!(user(passwd, name), None, "{name}");
        }
    }

    #[test]
    fn a_cluster_serves_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let cluster = Cluster::start(dir.path()).unwrap();
        let url = cluster.database("one").unwrap();
        assert!(url.starts_with("postgres://nexo@/one?host=/"), "{url}");
        let again = cluster.database("one");
        assert!(matches!(again, Err(PostgresError::Program { program: "createdb", .. })));
        assert!(PathBuf::from(format!("/proc/{}", cluster.pid().unwrap())).exists());
        let running = cluster.data.join("postmaster.pid");
        assert!(running.exists());
        drop(cluster);
        // The last that it does.
        assert!(!running.exists());
        fs::remove_dir_all(dir.path().join("postgres")).unwrap();
    }
}
