//! When a round's end is news.
//!
//! ```text
//! trouble    nobody there, too slow, state in use: news only after `patience` of it
//! passing    wrong now, right when a later round verifies: news when it comes, and when it went
//! standing   what the log signed and cannot take back: news once each, and never over by itself
//! ```
//!
//! A log that is not reached grows old: when its last verified head is older than `max_age`, that
//! is news of its own (`stale`), whatever keeps the rounds from verifying.
//!
//! Pure: a [`Status`] and an end in, another [`Status`] and notices out. The status is kept in
//! the spool, so that a restart neither repeats nor forgets.

use super::notice::{Account, Identity, Kind, Notice, rfc3339};
use crate::encoding::to_hex;
use crate::finding::Verdict;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

const SCHEMA: &str = "nexo.audit-watch/1";
/// Most findings that stand; a log that is caught so often is not worth another line.
const MAX_STANDING: usize = 100;

/// What watching a log has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    schema: String,
    /// The log, as its address was given.
    pub(crate) url: String,
    /// Notices so far.
    pub(crate) told: u64,
    /// Whether the log was ever verified here.
    begun: bool,
    /// The passing finding that was told last and has not gone.
    passing: Option<String>,
    /// Since when rounds have ended in trouble, POSIX seconds.
    trouble_since: Option<u64>,
    /// When the newest verified head was vouched for, POSIX seconds.
    head_time: Option<u64>,
    /// Findings that do not pass.
    pub(crate) standing: Vec<Standing>,
}

/// A finding that does not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Id of its notice.
    pub(crate) id: String,
    /// Its verdict.
    pub(crate) verdict: String,
    /// What tells it from others of the verdict.
    subject: String,
    /// When, RFC 3339.
    since: String,
}

/// Bounds of patience, seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long trouble may last before it is news.
    pub(crate) patience: u64,
    /// Oldest head that is still fresh.
    pub(crate) max_age: u64,
}

/// How a round ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// The verdict.
    pub(crate) verdict: Verdict,
    /// When the head was vouched for, POSIX seconds, if it was verified.
    pub(crate) head_time: Option<u64>,
    /// What there is to tell.
    pub(crate) account: Account,
}

/// The three kinds of ends but [`Verdict::Verified`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    Trouble,
    Passing,
    Standing,
}

fn weight(verdict: Verdict) -> Weight {
    match verdict {
        Verdict::Unreachable | Verdict::Timeout | Verdict::Busy => Weight::Trouble,
        // Proved by what the log signed: later good behaviour takes none of it back.
        Verdict::Fork
        | Verdict::Inconsistent
        | Verdict::BadEntry
        | Verdict::SigchainViolation
        | Verdict::WitnessDisagrees => Weight::Standing,
        _ => Weight::Passing,
    }
}

