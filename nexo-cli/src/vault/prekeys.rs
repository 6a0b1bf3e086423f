//! Own prekeys, and the handshakes that used them.

use diesel::prelude::*;
use zeroize::Zeroizing;

use super::schema::{prekeys, replays};
use super::sealed::Cell;
use super::{Tx, VaultError, signed, unsigned};
use crate::e2ee::oneshot::ReplayKey;

/// What a prekey is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrekeyKind {
    /// Used by everyone until replaced.
    Fallback,
    /// Used once.
    OneTime,
}

impl PrekeyKind {
    fn name(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::OneTime => "one_time",
        }
    }
}

/// A prekey with its secret seeds.
pub struct StoredPrekey {
    /// The id, unique per kind.
    pub id: u32,
    /// X25519 seed.
    pub dh: Zeroizing<[u8; 32]>,
    /// ML-KEM seed.
    pub kem: Zeroizing<[u8; 64]>,
    /// When it was made, Unix seconds.
    pub created_at: u64,
    /// Fallback: the signed start of validity.
    pub not_before: Option<u64>,
    /// Whether the relay confirmed the public half.
    pub published: bool,
}

type Row = (String, i64, Vec<u8>, i64, Option<i64>, Option<i64>, bool);

impl Tx<'_> {
    /// Stores a new prekey, before its public half goes anywhere.
    ///
    /// # Errors
    /// [`VaultError`], also if the id is taken.
    pub fn put_prekey(&mut self, kind: PrekeyKind, new: &StoredPrekey) -> Result<(), VaultError> {
        let secret = Zeroizing::new([&new.dh[..], &new.kem[..]].concat());
        let sealed = self.sealer.seal(&cell(kind, &new.id.to_be_bytes()), &secret)?;
        diesel::insert_into(prekeys::table)
            .values((
                prekeys::kind.eq(kind.name()),
                prekeys::id.eq(i64::from(new.id)),
                prekeys::sealed_secret.eq(sealed),
                prekeys::created_at.eq(signed(new.created_at)),
                prekeys::not_before.eq(new.not_before.map(signed)),
                prekeys::published.eq(new.published),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// The next id of a kind that was never used here.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn next_prekey_id(&mut self, kind: PrekeyKind) -> Result<u32, VaultError> {
        let name = match kind {
            PrekeyKind::Fallback => "fallback_id",
            PrekeyKind::OneTime => "one_time_id",
        };
        let next = self.counter(name)? + 1;
        self.set_counter(name, next)?;
        u32::try_from(next).map_err(|_| VaultError::Corrupt { table: "meta", what: name })
    }

    /// Leaves out ids up to `past`, which the relay knows and this state does not.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn skip_prekey_ids(&mut self, by: u32) -> Result<(), VaultError> {
        for name in ["fallback_id", "one_time_id"] {
            let next = self.counter(name)? + u64::from(by);
            self.set_counter(name, next)?;
        }
        Ok(())
    }

    /// The fallback prekey in force: the one that none has replaced.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn active_fallback(&mut self) -> Result<Option<StoredPrekey>, VaultError> {
        let row = prekeys::table
            .filter(prekeys::kind.eq("fallback").and(prekeys::replaced_at.is_null()))
            .order(prekeys::id.desc())
            .first::<Row>(self.conn)
            .optional()?;
        row.map(|row| self.prekey(PrekeyKind::Fallback, row)).transpose()
    }

    /// A fallback prekey by its id, replaced or not; `None` once it was wiped.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn fallback(&mut self, id: u32) -> Result<Option<StoredPrekey>, VaultError> {
        let row =
            prekeys::table.find(("fallback", i64::from(id))).first::<Row>(self.conn).optional()?;
        row.map(|row| self.prekey(PrekeyKind::Fallback, row)).transpose()
    }

    /// A one-time prekey by its id; `None` once it was used.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn one_time(&mut self, id: u32) -> Result<Option<StoredPrekey>, VaultError> {
        let row =
            prekeys::table.find(("one_time", i64::from(id))).first::<Row>(self.conn).optional()?;
        row.map(|row| self.prekey(PrekeyKind::OneTime, row)).transpose()
    }

    /// Deletes a one-time prekey, in the transaction that stores what it opened.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn delete_one_time(&mut self, id: u32) -> Result<(), VaultError> {
        diesel::delete(prekeys::table.find(("one_time", i64::from(id)))).execute(self.conn)?;
        Ok(())
    }

    /// Whether a handshake was seen before.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn has_handshake(&mut self, key: &ReplayKey) -> Result<bool, VaultError> {
        let ephemeral = &key.ephemeral.as_bytes()[..];
        let found: i64 = replays::table
            .filter(replays::fallback_id.eq(i64::from(key.fallback_id)))
            .filter(replays::ephemeral.eq(ephemeral))
            .count()
            .get_result(self.conn)?;
        Ok(found > 0)
    }

    /// Every one-time prekey whose private half is here.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn one_time_prekeys(&mut self) -> Result<Vec<StoredPrekey>, VaultError> {
        let rows = prekeys::table
            .filter(prekeys::kind.eq("one_time"))
            .order(prekeys::id)
            .load::<Row>(self.conn)?;
        rows.into_iter().map(|row| self.prekey(PrekeyKind::OneTime, row)).collect()
    }

    /// Which one-time prekeys the relay still has: of those that it had and has not, somebody has
    /// claimed the public half, `now` at the latest. One that is back was never claimed: another
    /// process had published it since the relay was asked.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn note_claimed(&mut self, there: &[u32], now: u64) -> Result<(), VaultError> {
        let there: Vec<i64> = there.iter().copied().map(i64::from).collect();
        let one_time =
            || prekeys::table.filter(prekeys::kind.eq("one_time").and(prekeys::published.eq(true)));
        diesel::update(one_time().filter(prekeys::id.eq_any(&there)))
            .set(prekeys::replaced_at.eq(None::<i64>))
            .execute(self.conn)?;
        let gone = one_time().filter(prekeys::id.ne_all(&there));
        diesel::update(gone.filter(prekeys::replaced_at.is_null()))
            .set(prekeys::replaced_at.eq(Some(signed(now))))
            .execute(self.conn)?;
        Ok(())
    }

    /// Wipes one-time prekeys that were claimed before `before` and never used: the fallback
    /// prekey that a first message with one of them needs as well is gone by then.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn wipe_claimed(&mut self, before: u64) -> Result<usize, VaultError> {
        let old = prekeys::table
            .filter(prekeys::kind.eq("one_time").and(prekeys::replaced_at.lt(signed(before))));
        Ok(diesel::delete(old).execute(self.conn)?)
    }

    /// The relay holds the public halves of these.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_published(&mut self, kind: PrekeyKind, ids: &[u32]) -> Result<(), VaultError> {
        let ids: Vec<i64> = ids.iter().copied().map(i64::from).collect();
        diesel::update(
            prekeys::table.filter(prekeys::kind.eq(kind.name()).and(prekeys::id.eq_any(ids))),
        )
        .set(prekeys::published.eq(true))
        .execute(self.conn)?;
        Ok(())
    }

    /// Every fallback prekey below `id` is replaced as of `now`.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn replace_fallbacks_below(&mut self, id: u32, now: u64) -> Result<(), VaultError> {
        diesel::update(
            prekeys::table
                .filter(prekeys::kind.eq("fallback").and(prekeys::id.lt(i64::from(id))))
                .filter(prekeys::replaced_at.is_null()),
        )
        .set(prekeys::replaced_at.eq(Some(signed(now))))
        .execute(self.conn)?;
        Ok(())
    }

    /// Wipes fallback prekeys replaced before `before`, and what was kept against replays for
    /// them: what they opened can no longer be opened by anybody.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn wipe_fallbacks(&mut self, before: u64) -> Result<usize, VaultError> {
        let old = prekeys::table
            .filter(prekeys::kind.eq("fallback").and(prekeys::replaced_at.lt(signed(before))));
        let ids: Vec<i64> = old.select(prekeys::id).load(self.conn)?;
        diesel::delete(replays::table.filter(replays::fallback_id.eq_any(&ids)))
            .execute(self.conn)?;
        let wiped = diesel::delete(
            prekeys::table.filter(prekeys::kind.eq("fallback").and(prekeys::id.eq_any(&ids))),
        )
        .execute(self.conn)?;
        Ok(wiped)
    }

    /// Keeps a handshake; `false` if it was seen before.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn note_handshake(&mut self, key: &ReplayKey) -> Result<bool, VaultError> {
        let new = diesel::insert_or_ignore_into(replays::table)
            .values((
                replays::fallback_id.eq(i64::from(key.fallback_id)),
                replays::ephemeral.eq(&key.ephemeral.as_bytes()[..]),
            ))
            .execute(self.conn)?;
        Ok(new == 1)
    }

    fn prekey(&self, kind: PrekeyKind, row: Row) -> Result<StoredPrekey, VaultError> {
        let (_, id, sealed, created_at, not_before, _, published) = row;
        let corrupt = || VaultError::Corrupt { table: "prekeys", what: "a secret" };
        let id = u32::try_from(id).map_err(|_| corrupt())?;
        let secret = self.sealer.open(&cell(kind, &id.to_be_bytes()), &sealed)?;
        let (dh, kem) = secret.split_first_chunk::<32>().ok_or_else(corrupt)?;
        Ok(StoredPrekey {
            id,
            dh: Zeroizing::new(*dh),
            kem: Zeroizing::new(kem.try_into().map_err(|_| corrupt())?),
            created_at: unsigned("prekeys", created_at)?,
            not_before: not_before.map(|t| unsigned("prekeys", t)).transpose()?,
            published,
        })
    }
}

/// The id alone names a row of one kind; the kind is the column.
fn cell(kind: PrekeyKind, id: &[u8; 4]) -> Cell<'_> {
    Cell { table: "prekeys", column: kind.name(), row: id, version: 1 }
}
