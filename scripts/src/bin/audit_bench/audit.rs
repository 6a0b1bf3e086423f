//! The auditor as a process: how long it takes, and what it holds.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nexo_scripts::process::cpu_time;

use crate::args::Plan;

/// How often memory and CPU time are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Linux forgets what it read of files when this is written to. Root may.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    /// It does not run.
    #[error("{program} does not start: {source}")]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It ran and did not verify the log.
    #[error("the auditor ended with {code:?}: {said}")]
    Refused {
        /// Its exit code.
        code: Option<i32>,
        /// What it said.
        said: String,
    },
    /// Its memory file could not be put away.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// From start to end.
    pub(crate) wall: Duration,
    /// On all cores.
    pub(crate) cpu: Duration,
    /// Most memory at a time, bytes; `None` of a loop in this process.
    pub(crate) memory: Option<u64>,
}

/// A nexo-audit with a pinned key.
pub(crate) struct Auditor {
    program: PathBuf,
    folder: PathBuf,
    vkey: String,
}

impl Auditor {
    pub(crate) fn new(plan: &Plan, vkey: &str) -> Self {
        let (program, folder) = (plan.audit.clone(), plan.dir.clone());
        Self { program, folder, vkey: vkey.to_owned() }
    }

    /// A full audit of an address or folder, without memory of an earlier one.
    pub(crate) fn full(&self, place: impl AsRef<OsStr>, state: &str) -> Result<Run, AuditError> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if name.starts_with(&format!("{state}.json")) {
                fs::remove_file(&path)?;
            }
        }
        self.run("full", place.as_ref(), state)
    }

    /// The same on files that the system has forgotten; `None` where it does not forget.
    pub(crate) fn cold(&self, folder: &Path) -> Result<Option<Run>, AuditError> {
        if !settle() || fs::write(DROP_CACHES, "3").is_err() {
            return Ok(None);
        }
        self.full(folder, "full").map(Some)
    }

    /// A check with the memory of the last audit over HTTP.
    pub(crate) fn check(&self, url: &str) -> Result<Run, AuditError> {
        self.run("check", url.as_ref(), "check")
    }

    fn run(&self, command: &str, place: &OsStr, state: &str) -> Result<Run, AuditError> {
        let state = self.folder.join(format!("{state}.json"));
        let start = Instant::now();
        let child = Command::new(&self.program)
            .arg(command)
            .arg(place)
            .args(["--vkey", &self.vkey, "--state"])
            .arg(state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child =
            child.map_err(|source| AuditError::Spawn { program: self.program.clone(), source })?;
        let (cpu, memory) = watch(&mut child)?;
        let wall = start.elapsed();
        let done = child.wait_with_output()?;
        if done.status.success() {
            return Ok(Run { wall, cpu, memory: Some(memory) });
        }
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Err(AuditError::Refused { code: done.status.code(), said })
    }
}

/// Waits until everything that was written is on the disk, which is busy until then. Whether that
/// could be asked for.
pub(crate) fn settle() -> bool {
    Command::new("sync").status().is_ok_and(|status| status.success())
}

/// Looks at it until it ends. What it says fits into a pipe.
fn watch(child: &mut Child) -> io::Result<(Duration, u64)> {
    let (mut cpu, mut memory) = (Duration::ZERO, 0);
    while child.try_wait()?.is_none() {
        cpu = cpu_time(child.id()).unwrap_or(cpu);
        memory = peak(child.id()).unwrap_or(memory);
        std::thread::sleep(LOOK);
    }
    Ok((cpu, memory))
}

/// ```text
/// VmHWM:     12345 kB      proc_pid_status(5): most memory so far
/// ```
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn a_process_is_measured_and_its_refusal_told() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        let auditor = |program: &str| {
            Auditor::new(&Plan::parse_from(["x", "--audit", program, "--dir", dir]), "vkey")
        };
        fs::write(folder.path().join("full.json.heads"), "old").unwrap();
        let run = auditor("/bin/echo").full(folder.path(), "full").unwrap();
        assert!(run.wall > Duration::ZERO);
        assert!(!folder.path().join("full.json.heads").exists());
        let refused = auditor("/bin/false").full(folder.path(), "full");
        assert!(matches!(refused, Err(AuditError::Refused { code: Some(1), .. })));
        assert!(matches!(auditor("/nonexistent").check("x"), Err(AuditError::Spawn { .. })));
        assert!(peak(std::process::id()).unwrap() > 100_000);
    }
}
