//! Keeping this device reachable: its prekeys at the relay (e2ee 2.7).
//!
//! A private half is committed to disk before its public half is sent. What the relay holds and
//! this device cannot open is removed there. Fallback prekeys are replaced weekly; their private
//! halves stay for thirty days more, then nobody can open what was sent to them. A one-time
//! prekey goes when it is used; one that was claimed and never used goes after 37 days, the
//! longest life of the fallback prekey that was claimed with it.

use nexo_schema::bytes::to_hex;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{PrekeyRef, PrekeyStock, PrekeyUpload};
use nexo_schema::limits::FALLBACK_PREKEY_TTL;
use sha2::{Digest as _, Sha256};

use crate::api::ApiError;
use crate::e2ee::keys::PrekeyPublic;
use crate::e2ee::{Capabilities, FallbackSecret, OneTimeSecret, SignedFallback, SignedOneTime};
use crate::e2ee::{Validity, prekey::WindowRefused};
use crate::profile::Session;
use crate::random::{self, RandomError};
use crate::trust::TrustError;
use crate::vault::{PrekeyKind, StoredPrekey, Tx, VaultError};
use crate::wire;

/// Seconds after which a fallback prekey is replaced.
const ROTATE_AFTER: u64 = 7 * 86_400;
/// Seconds for which a replaced one is kept.
const KEEP_FOR: u64 = 30 * 86_400;
/// One-time prekeys to have at the relay, and the number below which they are filled up.
const ONE_TIME_TARGET: usize = 50;
const ONE_TIME_LOW: usize = 20;
/// Seconds between looks at what the relay holds.
const LOOK_EVERY: u64 = 3600;
/// Ids left out when the relay knows ids that this state does not (a restored directory).
const SKIP_IDS: u32 = 1000;

/// Why prekeys could not be tended.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The relay.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The log, whose time dates prekeys.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The local state.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The relay's time is no time.
    #[error(transparent)]
    Window(#[from] WindowRefused),
}

/// Looks at what the relay holds, if it is time, and makes good what is missing.
///
/// # Errors
/// [`UpkeepError`].
pub async fn tend(session: &Session<'_>, now: u64, at_once: bool) -> Result<(), UpkeepError> {
    let (profile, vault) = (session.profile, &session.profile.vault);
    if profile.is_stateless() || !profile.capabilities.contains(Capabilities::RECV) {
        return Ok(());
    }
    let checked = vault.read(|tx| tx.prekeys_checked_at())?;
    if !at_once && checked <= now && now - checked < LOOK_EVERY {
        return Ok(());
    }
    match publish(session, now).await {
        Err(UpkeepError::Api(error)) if error.code() == Some(ErrorCode::PrekeyReused) => {
            vault.write(|tx| tx.skip_prekey_ids(SKIP_IDS)).await?;
            publish(session, now).await
        }
        other => other,
    }
}

/// Compares what the relay holds with what this device has, and makes good what is missing.
///
/// # Errors
/// [`UpkeepError`].
pub async fn publish(session: &Session<'_>, now: u64) -> Result<(), UpkeepError> {
    let vault = &session.profile.vault;
    let stock = session.member.prekeys().await?;
    // Fetched: a device that was away holds a head of weeks ago, and would publish a prekey that
    // has expired.
    let relay_time = session.trust.fetch_head(now).await?.time;
    let plan = vault.write(|tx| Plan::make(tx, &stock, now, relay_time)).await?;
    if plan.is_needed() {
        session.member.publish(&plan.upload(session)?).await?;
    }
    Ok(vault.write(|tx| plan.done(tx, &stock, now)).await?)
}

/// What to upload. Every secret in it is on disk by now.
struct Plan {
    fallback: Option<(FallbackSecret, u64)>,
    one_time: Vec<OneTimeSecret>,
    remove: Vec<u32>,
}

impl Plan {
    fn make(
        tx: &mut Tx<'_>,
        stock: &PrekeyStock,
        now: u64,
        relay_time: u64,
    ) -> Result<Self, UpkeepError> {
        let fallback = match tx.active_fallback()? {
            Some(active) if is_recent(&active, now, relay_time) => {
                let not_before = active.not_before.unwrap_or(relay_time);
                let secret = fallback_secret(&active);
                let there = stock.fallback.as_ref() == Some(&reference(&secret.public()));
                // Lost by the relay, or never uploaded: the same one again.
                (!there).then_some((secret, not_before))
            }
            _ => Some(new_fallback(tx, now, relay_time)?),
        };
        let held: Vec<_> = tx.one_time_prekeys()?;
        let ours: Vec<_> = held.iter().map(|p| reference(&one_time_secret(p).public())).collect();
        let (kept, gone): (Vec<&PrekeyRef>, Vec<&PrekeyRef>) =
            stock.one_time.iter().partition(|there| ours.contains(there));
        let mut one_time: Vec<OneTimeSecret> =
            held.iter().filter(|prekey| !prekey.published).map(one_time_secret).collect();
        if kept.len() + one_time.len() < ONE_TIME_LOW {
            for _ in kept.len() + one_time.len()..ONE_TIME_TARGET {
                one_time.push(new_one_time(tx, now)?);
            }
        }
        Ok(Self { fallback, one_time, remove: gone.iter().map(|there| there.id).collect() })
    }

