//! Heads of the log: signed by the pinned key, one history, and fresh.

use std::cell::RefCell;
use std::path::PathBuf;

use nexo_audit::checkpoint::{HeadError, LogKeysError, SignedHead, parse_log_keys};
use nexo_audit::key::{LogKey, TimeKey};
use nexo_audit::merkle::{Hash, ProofError, leaf_hash, verify_consistency, verify_inclusion};

use super::policy::PinPolicy;
use super::replayed::Replayed;
use crate::api::ApiError;
use crate::home::{Home, HomeError};
use crate::vault::{HeldHead, SplitView, Vault, VaultError};

/// Oldest time signature that counts as fresh, seconds (e2ee 2.2).
pub const MAX_AGE: u64 = 24 * 3600;
/// How far a time signature may be ahead of this machine's clock, seconds.
const MAX_AHEAD: u64 = 300;

/// Where heads, keys and proofs come from. Two implementers: the relay, and the tests' log that
/// can lie.
#[expect(async_fn_in_trait, reason = "one thread; no caller needs the futures to be Send")]
pub trait LogSource {
    /// The newest signed checkpoint.
    async fn checkpoint(&self) -> Result<Vec<u8>, ApiError>;
    /// The note that names the time key.
    async fn log_keys(&self) -> Result<Vec<u8>, ApiError>;
    /// The consistency proof between two sizes, 1 <= from <= to.
    async fn consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, ApiError>;
    /// The note of the first head whose tree has the entry at a position, from 1; `None` if none
    /// has.
    async fn head_covering(&self, sth_index: u64) -> Result<Option<Vec<u8>>, ApiError>;
    /// The audit path of a leaf (from 0) under the head of a size.
    async fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, ApiError>;
}

