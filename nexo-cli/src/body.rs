//! What stands inside the seal: the JSON body of a message (e2ee 2.11).
//!
//! ```text
//! {"v":1,"t":"text","text":…,"ad":…,"sent_at":…,"cseq":…,"prev":…,"from":…,"to":…,"sth":…,"roster":[…]}
//! {"v":1,"t":"ctl","op":"hb", …}
//! {"v":1,"t":"ctl","op":"retry","msg_id":…,"session":…, …}
//! ```
//!
//! Messages of the protocol itself (`ctl`) look to the relay like texts: they have the same
//! cleartext beside the seal, and every body is padded.
//!
//! `ad` repeats the cleartext beside the seal, so the relay cannot dress a message up as
//! something else; `from` is checked against the sender's chain. The authenticated object is
//! the byte string; the JSON inside is read leniently, unknown fields are ignored.

use nexo_schema::bytes::{from_hex, to_hex};
use nexo_schema::ids::{Handle, MsgId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::e2ee::SessionId;
use crate::trust::RosterEntry;

/// The cleartext of every message.
pub const AD: &str = r#"{"type":"text"}"#;

/// Longest `sent_at` that is kept; RFC 3339 needs 35.
const MAX_SENT_AT: usize = 40;
/// Longest name of an unknown type that is shown.
const MAX_TYPE: usize = 32;

/// A message of the protocol itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Nothing but an answer, so that the keys of both sides move on.
    Heartbeat,
    /// The device that sends this cannot open a message, and asks its sender for a new packet.
    Retry {
        /// The message.
        msg_id: MsgId,
        /// The session it came in, if that session is not held.
        session: Option<SessionId>,
    },
    /// Something this version does not know, and does not act upon.
    Unknown,
}

/// How a [`Control`] is written, in a body and in the outbox.
#[derive(Serialize, Deserialize, Default)]
struct Operation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    op: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    msg_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

impl Control {
    fn operation(&self) -> Operation {
        match self {
            Self::Heartbeat => Operation { op: Some("hb".to_owned()), ..Operation::default() },
            Self::Retry { msg_id, session } => Operation {
                op: Some("retry".to_owned()),
                msg_id: Some(msg_id.to_string()),
                session: session.map(|id| to_hex(id.as_bytes())),
            },
            Self::Unknown => Operation::default(),
        }
    }

    fn of(operation: Operation) -> Result<Self, BodyRefused> {
        let Operation { op, msg_id, session } = operation;
        match (op.as_deref(), msg_id) {
            (Some("hb"), _) => Ok(Self::Heartbeat),
            (Some("retry"), Some(id)) => {
                let msg_id = MsgId::parse(&id).map_err(|_| BodyRefused::Form)?;
                let session = session.map(|hex| from_hex(&hex).map(SessionId::from_bytes));
                let session = session.transpose().map_err(|_| BodyRefused::Form)?;
                Ok(Self::Retry { msg_id, session })
            }
            (Some("retry"), None) | (None, _) => Err(BodyRefused::Form),
            (Some(_), _) => Ok(Self::Unknown),
        }
    }

    /// One line of JSON, as it stands in the outbox in the place of a text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(&self.operation()).expect("strings always become JSON")
    }

    /// Reads [`Control::to_text`].
    ///
    /// # Errors
    /// [`BodyRefused::Form`].
    pub fn from_text(text: &str) -> Result<Self, BodyRefused> {
        Self::of(serde_json::from_str(text).map_err(|_| BodyRefused::Form)?)
    }
}

/// What a message says.
#[derive(Debug, Clone, Copy)]
pub enum Matter<'a> {
    /// A text.
    Text(&'a str),
    /// See [`Control`].
    Control(&'a Control),
}

/// A message to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// What it says.
    pub matter: Matter<'a>,
    /// RFC 3339.
    pub sent_at: &'a str,
    /// Counts this device's messages in the conversation, from 1; 0 for a stateless device.
    pub cseq: u64,
    /// The message before.
    pub prev: Option<&'a MsgId>,
    /// The sender's handle.
    pub from: &'a Handle,
    /// The handle it is for, which tells the sender's other devices.
    pub to: &'a Handle,
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
        /// Who it is for, by the sender's word.
        to: Option<Handle>,
    },
    /// Nobody's to read.
    Control(Control),
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
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(flatten)]
    operation: Operation,
    ad: &'a str,
    sent_at: &'a str,
    cseq: u64,
    prev: Option<&'a MsgId>,
    from: &'a Handle,
    to: &'a Handle,
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
    #[serde(default)]
    to: Option<Value>,
    // What other types have under these names is theirs to say.
    #[serde(default)]
    op: Option<Value>,
    #[serde(default)]
    msg_id: Option<Value>,
    #[serde(default)]
    session: Option<Value>,
}

