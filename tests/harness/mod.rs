//! What the tests stand on: programs, a server to run, clients to speak with, and how an answer
//! is judged.
//!
//! ```text
//! server   a nexo-server process on a port and data directory of its own
//! engine   SQLite or PostgreSQL, and tests that run on both
//! postgres a PostgreSQL of the tests' own
//! load     many clients that keep sending to servers which vanish, and what they were told
//! sender   one such client
//! wire     HTTP requests and sockets, byte for byte
//! plain    a client as the seed describes one
//! native   a client with a sigchain and encryption, which can also misbehave
//! chain    events of a sigchain, signed by whom a test wants
//! proxy    a network that is cut, stands still, or loses answers
//! proof    DPoP proofs and access tokens, made by hand so that they can be made wrong
//! note     checkpoints and audit paths, checked without code of the server
//! reader   the public log over HTTP, verified with the auditor's library
//! liar     a log that lies
//! between  somebody on the way from nexo-cli to a relay
//! shell    nexo-cli and nexo-audit, run as a script runs them
//! tamper   data directories, copied and altered
//! workspace  manifests and sources, for the tests of the architecture
//! ```
//!
//! Nothing here sleeps, but for clients that were told to come back: what is waited for is read,
//! and what does not come in time fails.

pub(crate) mod between;
pub(crate) mod chain;
pub(crate) mod engine;
pub(crate) mod liar;
pub(crate) mod load;
pub(crate) mod native;
pub(crate) mod nginx;
pub(crate) mod note;
pub(crate) mod plain;
pub(crate) mod postgres;
pub(crate) mod proof;
pub(crate) mod proxy;
pub(crate) mod reader;
mod sender;
pub(crate) mod server;
pub(crate) mod shell;
pub(crate) mod tamper;
pub(crate) mod wire;
pub(crate) mod workspace;

pub(crate) use engine::{Engine, both};
pub(crate) use native::Native;
pub(crate) use plain::Plain;
pub(crate) use proxy::Way;
pub(crate) use server::Server;
pub(crate) use wire::{Reply, Socket, Wire};

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

/// How long anything may take that is not waiting for a person. Generous: two cores, many tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The programs, built.
pub(crate) struct Binaries {
    pub(crate) server: PathBuf,
    pub(crate) cli: PathBuf,
    pub(crate) audit: PathBuf,
}

/// All three programs.
pub(crate) fn binaries() -> &'static Binaries {
    static BUILT: OnceLock<Binaries> = OnceLock::new();
    BUILT.get_or_init(|| {
        let server = server_binary().to_owned();
        let folder = build(&["nexo-server", "nexo-cli", "nexo-audit"]);
        Binaries { server, cli: folder.join("nexo-cli"), audit: folder.join("nexo-audit") }
    })
}

/// The server alone, for tests that need no more.
pub(crate) fn server_binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build(&["nexo-server"]).join("nexo-server"))
}

/// Builds programs in the profile and target directory of this very test program, and says where
/// they are. Cargo gives the paths of binaries only to tests of their own package.
fn build(packages: &[&str]) -> PathBuf {
    let me = std::env::current_exe().unwrap();
    // <target>/<profile>/deps/blackbox-<hash>
    let folder = me.ancestors().nth(2).unwrap().to_owned();
    let profile = match folder.file_name().and_then(|name| name.to_str()).unwrap() {
        "debug" => "dev",
        other => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--bins", "--profile", profile]);
    command.arg("--target-dir").arg(folder.parent().unwrap());
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for package in packages {
        command.args(["-p", package]);
    }
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    folder
}

/// The log and the accounts at one moment, to show that nothing was stored since.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    users: u64,
    entries: u64,
    head: String,
}

impl Snapshot {
    /// As the relay says now.
    pub(crate) async fn of(server: &Server) -> Self {
        let health = server.wire().get("/health").await.ok();
        let head = server.wire().get("/checkpoint").await;
        assert_eq!(head.status, 200);
        Self {
            users: health["users_count"].as_u64().unwrap(),
            entries: health["sth_count"].as_u64().unwrap(),
            // The signed text; the signatures below it are renewed every minute.
            head: head.text().split("\n\n").next().unwrap().to_owned(),
        }
    }

    /// Fails if anything was stored since.
    pub(crate) async fn unchanged(&self, server: &Server) {
        assert_eq!(*self, Self::of(server).await, "something was stored");
    }
}

/// Waits until the relay's clock shows a later second than `second`.
pub(crate) async fn past(server: &Server, second: u64) {
    let end = std::time::Instant::now() + DEADLINE;
    while number(&server.wire().get("/health").await.ok()["timestamp"]) <= second {
        assert!(std::time::Instant::now() < end, "the clock stands still");
    }
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// Unix seconds, by the clock that server and tests share.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A vector file, parsed.
pub(crate) fn vectors(path: &str) -> Value {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/vectors/");
    serde_json::from_str(&std::fs::read_to_string(format!("{root}{path}")).unwrap()).unwrap()
}

/// The text of a JSON string.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// The value of a JSON number.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no whole number: {value}"))
}

/// A signature with its S replaced by S + L, L the order of the group.
pub(crate) fn plus_order(signature: &[u8]) -> Vec<u8> {
    // 2^252 + 27742317777372353535851937790883648493, least significant byte first.
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut out = signature.to_vec();
    let mut carry = 0;
    for (byte, add) in out[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        [*byte, _] = sum.to_le_bytes();
        carry = sum >> 8;
    }
    assert_eq!(carry, 0, "S + L still fits 256 bits");
    out
}
