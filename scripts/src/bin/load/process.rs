//! The servers under load: started, found by the line they print, their CPU time read.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::loopback;

/// Clock ticks in a second of `/proc/PID/stat`: `USER_HZ`, 100 on every Linux this runs on.
const TICKS_PER_SECOND: u64 = 100;

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Neither `--spawn` nor `--server`.
    #[error("there is no relay to measure: give --spawn or --server")]
    Nothing,
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
pub(crate) struct Process {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Kept open, for what it says later would find a closed pipe.
    _output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `program` and waits for the line that ends in the URL it serves.
    ///
    /// # Errors
    /// [`StartError`]; then it does not run.
    pub(crate) fn start(program: &Path, args: Vec<OsString>) -> Result<Self, StartError> {
        let spawn = |source| StartError::Spawn { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(spawn)?;
        let pipe = child.stdout.take().ok_or_else(|| spawn(io::ErrorKind::BrokenPipe.into()))?;
        let mut output = BufReader::new(pipe);
        let mut said = String::new();
        // Ends with the first line, or with the process.
        let read = output.read_line(&mut said).map_err(spawn);
        let address = said.split_whitespace().last().and_then(loopback);
        match (read, address) {
            (Ok(_), Some(address)) => Ok(Self { child, address, _output: output }),
            (read, _) => {
                end(&mut child);
                read?;
                Err(StartError::NotListening { program: program.to_owned(), said })
            }
        }
    }

    /// For [`cpu_time`].
    pub(crate) fn pid(&self) -> u32 {
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

/// CPU time that a process and its threads have used, in steps of 10 ms. `None` where there is
/// no Linux `/proc`, or no such process.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// ```text
/// pid (name) state ppid ...  utime stime ...      fields 14 and 15, in ticks; proc(5)
/// ```
fn parse_stat(stat: &str) -> Option<Duration> {
    // The name may hold spaces and parentheses; the last one ends it.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (ticks()?, ticks()?);
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 100 0 0 0 150 25 0 0 20 0 4 0 99 1 2";
        assert_eq!(parse_stat(stat), Some(Duration::from_millis(1750)));
        assert_eq!(parse_stat("7 (a) S 1 7 7 0 -1 0 0 0 0 0 150"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_program_that_does_not_listen_is_named() {
        let start = |program: &str, args: &[&str]| {
            let args = args.iter().map(OsString::from).collect();
            Process::start(Path::new(program), args).map(|p| p.address)
        };
        let error = start("/bin/echo", &["hello"]).unwrap_err();
        assert!(matches!(error, StartError::NotListening { said, .. } if said == "hello\n"));
        let error = start("/nonexistent", &[]).unwrap_err();
        assert!(matches!(error, StartError::Spawn { .. }));
        let address = start("/bin/echo", &["x listening on http://127.0.0.1:9"]).unwrap();
        assert_eq!(address, "127.0.0.1:9".parse().unwrap());
    }
}
