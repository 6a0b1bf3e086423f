//! How messages look: a line for people, an object for scripts.

use serde_json::{Value, json};

use crate::clock;
use crate::e2ee::account_fingerprint;
use crate::output::{indented, one_line};
use crate::vault::{InboxKind, InboxRow, OutboxRow, OutboxState, SessionNote};

/// The schema of what happened to a session, which is no message.
pub(super) const EVENT: &str = "nexo.event/1";

/// A message as printed.
pub(super) struct Shown {
    pub(super) object: Value,
    pub(super) text: String,
    /// What is said on stderr as well: a message that could not be read.
    pub(super) alarm: Option<String>,
}

/// A received message, or what became of it.
pub(super) fn received(row: &InboxRow) -> Shown {
    let from = match &row.recipient {
        // Of an own other device.
        Some(to) => format!("{} -> {to}", sender(row)),
        None => sender(row),
    };
    let at = clock::rfc3339(row.received_at);
    let mut object = json!({
        "schema": "nexo.message/1",
        "msg_id": row.msg_id,
        "conv_id": row.conversation.to_string(),
        "from": row.sender_handle,
        "account_id": row.sender.map(|account| account.to_string()),
        "device_id": row.sender_device,
        "sth_index": row.sth_index.to_string(),
        "sent_at": row.sent_at,
        "received_at": at,
    });
    if let Some(to) = &row.recipient {
        object["to"] = json!(to);
    }
    let id = one_line(row.msg_id.as_str());
    let (text, alarm) = match &row.kind {
        InboxKind::Text => {
            let body = row.text.as_ref().map_or("", |text| text.as_str());
            object["text"] = json!(body);
            (format!("{} {from}: {}", moment(row, &at), indented(body)), None)
        }
        InboxKind::Unsupported { reason } => {
            object["error"] = json!({ "kind": "unsupported", "reason": reason });
            let reason = one_line(reason);
            (format!("{at} {from} sent a message that cannot be shown: {reason}"), None)
        }
        InboxKind::Undecryptable { reason } => {
            object["error"] = json!({ "kind": "undecryptable", "reason": reason });
            let line = format!("message {id} from {from} cannot be read: {}", one_line(reason));
            (String::new(), Some(line))
        }
        InboxKind::Deleted => {
            object["schema"] = json!("nexo.deletion/1");
            (format!("{at} {from} deleted message {id}"), None)
        }
        // Its event alone is shown.
        InboxKind::Control => (String::new(), None),
    };
    Shown { object, text, alarm }
}

/// What the handshake that came with a message means, if it is worth telling.
pub(super) fn event(row: &InboxRow) -> Option<Shown> {
    let note = row.event?;
    let object = json!({
        "schema": EVENT,
        "event": note.name(),
        "from": row.sender_handle,
        "account_id": row.sender.map(|account| account.to_string()),
        "device_id": row.sender_device,
        "msg_id": row.msg_id,
        "sth_index": row.sth_index.to_string(),
        "received_at": clock::rfc3339(row.received_at),
    });
    let (from, device) = (sender(row), one_line(row.sender_device.as_str()));
    let alarm = match note {
        SessionNote::Reset => Some(format!(
            "{from} began a new session from device {device} without showing the old one: its \
             state was lost, or somebody else has its key"
        )),
        // Nothing to worry about; scripts may count it.
        SessionNote::Rotated => None,
    };
    Some(Shown { object, text: String::new(), alarm })
}

/// A message of this device's own.
pub(super) fn sent(row: &OutboxRow, own_handle: &str) -> Shown {
    let at = clock::rfc3339(row.created_at);
    let (state, index) = match row.state {
        OutboxState::Unsent => ("unsent", None),
        OutboxState::Sent { sth_index } => ("sent", Some(sth_index)),
        OutboxState::Deleted { sth_index } => ("deleted", Some(sth_index)),
    };
    let mut object = json!({
        "schema": "nexo.message/1",
        "msg_id": row.msg_id,
        "conv_id": row.conversation.to_string(),
        "from": own_handle,
        "to": row.peer_handle,
        "sth_index": index.map(|index| index.to_string()),
        "sent_at": at,
        "state": state,
    });
    let (id, to) = (&row.msg_id, &row.peer_handle);
    let text = match (&row.text, row.state) {
        (Some(text), OutboxState::Unsent) => {
            object["text"] = json!(text.as_str());
            format!("{at} {own_handle} -> {to} (not sent, {id}): {}", indented(text))
        }
        (Some(text), _) => {
            object["text"] = json!(text.as_str());
            format!("{at} {own_handle} -> {to}: {}", indented(text))
        }
        (None, _) => format!("{at} {own_handle} deleted message {id} to {to}"),
    };
    Shown { object, text, alarm: None }
}

