//! The servers under load: started, found by the line they print, their CPU time and memory
//! read.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Clock ticks in a second of `/proc/PID/stat`: `USER_HZ`, 100 on every Linux this runs on.
const TICKS_PER_SECOND: u64 = 100;

/// How long the tokens of a relay started here live: longer than any run.
const TOKEN_MINUTES: &str = "1440";

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It does not run.
    #[error("{program} does not start: {source}")]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It ran and said something else, or nothing.
    #[error("{program} did not say where it listens, but {said:?}")]
    NotListening {
        /// Which program.
        program: PathBuf,
        /// Its first line.
        said: String,
    },
}

/// A server that is listening. It is killed when this is dropped: what it acknowledged is
/// durable all the same.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Kept open, for what it says later would find a closed pipe.
    _output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `program` and waits for the line that ends in the URL it serves. It keeps its
    /// data in `database`, if that is given, and where its arguments say otherwise.
    ///
    /// # Errors
    /// [`StartError`]; then it does not run.
    pub fn start(
        program: &Path,
        args: &[OsString],
        database: Option<&str>,
    ) -> Result<Self, StartError> {
        let spawn = |source| StartError::Spawn { program: program.to_owned(), source };
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        command.env("ACCESS_TTL_MIN", TOKEN_MINUTES);
        match database {
            Some(url) => command.env("DB_URL", url),
            None => command.env_remove("DB_URL"),
        };
        let mut child = command.spawn().map_err(spawn)?;
        let pipe = child.stdout.take().ok_or_else(|| spawn(io::ErrorKind::BrokenPipe.into()))?;
        let mut output = BufReader::new(pipe);
        let mut said = String::new();
        // Ends with the first line, or with the process.
        let read = output.read_line(&mut said).map_err(spawn);
        let listens = said.split_whitespace().last().and_then(address);
        match (read, listens) {
            (Ok(_), Some(address)) => Ok(Self { child, address, _output: output }),
            (read, _) => {
                end(&mut child);
                read?;
                Err(StartError::NotListening { program: program.to_owned(), said })
            }
        }
    }

    /// For [`cpu_time`] and [`resident`].
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Errors mean that it has ended by itself.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The address in `http://ADDRESS:PORT`.
#[must_use]
pub fn address(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("http://")?.trim_end_matches('/').parse().ok()
}

/// CPU time that a process has used, with its threads and its children, in steps of 10 ms.
/// `None` where there is no Linux `/proc`, or no such process.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let read = |pid: u32| parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
    let own = read(pid)?.used;
    let numbers = fs::read_dir("/proc").ok()?.flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = numbers.filter_map(read).filter(|stat| stat.parent == pid);
    Some(own + children.map(|stat| stat.used).sum())
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// By itself and by the children that have ended.
    used: Duration,
}

/// ```text
/// pid (name) state ppid ... utime stime cutime cstime ...      fields 4 and 14 to 17; proc(5)
/// ```
fn parse_stat(stat: &str) -> Option<Stat> {
    // The name may hold spaces and parentheses; the last one ends it.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let ticks: Vec<u64> = fields.skip(9).take(4).map_while(|field| field.parse().ok()).collect();
    let [_, _, _, _] = ticks[..] else { return None };
    let used = Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / TICKS_PER_SECOND);
    Some(Stat { parent, used })
}

/// Bytes of memory that a process has in use, the pages of its files included. `None` where
/// there is no Linux `/proc`, or no such process.
#[must_use]
pub fn resident(pid: u32) -> Option<u64> {
    parse_resident(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// ```text
/// VmRSS:     12345 kB      proc_pid_status(5)
/// ```
fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "7 (a b) c) S 3 7 7 0 -1 4194304 100 0 0 0 150 25 20 5 20 0 4 0 99 1 2";
        let expected = Stat { parent: 3, used: Duration::from_secs(2) };
        assert_eq!(parse_stat(stat), Some(expected));
        assert_eq!(parse_stat("7 (a) S 1 7 7 0 -1 0 0 0 0 0 150 2 3"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn memory_is_read_from_its_line() {
        let status = "Name:\tx\nVmHWM:\t 9 kB\nVmRSS:\t   1234 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(parse_resident(status), Some(1234 * 1024));
        assert_eq!(parse_resident("VmRSS: 12 MB"), None);
        assert_eq!(parse_resident(""), None);
        assert!(resident(std::process::id()).unwrap() > 100_000);
    }

    #[test]
    fn a_childs_time_is_its_parents() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let used = || cpu_time(std::process::id()).unwrap();
        let (before, start) = (used(), std::time::Instant::now());
        while used() < before + Duration::from_millis(50) {
            assert!(start.elapsed() < Duration::from_secs(30), "the child does not count");
        }
        end(&mut child);
        assert!(used() >= before + Duration::from_millis(50), "also when it has ended");
    }

    #[test]
    fn only_a_url_of_an_address_is_one() {
        assert_eq!(address("http://127.0.0.1:9/"), Some("127.0.0.1:9".parse().unwrap()));
        for bad in ["https://127.0.0.1:9", "http://localhost:9", "127.0.0.1:9", ""] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_program_that_does_not_listen_is_named() {
        let start = |program: &str, args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            Process::start(Path::new(program), &args, None).map(|p| p.address)
        };
        let error = start("/bin/echo", &["hello"]).unwrap_err();
        assert!(matches!(error, StartError::NotListening { said, .. } if said == "hello\n"));
        let error = start("/nonexistent", &[]).unwrap_err();
        assert!(matches!(error, StartError::Spawn { .. }));
        let address = start("/bin/echo", &["x listening on http://127.0.0.1:9"]).unwrap();
        assert_eq!(address, "127.0.0.1:9".parse().unwrap());
    }

    #[test]
    fn a_program_is_told_its_database_and_only_its_own() {
        let listens = r#"echo "on http://127.0.0.1:${DB_URL:-1}""#;
        let args = ["-c", listens].map(OsString::from);
        let start = |database| Process::start(Path::new("/bin/sh"), &args, database).unwrap();
        assert_eq!(start(Some("77")).address.port(), 77);
        assert_eq!(start(None).address.port(), 1);
    }
}
