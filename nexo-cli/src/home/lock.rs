//! Taking turns with other processes on the same directory.

use std::cell::Cell;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::Home;

/// How often a busy lock is tried again. There is no fair queue: short waits share it well.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// Logins at once; half of the challenges that the relay keeps for one device.
const LOGIN_SLOTS: u32 = 4;

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process held it all the time.
    #[error("the state is locked by process {holder}; waited {waited} seconds")]
    Busy {
        /// The holder's pid, as it wrote it; `?` if it wrote none.
        holder: String,
        /// Seconds.
        waited: u64,
    },
    /// The file system refused.
    #[error("state.lock: {0}")]
    Io(#[from] std::io::Error),
}

/// The lock of the state. It goes with the process, however that ends.
#[derive(Debug)]
pub struct StateLock {
    path: PathBuf,
    patience: Duration,
    longest: Cell<Duration>,
}

/// The lock, held until dropped.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "held for its drop, which unlocks")] File);

impl StateLock {
    /// The lock of `home`; waiting for it ends after `patience`.
    #[must_use]
    pub fn of(home: &Home, patience: Duration) -> Self {
        Self { path: home.file("state.lock"), patience, longest: Cell::default() }
    }

    /// The longest wait for it so far.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        self.longest.get()
    }

    /// Takes the lock. Never hold it across the network or a prompt.
    ///
    /// # Errors
    /// [`LockError`].
    pub async fn take(&self) -> Result<Held, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&self.path)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if start.elapsed() >= self.patience => {
                    return Err(LockError::Busy {
                        holder: holder(&mut file),
                        waited: self.patience.as_secs(),
                    });
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
                Err(TryLockError::Error(e)) => return Err(e.into()),
            }
        }
        self.longest.set(self.longest.get().max(start.elapsed()));
        // For the message of those who wait; fixed width, so a shorter pid leaves nothing over.
        file.rewind()?;
        file.write_all(format!("{:<10}\n", std::process::id()).as_bytes())?;
        Ok(Held(file))
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let pid = text.trim();
    let plain = read.is_ok() && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    if plain { pid.to_owned() } else { "?".to_owned() }
}

impl Home {
    /// Waits for one's turn to log in: the relay keeps few challenges of a device alive, and
    /// fifty processes that log in at once would push each other's out. A courtesy, no more:
    /// after `patience`, or if the file system refuses, one goes on without it. Unlike the
    /// state's lock it is held across the network; nothing else waits for it.
    pub async fn login_turn(&self, patience: Duration) -> Option<Held> {
        let slot = std::process::id() % LOGIN_SLOTS;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(self.file(&format!("login.{slot}"))).ok()?;
        let start = Instant::now();
        while start.elapsed() < patience {
            match file.try_lock() {
                Ok(()) => return Some(Held(file)),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
                Err(TryLockError::Error(_)) => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn h7_a_busy_lock_names_its_holder_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(&dir.path().join("h"), true).unwrap();
        let lock = StateLock::of(&home, Duration::from_millis(30));
        let held = lock.take().await.unwrap();
        match lock.take().await {
            Err(LockError::Busy { holder, .. }) => {
                assert_eq!(holder, std::process::id().to_string());
            }
            other => panic!("{other:?}"),
        }
        drop(held);
        assert_eq!(lock.longest_wait().as_millis(), 0, "what was given up is no wait that ended");
        lock.take().await.unwrap();
        assert_eq!(home.file("state.lock").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn turns_are_taken_and_never_waited_for_in_vain() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(&dir.path().join("h"), true).unwrap();
        let mine = home.login_turn(Duration::from_secs(1)).await;
        assert!(mine.is_some());
        assert!(home.login_turn(Duration::from_millis(20)).await.is_none(), "goes on without");
        drop(mine);
        assert!(home.login_turn(Duration::from_millis(20)).await.is_some());
    }
}
