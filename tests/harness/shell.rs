//! Our programs as a script uses them: arguments and input in; output, words and exit code out.
//!
//! Everything that is waited for has an end: a program that hangs fails its test.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use super::between::Between;
use super::{DEADLINE, Server, binaries, text};

/// What a program did.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// The output of a success.
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.out
    }

    /// Fails unless it ended with this code; what it said.
    pub(crate) fn refused(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.err.is_empty() || !self.out.is_empty(), "not a word: {self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        &self.err
    }

    /// The one line of a success.
    pub(crate) fn line(&self) -> &str {
        let out = self.ok();
        assert_eq!(out.lines().count(), 1, "{self:?}");
        out.trim_end_matches('\n')
    }

    /// What `send` and `delete` print: a message id, and its position in the log.
    pub(crate) fn sent(&self) -> (String, u64) {
        let (id, index) = self.line().split_once(' ').unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| b"0123456789abcdef".contains(&b)), "{id}");
        (id.to_owned(), index.parse().unwrap())
    }

    /// The texts of the messages it printed as JSON; what happened to sessions is none.
    pub(crate) fn texts(&self) -> Vec<String> {
        let objects = self.objects().into_iter();
        let messages = objects.filter(|object| object["schema"] != "nexo.event/1");
        messages.map(|object| text(&object["text"])).collect()
    }

    /// What it printed as JSON of what happened to sessions.
    pub(crate) fn events(&self) -> Vec<String> {
        self.objects()
            .iter()
            .filter_map(|object| object["event"].as_str().map(String::from))
            .collect()
    }

    /// The lines of a success, each a JSON object.
    pub(crate) fn objects(&self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The one JSON object it printed, whatever it ended with.
    pub(crate) fn object(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command, stdin: &[u8]) -> Done {
    start(command, stdin).finish()
}

/// Starts a program, with all of its input at hand.
pub(crate) fn start(command: &mut Command, stdin: &[u8]) -> Running {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut input, bytes) = (child.stdin.take().unwrap(), stdin.to_vec());
    // It may end without reading all of it.
    thread::spawn(move || input.write_all(&bytes));
    let (out, err) = (whole(child.stdout.take().unwrap()), whole(child.stderr.take().unwrap()));
    Running { child, out, err }
}

/// A program that runs. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Running {
    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Done {
        let out = self.out.recv_timeout(DEADLINE).expect("the program ends in time");
        let err = self.err.recv_timeout(DEADLINE).expect("the program ends in time");
        Done { code: self.child.wait().unwrap().code().unwrap_or(-1), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program whose output is read as it comes. Killed when dropped.
pub(crate) struct Follower {
    child: Child,
    lines: Receiver<String>,
    err: Receiver<String>,
}

impl Follower {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::following(command.stdin(Stdio::null()))
    }

    /// Starts it, with its input to be written.
    pub(crate) fn fed(command: &mut Command) -> (Self, ChildStdin) {
        let mut follower = Self::following(command.stdin(Stdio::piped()));
        let stdin = follower.child.stdin.take().unwrap();
        (follower, stdin)
    }

    fn following(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let err = whole(child.stderr.take().unwrap());
        let (tell, lines) = channel();
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
        });
        Self { child, lines, err }
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line in time")
    }

    /// Waits until it ends by itself. Its code, and the lines that were not read.
    pub(crate) fn ended(mut self) -> Done {
        let err = self.err.recv_timeout(DEADLINE).expect("it ends by itself");
        let out = self.lines.iter().map(|line| line + "\n").collect();
        Done { code: self.child.wait().unwrap().code().unwrap_or(-1), out, err }
    }

    /// Ends it with a signal (`INT`, `TERM`). Its code, and the lines that were not read.
    pub(crate) fn signal(mut self, signal: &str) -> Done {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        let err = self.err.recv_timeout(DEADLINE).expect("it ends when asked to");
        let out = self.lines.iter().map(|line| line + "\n").collect();
        Done { code: self.child.wait().unwrap().code().unwrap_or(-1), out, err }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that comes from a pipe, sent at its end.
fn whole(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (tell, told) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        tell.send(String::from_utf8_lossy(&bytes).into_owned())
    });
    told
}

