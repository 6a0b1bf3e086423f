//! What others saw of the log and of accounts, as their messages say (e2ee 2.19).
//!
//! Every body carries the newest head its sender had verified, and for the accounts of the
//! conversation the number and hash of their newest event. The relay cannot change that without
//! losing the message. Two signed heads of one size and different roots are proof of two
//! histories. Heads of other sizes wait until the relay has proved that they are of one history
//! with ours; a head that it cannot prove for a day is an incident. What a roster says is a
//! sender's word: it makes this device look again, and tell a person when the relay's answer and
//! that word do not fit.

use nexo_audit::checkpoint::SignedHead;
use nexo_audit::merkle::verify_consistency;
use nexo_schema::bytes::{from_hex, to_hex};
use serde::{Deserialize, Serialize};

use super::PeerError;
use super::account::look_again;
use super::chain::Account;
use super::log::{LogSource, LogTrust, TrustError};
use crate::api::{ApiError, Member};
use crate::e2ee::{AccountId, account_fingerprint};
use crate::vault::{HeardHead, HeldHead, Told, Tx};

/// Seconds after which a head that the relay has not proved is an incident.
const PROOF_WITHIN: u64 = 24 * 3600;
/// Heads whose proofs are asked for at a time.
const PROOFS_AT_A_TIME: i64 = 8;
/// Entries of a roster that are read; a conversation has two.
const MAX_ROSTER: usize = 16;
/// Longest note that is read, bytes.
const MAX_NOTE: usize = 16 * 1024;
/// Accounts that one message makes this device look at again.
const MAX_LOOKS: usize = 2;

/// What a sender knew of an account: its newest event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    /// The account, hex.
    pub account: String,
    /// The number of its newest event.
    pub seq: u64,
    /// The hash of that event, hex.
    pub hash: String,
}

/// The part of a body that is about the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Gossip {
    /// The newest head that the sender had verified, verbatim.
    #[serde(default)]
    pub sth: Option<String>,
    /// The accounts of the conversation, as the sender knew them.
    #[serde(default)]
    pub roster: Vec<RosterEntry>,
}

impl Gossip {
    /// Reads it from an opened body; nothing from a body that has none, or more than belongs
    /// there.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        let mut gossip: Self = serde_json::from_slice(body).unwrap_or_default();
        gossip.sth = gossip.sth.filter(|note| note.len() <= MAX_NOTE);
        gossip.roster.truncate(MAX_ROSTER);
        gossip
    }
}

/// What this device tells in a message: the accounts it was written with.
#[must_use]
pub fn gossip_out(accounts: &[&Account]) -> Vec<RosterEntry> {
    let mut roster: Vec<RosterEntry> = accounts
        .iter()
        .map(|account| RosterEntry {
            account: account.id.to_string(),
            seq: account.length.saturating_sub(1),
            hash: to_hex(&account.head),
        })
        .collect();
    roster.dedup();
    roster
}

/// Who says something in a message.
#[derive(Debug, Clone, Copy)]
pub struct Speaker<'a> {
    /// How to name it.
    pub handle: &'a str,
    /// Its account, unless it is the own one. What such an account says of itself is believed
    /// against the relay.
    pub account: Option<AccountId>,
}

/// Hears what a verified message says. The head waits for [`settle`], unless it contradicts the
/// one held at once. What the sender says of its own chain and the relay does not show is kept:
/// until it is shown, nothing is sent to that account ([`super::recipient_of`]). An account that
/// lies there cuts off itself and nobody else.
///
/// # Errors
/// [`PeerError::Trust`] with [`TrustError::SplitView`] for proof of two histories; what is
/// wrong with a roster is told, and is no error.
pub async fn heard<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    gossip: &Gossip,
    from: Speaker<'_>,
    now: u64,
) -> Result<(), PeerError> {
    if let Some(note) = &gossip.sth {
        head_heard(trust, note, now).await?;
    }
    let doubts = trust.vault().read(|tx| doubts(tx, &gossip.roster))?;
    for doubt in doubts.into_iter().take(MAX_LOOKS) {
        match look_again(trust, member, doubt.account, now).await {
            Ok(_) => {}
            Err(error @ (PeerError::Trust(_) | PeerError::Api(_) | PeerError::Vault(_))) => {
                return Err(error);
            }
            // A lie about that account, of which evidence was kept; the message stands.
            Err(lie) => trust.notice(lie.to_string()),
        }
        let left = trust.vault().read(|tx| self::doubts(tx, &gossip.roster))?;
        if let Some(left) = left.into_iter().find(|left| left.account == doubt.account) {
            trust.notice(left.told(from.handle));
            if from.account == Some(left.account) {
                let told = Told { seq: left.seq, hash: left.hash };
                trust.vault().write(|tx| tx.set_told(left.account, told)).await?;
            }
        }
    }
    Ok(())
}

