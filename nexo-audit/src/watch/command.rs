//! Telling by a program: hooks in a directory, and one command of a shell.
//!
//! Each gets the notice as JSON on stdin and as `NEXO_*` variables, and takes it by ending with
//! 0 within a minute; anything else is tried again. Its stdout goes nowhere (ours is data), its
//! stderr is ours. Nothing of the notice is on the command line, where others could read it and
//! a shell could take it for more than a word.

use super::notice::Notice;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Longest a program may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The service manager's, and a secret of ours, which are not the programs'.
const NOT_PASSED_ON: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "NEXO_WEBHOOK"];

/// Why a program did not take a notice.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// It could not be started.
    #[error("it could not be started: {0}")]
    Start(io::Error),
    /// It ended with another status than 0.
    #[error("it ended with {0}")]
    Refused(ExitStatus),
    /// It did not end in time, and was killed.
    #[error("it did not end within {} s", LIMIT.as_secs())]
    TooSlow,
}

/// A program in the directory of hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Its file's name.
    pub(crate) name: String,
    path: PathBuf,
}

/// Every executable in a directory, in the order of names. Hidden files, editors' copies and
/// names that are not UTF-8 are passed by.
///
/// # Errors
/// What the operating system says of the directory.
pub(crate) fn hooks(folder: &Path) -> io::Result<Vec<Hook>> {
    let mut hooks = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str) else { continue };
        if !name.starts_with('.') && !name.ends_with('~') && is_executable(&path) {
            hooks.push(Hook { name: name.to_owned(), path });
        }
    }
    hooks.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(hooks)
}

/// A link counts as what it points at.
fn is_executable(path: &Path) -> bool {
    let Ok(found) = path.metadata() else { return false };
    #[cfg(unix)]
    let may_run = std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o111 != 0;
    #[cfg(not(unix))]
    let may_run = true;
    found.is_file() && may_run
}

impl Hook {
    /// Runs it.
    ///
    /// # Errors
    /// [`CommandError`] when it did not take the notice.
    pub(crate) async fn tell(&self, notice: &Notice) -> Result<(), CommandError> {
        run(Command::new(&self.path), notice, LIMIT).await
    }
}

/// Runs a line of the shell.
///
/// # Errors
/// [`CommandError`] when it did not take the notice.
pub(crate) async fn shell(line: &str, notice: &Notice) -> Result<(), CommandError> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line);
    run(command, notice, LIMIT).await
}

async fn run(mut command: Command, notice: &Notice, limit: Duration) -> Result<(), CommandError> {
    // Only values of a closed list of types: it always serializes.
    let json = serde_json::to_vec(notice).map_err(|e| CommandError::Start(e.into()))?;
    for name in NOT_PASSED_ON {
        command.env_remove(name);
    }
    command.envs(notice.variables()).stdin(Stdio::piped()).stdout(Stdio::null());
    // A watch that ends takes its programs along; what they did not take is still waiting.
    let mut child = command.kill_on_drop(true).spawn().map_err(CommandError::Start)?;
    let stdin = child.stdin.take();
    let work = async {
        if let Some(mut stdin) = stdin {
            // Who does not read it needs no more than the variables.
            let _ = stdin.write_all(&json).await;
        }
        child.wait().await
    };
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(CommandError::Refused(status)),
        Ok(Err(error)) => Err(CommandError::Start(error)),
        Err(_) => Err(CommandError::TooSlow),
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::super::notice::{Account, Identity, Kind};
    use super::*;
    use crate::finding::Verdict;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn notice(message: &str) -> Notice {
        let url = "https://log.example";
        let identity = Identity { number: 0, url, kind: Kind::Finding, subject: "" };
        let told = Account { message: message.into(), ..Account::default() };
        Notice::new(identity, Verdict::Fork, None, 0, told)
    }

    fn file(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn hooks_are_the_executables_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for name in ["20-b", "10-a", ".hidden", "10-a~"] {
            file(&place(name), "", 0o755);
        }
        file(&place("README"), "", 0o644);
        fs::create_dir(place("folder")).unwrap();
        std::os::unix::fs::symlink(place("20-b"), place("30-link")).unwrap();
        std::os::unix::fs::symlink(place("nothing"), place("40-broken")).unwrap();
        let names: Vec<_> = hooks(folder.path()).unwrap().into_iter().map(|h| h.name).collect();
        assert_eq!(names, ["10-a", "20-b", "30-link"]);
        assert!(hooks(&place("absent")).is_err());
    }

    #[tokio::test]
    async fn a_program_reads_json_and_variables_and_takes_by_ending_with_0() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let line = format!(
            "cat > {0}; echo \" $NEXO_VERDICT:$NEXO_MESSAGE:$NOTIFY_SOCKET\" >> {0}",
            out.display()
        );
        let notice = notice("$(exit 1) `exit 1` '; exit 1");
        shell(&line, &notice).await.unwrap();
        let text = fs::read_to_string(&out).unwrap();
        let (json, rest) = text.rsplit_once("} ").unwrap();
        let read: Notice = serde_json::from_str(&format!("{json}}}")).unwrap();
        assert_eq!(read, notice);
        assert_eq!(rest, "fork:$(exit 1) `exit 1` '; exit 1:\n");
    }

    #[tokio::test]
    async fn any_other_end_is_a_refusal() {
        let notice = notice("x");
        assert!(matches!(shell("exit 3", &notice).await, Err(CommandError::Refused(_))));
        assert!(matches!(shell("kill -9 $$", &notice).await, Err(CommandError::Refused(_))));
        let nothing = Hook { name: "x".into(), path: "/nonexistent".into() };
        assert!(matches!(nothing.tell(&notice).await, Err(CommandError::Start(_))));
        // Who ends without reading may take it all the same.
        shell("exec true", &notice).await.unwrap();
        let mut slow = Command::new("/bin/sh");
        slow.args(["-c", "exec sleep 60"]);
        let ended = run(slow, &notice, Duration::from_millis(10)).await;
        assert!(matches!(ended, Err(CommandError::TooSlow)));
    }
}