/// A person's machine: a home of nexo-cli and nothing else of the environment.
pub(crate) struct Person {
    temp: TempDir,
    url: String,
}

impl Person {
    /// Without an account yet, at this server.
    pub(crate) fn at(server: &Server) -> Self {
        Self::reaching(server.url())
    }

    /// Without an account yet, at whatever this URL leads to.
    pub(crate) fn reaching(url: &str) -> Self {
        Self { temp: TempDir::new().unwrap(), url: url.to_owned() }
    }

    /// Without an account yet, at the server that this address leads to.
    pub(crate) fn behind(url: &str) -> Self {
        Self { temp: TempDir::new().unwrap(), url: url.to_owned() }
    }

    /// Without an account yet, at a relay that is reached on this way.
    pub(crate) fn by(way: &Between) -> Self {
        Self { temp: TempDir::new().unwrap(), url: way.url().to_owned() }
    }

    /// With an account.
    pub(crate) fn registered(server: &Server, handle: &str) -> Self {
        let person = Self::at(server);
        person.nexo(&["register", handle]).ok();
        person
    }

    /// The home.
    pub(crate) fn home(&self) -> PathBuf {
        self.temp.path().join("home")
    }

    /// A place for files of the test.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// `nexo-cli` with the server and the home, to which arguments are added.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = bare(&binaries().cli, self.temp.path());
        command.args(["--server", &self.url, "--home"]).arg(self.home()).args(args);
        command
    }

    /// As [`Person::command`], behind these words of a shell, such as `ulimit -f 100; exec`.
    pub(crate) fn command_under(&self, prelude: &str, args: &[&str]) -> Command {
        let mut command = bare(Path::new("/bin/sh"), self.temp.path());
        command.args(["-c", &format!("{prelude} \"$@\""), "sh"]).arg(&binaries().cli);
        command.args(["--server", &self.url, "--home"]).arg(self.home()).args(args);
        command
    }

    /// `nexo-cli` without server and home.
    pub(crate) fn bare(&self, args: &[&str]) -> Command {
        let mut command = bare(&binaries().cli, self.temp.path());
        command.args(args);
        command
    }

    /// Runs `nexo-cli`, with empty input.
    pub(crate) fn nexo(&self, args: &[&str]) -> Done {
        run(&mut self.command(args), b"")
    }

    /// What `tail` prints as JSON now.
    pub(crate) fn received(&self) -> Done {
        self.nexo(&["tail", "--json"])
    }

    /// Runs `nexo-cli` with this input.
    pub(crate) fn pipe(&self, args: &[&str], stdin: &[u8]) -> Done {
        run(&mut self.command(args), stdin)
    }
}

/// An auditor's machine: a state file and nothing else of the environment.
pub(crate) struct Auditor {
    temp: TempDir,
}

impl Auditor {
    /// Without a memory.
    pub(crate) fn new() -> Self {
        Self { temp: TempDir::new().unwrap() }
    }

    /// The state file.
    pub(crate) fn state(&self) -> PathBuf {
        self.temp.path().join("state.json")
    }

    /// What is in the state file; nothing when there is none.
    pub(crate) fn memory(&self) -> Option<String> {
        std::fs::read_to_string(self.state()).ok()
    }

    /// `nexo-audit check URL --state FILE`, and these arguments.
    pub(crate) fn check(&self, url: &str, args: &[&str]) -> Done {
        let mut command = bare(&binaries().audit, self.temp.path());
        command.args(["check", url, "--state"]).arg(self.state()).args(args);
        run(&mut command, b"")
    }

    /// A place for files of the test.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// `nexo-audit` with these words and the state file, to which arguments are added.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = bare(&binaries().audit, self.temp.path());
        command.args(words).arg("--state").arg(self.state());
        command
    }

    /// `nexo-audit` with these arguments alone.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        run(bare(&binaries().audit, self.temp.path()).args(args), b"")
    }
}

/// A program that knows nothing of who runs the tests.
fn bare(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home).current_dir(home);
    command
}
