//! The service manager: what `sd_notify(3)` says, over its datagram socket.
//!
//! ```text
//! READY=1            set up; the first round may take long and is not waited for
//! STATUS=<words>     after each round
//! WATCHDOG=1         as long as the loop turns, at half of WATCHDOG_USEC
//! STOPPING=1         a signal came
//! ```
//!
//! Without `NOTIFY_SOCKET`, or where it cannot be reached, nothing is said: that is nobody's
//! mistake. Unix only; elsewhere nothing is ever said.

use std::ffi::OsString;
use std::time::Duration;

/// Looks a variable up.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Manager {
    #[cfg(unix)]
    socket: Option<std::os::unix::net::UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment says; `process` is this process's id.
    pub(crate) fn from_env(env: Env<'_>, process: u32) -> Self {
        Self {
            #[cfg(unix)]
            socket: env("NOTIFY_SOCKET").and_then(|name| connect(&name).ok()),
            watchdog: watchdog(env, process),
        }
    }

    /// How often it wants to hear that the loop turns.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Everything is set up.
    pub(crate) fn ready(&self) {
        self.say("READY=1");
    }

    /// How things are, in one line.
    pub(crate) fn status(&self, words: &str) {
        self.say(&format!("STATUS={}", words.replace('\n', " ")));
    }

    /// The loop turns.
    pub(crate) fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// The end has begun.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    #[cfg(unix)]
    fn say(&self, words: &str) {
        if let Some(socket) = &self.socket {
            // It never blocks; a manager that does not read will do what it does to the silent.
            let _ = socket.send(words.as_bytes());
        }
    }

    #[cfg(not(unix))]
    fn say(&self, _: &str) {}
}

/// `/path` or, on Linux, `@name` in the abstract namespace.
#[cfg(unix)]
fn connect(name: &std::ffi::OsStr) -> std::io::Result<std::os::unix::net::UnixDatagram> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let address = match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', rest @ ..] => {
            <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(rest)?
        }
        _ => SocketAddr::from_pathname(name)?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Half of `WATCHDOG_USEC`, if it is meant for this process.
fn watchdog(env: Env<'_>, process: u32) -> Option<Duration> {
    let number = |name| env(name)?.into_string().ok()?.parse::<u64>().ok();
    if number("WATCHDOG_PID").is_some_and(|meant| meant != u64::from(process)) {
        return None;
    }
    let limit = number("WATCHDOG_USEC").filter(|limit| *limit > 0)?;
    Some(Duration::from_micros(limit / 2).max(Duration::from_millis(1)))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn what_is_said_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let name = path.into_os_string();
        let manager = Manager::from_env(&|n| (n == "NOTIFY_SOCKET").then(|| name.clone()), 1);
        manager.ready();
        manager.status("a\nb");
        manager.alive();
        manager.stopping();
        let mut bytes = [0; 100];
        for wanted in ["READY=1", "STATUS=a b", "WATCHDOG=1", "STOPPING=1"] {
            let length = listener.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], wanted.as_bytes());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn abstract_names_work_and_absent_ones_say_nothing() {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::SocketAddr;
        let name = format!("nexo-audit-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        let given = OsString::from(format!("@{name}"));
        Manager::from_env(&|n| (n == "NOTIFY_SOCKET").then(|| given.clone()), 1).ready();
        let mut bytes = [0; 100];
        assert_eq!(listener.recv(&mut bytes).unwrap(), 7);
        for nowhere in ["", "/nonexistent/socket", "@nobody-listens-here"] {
            let env = |n: &str| (n == "NOTIFY_SOCKET").then(|| OsString::from(nowhere));
            Manager::from_env(&env, 1).ready();
        }
        Manager::from_env(&|_| None, 1).ready();
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time() {
        let of = |pairs: &'static [(&str, &str)]| {
            let env =
                |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            Manager::from_env(&env, 7).watchdog()
        };
        assert_eq!(of(&[("WATCHDOG_USEC", "30000000")]), Some(Duration::from_secs(15)));
        let ours = &[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "7")];
        assert_eq!(of(ours), Some(Duration::from_secs(1)));
        assert_eq!(of(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "8")]), None);
        for none in [&[][..], &[("WATCHDOG_USEC", "0")], &[("WATCHDOG_USEC", "x")]] {
            assert_eq!(of(none), None);
        }
        assert_eq!(of(&[("WATCHDOG_USEC", "1")]), Some(Duration::from_millis(1)));
    }
}