/// Takes a head from a message: one that the log did not sign means nothing.
async fn head_heard<S: LogSource>(
    trust: &LogTrust<'_, S>,
    note: &str,
    now: u64,
) -> Result<(), TrustError> {
    let Ok(signed) = SignedHead::open(note.as_bytes(), trust.log_key(), None) else {
        return Ok(());
    };
    let (size, root) = (signed.checkpoint.size, signed.checkpoint.root);
    let heard = HeardHead { size, root, note: signed.note, heard_at: now };
    let Some(held) = trust.vault().read(|tx| tx.newest_head())? else { return Ok(()) };
    if size == held.size || size == 0 {
        return same_size(trust, &held, &heard, now).await;
    }
    Ok(trust.vault().write(|tx| tx.put_heard(&heard)).await?)
}

async fn same_size<S: LogSource>(
    trust: &LogTrust<'_, S>,
    held: &HeldHead,
    heard: &HeardHead,
    now: u64,
) -> Result<(), TrustError> {
    if heard.size != held.size || heard.root == held.root {
        return Ok(());
    }
    Err(trust.split_view(held, &heard.note, now).await?)
}

/// Has heads proved that were heard, a few at a time.
///
/// # Errors
/// [`TrustError`]: a proof of two histories, a proof that does not verify, or a head that was
/// not proved for a day.
pub async fn settle<S: LogSource>(trust: &LogTrust<'_, S>, now: u64) -> Result<(), TrustError> {
    for heard in trust.vault().read(|tx| tx.heard(PROOFS_AT_A_TIME))? {
        let Some(held) = trust.vault().read(|tx| tx.newest_head())? else { return Ok(()) };
        same_size(trust, &held, &heard, now).await?;
        if heard.size == held.size || proved(trust, &held, &heard, now).await? {
            trust.vault().write(|tx| tx.settle_heard(&heard)).await?;
        } else if now.saturating_sub(heard.heard_at) > PROOF_WITHIN {
            let evidence = trust.contradiction("sth_unprovable", &held, &heard.note, &[], now)?;
            return Err(TrustError::Unprovable { size: heard.size, evidence });
        }
    }
    Ok(())
}

/// Whether the relay proves that a head is of one history with the one held. That it does not
/// answer, or has not as many entries yet, is no proof of anything.
async fn proved<S: LogSource>(
    trust: &LogTrust<'_, S>,
    held: &HeldHead,
    heard: &HeardHead,
    now: u64,
) -> Result<bool, TrustError> {
    let ((from, old), (to, new)) = if heard.size < held.size {
        ((heard.size, heard.root), (held.size, held.root))
    } else {
        ((held.size, held.root), (heard.size, heard.root))
    };
    let path = match trust.source().consistency(from, to).await {
        Ok(path) => path,
        Err(ApiError::Refused(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if verify_consistency(from, &old, to, &new, &path).is_ok() {
        return Ok(true);
    }
    let prefix = trust.prefix((from, &old), (to, &new), path).await;
    let evidence = trust.contradiction("inconsistent", held, &heard.note, &prefix, now)?;
    Err(TrustError::Inconsistent { held: held.size, shown: heard.size, evidence })
}

/// An account about which a sender's word does not fit what was verified here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Doubt {
    account: AccountId,
    /// Events that were verified here.
    known: usize,
    /// The number of the event that the sender names.
    seq: u64,
    /// The hash of that event.
    hash: [u8; 32],
    /// Whether there is another event here under that number.
    forked: bool,
}

impl Doubt {
    fn told(&self, from: &str) -> String {
        let account = account_fingerprint(self.account);
        let (known, seq) = (self.known, self.seq);
        if self.forked {
            format!(
                "chain_fork: {from} saw another event {seq} of {account} than the relay shows \
                 here; one of the two lies"
            )
        } else {
            format!(
                "device_withheld: {from} saw event {seq} of {account}, and the relay shows {known} \
                 events here; one of the two lies"
            )
        }
    }
}

/// The accounts of a roster that are known here, and not as the sender says. A shorter chain is
/// only an older view.
fn doubts(tx: &mut Tx<'_>, roster: &[RosterEntry]) -> Result<Vec<Doubt>, PeerError> {
    let mut doubts = Vec::new();
    for RosterEntry { account, seq, hash } in roster {
        let (Ok(account), Ok(hash)) = (account.parse::<AccountId>(), from_hex::<32>(hash)) else {
            continue;
        };
        let chain = tx.chain(account)?;
        if chain.is_empty() {
            continue;
        }
        let here = usize::try_from(*seq).ok().and_then(|seq| chain.get(seq));
        let forked = here.is_some_and(|event| event.signed.event_hash() != hash);
        if forked || here.is_none() {
            doubts.push(Doubt { account, known: chain.len(), seq: *seq, hash, forked });
        }
    }
    Ok(doubts)
}

#[cfg(test)]
#[path = "gossip_tests.rs"]
mod tests;
