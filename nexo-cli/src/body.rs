//! What stands inside the seal: the JSON body of a message (e2ee 2.11).
//!
//! ```text
//! {"v":1,"t":"text","text":…,"ad":…,"sent_at":…,"cseq":…,"prev":…,"from":…,"sth":…,"roster":[…]}
//! ```
//!
//! `ad` repeats the cleartext beside the seal, so the relay cannot dress a message up as
//! something else; `from` is checked against the sender's chain. The authenticated object is
//! the byte string; the JSON inside is read leniently, unknown fields are ignored.

use nexo_schema::ids::{Handle, MsgId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::trust::RosterEntry;

/// The cleartext of every text message.
pub const AD: &str = r#"{"type":"text"}"#;

/// Longest `sent_at` that is kept; RFC 3339 needs 35.
const MAX_SENT_AT: usize = 40;
/// Longest name of an unknown type that is shown.
const MAX_TYPE: usize = 32;

/// A text to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// The text.
    pub text: &'a str,
    /// RFC 3339.
    pub sent_at: &'a str,
    /// Counts this device's messages in the conversation, from 1; 0 for a stateless device.
    pub cseq: u64,
    /// The message before.
    pub prev: Option<&'a MsgId>,
    /// The sender's handle.
    pub from: &'a Handle,
    /// The newest verified head, verbatim.
    pub sth: &'a str,
    /// The accounts of the conversation, as this device knows them.
    pub roster: &'a [RosterEntry],
}

/// What a body says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text.
    Text {
        /// The text.
        text: Zeroizing<String>,
        /// The sender's word.
        sent_at: Option<String>,
    },
    /// Something this version does not know; kept, shown as such, never acted upon.
    Unsupported {
        /// What it calls itself.
        kind: String,
        /// The sender's word.
        sent_at: Option<String>,
    },
}

/// Why a body that was opened is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyRefused {
    /// Not the JSON of a body.
    #[error("its body is malformed")]
    Form,
    /// The cleartext beside it is not the one it was sealed with.
    #[error("the relay changed its cleartext")]
    Ad,
    /// It names another sender than the one whose key sealed it.
    #[error("it names another sender")]
    From,
}

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    t: &'a str,
    text: &'a str,
    ad: &'a str,
    sent_at: &'a str,
    cseq: u64,
    prev: Option<&'a MsgId>,
    from: &'a Handle,
    sth: &'a str,
    roster: &'a [RosterEntry],
}

#[derive(Deserialize)]
struct Read {
    v: u64,
    t: String,
    #[serde(default)]
    text: Option<String>,
    ad: String,
    #[serde(default)]
    sent_at: Option<String>,
    from: String,
}

/// The bytes to seal.
#[must_use]
pub fn write(draft: &Draft<'_>) -> Zeroizing<Vec<u8>> {
    let Draft { text, sent_at, cseq, prev, from, sth, roster } = *draft;
    let body = Written { v: 1, t: "text", text, ad: AD, sent_at, cseq, prev, from, sth, roster };
    Zeroizing::new(serde_json::to_vec(&body).expect("strings and numbers always become JSON"))
}

/// Reads opened bytes. `ad` is the cleartext as delivered, `from` the handle whose key sealed.
///
/// # Errors
/// [`BodyRefused`].
pub fn read(bytes: &[u8], ad: &str, from: &Handle) -> Result<Content, BodyRefused> {
    let body: Read = serde_json::from_slice(bytes).map_err(|_| BodyRefused::Form)?;
    if body.ad != ad {
        return Err(BodyRefused::Ad);
    }
    if body.from != from.as_str() {
        return Err(BodyRefused::From);
    }
    let sent_at = body.sent_at.filter(|text| text.len() <= MAX_SENT_AT);
    match (body.v, body.t.as_str(), body.text) {
        (1, "text", Some(text)) => Ok(Content::Text { text: Zeroizing::new(text), sent_at }),
        (1, "text", None) => Err(BodyRefused::Form),
        (_, kind, _) => {
            let kind = kind.chars().take(MAX_TYPE).collect();
            Ok(Content::Unsupported { kind, sent_at })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn alice() -> Handle {
        Handle::parse("alice").unwrap()
    }

    fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
        let from = alice();
        let sent_at = "2026-11-23T10:00:00Z";
        write(&Draft {
            text,
            sent_at,
            cseq: 1,
            prev: None,
            from: &from,
            sth: "note\n",
            roster: &[],
        })
    }

    #[test]
    fn every_field_of_the_contract_is_there() {
        let value: serde_json::Value = serde_json::from_slice(&bytes("hi")).unwrap();
        let fields: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let wanted = ["ad", "cseq", "from", "prev", "roster", "sent_at", "sth", "t", "text", "v"];
        assert_eq!(fields, wanted);
        assert_eq!(value["ad"], r#"{"type":"text"}"#);
    }

    #[test]
    fn what_the_relay_or_the_sender_forged_is_refused() {
        assert_eq!(read(&bytes("hi"), "{}", &alice()), Err(BodyRefused::Ad));
        assert_eq!(read(&bytes("hi"), r#"{"type": "text"}"#, &alice()), Err(BodyRefused::Ad));
        let bob = Handle::parse("bob").unwrap();
        assert_eq!(read(&bytes("hi"), AD, &bob), Err(BodyRefused::From));
        for bad in ["", "[]", "{}", r#"{"v":1,"t":"text","ad":"{}","from":"alice"}"#] {
            assert_eq!(read(bad.as_bytes(), "{}", &alice()), Err(BodyRefused::Form), "{bad}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_unknown_types_kept() {
        let json = r#"{"v":1,"t":"poll","ad":"{}","from":"alice","new":{"x":1}}"#;
        let content = read(json.as_bytes(), "{}", &alice()).unwrap();
        assert_eq!(content, Content::Unsupported { kind: "poll".into(), sent_at: None });
        let json = r#"{"v":2,"t":"text","text":"x","ad":"{}","from":"alice"}"#;
        let content = read(json.as_bytes(), "{}", &alice()).unwrap();
        assert!(matches!(content, Content::Unsupported { .. }), "another version");
    }

    proptest! {
        #[test]
        fn texts_read_back(text: String) {
            match read(&bytes(&text), AD, &alice()).unwrap() {
                Content::Text { text: read, .. } => prop_assert_eq!(&*read, &text),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn no_body_panics(bytes: Vec<u8>) {
            let _ = read(&bytes, AD, &alice());
        }
    }
}
