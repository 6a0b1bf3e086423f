//! The whole audit: every entry and every tile, from the first on, on all cores.
//!
//! ```text
//! 1 open      the head under the pinned key, as in [`crate::check`]; compare it, ask for a proof
//! 2 walk      jobs of 64 tiles, each hashed by itself on a thread of its own, entries beside
//!             their tiles; joined in order into one tree                          [`walk`]
//! 3 levels    every tile above, full and partial, beside the hashes the leaves make  [`levels`]
//! 4 pass      the tree must have been at the root of every head ever accepted here
//! 5 fresh     the head's age, last
//! ```
//!
//! `check` reads what is new and trusts what it remembers; this trusts nothing but the key. It
//! finds what was rewritten below heads that were verified long ago, and wrong tiles of the upper
//! levels, of which wrong proofs are made.
//!
//! The result does not depend on the number of threads or on their timing: jobs are joined in
//! order, and of several findings it is the first in the log that is reported. An audit that was
//! broken off goes on from the units of the tree that were in order (`state/progress.rs`).

mod levels;
#[cfg(test)]
mod tests;
mod walk;

use crate::check::{
    Aids, Failure, Notes, Opened, Trust, compare, fetch_head, fetch_time_key, freshness, known,
    open_head, prove, replaced, signed_head,
};
use crate::checkpoint::SignedHead;
use crate::fetch::{FetchError, Source};
use crate::finding::Finding;
use crate::growth::accuses;
use crate::key::TimeKey;
use crate::merkle::Hash;
use crate::rebuild::Milestone;
use crate::state::{Heads, Memory, Progress, ProgressFile, StateError};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;
use walk::{Milestones, Walk, WalkError};

/// Makes a source; every thread has one of its own, because connections belong to a thread.
pub type Open<S> = Arc<dyn Fn() -> Result<S, FetchError> + Send + Sync>;

/// Settings of a full audit.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Oldest head that is still fresh; `None` when its age does not count, as in a copy.
    pub max_age: Option<Duration>,
    /// This machine's time, POSIX seconds.
    pub clock: fn() -> u64,
    /// Threads that hash.
    pub threads: NonZero<usize>,
}

/// What a full audit verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The log.
    pub origin: String,
    /// Entries under the head, all of which were hashed.
    pub size: u64,
    /// The head's root.
    pub root: Hash,
    /// Size of the newest head that was accepted before; `None` at the first audit.
    pub previous: Option<u64>,
    /// Heads accepted before that the tree passes through.
    pub heads: u64,
    /// Tiles that were compared, of all levels; bundles are as many as those of level 0.
    pub tiles: u64,
    /// Entries that an audit which was broken off had done.
    pub resumed: u64,
    /// When the log last vouched for the head, POSIX seconds, where that counts.
    pub time: Option<u64>,
    /// Seconds from then until the head was read.
    pub age: Option<u64>,
    /// The time key that was remembered, when the log names another one now.
    pub replaced_time_key: Option<TimeKey>,
}

/// A verified audit.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What to say.
    pub report: Report,
    /// What to remember.
    pub memory: Memory,
}

