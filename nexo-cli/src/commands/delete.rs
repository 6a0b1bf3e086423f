//! `delete`: the author's signed wish that a message be gone, in the log (e2ee 2.16).

use nexo_schema::bytes::to_base64;
use nexo_schema::http::DeleteRequest;
use nexo_schema::ids::MsgId;
use serde_json::json;

use super::Context;
use crate::cli::Delete;
use crate::clock;
use crate::deliver::DeliverError;
use crate::e2ee::tombstone::tombstone_leaf;
use crate::e2ee::{EnvelopeHash, Tombstone};
use crate::error::CliError;
use crate::profile::{Profile, Session};
use crate::trust::verify_receipt;
use crate::vault::{OutboxRow, OutboxState, Target};
use crate::wire;

pub(super) async fn run(context: &Context, args: &Delete) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    if profile.is_stateless() {
        return Err(CliError::Stateless("delete"));
    }
    let msg_id = MsgId::parse(&args.msg_id).map_err(|e| CliError::Usage(e.to_string()))?;
    let row = profile.vault.read(|tx| tx.outbox(&msg_id))?;
    let row =
        row.filter(|row| !row.control).ok_or_else(|| CliError::NoMessage(args.msg_id.clone()))?;
    if row.state == OutboxState::Unsent {
        return Err(CliError::NotSent(args.msg_id.clone()));
    }
    let relay = profile.relay(&context.options, &context.printer)?;
    let session = profile.session(&relay, None);
    let (sth_index, duplicate) = delete(&session, &row).await?;
    forget(&profile, &row).await?;
    let object = json!({
        "schema": "nexo.deleted/1",
        "msg_id": row.msg_id,
        "conv_id": row.conversation.to_string(),
        "sth_index": sth_index.map(|index| index.to_string()),
        "duplicate": duplicate,
    });
    let index = sth_index.map_or_else(|| "-".to_owned(), |index| index.to_string());
    context.printer.result(&object, &format!("{} {index}", row.msg_id))?;
    Ok(context.printer.flush()?)
}

/// Has the deletion logged. One that was made before keeps the entry of then, over a signature
/// with another time; that one's bytes are not here, so there is nothing to verify.
async fn delete(session: &Session<'_>, row: &OutboxRow) -> Result<(Option<u64>, bool), CliError> {
    session.trust.one_history()?;
    let identity = &session.profile.identity;
    let corrupt = || CliError::NoMessage(row.msg_id.to_string());
    let tombstone = Tombstone {
        origin: session.trust.origin(),
        conversation: row.conversation,
        target: wire::message(&row.msg_id).ok_or_else(corrupt)?,
        target_envelope: row.envelope,
        account: identity.account,
        device: identity.device_id(),
        time_ms: clock::millis(),
    };
    let statement = tombstone.message();
    // It names this device's own id, so signing it cannot be refused.
    let sig = tombstone.sign(&identity.device).map_err(|e| CliError::BadData(e.to_string()))?;
    let request = DeleteRequest {
        conv_id: wire::conversation_out(row.conversation),
        target_msg_id: row.msg_id.clone(),
        statement: Some(to_base64(&statement)),
        sig: Some(to_base64(&sig)),
    };
    let answer = session.member.delete(&request).await?;
    if answer.duplicate {
        return Ok((None, true));
    }
    let receipt = answer.receipt.as_ref().ok_or(DeliverError::NoReceipt)?;
    let leaf = tombstone_leaf(&statement, &sig);
    let now = clock::seconds();
    let index = verify_receipt(&session.trust, receipt, "the deletion", &leaf, now).await?;
    Ok((Some(index), false))
}

/// The text goes here too, from both boxes (a note to oneself is in both).
async fn forget(profile: &Profile, row: &OutboxRow) -> Result<(), CliError> {
    let (author, envelope): (_, EnvelopeHash) = (profile.identity.account, row.envelope);
    let target = Target { author, msg_id: &row.msg_id, envelope };
    profile
        .vault
        .write(|tx| {
            tx.wipe_outbox(&row.msg_id)?;
            tx.wipe_inbox(&target)
        })
        .await
        .map(drop)
        .map_err(|error: crate::vault::VaultError| error.into())
}
