//! How the relay ends: first it says that it is going, then it stops listening, then it lets go.
//!
//! ```text
//! SIGTERM, SIGINT   /readyz answers 503
//! --drain later     no new connections; sockets: answers for what they sent, bye, close 1001
//! at most --grace   requests under way are answered
//! then              the log's queue is drained and committed, cursors are stored, exit 0
//! ```
//!
//! Rocket would stop listening with the signal; a load balancer that asks every few seconds
//! would send it clients meanwhile. So the signals are ours.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rocket::Shutdown;
use rocket::tokio::signal::unix::{Signal, SignalKind, signal};
use rocket::tokio::{select, time::sleep};

/// Whether the relay is going. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stopping(Arc<AtomicBool>);

impl Stopping {
    /// Whether it has been asked to.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The signals that end the relay.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them over from the system; to be called within the runtime.
    ///
    /// # Errors
    /// What the system says.
    pub fn take() -> io::Result<Self> {
        let [terminate, interrupt] = [SignalKind::terminate(), SignalKind::interrupt()];
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    /// Waits for one, says that the relay is going, and ends the web server after `drain`, or
    /// with another signal.
    pub async fn end(mut self, stopping: Stopping, drain: Duration, server: Shutdown) {
        self.next().await;
        stopping.begin();
        select! {
            () = sleep(drain) => {}
            () = self.next() => {}
        }
        server.notify();
    }

    async fn next(&mut self) {
        select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
