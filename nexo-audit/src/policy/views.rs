//! What witnesses saw: their own newest heads of the log, asked of them and not of the log.
//!
//! A log that shows two histories must show one of them to its witnesses. The heads that these
//! publish (C2SP tlog-witness, monitoring: `<url>/<hex SHA-256 of the origin>/checkpoint`) carry
//! the log's signature, so one that contradicts the log's own is proof, and no witness can make
//! one up. A witness that does not answer, or answers with something else, is no news about the
//! log: it is said, and that is all.
//!
//! Ask the witnesses first and the log afterwards. A log signs a head before a witness cosigns
//! it, so its own newest head is then never the smaller one, if it is honest.

use super::{Policy, Witness};
use crate::checkpoint::{HeadError, SignedHead};
use crate::compare::relate;
use crate::encoding::to_hex;
use crate::fetch::{FetchError, Http, LogUrl, Source, UrlError};
use crate::finding::Finding;
use crate::key::LogKey;
use crate::note::{MAX_NOTE, Note, NoteError, SignatureError};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest that a witness is waited for: the log is what is audited.
const PATIENCE: Duration = Duration::from_secs(20);

/// A witness's newest head of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// The witness's name in the trust file.
    pub(crate) witness: String,
    /// When it last cosigned this head, POSIX seconds.
    pub(crate) time: u64,
    /// The head, signed by the log.
    pub(crate) head: SignedHead,
}

/// Why a witness's answer is not a view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ViewError {
    /// Its address in the trust file is none.
    #[error("its address: {0}")]
    Url(#[from] UrlError),
    /// No answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// No note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Not the log's head.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Not its own cosignature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The head is not cosigned by the witness that shows it.
    #[error("its head does not carry its own cosignature")]
    Uncosigned,
}

/// How a witness's head contradicts the log's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// Another root at the same size.
    #[error("of the same size, with another root")]
    Root,
    /// The witness saw more than the log shows now.
    #[error("larger than the one shown now")]
    Larger,
    /// The log's tree does not start with the witness's.
    #[error("and the tree shown now does not start with it")]
    Past,
}

impl Policy {
    /// Asks every witness that has an address, all at once; answers in the file's order. Runs
    /// inside a Tokio runtime.
    pub(crate) async fn views(&self, log: &LogKey) -> Vec<(String, Result<View, ViewError>)> {
        let mut asked = JoinSet::new();
        for (place, witness) in self.witnesses.iter().enumerate() {
            let Some(url) = witness.url.clone() else { continue };
            let (witness, log) = (witness.clone(), log.clone());
            asked.spawn(async move {
                let answer = timeout(PATIENCE, ask(&witness, &url, &log)).await;
                (place, witness.name, answer.unwrap_or(Err(FetchError::TimedOut.into())))
            });
        }
        let mut views = asked.join_all().await;
        views.sort_unstable_by_key(|(place, ..)| *place);
        // Not found: it never cosigned a head of this log.
        let nothing = Err(ViewError::Fetch(FetchError::NotFound));
        let told = views.into_iter().filter(|(.., view)| *view != nothing);
        told.map(|(_, name, view)| (name, view)).collect()
    }
}

async fn ask(witness: &Witness, url: &str, log: &LogKey) -> Result<View, ViewError> {
    let source = Http::new(LogUrl::parse(url)?)?;
    let origin: [u8; 32] = Sha256::digest(log.origin()).into();
    let path = format!("{}/checkpoint", to_hex(&origin));
    let note = source.get(&path, MAX_NOTE).await?;
    read(witness, &note, log)
}

/// Reads a witness's head: the log must have signed it, and the witness cosigned it.
fn read(witness: &Witness, note: &[u8], log: &LogKey) -> Result<View, ViewError> {
    let head = SignedHead::open(note, log, None)?;
    let note = Note::parse(note)?;
    let time = match &witness.key {
        Some(key) => note.witnessed_at(key)?,
        None => None,
    };
    let time = time.ok_or(ViewError::Uncosigned)?;
    Ok(View { witness: witness.name.clone(), time, head })
}