    /// The relay has taken it: what is there, what is over.
    fn done(&self, tx: &mut Tx<'_>, stock: &PrekeyStock, now: u64) -> Result<(), VaultError> {
        let there: Vec<u32> = stock.one_time.iter().map(|there| there.id).collect();
        tx.note_claimed(&there, now)?;
        let ids: Vec<u32> = self.one_time.iter().map(OneTimeSecret::id).collect();
        tx.set_published(PrekeyKind::OneTime, &ids)?;
        if let Some((secret, _)) = &self.fallback {
            tx.set_published(PrekeyKind::Fallback, &[secret.id()])?;
            tx.replace_fallbacks_below(secret.id(), now)?;
        }
        tx.wipe_fallbacks(now.saturating_sub(KEEP_FOR))?;
        tx.wipe_claimed(now.saturating_sub(FALLBACK_PREKEY_TTL))?;
        tx.set_prekeys_checked_at(now)
    }

    fn is_needed(&self) -> bool {
        self.fallback.is_some() || !self.one_time.is_empty() || !self.remove.is_empty()
    }

    fn upload(&self, session: &Session<'_>) -> Result<PrekeyUpload, UpkeepError> {
        let (device, origin) =
            (&session.profile.identity.device, session.profile.pin.origin.as_str());
        let fallback = match &self.fallback {
            Some((secret, not_before)) => {
                let validity = Validity::longest(*not_before)?;
                Some(SignedFallback::sign(device, origin, secret, validity))
            }
            None => None,
        };
        let one_time = self
            .one_time
            .iter()
            .map(|secret| wire::one_time_out(&SignedOneTime::sign(device, origin, secret)))
            .collect();
        Ok(PrekeyUpload {
            fallback: fallback.as_ref().map(wire::fallback_out),
            one_time,
            remove: self.remove.clone(),
        })
    }
}

/// A clock that went back does not make a prekey young for ever.
/// By both clocks: this machine's, and the one that its validity was counted by.
fn is_recent(prekey: &StoredPrekey, now: u64, relay_time: u64) -> bool {
    let begun = prekey.not_before.is_none_or(|t| relay_time < t.saturating_add(ROTATE_AFTER));
    begun && prekey.created_at <= now && now - prekey.created_at < ROTATE_AFTER
}

fn new_fallback(
    tx: &mut Tx<'_>,
    now: u64,
    relay_time: u64,
) -> Result<(FallbackSecret, u64), UpkeepError> {
    let stored = new_prekey(tx, PrekeyKind::Fallback, now, Some(relay_time))?;
    Ok((fallback_secret(&stored), relay_time))
}

fn new_one_time(tx: &mut Tx<'_>, now: u64) -> Result<OneTimeSecret, UpkeepError> {
    Ok(one_time_secret(&new_prekey(tx, PrekeyKind::OneTime, now, None)?))
}

fn new_prekey(
    tx: &mut Tx<'_>,
    kind: PrekeyKind,
    now: u64,
    not_before: Option<u64>,
) -> Result<StoredPrekey, UpkeepError> {
    let prekey = StoredPrekey {
        id: tx.next_prekey_id(kind)?,
        dh: random::secret()?,
        kem: random::secret()?,
        created_at: now,
        not_before,
        published: false,
    };
    tx.put_prekey(kind, &prekey)?;
    Ok(prekey)
}

/// The secret of a stored fallback prekey.
#[must_use]
pub fn fallback_secret(stored: &StoredPrekey) -> FallbackSecret {
    FallbackSecret::from_seeds(stored.id, *stored.dh, *stored.kem)
}

/// The secret of a stored one-time prekey.
#[must_use]
pub fn one_time_secret(stored: &StoredPrekey) -> OneTimeSecret {
    OneTimeSecret::from_seeds(stored.id, *stored.dh, *stored.kem)
}

