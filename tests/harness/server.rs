//! A `nexo-server` process: started, waited for, killed, started again.
//!
//! Ready is when the first line of stdout says so. stderr goes to a file, where tests search it.
//! The process dies with its [`Server`]. With `NEXO_BEHIND_NGINX` set every server is reached
//! through an nginx of its own (`scripts/behind-nginx`).

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use tempfile::TempDir;

use super::nginx::{Nginx, free_port, reached};
use super::postgres::Database;
use super::{DEADLINE, Wire, server_binary};

/// Variables of the environment that would change what the server does.
const CLEARED: [&str; 25] = [
    "ACCESS_TTL_MIN",
    "DB_URL",
    "JWT_ISSUER",
    "JWT_SECRET",
    "JWT_SECRET_FILE",
    "NEXO_CLIENT_IP_HEADER",
    "NEXO_CORS_ORIGIN",
    "NEXO_DRAIN",
    "NEXO_GRACE",
    "NEXO_KEYS",
    "NEXO_LOG",
    "NEXO_MAX_BYTES_PER_ACCOUNT",
    "NEXO_MAX_CONVERSATIONS",
    "NEXO_MAX_MESSAGES_PER_ACCOUNT",
    "NEXO_METRICS",
    "NEXO_ORIGIN",
    "NEXO_PING_EVERY",
    "NEXO_PUBLIC_DIRECTORY",
    "NEXO_PUBLIC_URL",
    "NEXO_RATE_LIMIT",
    "NEXO_REGISTRATION",
    "NEXO_REQUIRE_DPOP",
    "NEXO_TRUSTED_PROXIES",
    "REFRESH_TTL_DAYS",
    "RUST_LOG",
];

/// How a server is to be started.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    args: Vec<String>,
    env: Vec<(String, String)>,
    data: Option<PathBuf>,
    database: Option<Arc<Database>>,
    prelude: Option<String>,
    rate_limits: bool,
}

impl Setup {
    /// Adds arguments, separated by spaces.
    pub(crate) fn args(mut self, line: &str) -> Self {
        self.args.extend(line.split(' ').map(str::to_owned));
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Uses a data directory that outlives the server.
    pub(crate) fn data(mut self, path: &Path) -> Self {
        self.data = Some(path.to_owned());
        self
    }

    /// Uses a PostgreSQL database instead of a file in the data directory.
    pub(crate) fn database(mut self, database: Arc<Database>) -> Self {
        self.database = Some(database);
        self
    }

    /// Uses keys of a directory that replicas share, instead of those in the data directory.
    pub(crate) fn keys(mut self, path: &Path) -> Self {
        self.args.extend(["--keys".to_owned(), path.to_str().unwrap().to_owned()]);
        self
    }

    /// Puts the server's command line behind these words of a shell, such as
    /// `ulimit -f 100; exec`. They have to become the server: its process is the one they run in.
    pub(crate) fn under(mut self, commands: &str) -> Self {
        self.prelude = Some(commands.to_owned());
        self
    }

    /// Leaves rate limits on, as they are by default.
    pub(crate) fn rate_limits(mut self) -> Self {
        self.rate_limits = true;
        self
    }

    /// Starts the server.
    pub(crate) fn start(self) -> Server {
        self.try_start().unwrap_or_else(|refusal| panic!("the server did not start: {refusal:?}"))
    }

    /// Starts the server, which may refuse to.
    pub(crate) fn try_start(self) -> Result<Server, NotStarted> {
        let temp = TempDir::new().unwrap();
        let data = self.data.clone().unwrap_or_else(|| temp.path().join("data"));
        let log = temp.path().join("stderr");
        let port = self.goes_behind_nginx().then(free_port);
        let setup = match port {
            Some(port) => self.args(&reached(port)),
            None => self,
        };
        let process = Process::spawn(&setup, &data, "127.0.0.1:0", &log)?;
        let front = port.map(|port| Nginx::start(process.address(), port));
        Ok(Server { setup, temp, data, process, front, http: client() })
    }

    /// Whether it is asked for, and the test does not say itself where the relay is reached.
    fn goes_behind_nginx(&self) -> bool {
        let own = ["--public-url", "--trusted-proxy", "--client-ip-header"];
        let says = |arg: &String| own.contains(&arg.as_str());
        std::env::var_os("NEXO_BEHIND_NGINX").is_some() && !self.args.iter().any(says)
    }
}

/// A server that ended before it was ready.
#[derive(Debug)]
pub(crate) struct NotStarted {
    /// Its exit code, unless a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it said.
    pub(crate) stderr: String,
}

impl NotStarted {
    /// Fails unless it ended with this code, and its last words, which are one line, hold these.
    pub(crate) fn because(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let said = self.stderr.lines().last().unwrap_or_default();
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {said:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }
}

/// A running server.
pub(crate) struct Server {
    setup: Setup,
    temp: TempDir,
    data: PathBuf,
    process: Process,
    front: Option<Nginx>,
    http: reqwest::Client,
}

impl Server {
    /// A server with a fresh data directory and no rate limits.
    pub(crate) fn start() -> Self {
        Setup::default().start()
    }