/// Whether the log's head, which was read after the view, agrees with it.
///
/// # Errors
/// [`Finding::WitnessDisagrees`], or what kept the log from showing that they agree.
pub(crate) async fn judge<S: Source>(
    source: &S,
    view: &View,
    head: &SignedHead,
) -> Result<(), Finding> {
    let (seen, served) = (view.head.checkpoint.size, head.checkpoint.size);
    let disagrees = |cause| Finding::WitnessDisagrees {
        witness: view.witness.clone(),
        time: view.time,
        seen,
        served,
        cause,
    };
    if seen > served {
        return Err(disagrees(Disagreement::Larger));
    }
    match relate(source, &view.head, head).await.map_err(|discord| discord.finding) {
        Err(Finding::Fork { .. }) => Err(disagrees(Disagreement::Root)),
        Err(Finding::Inconsistent { .. }) => Err(disagrees(Disagreement::Past)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testlog::{NOW, Shelf, Signers, TestLog, Witness as Signer};

    fn policy(url: &str) -> Policy {
        let vkey = Signer::new(0).vkey();
        Policy::parse(format!("witness W {vkey} {url}\nquorum W\n").as_bytes(), None).unwrap()
    }

    fn key() -> LogKey {
        TestLog::with(0).signers.log_key()
    }

    /// A head of the log with the line of a witness.
    fn cosigned(log: &TestLog, witness: u8) -> String {
        let head = log.head();
        let text = head.split_once("\n\n").unwrap().0.to_owned() + "\n";
        head + &Signer::new(witness).line(NOW, &text)
    }

    fn view_of(log: &TestLog) -> View {
        let policy = policy("http://w");
        read(&policy.witnesses[0], cosigned(log, 0).as_bytes(), &key()).unwrap()
    }

    #[tokio::test]
    async fn a_witness_is_asked_by_the_hash_of_the_origin() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let log = TestLog::with(7);
        let shelf = Shelf::default();
        let origin: [u8; 32] = Sha256::digest("log.example").into();
        let path = format!("{}/checkpoint", to_hex(&origin));
        shelf.put(&path, cosigned(&log, 0).into_bytes());
        let policy = policy(&shelf.serve());
        let views = policy.views(&key()).await;
        assert_eq!(views, [("W".to_owned(), Ok(view_of(&log)))]);
        // Another log's origin: nothing there, and nothing to say.
        let other = Signers::new("other.example").log_key();
        assert!(policy.views(&other).await.is_empty());
    }

    #[test]
    fn only_the_logs_word_with_the_witnesss_own_is_a_view() {
        let (log, key) = (TestLog::with(7), key());
        let policy = policy("http://w");
        let read = |note: &str| read(&policy.witnesses[0], note.as_bytes(), &key);
        assert!(read(&cosigned(&log, 0)).is_ok());
        assert_eq!(read(&log.head()), Err(ViewError::Uncosigned));
        assert_eq!(read(&cosigned(&log, 1)), Err(ViewError::Uncosigned));
        let forged = TestLog { signers: Signers::other("log.example"), ..log };
        assert!(matches!(read(&cosigned(&forged, 0)), Err(ViewError::Head(_))));
        assert!(matches!(read("junk"), Err(ViewError::Head(HeadError::Note(_)))));
    }

    #[tokio::test]
    async fn heads_that_contradict_a_witness_are_named() {
        let log = TestLog::with(300);
        let (shelf, head) = (log.publish(&[]), view_of(&log).head);
        for older in [0, 1, 256, 299, 300] {
            let view = view_of(&TestLog::with(older));
            assert_eq!(judge(&shelf, &view, &head).await, Ok(()), "{older}");
        }
        let mut other = log.clone();
        other.entries.swap(3, 4);
        let mut past = TestLog::with(200);
        past.entries.swap(3, 4);
        for (view, cause) in [
            (&other, Disagreement::Root),
            (&past, Disagreement::Past),
            (&TestLog::with(301), Disagreement::Larger),
        ] {
            let view = view_of(view);
            let found = judge(&shelf, &view, &head).await.unwrap_err();
            let (seen, served) = (view.head.checkpoint.size, 300);
            let witness = "W".to_owned();
            let wanted = Finding::WitnessDisagrees { witness, time: NOW, seen, served, cause };
            assert_eq!(found, wanted);
        }
    }
}