/// Why the log is not believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The head is not the pinned log's.
    #[error("the log's head is refused: {0}")]
    Head(#[from] HeadError),
    /// The note that names the time key is not the pinned log's.
    #[error("the log's key list is refused: {0}")]
    Keys(#[from] LogKeysError),
    /// The log key signed two trees of one size.
    #[error("the log has forked: two different trees of {size} entries are signed{}", kept(.evidence))]
    SplitView {
        /// Entries.
        size: u64,
        /// Where both heads were written.
        evidence: Option<PathBuf>,
    },
    /// A head that is no continuation of the one held, or no earlier state of it.
    #[error("the log is inconsistent: {shown} entries do not continue the {held} seen before{}", kept(.evidence))]
    Inconsistent {
        /// Size held.
        held: u64,
        /// Size shown.
        shown: u64,
        /// Where both heads were written.
        evidence: Option<PathBuf>,
    },
    /// A head from somebody's message that the relay does not prove.
    #[error("somebody holds a head of {size} entries that the relay has not proved for a day{}", kept(.evidence))]
    Unprovable {
        /// Entries.
        size: u64,
        /// Where both heads were written.
        evidence: Option<PathBuf>,
    },
    /// Evidence of an earlier run that nobody has resolved.
    #[error("this relay was caught signing two histories; nothing is done with it any more")]
    Unresolved,
    /// The newest head was vouched for too long ago.
    #[error("the log's newest head was vouched for {age} seconds ago")]
    Stale {
        /// Seconds.
        age: u64,
    },
    /// The newest head was vouched for in the future.
    #[error("the log's newest head is {ahead} seconds ahead of this machine's clock")]
    Ahead {
        /// Seconds.
        ahead: u64,
    },
    /// No time signature.
    #[error("the log's head has no signature of its time key")]
    NoTime,
    /// The entry is not where the relay says.
    #[error("{what} is not in the log at {sth_index}: {reason}")]
    NotIncluded {
        /// What was looked for.
        what: &'static str,
        /// Where, from 1.
        sth_index: u64,
        /// Why not.
        reason: ProofError,
    },
    /// A path that is none.
    #[error("the proof for {what} is malformed")]
    Path {
        /// What it is for.
        what: &'static str,
    },
    /// The relay.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The local state.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Evidence could not be written.
    #[error(transparent)]
    Home(#[from] HomeError),
}

pub(super) fn kept(evidence: &Option<PathBuf>) -> String {
    evidence.as_ref().map_or(String::new(), |path| format!("; evidence: {}", path.display()))
}

/// The log of the pinned relay, as this device knows it.
pub struct LogTrust<'a, S> {
    source: &'a S,
    vault: &'a Vault,
    log_key: &'a LogKey,
    /// Where evidence is written; a stateless device has no place for it.
    home: Option<&'a Home>,
    time_key: RefCell<Option<TimeKey>>,
    policy: PinPolicy,
    /// What somebody should be told, and has not been.
    notices: RefCell<Vec<String>>,
    replayed: Replayed,
}

impl<'a, S: LogSource> LogTrust<'a, S> {
    /// Nothing is fetched yet.
    #[must_use]
    pub fn new(
        source: &'a S,
        vault: &'a Vault,
        log_key: &'a LogKey,
        time_key: Option<TimeKey>,
        home: Option<&'a Home>,
    ) -> Self {
        Self {
            source,
            vault,
            log_key,
            home,
            time_key: RefCell::new(time_key),
            policy: PinPolicy::default(),
            notices: RefCell::default(),
            replayed: Replayed::default(),
        }
    }

    /// With a policy for accounts.
    #[must_use]
    pub fn with_policy(self, policy: PinPolicy) -> Self {
        Self { policy, ..self }
    }

    /// The policy for accounts.
    #[must_use]
    pub fn policy(&self) -> &PinPolicy {
        &self.policy
    }

    /// Keeps a word for a person until somebody can say it.
    pub(super) fn notice(&self, text: String) {
        self.notices.borrow_mut().push(text);
    }

    /// What a person should be told; each word once.
    #[must_use]
    pub fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.borrow_mut())
    }

    /// Chains that need not be replayed again.
    pub(super) fn replayed(&self) -> &Replayed {
        &self.replayed
    }

    /// Where heads and proofs come from.
    pub(super) fn source(&self) -> &'a S {
        self.source
    }

    /// Where evidence goes.
    pub(super) fn home(&self) -> Option<&'a Home> {
        self.home
    }

    /// The state that heads are kept in.
    #[must_use]
    pub fn vault(&self) -> &'a Vault {
        self.vault
    }

    /// The origin of the pinned log.
    #[must_use]
    pub fn origin(&self) -> &'a str {
        self.log_key.origin()
    }

    /// The pinned log key.
    #[must_use]
    pub fn log_key(&self) -> &'a LogKey {
        self.log_key
    }

    /// Size of the newest head held, to ask proofs from; 0 for none.
    ///
    /// # Errors
    /// [`TrustError::Vault`].
    pub fn held_size(&self) -> Result<u64, TrustError> {
        let held = self.vault.read(|tx| tx.newest_head())?;
        Ok(held.map_or(0, |head| head.size))
    }

    /// Fetches the newest head and believes it, or says why not.
    ///
    /// # Errors
    /// [`TrustError`].
    pub async fn fetch_head(&self, now: u64) -> Result<HeldHead, TrustError> {
        let note = self.source.checkpoint().await?;
        self.accept_fresh(&note, None, now).await
    }

    /// As [`LogTrust::accept`], for a head the relay shows as its newest.
    ///
    /// # Errors
    /// [`TrustError`].
    pub async fn accept_fresh(
        &self,
        note: &[u8],
        proof: Option<(u64, Vec<Hash>)>,
        now: u64,
    ) -> Result<HeldHead, TrustError> {
        let head = self.accept(note, proof, now).await?;
        fresh(&head, now)?;
        Ok(head)
    }

    /// Whether this log ever showed two histories. Whoever is about to tell the relay something
    /// asks first: to a relay that was caught, nothing is sent.
    ///
    /// # Errors
    /// [`TrustError::Unresolved`] if it did.
    pub fn one_history(&self) -> Result<(), TrustError> {
        if self.vault.read(|tx| tx.has_split_view())? {
            return Err(TrustError::Unresolved);
        }
        Ok(())
    }

    /// Verifies a head against the pinned key and against the newest head held, and keeps it if
    /// it is newer. `proof` is the consistency proof that came along, and the size it is from.
    ///
    /// # Errors
    /// [`TrustError`]; a head that cannot be proven is never kept.
    pub async fn accept(
        &self,
        note: &[u8],
        proof: Option<(u64, Vec<Hash>)>,
        now: u64,
    ) -> Result<HeldHead, TrustError> {
        self.one_history()?;
        let head = self.open(note).await?;
        // Another process may adopt a head between our look and our write; then ours is compared
        // with that one. Heads only grow, so this ends.
        loop {
            let held = self.vault.read(|tx| tx.newest_head())?;
            let Some(older) = held.as_ref().filter(|held| held.size > 0) else {
                if self.keep(held.as_ref(), &head).await? {
                    return Ok(head);
                }
                continue;
            };
            self.compare(older, &head, proof.as_ref(), now).await?;
            // What is kept is the clock that judges prekeys, so it has to be near ours.
            let newer = (head.size, head.time) > (older.size, older.time);
            if !newer || fresh(&head, now).is_err() || self.keep(held.as_ref(), &head).await? {
                return Ok(head);
            }
        }
    }

    /// Believes that `entry` is in the log at `sth_index`, or says why not.
    ///
    /// # Errors
    /// [`TrustError::NotIncluded`].
    pub fn included(
        &self,
        what: &'static str,
        head: &HeldHead,
        entry: &[u8],
        sth_index: u64,
        path: &[Hash],
    ) -> Result<(), TrustError> {
        let refused = |reason| TrustError::NotIncluded { what, sth_index, reason };
        let index = sth_index.checked_sub(1).ok_or(refused(ProofError::Index))?;
        verify_inclusion(&leaf_hash(entry), index, head.size, path, &head.root).map_err(refused)
    }

    /// The relay's clock: the time signature on the newest head held. It judges prekeys.
    ///
    /// # Errors
    /// [`TrustError::NoTime`] before the first head.
    pub fn relay_time(&self) -> Result<u64, TrustError> {
        let held = self.vault.read(|tx| tx.newest_head())?;
        held.map(|head| head.time).ok_or(TrustError::NoTime)
    }

    /// When what stands at `sth_index` was in the log for sure: the time of the first head that
    /// covers it, if it can be had, else of `head`.
    ///
    /// # Errors
    /// [`TrustError`].
    pub async fn time_of(
        &self,
        sth_index: u64,
        head: &HeldHead,
        now: u64,
    ) -> Result<u64, TrustError> {
        let Some(note) = self.source.head_covering(sth_index).await? else { return Ok(head.time) };
        let first = self.open(&note).await?;
        self.compare(head, &first, None, now).await?;
        let covers = first.size >= sth_index;
        Ok(if covers { first.time.min(head.time) } else { head.time })
    }

    async fn keep(&self, held: Option<&HeldHead>, head: &HeldHead) -> Result<bool, TrustError> {
        Ok(self.vault.write(|tx| tx.replace_head(held, head)).await?)
    }

    /// Opens a note; if its time signature is by an unknown key, the key list is asked once.
    async fn open(&self, note: &[u8]) -> Result<HeldHead, TrustError> {
        let known = self.time_key.borrow().clone();
        let mut head = SignedHead::open(note, self.log_key, known.as_ref())?;
        if head.time.is_none() {
            let key = parse_log_keys(&self.source.log_keys().await?, self.log_key)?;
            head = SignedHead::open(note, self.log_key, Some(&key))?;
            if known.as_ref() != Some(&key) {
                let vkey = key.to_string();
                self.vault.write(|tx| tx.set_time_key(&vkey)).await?;
                *self.time_key.borrow_mut() = Some(key);
            }
        }
        Ok(HeldHead {
            size: head.checkpoint.size,
            root: head.checkpoint.root,
            note: head.note,
            time: head.time.ok_or(TrustError::NoTime)?,
        })
    }

    /// One of the two trees is a prefix of the other, or the relay lies.
    async fn compare(
        &self,
        held: &HeldHead,
        shown: &HeldHead,
        proof: Option<&(u64, Vec<Hash>)>,
        now: u64,
    ) -> Result<(), TrustError> {
        if held.size == shown.size {
            if held.root == shown.root {
                return Ok(());
            }
            return Err(self.split_view(held, &shown.note, now).await?);
        }
        let (old, new) = if held.size < shown.size { (held, shown) } else { (shown, held) };
        if old.size == 0 {
            // The empty tree is a prefix of every tree, but a log that has entries is never
            // empty again.
            return self.inconsistent(held, shown, &[], now);
        }
        let path = match proof.filter(|(from, _)| *from == held.size && held.size < shown.size) {
            Some((_, path)) => path.clone(),
            None => match self.source.consistency(old.size, new.size).await {
                Ok(path) => path,
                // A relay that went back does not have the larger tree: that is the finding,
                // not a failed request.
                Err(ApiError::Refused(problem)) if problem.status < 429 => {
                    return self.inconsistent(held, shown, &[], now);
                }
                Err(error) => return Err(error.into()),
            },
        };
        if verify_consistency(old.size, &old.root, new.size, &new.root, &path).is_ok() {
            return Ok(());
        }
        let prefix = self.prefix((old.size, &old.root), (new.size, &new.root), path).await;
        self.inconsistent(held, shown, &prefix, now)
    }

    /// Records that the log signed another tree of the size of the head held, for good.
    pub(super) async fn split_view(
        &self,
        held: &HeldHead,
        shown: &str,
        now: u64,
    ) -> Result<TrustError, TrustError> {
        // Recorded first: a full disk must not make the next run forget.
        let seen = SplitView { held: held.note.clone(), shown: shown.to_owned() };
        self.vault.write(|tx| tx.record_split_view(&seen, now)).await?;
        let evidence = self.contradiction("split_view", held, shown, &[], now)?;
        Ok(TrustError::SplitView { size: held.size, evidence })
    }

    fn inconsistent(
        &self,
        held: &HeldHead,
        shown: &HeldHead,
        prefix: &[Hash],
        now: u64,
    ) -> Result<(), TrustError> {
        let evidence = self.contradiction("inconsistent", held, &shown.note, prefix, now)?;
        Err(TrustError::Inconsistent { held: held.size, shown: shown.size, evidence })
    }
}

/// Whether a head's time is near enough to `now` (Unix seconds).
fn fresh(head: &HeldHead, now: u64) -> Result<(), TrustError> {
    if head.time > now.saturating_add(MAX_AHEAD) {
        return Err(TrustError::Ahead { ahead: head.time - now });
    }
    let age = now.saturating_sub(head.time);
    if age > MAX_AGE { Err(TrustError::Stale { age }) } else { Ok(()) }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