    /// To be configured and started.
    pub(crate) fn setup() -> Setup {
        Setup::default()
    }

    /// `http://127.0.0.1:<port>`, the same after a restart.
    pub(crate) fn url(&self) -> &str {
        self.front.as_ref().map_or(&self.process.url, |nginx| &nginx.url)
    }

    /// `127.0.0.1:<port>`.
    pub(crate) fn address(&self) -> &str {
        &self.url()["http://".len()..]
    }

    /// The relay's name in every signature, as it announced it.
    pub(crate) fn origin(&self) -> &str {
        &self.process.origin
    }

    /// The log's verifier key, as it announced it.
    pub(crate) fn vkey(&self) -> &str {
        &self.process.vkey
    }

    /// The rest of the line that starts so, among those it announced after the first three.
    pub(crate) fn announced(&self, start: &str) -> String {
        loop {
            let line = self.process.output.recv_timeout(DEADLINE).expect("a further line");
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The PostgreSQL database, if it is on one.
    pub(crate) fn database(&self) -> Option<&Arc<Database>> {
        self.setup.database.as_ref()
    }

    /// Uses another PostgreSQL database from the next start on.
    pub(crate) fn use_database(&mut self, database: Arc<Database>) {
        self.setup.database = Some(database);
    }

    /// To be started, in any number, on the same data directory and database, but with the
    /// usual options.
    pub(crate) fn place(&self) -> Setup {
        let setup = Setup { database: self.setup.database.clone(), ..Setup::default() };
        setup.data(&self.data)
    }

    /// `nexo-server <words> --data-dir <its own>`, on its database; to be given arguments.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = program(&self.setup);
        command.args(words.split(' ')).arg("--data-dir").arg(&self.data);
        command
    }

    /// Everything that is kept: each file of the data directory and of the database. Of a
    /// server that was ended, all that it wrote.
    pub(crate) fn stored(&self) -> Vec<Vec<u8>> {
        let files = std::fs::read_dir(&self.data).unwrap();
        let files = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
        files.chain(self.database().into_iter().flat_map(|database| database.files())).collect()
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.process.child.id()
    }

    /// Whether the process has not ended.
    pub(crate) fn is_up(&mut self) -> bool {
        self.process.child.try_wait().unwrap().is_none()
    }

    /// Waits until it ends by itself.
    pub(crate) fn until_ended(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// A place for files of the test, gone with the server.
    pub(crate) fn temp(&self) -> &Path {
        self.temp.path()
    }

    /// Everything it said on stderr, over all its starts.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(self.temp.path().join("stderr")).unwrap()
    }

    /// Fails if it panicked or had an error of its own.
    pub(crate) fn sound(&self) {
        let stderr = self.stderr();
        let trouble = |line: &&str| line.contains("panicked") || line.contains("error_id");
        assert_eq!(stderr.lines().find(trouble), None);
    }

    /// Fails unless it told that its database could not be used, but no more often than this.
    pub(crate) fn told_of_outages(&self, most: usize) {
        let stderr = self.stderr();
        let told = stderr.lines().filter(|line| line.contains("the database cannot be used"));
        assert!((1..=most).contains(&told.count()), "{stderr}");
        assert!(!stderr.contains(" ERROR r2d2"), "{stderr}");
    }

    /// Requests without a token.
    pub(crate) fn wire(&self) -> Wire {
        Wire::new(self.http.clone(), self.url())
    }

    /// Ends it at once, as a power cut would (SIGKILL).
    pub(crate) fn kill9(&mut self) {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let id = self.process.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.process.wait()
    }

    /// Starts it again on the same data directory and address, after it was ended.
    pub(crate) fn restart(&mut self) {
        self.try_restart().unwrap_or_else(|refusal| panic!("it did not come back: {refusal:?}"));
    }

    /// As [`Server::restart`], where it may refuse to.
    pub(crate) fn try_restart(&mut self) -> Result<(), NotStarted> {
        assert!(self.process.child.try_wait().unwrap().is_some(), "it is still running");
        let log = self.temp.path().join("stderr");
        self.process = Process::spawn(&self.setup, &self.data, self.process.address(), &log)?;
        // Connections to the process before are of no use.
        self.http = client();
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let stderr = self.stderr();
            let tail = stderr.len().saturating_sub(4000);
            let tail = stderr.get(tail..).unwrap_or_default();
            eprintln!("--- nexo-server {} said:\n{tail}---", self.url());
        }
    }
}

/// A process that was ready once. Killed when dropped.
struct Process {
    child: Child,
    url: String,
    origin: String,
    vkey: String,
    /// Further lines; ends with the process.
    output: Receiver<String>,
}

impl Process {
    fn spawn(setup: &Setup, data: &Path, listen: &str, log: &Path) -> Result<Self, NotStarted> {
        let mut command = program(setup);
        let stderr = File::options().create(true).append(true).open(log).unwrap();
        // Sockets of tests are dropped, not closed; nobody waits for them at shutdown.
        if !setup.args.iter().any(|arg| arg == "--grace") {
            command.args(["--grace", "1"]);
        }
        command.args(["--listen", listen, "--data-dir"]).arg(data);
        if !setup.rate_limits {
            command.args(["--rate-limit", "off"]);
        }
        command.args(&setup.args).envs(setup.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (lines, output) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Read on even if nobody listens: a full pipe would stop the server.
                let _ = lines.send(line);
            }
        });
        let [url, origin, vkey] = [const { String::new() }; 3];
        let mut process = Self { child, url, origin, vkey, output };
        if process.announced() {
            return Ok(process);
        }
        let code = process.child.wait().unwrap().code();
        let stderr = std::fs::read_to_string(log).unwrap();
        Err(NotStarted { code, stderr })
    }