/// How the relay names a prekey it holds.
fn reference(public: &PrekeyPublic) -> PrekeyRef {
    let hash = Sha256::new()
        .chain_update(public.dh.as_bytes())
        .chain_update(&public.kem.to_bytes()[..])
        .finalize();
    PrekeyRef { id: public.id, hash: to_hex(&hash) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Vault;

    const NOW: u64 = 1_800_000_000;

    fn empty() -> PrekeyStock {
        PrekeyStock { fallback: None, one_time: Vec::new() }
    }

    fn same(one: &Plan, other: &Plan) -> bool {
        let (one, other) = (stock(one), stock(other));
        one.fallback == other.fallback && one.one_time == other.one_time
    }

    fn stock(plan: &Plan) -> PrekeyStock {
        PrekeyStock {
            fallback: plan.fallback.as_ref().map(|(secret, _)| reference(&secret.public())),
            one_time: plan.one_time.iter().map(|secret| reference(&secret.public())).collect(),
        }
    }

    async fn plan(vault: &Vault, stock: &PrekeyStock, now: u64) -> Plan {
        vault.write(|tx| Plan::make(tx, stock, now, now)).await.unwrap()
    }

    async fn published(vault: &Vault, plan: &Plan) {
        let ids: Vec<u32> = plan.one_time.iter().map(OneTimeSecret::id).collect();
        vault.write(|tx| tx.set_published(PrekeyKind::OneTime, &ids)).await.unwrap();
    }

    #[tokio::test]
    async fn everything_is_made_once_and_made_good_when_lost() {
        let vault = Vault::in_memory().unwrap();
        let first = plan(&vault, &empty(), NOW).await;
        assert_eq!((first.fallback.is_some(), first.one_time.len()), (true, ONE_TIME_TARGET));
        let again = plan(&vault, &empty(), NOW + 1).await;
        assert!(same(&again, &first), "an upload that got lost is repeated, not redone");
        published(&vault, &first).await;
        assert!(!plan(&vault, &stock(&first), NOW + 2).await.is_needed());
        let mut lost = stock(&first);
        lost.fallback = None;
        let repair = plan(&vault, &lost, NOW + 3).await;
        assert_eq!(stock(&repair).fallback, stock(&first).fallback);
        assert!(repair.one_time.is_empty() && repair.remove.is_empty());
    }

    #[tokio::test]
    async fn what_nobody_can_open_is_removed_and_a_low_stock_filled() {
        let vault = Vault::in_memory().unwrap();
        let first = plan(&vault, &empty(), NOW).await;
        published(&vault, &first).await;
        let mut low = stock(&first);
        low.one_time.truncate(ONE_TIME_LOW);
        assert!(!plan(&vault, &low, NOW).await.is_needed(), "twenty are enough");
        low.one_time.truncate(ONE_TIME_LOW - 1);
        low.one_time[0].hash = to_hex(&[0; 32]);
        low.one_time.push(PrekeyRef { id: 9999, hash: to_hex(&[1; 32]) });
        let repair = plan(&vault, &low, NOW).await;
        assert_eq!(repair.remove, [low.one_time[0].id, 9999]);
        assert_eq!(repair.one_time.len(), ONE_TIME_TARGET - (ONE_TIME_LOW - 2));
        let new_ids: Vec<u32> = repair.one_time.iter().map(OneTimeSecret::id).collect();
        assert!(new_ids.iter().all(|id| *id > 50), "ids are never used again");
    }

    #[tokio::test]
    async fn a_claimed_prekey_that_nobody_uses_goes_with_the_fallback_it_was_claimed_with() {
        let vault = Vault::in_memory().unwrap();
        let first = plan(&vault, &empty(), NOW).await;
        let all = stock(&first);
        let look = |there: PrekeyStock, now: u64| {
            let vault = &vault;
            async move {
                let next = vault.write(|tx| Plan::make(tx, &there, now, now)).await.unwrap();
                vault.write(|tx| next.done(tx, &there, now)).await.unwrap();
                vault.read(|tx| tx.one_time_prekeys()).unwrap().iter().map(|one| one.id).collect()
            }
        };
        let without = |ids: &[u32]| {
            let mut less = all.clone();
            less.one_time.retain(|there| !ids.contains(&there.id));
            less
        };
        let held: Vec<u32> = look(empty(), NOW).await;
        let (claimed, slow) = (held[0], held[1]);
        // Two are gone from the relay; one of them only seemed to be.
        look(without(&[claimed, slow]), NOW + 100).await;
        look(without(&[claimed]), NOW + 200).await;
        let last = NOW + 100 + FALLBACK_PREKEY_TTL;
        assert_eq!(look(without(&[claimed]), last).await, held, "it may be used until then");
        let kept: Vec<u32> = look(without(&[claimed, slow]), last + 1).await;
        assert_eq!(kept, held[1..], "one that was there long enough is not claimed long ago");
        let kept: Vec<u32> = look(without(&[claimed, slow]), last + FALLBACK_PREKEY_TTL + 2).await;
        assert_eq!(kept, held[2..]);
    }

    #[tokio::test]
    async fn a_fallback_rotates_weekly_and_its_past_is_wiped() {
        let vault = Vault::in_memory().unwrap();
        let (old, _) = plan(&vault, &empty(), NOW).await.fallback.unwrap();
        let later = NOW + ROTATE_AFTER;
        let (new, not_before) = plan(&vault, &empty(), later).await.fallback.unwrap();
        assert!(new.id() > old.id() && not_before == later);
        vault.write(|tx| tx.replace_fallbacks_below(new.id(), later)).await.unwrap();
        let find = |id| vault.read(|tx| tx.fallback(id)).unwrap().is_some();
        let wipe = |at: u64| {
            let vault = &vault;
            async move { vault.write(|tx| tx.wipe_fallbacks(at - KEEP_FOR)).await.unwrap() }
        };
        assert_eq!(wipe(later + KEEP_FOR).await, 0);
        assert!(find(old.id()), "kept for thirty days");
        assert_eq!(wipe(later + KEEP_FOR + 1).await, 1);
        assert!(!find(old.id()) && find(new.id()));
    }
}
