//! `tail --exec CMD`: a program for each message, which takes it by ending with 0.
//!
//! The message is on its stdin as the JSON of `--json`, and in `NEXO_*` variables; nothing of it
//! is on the command line. What is not taken is given again after a pause, and after the last
//! time goes to the file of dead letters, so that one message cannot stop the stream. Killed in
//! between, `tail` gives the same message again: at least once, under the same id.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::clock;
use crate::error::CliError;
use crate::output::Printer;

const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Variables of ours that a handler may need to call nexo-cli itself. Others could be secrets.
const PASSED_ON: [&str; 3] = ["NEXO_HOME", "NEXO_SERVER", "NEXO_VKEY"];

/// Why a handler did not take a message.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("it could not be started: {0}")]
    Start(io::Error),
    #[error("it ended with {0}")]
    Refused(ExitStatus),
    #[error("it did not end within {} s", .0.as_secs())]
    TooSlow(Duration),
}

/// A program that takes messages.
pub(super) struct Handler {
    /// A line for /bin/sh.
    pub(super) command: String,
    /// How often a message is given to it.
    pub(super) tries: u32,
    /// How long it may take each time.
    pub(super) limit: Duration,
    /// The pause before the second time; those that follow grow to a minute.
    pub(super) first_pause: Duration,
    /// Where messages go that it never took.
    pub(super) dead_letters: PathBuf,
}

impl Handler {
    /// Gives `message` to the program until it takes it, or to the dead letters. Afterwards it is
    /// somebody's, and may be marked.
    ///
    /// # Errors
    /// That the dead letter could not be written; then the message is nobody's yet.
    pub(super) async fn give(&self, message: &Value, printer: &Printer) -> Result<(), CliError> {
        let id = message["msg_id"].as_str().unwrap_or("?");
        let mut pauses = pauses(self.first_pause);
        for attempt in 1.. {
            let Err(reason) = self.run(message, attempt).await else { return Ok(()) };
            if attempt >= self.tries {
                self.bury(message, attempt, &reason.to_string())?;
                let file = self.dead_letters.display();
                printer.warn(&format!("message {id}: {reason}; it is in {file}"));
                break;
            }
            let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
            let seconds = pause.as_secs_f64();
            printer.warn(&format!("message {id}: {reason}; again in {seconds:.0} s"));
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    async fn run(&self, message: &Value, attempt: u32) -> Result<(), NotTaken> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(&self.command);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("NEXO_") && !is_passed_on(&name) {
                command.env_remove(&*name);
            }
        }
        command.envs(variables(message)).env("NEXO_ATTEMPT", attempt.to_string());
        // A tail that ends takes its handler along; the message is still waiting.
        command.stdin(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(NotTaken::Start)?;
        let (stdin, line) = (child.stdin.take(), format!("{message}\n"));
        let work = async {
            if let Some(mut stdin) = stdin {
                // Who does not read it needs no more than the variables.
                let _ = stdin.write_all(line.as_bytes()).await;
            }
            child.wait().await
        };
        match tokio::time::timeout(self.limit, work).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(NotTaken::Refused(status)),
            Ok(Err(error)) => Err(NotTaken::Start(error)),
            Err(_) => Err(NotTaken::TooSlow(self.limit)),
        }
    }

    /// Appends the message to the dead letters, durably.
    fn bury(&self, message: &Value, attempts: u32, reason: &str) -> Result<(), CliError> {
        let letter = json!({
            "schema": "nexo.dead_letter/1",
            "failed_at": clock::rfc3339(clock::seconds()),
            "attempts": attempts,
            "reason": reason,
            "message": message,
        });
        let mut options = OpenOptions::new();
        let failed =
            |source| CliError::OutputFile { path: self.dead_letters.display().to_string(), source };
        let file = options.append(true).create(true).mode(0o600).open(&self.dead_letters);
        let mut file = file.map_err(failed)?;
        file.write_all(format!("{letter}\n").as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)
    }
}

