//! A notice: what hooks, commands, webhooks and readers of stdout are told.
//!
//! One JSON object of schema `nexo.audit-notice/1`. Members may be added, never renamed or
//! removed; more kinds may come, and who does not know one should pass it by.
//!
//! | member | |
//! |---|---|
//! | `schema`, `id`, `kind` | `nexo.audit-notice/1`; 32 hex digits, the same in every repeat; see [`Kind`] |
//! | `time` | when it was noticed, RFC 3339 |
//! | `url`, `origin` | the log; `origin` null before its first head |
//! | `verdict`, `code`, `family` | the row of the table in [`crate::finding`] |
//! | `previous` | the verdict that was told before, or null |
//! | `message`, `detail` | words, and the finding's data or null |
//! | `size`, `root` | of the verified head, or null |
//! | `head`, `remembered` | signed notes, verbatim, or null |
//! | `evidence` | path of the evidence file, or null |

use crate::encoding::to_hex;
use crate::finding::Verdict;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

const SCHEMA: &str = "nexo.audit-notice/1";

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The log was verified for the first time.
    Begun,
    /// Something is wrong, that was not or was something else.
    Finding,
    /// What was wrong has passed by itself.
    Recovered,
    /// Somebody said that a finding which does not pass was looked into.
    Resolved,
}

impl Kind {
    /// As in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Finding => "finding",
            Self::Recovered => "recovered",
            Self::Resolved => "resolved",
        }
    }
}

/// What a round ended with, in the words of a notice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Account {
    /// The log's origin.
    pub(crate) origin: Option<String>,
    /// In words.
    pub(crate) message: String,
    /// The finding's data.
    pub(crate) detail: Value,
    /// Entries under the verified head.
    pub(crate) size: Option<u64>,
    /// Its root, base64.
    pub(crate) root: Option<String>,
    /// The head that was judged.
    pub(crate) head: Option<String>,
    /// The head that is remembered.
    pub(crate) remembered: Option<String>,
    /// Where the evidence is.
    pub(crate) evidence: Option<String>,
}

/// See the top.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    schema: String,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    time: String,
    url: String,
    origin: Option<String>,
    pub(crate) verdict: String,
    code: u8,
    family: u8,
    previous: Option<String>,
    message: String,
    detail: Value,
    size: Option<u64>,
    root: Option<String>,
    head: Option<String>,
    remembered: Option<String>,
    evidence: Option<String>,
}

/// What makes a notice this one and no other: its place among all of the log's notices, and
/// what it says. Not the time: a round that a crash cut short says the same again under the same
/// id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    /// How many were told before.
    pub(crate) number: u64,
    /// The log.
    pub(crate) url: &'a str,
    /// What it is about.
    pub(crate) kind: Kind,
    /// The verdict, and what tells it from others of its kind.
    pub(crate) subject: &'a str,
}

impl Identity<'_> {
    fn id(&self) -> String {
        let mut hash = Sha256::new();
        for part in [self.url, self.kind.name(), self.subject] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let hash = hash.chain_update(self.number.to_be_bytes()).finalize();
        to_hex(&hash[..16])
    }
}

impl Notice {
    /// A notice of `verdict`, at `now` (POSIX seconds).
    pub(crate) fn new(
        identity: Identity<'_>,
        verdict: Verdict,
        previous: Option<String>,
        now: u64,
        told: Account,
    ) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            id: identity.id(),
            kind: identity.kind,
            time: rfc3339(now),
            url: identity.url.to_owned(),
            origin: told.origin,
            verdict: verdict.name().to_owned(),
            code: verdict.code(),
            family: verdict.family(),
            previous,
            message: told.message,
            detail: told.detail,
            size: told.size,
            root: told.root,
            head: told.head,
            remembered: told.remembered,
            evidence: told.evidence,
        }
    }

    /// The same for hooks and commands, as variables: a contract like the JSON. What is null
    /// there is empty here.
    pub(crate) fn variables(&self) -> [(&'static str, String); 14] {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        [
            ("NEXO_SCHEMA", self.schema.clone()),
            ("NEXO_EVENT", self.kind.name().to_owned()),
            ("NEXO_EVENT_ID", self.id.clone()),
            ("NEXO_TIME", self.time.clone()),
            ("NEXO_URL", self.url.clone()),
            ("NEXO_ORIGIN", text(&self.origin)),
            ("NEXO_VERDICT", self.verdict.clone()),
            ("NEXO_CODE", self.code.to_string()),
            ("NEXO_FAMILY", self.family.to_string()),
            ("NEXO_PREVIOUS", text(&self.previous)),
            // A variable cannot hold a zero byte, and a line is easier to mail.
            ("NEXO_MESSAGE", self.message.replace(['\0', '\n', '\r'], " ")),
            ("NEXO_SIZE", self.size.map(|size| size.to_string()).unwrap_or_default()),
            ("NEXO_ROOT", text(&self.root)),
            ("NEXO_EVIDENCE", text(&self.evidence)),
        ]
    }
}

/// POSIX seconds as people write them; times beyond the year 9999 as the last that can be.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(number: u64, kind: Kind, subject: &str) -> Notice {
        let identity = Identity { number, url: "https://log.example", kind, subject };
        let told = Account { message: "a\nb".into(), size: Some(7), ..Account::default() };
        Notice::new(identity, Verdict::Fork, None, 1_700_000_000, told)
    }

    #[test]
    fn the_members_are_the_contract() {
        let json = serde_json::to_value(notice(0, Kind::Finding, "fork")).unwrap();
        let members: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut contract = [
            "schema",
            "id",
            "kind",
            "time",
            "url",
            "origin",
            "verdict",
            "code",
            "family",
            "previous",
            "message",
            "detail",
            "size",
            "root",
            "head",
            "remembered",
            "evidence",
        ];
        contract.sort_unstable();
        assert_eq!(members, contract);
        assert_eq!((&json["schema"], &json["kind"]), (&SCHEMA.into(), &"finding".into()));
        assert_eq!((&json["code"], &json["family"]), (&84.into(), &84.into()));
        assert_eq!(json["time"], "2023-11-14T22:13:20Z");
        assert!(json["detail"].is_null() && json["evidence"].is_null());
    }

    #[test]
    fn variables_are_single_lines() {
        let variables = notice(0, Kind::Finding, "fork").variables();
        let of = |name: &str| &variables.iter().find(|(n, _)| *n == name).unwrap().1;
        assert_eq!(of("NEXO_MESSAGE"), "a b");
        assert_eq!((of("NEXO_EVENT").as_str(), of("NEXO_SIZE").as_str()), ("finding", "7"));
        assert_eq!(of("NEXO_EVIDENCE"), "");
        assert!(variables.iter().all(|(name, _)| name.starts_with("NEXO_")));
    }

    #[test]
    fn an_id_is_of_one_notice() {
        let ids = [
            notice(0, Kind::Finding, "fork").id,
            notice(1, Kind::Finding, "fork").id,
            notice(0, Kind::Recovered, "fork").id,
            notice(0, Kind::Finding, "stale").id,
        ];
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(id.len(), 32);
            assert!(!ids[..at].contains(id));
        }
        assert_eq!(notice(0, Kind::Finding, "fork").id, ids[0]);
    }
}