/// The sender's own time if it is one; it is their word, like the text.
fn moment(row: &InboxRow, received: &str) -> String {
    let said = row.sent_at.as_deref().and_then(clock::parse_rfc3339);
    said.map_or_else(|| received.to_owned(), clock::rfc3339)
}

fn sender(row: &InboxRow) -> String {
    match (&row.sender_handle, row.sender) {
        (Some(handle), _) => handle.to_string(),
        (None, Some(account)) => account_fingerprint(account),
        (None, None) => format!("device {}", one_line(row.sender_device.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::{AccountId, ConversationId};
    use nexo_schema::ids::{DeviceId, Handle, MsgId};
    use zeroize::Zeroizing;

    fn row(kind: InboxKind, text: Option<&str>) -> InboxRow {
        InboxRow {
            sth_index: 7,
            conversation: ConversationId::from_bytes([1; 32]),
            msg_id: MsgId::parse("m1").unwrap(),
            sender: Some(AccountId::from_bytes([2; 32])),
            sender_device: DeviceId::parse("d1").unwrap(),
            sender_handle: Some(Handle::parse("alice").unwrap()),
            kind,
            envelope: None,
            text: text.map(|t| Zeroizing::new(t.to_owned())),
            sent_at: Some("2026-11-23T10:00:00Z".to_owned()),
            received_at: 1_795_428_060,
            recipient: None,
            event: None,
        }
    }

    #[test]
    fn a_text_is_a_line_and_an_object() {
        let shown = received(&row(InboxKind::Text, Some("hi\nyou\u{1b}")));
        assert_eq!(shown.text, "2026-11-23T10:00:00Z alice: hi\n    you\u{241b}");
        assert_eq!(shown.object["text"], "hi\nyou\u{1b}", "scripts get what was sent");
        assert_eq!(shown.object["schema"], "nexo.message/1");
        assert_eq!(shown.object["sth_index"], "7");
        assert_eq!(shown.object["from"], "alice");
        assert_eq!(shown.object["received_at"], "2026-11-23T10:01:00Z");
    }

    #[test]
    fn a_time_that_is_none_is_not_printed() {
        let mut row = row(InboxKind::Text, Some("hi"));
        row.sent_at = Some("\u{1b}[2J".to_owned());
        assert_eq!(received(&row).text, "2026-11-23T10:01:00Z alice: hi");
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let reason = "broken".to_owned();
        let shown = received(&row(InboxKind::Undecryptable { reason }, None));
        assert_eq!(shown.object["error"]["reason"], "broken");
        assert!(shown.alarm.unwrap().contains("message m1 from alice cannot be read: broken"));
        let shown = received(&row(InboxKind::Deleted, None));
        assert_eq!(shown.object["schema"], "nexo.deletion/1");
        assert!(shown.object.get("text").is_none());
        assert!(shown.text.ends_with("alice deleted message m1"));
    }

    #[test]
    fn what_an_own_device_wrote_says_to_whom() {
        let mut row = row(InboxKind::Text, Some("hi"));
        row.recipient = Some(Handle::parse("bob").unwrap());
        let shown = received(&row);
        assert_eq!(shown.text, "2026-11-23T10:00:00Z alice -> bob: hi");
        assert_eq!((&shown.object["from"], &shown.object["to"]), (&json!("alice"), &json!("bob")));
    }

    #[test]
    fn a_reset_is_an_alarm_and_a_rotation_is_told_to_scripts_alone() {
        let mut row = row(InboxKind::Text, Some("hi"));
        assert!(event(&row).is_none());
        row.event = Some(SessionNote::Reset);
        let shown = event(&row).unwrap();
        assert_eq!(shown.object["schema"], "nexo.event/1");
        assert_eq!(shown.object["event"], "session_reset");
        assert!(shown.alarm.unwrap().contains("alice began a new session from device d1"));
        row.event = Some(SessionNote::Rotated);
        let shown = event(&row).unwrap();
        assert_eq!((shown.object["event"].as_str(), shown.alarm), (Some("session_rotated"), None));
    }
}