impl Read {
    fn operation(&self) -> Operation {
        let text = |value: &Option<Value>| value.as_ref()?.as_str().map(str::to_owned);
        Operation { op: text(&self.op), msg_id: text(&self.msg_id), session: text(&self.session) }
    }

    fn to(&self) -> Option<Handle> {
        Handle::parse(self.to.as_ref()?.as_str()?).ok()
    }
}

/// The bytes to seal.
#[must_use]
pub fn write(draft: &Draft<'_>) -> Zeroizing<Vec<u8>> {
    let Draft { matter, sent_at, cseq, prev, from, to, sth, roster } = *draft;
    let (t, text, operation) = match matter {
        Matter::Text(text) => ("text", Some(text), Operation::default()),
        Matter::Control(control) => ("ctl", None, control.operation()),
    };
    let body =
        Written { v: 1, t, text, operation, ad: AD, sent_at, cseq, prev, from, to, sth, roster };
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
    let (operation, to) = (body.operation(), body.to());
    let sent_at = body.sent_at.filter(|text| text.len() <= MAX_SENT_AT);
    match (body.v, body.t.as_str(), body.text) {
        (1, "text", Some(text)) => Ok(Content::Text { text: Zeroizing::new(text), sent_at, to }),
        (1, "text", None) => Err(BodyRefused::Form),
        (1, "ctl", _) => Control::of(operation).map(Content::Control),
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

    fn bob() -> Handle {
        Handle::parse("bob").unwrap()
    }

    fn written(matter: Matter<'_>) -> Zeroizing<Vec<u8>> {
        let (from, to) = (alice(), bob());
        let sent_at = "2026-11-23T10:00:00Z";
        let (sth, roster) = ("note\n", &[][..]);
        write(&Draft { matter, sent_at, cseq: 1, prev: None, from: &from, to: &to, sth, roster })
    }

    fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
        written(Matter::Text(text))
    }

    #[test]
    fn every_field_of_the_contract_is_there() {
        let value: Value = serde_json::from_slice(&bytes("hi")).unwrap();
        let fields: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let wanted =
            ["ad", "cseq", "from", "prev", "roster", "sent_at", "sth", "t", "text", "to", "v"];
        assert_eq!(fields, wanted);
        assert_eq!(value["ad"], r#"{"type":"text"}"#);
    }

    #[test]
    fn what_the_relay_or_the_sender_forged_is_refused() {
        assert_eq!(read(&bytes("hi"), "{}", &alice()), Err(BodyRefused::Ad));
        assert_eq!(read(&bytes("hi"), r#"{"type": "text"}"#, &alice()), Err(BodyRefused::Ad));
        assert_eq!(read(&bytes("hi"), AD, &bob()), Err(BodyRefused::From));
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

    #[test]
    fn controls_read_back_from_bodies_and_from_the_outbox() {
        let msg_id = MsgId::parse("m1").unwrap();
        let session = Some(SessionId::from_bytes([7; 16]));
        for control in [
            Control::Heartbeat,
            Control::Retry { msg_id: msg_id.clone(), session },
            Control::Retry { msg_id, session: None },
        ] {
            let content = read(&written(Matter::Control(&control)), AD, &alice()).unwrap();
            assert_eq!(content, Content::Control(control.clone()));
            assert_eq!(Control::from_text(&control.to_text()), Ok(control));
        }
    }

    #[test]
    fn controls_of_other_versions_are_taken_and_malformed_ones_refused() {
        let body = |ctl: &str| format!(r#"{{"v":1,"t":"ctl",{ctl}"ad":"{{}}","from":"alice"}}"#);
        let read = |ctl: &str| read(body(ctl).as_bytes(), "{}", &alice());
        assert_eq!(read(r#""op":"dance","#), Ok(Content::Control(Control::Unknown)));
        for bad in [
            "",
            r#""op":5,"#,
            r#""op":"retry","#,
            r#""op":"retry","msg_id":"","#,
            r#""op":"retry","msg_id":"m1","session":"00","#,
        ] {
            assert_eq!(read(bad), Err(BodyRefused::Form), "{bad}");
        }
        // The same names in a text are none of ours.
        let text = r#"{"v":1,"t":"text","text":"x","op":5,"to":[],"ad":"{}","from":"alice"}"#;
        assert!(super::read(text.as_bytes(), "{}", &alice()).is_ok());
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