    fn address(&self) -> &str {
        &self.url["http://".len()..]
    }

    /// Waits for its end. The output ends with the process, and is waited for with a deadline.
    fn wait(&mut self) -> ExitStatus {
        loop {
            match self.output.recv_timeout(DEADLINE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(RecvTimeoutError::Timeout) => panic!("the server does not end"),
            }
        }
    }

    /// Reads the first three lines; `false` if the output ends before.
    fn announced(&mut self) -> bool {
        let end = Instant::now() + DEADLINE;
        let words = [
            ("nexo-server listening on ", &mut self.url),
            ("origin  ", &mut self.origin),
            ("vkey    ", &mut self.vkey),
        ];
        for (start, word) in words {
            let line = match self.output.recv_timeout(end.duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => panic!("the server says nothing"),
            };
            let said = line.strip_prefix(start);
            *word = said.unwrap_or_else(|| panic!("expected {start:?}: {line:?}")).to_owned();
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `nexo-server` with the environment of this setup and nothing of ours, to be given arguments.
fn program(setup: &Setup) -> Command {
    let server = server_binary();
    let mut command = match &setup.prelude {
        None => Command::new(server),
        Some(prelude) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("{prelude} \"$0\" \"$@\"")).arg(server);
            shell
        }
    };
    for name in CLEARED {
        command.env_remove(name);
    }
    if let Some(database) = &setup.database {
        command.env("DB_URL", database.url());
    }
    command
}

fn client() -> reqwest::Client {
    static PROVIDER: std::sync::Once = std::sync::Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().unwrap();
    });
    reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap()
}