impl Status {
    /// Nothing seen of the log at `url` yet.
    pub(crate) fn new(url: &str) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            url: url.to_owned(),
            told: 0,
            begun: false,
            passing: None,
            trouble_since: None,
            head_time: None,
            standing: Vec::new(),
        }
    }

    /// Whether it is of this schema.
    pub(crate) fn is_known(&self) -> bool {
        self.schema == SCHEMA
    }

    /// Whether nothing is wrong that is or would be told.
    pub(crate) fn is_healthy(&self) -> bool {
        self.passing.is_none() && self.standing.is_empty()
    }

    /// Seconds from `now` until the newest verified head is too old; `None` before the first.
    pub(crate) fn fresh_for(&self, now: u64, bounds: Bounds) -> Option<u64> {
        let end = self.head_time?.saturating_add(bounds.max_age).saturating_add(1);
        Some(end.saturating_sub(now))
    }

    /// Takes a round's end at `now` (POSIX seconds) in, and says what is news.
    pub(crate) fn judge(&mut self, end: End, now: u64, bounds: Bounds) -> Vec<Notice> {
        if end.verdict == Verdict::Verified {
            return self.verified(end, now);
        }
        match weight(end.verdict) {
            Weight::Standing => self.stands(end, now),
            Weight::Passing => {
                self.trouble_since = None;
                self.pass(end, now)
            }
            Weight::Trouble => {
                let since = *self.trouble_since.get_or_insert(now);
                if let Some(notice) = self.aged(now, bounds) {
                    return vec![notice];
                }
                if now.saturating_sub(since) < bounds.patience || self.passing.is_some() {
                    // What was told and has not gone is worse, or the same.
                    return Vec::new();
                }
                self.pass(end, now)
            }
        }
    }

    /// Somebody says that the finding of this id was looked into; `None` if none stands.
    pub(crate) fn resolve(&mut self, id: &str, now: u64) -> Option<Notice> {
        let at = self.standing.iter().position(|standing| standing.id == id)?;
        let gone = self.standing.remove(at);
        let message = format!("{} of {} was looked into", gone.verdict, gone.since);
        let account = Account { message, ..Account::default() };
        let end = End { verdict: Verdict::Verified, head_time: None, account };
        Some(self.notice(Kind::Resolved, &gone.id, Some(gone.verdict), end, now))
    }

    fn verified(&mut self, end: End, now: u64) -> Vec<Notice> {
        self.trouble_since = None;
        self.head_time = end.head_time;
        let first = !std::mem::replace(&mut self.begun, true);
        let (kind, previous) = match self.passing.take() {
            Some(previous) => (Kind::Recovered, Some(previous)),
            None if first => (Kind::Begun, None),
            None => return Vec::new(),
        };
        vec![self.notice(kind, "", previous, end, now)]
    }

    /// A finding that passes: its data changes from round to round, its verdict is the news.
    fn pass(&mut self, end: End, now: u64) -> Vec<Notice> {
        let verdict = end.verdict.name();
        if self.passing.as_deref() == Some(verdict) {
            return Vec::new();
        }
        let previous = self.passing.replace(verdict.to_owned());
        vec![self.notice(Kind::Finding, verdict, previous, end, now)]
    }

    /// A finding that stands: the same one is told once, another one of its verdict again.
    fn stands(&mut self, end: End, now: u64) -> Vec<Notice> {
        self.trouble_since = None;
        let (verdict, subject) = (end.verdict.name(), subject(&end));
        let known = self.standing.iter().any(|s| s.subject == subject && s.verdict == verdict);
        if known || self.standing.len() >= MAX_STANDING {
            return Vec::new();
        }
        let previous = self.passing.clone();
        let notice = self.notice(Kind::Finding, &subject, previous, end, now);
        let since = rfc3339(now);
        let (id, verdict) = (notice.id.clone(), verdict.to_owned());
        self.standing.push(Standing { id, verdict, subject, since });
        vec![notice]
    }

    /// The alarm of a log that is not reached and whose last head has become too old.
    fn aged(&mut self, now: u64, bounds: Bounds) -> Option<Notice> {
        let time = self.head_time?;
        let age = now.saturating_sub(time);
        let stale = Verdict::Stale;
        if age <= bounds.max_age || self.passing.as_deref() == Some(stale.name()) {
            return None;
        }
        let message = format!(
            "the log is not reached, and its last verified head is {age} s old, more than the {} s \
             allowed",
            bounds.max_age
        );
        let detail = json!({ "age": age, "max_age": bounds.max_age });
        let account = Account { message, detail, ..Account::default() };
        self.pass(End { verdict: stale, head_time: None, account }, now).pop()
    }

    fn notice(
        &mut self,
        kind: Kind,
        subject: &str,
        previous: Option<String>,
        end: End,
        now: u64,
    ) -> Notice {
        let identity = Identity { number: self.told, url: &self.url, kind, subject };
        let notice = Notice::new(identity, end.verdict, previous, now, end.account);
        self.told += 1;
        notice
    }
}