/// Why a full audit did not verify the log.
#[derive(Debug, thiserror::Error)]
pub enum FullError {
    /// The log is not as it should be.
    #[error(transparent)]
    Failure(Box<Failure>),
    /// The auditor's own files are not.
    #[error(transparent)]
    State(#[from] StateError),
    /// No client for the log could be made.
    #[error("{0}")]
    Client(FetchError),
    /// The operating system refused a thread.
    #[error("no thread to work with: {0}")]
    Thread(std::io::Error),
}

/// Audits the whole log that `open` opens. `progress` is called with the entries done and all
/// entries. Runs inside a Tokio runtime, which it does not block; dropping it stops the threads.
pub(crate) async fn full<S: Source>(
    open: Open<S>,
    trust: &Trust,
    options: Options,
    mut aids: Aids<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, FullError> {
    let source = open().map_err(FullError::Client)?;
    let mut notes = Notes::of(trust, &aids);
    let begun = begin(&source, trust, options, &aids, &mut notes).await;
    let failure =
        |finding, notes: &mut Notes| FullError::Failure(std::mem::take(notes).of_failure(finding));
    let Begun { head, time_key, now } = begun.map_err(|finding| failure(finding, &mut notes))?;

    let file = aids.progress.take();
    let known = known(trust, aids.newest.as_ref());
    let heads = Accepted { heads: aids.heads.clone(), newest: known.map(Milestone::of) };
    let whole = Whole { open, source: &source, trust, options, heads, head: &head };
    let walked = whole.walk(file, progress).await.map_err(|error| match error {
        WalkError::Finding(finding) => failure(finding, &mut notes),
        WalkError::State(error) => FullError::State(error),
        WalkError::Client(error) => FullError::Client(error),
        WalkError::Thread(error) => FullError::Thread(error),
    })?;

    let (time, age) = age_of(&head, time_key.as_ref(), now, options.max_age)
        .map_err(|finding| failure(finding, &mut notes))?;
    let memory = trust.memory();
    let report = Report {
        origin: head.checkpoint.origin.clone(),
        size: head.checkpoint.size,
        root: head.checkpoint.root,
        previous: known.map(|known| known.checkpoint.size),
        heads: walked.heads,
        tiles: walked.tiles,
        resumed: walked.resumed,
        time,
        age,
        replaced_time_key: replaced(memory, time_key.as_ref()),
    };
    // A copy without the list of keys does not take away what was known.
    let time_key = time_key.or_else(|| memory.and_then(|memory| memory.time_key.clone()));
    let memory = Memory { log_key: trust.log_key().clone(), time_key, head, range: walked.range };
    Ok(Verified { report, memory })
}

/// A head that may be audited.
struct Begun {
    head: SignedHead,
    time_key: Option<TimeKey>,
    now: u64,
}

async fn begin<S: Source>(
    source: &S,
    trust: &Trust,
    options: Options,
    aids: &Aids<'_>,
    notes: &mut Notes,
) -> Result<Begun, Finding> {
    let log_key = trust.log_key();
    let begun = if S::LOCAL {
        open_copy(source, trust, options.clock, notes).await?
    } else {
        let Opened { head, time_key, now } =
            open_head(source, log_key, options.clock, notes).await?;
        Begun { head, time_key: Some(time_key), now }
    };
    let known = known(trust, aids.newest.as_ref());
    compare(&begun.head, known, aids.heads.as_ref(), log_key, notes)?;
    if !S::LOCAL {
        prove(source, &begun.head, known).await?;
    }
    Ok(begun)
}

/// A copy need not have the list of keys, which is no file of C2SP tlog-tiles.
async fn open_copy<S: Source>(
    source: &S,
    trust: &Trust,
    clock: fn() -> u64,
    notes: &mut Notes,
) -> Result<Begun, Finding> {
    let bytes = fetch_head(source).await?;
    let now = clock();
    let head = signed_head(&bytes, trust.log_key(), None)?;
    notes.head = Some(head.note);
    let time_key = match fetch_time_key(source, trust.log_key()).await {
        Err(Finding::MissingResource { .. }) => {
            trust.memory().and_then(|memory| memory.time_key.clone())
        }
        other => Some(other?),
    };
    let head = signed_head(&bytes, trust.log_key(), time_key.as_ref())?;
    Ok(Begun { head, time_key, now })
}

/// Time and age, which must be right where they count, and are told where they are known.
fn age_of(
    head: &SignedHead,
    time_key: Option<&TimeKey>,
    now: u64,
    max_age: Option<Duration>,
) -> Result<(Option<u64>, Option<u64>), Finding> {
    let Some(max_age) = max_age else {
        return Ok((head.time, head.time.map(|time| now.saturating_sub(time))));
    };
    let Some(time_key) = time_key else {
        let name = format!("{}/time", head.checkpoint.origin);
        return Err(Finding::NoTime { name });
    };
    freshness(head, time_key, now, max_age).map(|(time, age)| (Some(time), Some(age)))
}

/// Every head that was accepted before.
struct Accepted {
    heads: Option<Heads>,
    /// The newest, which the file may lack.
    newest: Option<Milestone>,
}

impl Accepted {
    fn milestones(&self, trust: &Trust) -> Result<Milestones, StateError> {
        let newest = self.newest;
        let earlier = move |head: &Result<Milestone, StateError>| {
            let size = head.as_ref().map_or(0, |head| head.size);
            newest.is_none_or(|newest| size < newest.size)
        };
        let kept = self.heads.as_ref().map(|heads| heads.milestones(trust.log_key()));
        let kept = kept.transpose()?.into_iter().flatten();
        Ok(Box::new(kept.filter(earlier).chain(newest.map(Ok))))
    }

    fn within(&self, size: u64, trust: &Trust) -> Result<u64, StateError> {
        let mut count = 0;
        for head in self.milestones(trust)? {
            count += u64::from((1..=size).contains(&head?.size));
        }
        Ok(count)
    }
}

/// One full audit, after its head was opened.
struct Whole<'a, S> {
    open: Open<S>,
    source: &'a S,
    trust: &'a Trust,
    options: Options,
    heads: Accepted,
    head: &'a SignedHead,
}

impl<S: Source> Whole<'_, S> {
    /// Walks on from what is kept of an earlier walk, and from the beginning if that does not
    /// lead to the head: nobody is accused by what a file said.
    async fn walk(
        &self,
        mut file: Option<&mut ProgressFile>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<walk::Walked, WalkError> {
        let size = self.head.checkpoint.size;
        let kept = file.as_ref().and_then(|file| file.load(0, size));
        if let Some(done) = kept
            && self.heads.within(done.size(), self.trust)? == done.heads
        {
            match self.from(done)?.run(file.as_deref_mut(), progress).await {
                Err(WalkError::Finding(finding)) if accuses(&finding) => {}
                outcome => return outcome,
            }
        }
        self.from(Progress::default())?.run(file, progress).await
    }

    fn from(&self, done: Progress) -> Result<Walk<'_, S>, WalkError> {
        let threads = self.options.threads.get();
        let heads = self.heads.milestones(self.trust)?;
        Walk::start(self.source, &self.open, &self.head.checkpoint, heads, done, threads)
    }
}