/// Names of files are no secrets, and a handler's nexo-cli reads the same ones.
fn is_passed_on(name: &str) -> bool {
    PASSED_ON.contains(&name) || name.ends_with("_FILE")
}

/// `NEXO_MSG_ID` and so on: every word of the object, but the text, which may be too long for
/// an environment.
fn variables(message: &Value) -> Vec<(String, String)> {
    let words = message.as_object().into_iter().flatten().filter_map(|(name, value)| {
        let value = value.as_str().filter(|value| !value.contains('\0'))?;
        (name != "text").then(|| (format!("NEXO_{}", name.to_uppercase()), value.to_owned()))
    });
    let error = message["error"]["kind"].as_str();
    words.chain(error.map(|kind| ("NEXO_ERROR".to_owned(), kind.to_owned()))).collect()
}

fn pauses(first: Duration) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Value {
        json!({"schema": "nexo.message/1", "msg_id": "ab", "from": "alice", "text": "hi\n",
            "sent_at": null})
    }

    fn handler(dir: &tempfile::TempDir, command: &str, tries: u32) -> Handler {
        let limit = Duration::from_secs(60);
        let dead_letters = dir.path().join("dead");
        let first_pause = Duration::from_millis(1);
        Handler { command: command.to_owned(), tries, limit, first_pause, dead_letters }
    }

    fn silent() -> Printer {
        Printer::to(Box::new(io::sink()), Box::new(io::sink()), true, true)
    }

    #[tokio::test]
    async fn it_gets_the_message_on_stdin_and_in_variables() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let line = format!("(cat; echo $NEXO_MSG_ID $NEXO_FROM $NEXO_ATTEMPT) > {}", out.display());
        handler(&dir, &line, 1).give(&message(), &silent()).await.unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        let (object, words) = text.split_once('\n').unwrap();
        assert_eq!(serde_json::from_str::<Value>(object).unwrap(), message());
        assert_eq!(words, "ab alice 1\n");
        assert!(!dir.path().join("dead").exists());
    }

    #[tokio::test]
    async fn what_is_never_taken_is_a_dead_letter() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let line = format!("echo x >> {}; exit 3", count.display());
        handler(&dir, &line, 3).give(&message(), &silent()).await.unwrap();
        assert_eq!(std::fs::read_to_string(count).unwrap(), "x\nx\nx\n");
        let dead = std::fs::read_to_string(dir.path().join("dead")).unwrap();
        let dead: Value = serde_json::from_str(&dead).unwrap();
        assert_eq!(dead["message"], message());
        assert_eq!(dead["attempts"], 3);
        assert_eq!(dead["reason"], "it ended with exit status: 3");
    }

    #[tokio::test]
    async fn a_dead_letter_that_cannot_be_written_keeps_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let mut handler = handler(&dir, "exit 1", 1);
        handler.dead_letters = dir.path().join("no/such/folder");
        assert!(handler.give(&message(), &silent()).await.is_err());
    }

    #[tokio::test]
    async fn a_handler_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut handler = handler(&dir, "exec sleep 600", 1);
        handler.limit = Duration::from_millis(50);
        handler.give(&message(), &silent()).await.unwrap();
        let dead = std::fs::read_to_string(dir.path().join("dead")).unwrap();
        assert!(dead.contains("did not end within"), "{dead}");
    }

    #[test]
    fn secrets_of_ours_are_not_passed_on() {
        for name in ["NEXO_IDENTITY", "NEXO_STATE_KEY", "NEXO_PASSPHRASE", "NEXO_TOKEN"] {
            assert!(!is_passed_on(name), "{name}");
        }
        for name in ["NEXO_HOME", "NEXO_STATE_KEY_FILE"] {
            assert!(is_passed_on(name), "{name}");
        }
    }

    #[test]
    fn no_variable_can_break_the_environment() {
        let object = json!({"from": "a\0b", "msg_id": "m", "sth_index": 3, "error": {"kind": "k"}});
        let names: Vec<_> = variables(&object).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["NEXO_MSG_ID", "NEXO_ERROR"]);
    }
}