/// What tells a finding that stands from others of its verdict: its data, which says which
/// sizes, roots and leaves. Not what grows with the log from round to round: the head that does
/// not extend the remembered one is a newer one each time, and the news is the same.
fn subject(end: &End) -> String {
    let grows: &[&str] = match end.verdict {
        Verdict::Inconsistent => &["to", "cause"],
        Verdict::WitnessDisagrees => &["time", "seen", "served"],
        _ => &[],
    };
    let mut detail = end.account.detail.clone();
    if let Some(members) = detail.as_object_mut() {
        members.retain(|name, _| !grows.contains(&name.as_str()));
    }
    to_hex(&Sha256::digest(detail.to_string())[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { patience: 600, max_age: 86_400 };

    fn end(verdict: Verdict, detail: u64) -> End {
        let account = Account { detail: json!({ "size": detail }), ..Account::default() };
        End { verdict, head_time: None, account }
    }

    fn good(time: u64) -> End {
        End { head_time: Some(time), ..end(Verdict::Verified, 0) }
    }

    /// Judges ends at their seconds; kind and verdict of each notice.
    fn told(status: &mut Status, ends: &[(u64, End)]) -> Vec<(u64, Kind, String)> {
        let mut all = Vec::new();
        for (now, end) in ends {
            for notice in status.judge(end.clone(), *now, BOUNDS) {
                all.push((*now, notice.kind, notice.verdict));
            }
        }
        all
    }

    fn status() -> Status {
        Status::new("https://log.example")
    }

    #[test]
    fn the_first_verified_round_is_news_and_the_next_is_not() {
        let mut status = status();
        let news = told(&mut status, &[(0, good(0)), (60, good(60)), (120, good(120))]);
        assert_eq!(news, [(0, Kind::Begun, "verified".into())]);
        assert!(status.is_healthy());
    }

    #[test]
    fn trouble_is_news_after_patience_and_when_it_ends() {
        let mut status = status();
        let away = || end(Verdict::Unreachable, 0);
        let short = [(0, good(0)), (60, away()), (659, away()), (660, good(660))];
        assert_eq!(told(&mut status, &short).len(), 1);
        let long = [
            (700, away()),
            (1000, end(Verdict::Timeout, 0)),
            (1300, away()),
            (1301, end(Verdict::Timeout, 0)),
            (1400, good(1400)),
            (1500, away()),
        ];
        let news = told(&mut status, &long);
        let wanted = [
            (1300, Kind::Finding, "unreachable".to_owned()),
            (1400, Kind::Recovered, "verified".to_owned()),
        ];
        assert_eq!(news, wanted);
        assert!(status.is_healthy());
    }

    #[test]
    fn a_log_that_is_not_reached_grows_stale() {
        let mut status = status();
        let away = || end(Verdict::Unreachable, 0);
        let late = 86_400 + 10;
        assert_eq!(status.fresh_for(0, BOUNDS), None);
        let news = told(
            &mut status,
            &[(10, good(10)), (20, away()), (700, away()), (late, away()), (late + 1, away())],
        );
        let wanted = [
            (10, Kind::Begun, "verified".to_owned()),
            (700, Kind::Finding, "unreachable".to_owned()),
            (late + 1, Kind::Finding, "stale".to_owned()),
        ];
        assert_eq!(news, wanted);
        assert_eq!(status.fresh_for(late, BOUNDS), Some(1));
        assert_eq!(status.fresh_for(late + 1, BOUNDS), Some(0));
        assert_eq!(told(&mut status, &[(late + 2, away())]), []);
        assert!(!status.is_healthy());
        let news = told(&mut status, &[(late + 3, good(late + 3))]);
        assert_eq!(news, [(late + 3, Kind::Recovered, "verified".into())]);
    }

    #[test]
    fn what_passes_is_told_by_its_verdict_alone() {
        let mut status = status();
        let ends = [
            (0, end(Verdict::Stale, 1)),
            (60, end(Verdict::Stale, 2)),
            (120, end(Verdict::Rollback, 1)),
            (180, end(Verdict::Unreachable, 1)),
            (240, end(Verdict::Rollback, 9)),
            (300, good(300)),
        ];
        let wanted = [
            (0, Kind::Finding, "stale".to_owned()),
            (120, Kind::Finding, "rollback".to_owned()),
            (300, Kind::Recovered, "verified".to_owned()),
        ];
        assert_eq!(told(&mut status, &ends), wanted);
    }

    #[test]
    fn what_the_log_signed_stands_until_somebody_says_otherwise() {
        let mut status = status();
        let news = told(
            &mut status,
            &[
                (0, good(0)),
                (60, end(Verdict::Fork, 7)),
                (120, end(Verdict::Fork, 7)),
                (180, end(Verdict::Fork, 8)),
                (240, good(240)),
                (300, end(Verdict::Fork, 7)),
            ],
        );
        let fork = |at| (at, Kind::Finding, "fork".to_owned());
        assert_eq!(news[1..], [fork(60), fork(180)]);
        assert!(!status.is_healthy(), "a later good head takes nothing back");
        assert_eq!(status.resolve("nonsense", 400), None);
        let ids: Vec<String> = status.standing.iter().map(|s| s.id.clone()).collect();
        let notice = status.resolve(&ids[0], 400).unwrap();
        assert_eq!((notice.kind, notice.verdict.as_str()), (Kind::Resolved, "verified"));
        assert!(!status.is_healthy());
        status.resolve(&ids[1], 401).unwrap();
        assert!(status.is_healthy());
    }

    /// The remembered head stays, and the log that does not extend it grows.
    #[test]
    fn another_past_is_told_once_however_the_log_grows() {
        let mut status = status();
        let inconsistent = |from: u64, to: u64, cause: &str| {
            let detail = json!({ "from": from, "to": to, "cause": cause });
            let account = Account { detail, ..Account::default() };
            End { verdict: Verdict::Inconsistent, head_time: None, account }
        };
        let witness = |name: &str, served: u64| {
            let detail = json!({
                "witness": name, "time": served, "seen": served - 1, "served": served,
                "cause": "of the same size, with another root",
            });
            let account = Account { detail, ..Account::default() };
            End { verdict: Verdict::WitnessDisagrees, head_time: None, account }
        };
        let ends = [
            (1, inconsistent(7, 9, "the proof does not lead to the older root")),
            (2, inconsistent(7, 10, "the proof does not lead to the signed root")),
            (3, inconsistent(8, 10, "the proof does not lead to the older root")),
            (4, witness("W", 20)),
            (5, witness("W", 21)),
            (6, witness("V", 21)),
        ];
        let news: Vec<u64> = told(&mut status, &ends).iter().map(|(at, ..)| *at).collect();
        assert_eq!(news, [1, 3, 4, 6]);
    }

    #[test]
    fn an_age_without_end_is_never_reached() {
        let mut status = status();
        told(&mut status, &[(10, good(10))]);
        let bounds = Bounds { max_age: u64::MAX, ..BOUNDS };
        assert_eq!(status.fresh_for(10, bounds), Some(u64::MAX - 10));
    }

    #[test]
    fn the_same_round_again_makes_the_same_notice() {
        let before = status();
        let ids: Vec<String> = [10, 900]
            .map(|now| before.clone().judge(end(Verdict::Fork, 7), now, BOUNDS).remove(0).id)
            .into();
        assert_eq!(ids[0], ids[1], "a crash between spool and status repeats no new notice");
    }

    #[test]
    fn findings_that_stand_are_bounded() {
        let mut status = status();
        for detail in 0..2 * MAX_STANDING as u64 {
            status.judge(end(Verdict::Fork, detail), detail, BOUNDS);
        }
        assert_eq!(status.standing.len(), MAX_STANDING);
    }
}
