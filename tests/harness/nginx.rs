//! nginx as an operator runs it, from `scripts/nginx.conf`: as a plain process of the test, with
//! its ports and a directory of its own. It ends with the test.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use super::DEADLINE;
use super::workspace::root;

/// Where Debian and others put it; `/usr/sbin` is not in everybody's path.
const PLACES: [&str; 4] = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx", "nginx"];

/// A port that was free a moment ago, before the relay has to know where it is reached.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What a relay is told that is reached at this port.
pub(crate) fn reached(port: u16) -> String {
    format!("--public-url http://127.0.0.1:{port} --trusted-proxy 127.0.0.1/32")
}

/// A running nginx.
pub(crate) struct Nginx {
    child: Child,
    temp: TempDir,
    /// `http://127.0.0.1:<port>`.
    pub(crate) url: String,
}

impl Nginx {
    /// In front of the relay at this address, at this port.
    pub(crate) fn start(relay: &str, port: u16) -> Self {
        let temp = TempDir::new().unwrap();
        let snippet = snippet(relay, port, temp.path());
        fs::write(temp.path().join("nexo.conf"), snippet).unwrap();
        fs::write(temp.path().join("nginx.conf"), main_conf(temp.path())).unwrap();
        let error = fs::File::create(temp.path().join("stderr")).unwrap();
        let mut command = Command::new(program());
        command.arg("-p").arg(temp.path()).args(["-c", "nginx.conf", "-e", "error.log"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(error);
        let child = command.spawn().unwrap();
        let mut nginx = Self { child, temp, url: format!("http://127.0.0.1:{port}") };
        nginx.until_it_listens(port);
        nginx
    }

    fn until_it_listens(&mut self, port: u16) {
        let end = Instant::now() + DEADLINE;
        // Whoever answers at the port is this nginx: it writes its name once it has the port.
        let named = |temp: &Path| fs::metadata(temp.join("pid")).is_ok_and(|pid| pid.len() > 0);
        let answers = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        while !(named(self.temp.path()) && answers()) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("nginx ended with {status}: {}", self.said());
            }
            assert!(Instant::now() < end, "nginx does not listen: {}", self.said());
            std::thread::yield_now();
        }
    }

    /// What it said, on stderr and in its error log.
    fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.temp.path().join(name)).unwrap_or_default();
        read("stderr") + &read("error.log")
    }

    /// The access log, once nginx has ended.
    pub(crate) fn access_log(mut self) -> String {
        self.stop();
        fs::read_to_string(self.temp.path().join("nexo.log")).unwrap()
    }

    fn stop(&mut self) {
        // It may have ended already.
        if matches!(self.child.try_wait(), Ok(None)) {
            let id = self.child.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &id]).status();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- nginx said:\n{}---", self.said());
        }
        self.stop();
    }
}

fn program() -> PathBuf {
    let found = PLACES.iter().map(Path::new).find(|path| {
        Command::new(path).arg("-v").stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    });
    let missing = "the tests need nginx (Debian and Ubuntu: apt-get install nginx-light)";
    found.expect(missing).to_owned()
}

/// The documented file, with the test's ports and log directory.
fn snippet(relay: &str, port: u16, dir: &Path) -> String {
    let mut text = fs::read_to_string(root().join("scripts/nginx.conf")).unwrap();
    for (documented, ours) in [
        ("server 127.0.0.1:8000;", format!("server {relay};")),
        ("listen 80;", format!("listen 127.0.0.1:{port};")),
        ("/var/log/nginx/", format!("{}/", dir.display())),
    ] {
        assert_eq!(text.matches(documented).count(), 1, "{documented} in scripts/nginx.conf");
        text = text.replace(documented, &ours);
    }
    text
}

/// What Debian's own nginx.conf has around such a file, for a process without rights.
fn main_conf(dir: &Path) -> String {
    let dir = dir.display();
    // Where this is root, workers would be somebody else and could not get at the directory.
    let user = match fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own))
    {
        Ok(0) => "user root;\n",
        _ => "",
    };
    let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {dir}/{kind};\n"))
        .collect();
    format!(
        "{user}daemon off;\nworker_processes 1;\npid {dir}/pid;\nerror_log {dir}/error.log warn;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n{temps}    include {dir}/nexo.conf;\n}}\n"
    )
}
