//! New accounts.

use diesel::prelude::*;

use super::item::{Refusal, Registration};
use super::{Admission, Decision, Outcome, Placed};
use crate::store::accounts::{device_by_id, find_account};
use crate::store::challenges::take_challenge;
use crate::store::invites::spend_invite;
use crate::store::schema::{accounts, challenges, devices, key_events};
use crate::store::{StoreError, signed};

impl Admission<'_> {
    pub(super) fn register(&mut self, new: &Registration, index: u64) -> Outcome {
        if let Some(account) = find_account(self.conn, &new.handle)? {
            // The same registration, proved twice at once: the second is a login, and like a
            // login uses its challenge up afterwards (a known item writes nothing).
            if account.id != new.account {
                refuse!(Refusal::HandleTaken);
            }
            let placed = Placed { ts: self.now };
            return Ok(Ok(Decision::Known { index: account.created_index, placed }));
        }
        if device_by_id(self.conn, &new.device)?.is_some() {
            refuse!(Refusal::DeviceTaken);
        }
        // Spending writes, so everything that can fail is looked at first.
        if let Some(invite) = &new.invite {
            if !self.challenge_is_live(&new.nonce)? {
                refuse!(Refusal::ChallengeGone);
            }
            if !spend_invite(self.conn, invite, self.now)? {
                refuse!(Refusal::InviteSpent);
            }
        }
        if !take_challenge(self.conn, &new.nonce, self.now)? {
            refuse!(Refusal::ChallengeGone);
        }
        self.insert_account(new, index)?;
        self.known.changed(&new.account, &new.device);
        self.told.keys_changed.push(new.account);
        let placed = Placed { ts: self.now };
        Ok(Ok(Decision::Place { entry: new.entry.clone(), placed }))
    }

    fn challenge_is_live(&mut self, nonce: &str) -> Result<bool, StoreError> {
        let live = challenges::table.find(nonce).filter(challenges::exp.ge(signed(self.now)));
        Ok(diesel::select(diesel::dsl::exists(live)).get_result(self.conn)?)
    }

    fn insert_account(&mut self, new: &Registration, index: u64) -> Result<(), StoreError> {
        diesel::insert_into(accounts::table)
            .values((
                accounts::account_id.eq(new.account.as_bytes()),
                accounts::handle.eq(new.handle.as_str()),
                accounts::native.eq(new.genesis.is_some()),
                accounts::created_index.eq(signed(index)),
            ))
            .execute(self.conn)?;
        diesel::insert_into(devices::table)
            .values((
                devices::device_id.eq(new.device.as_str()),
                devices::account_id.eq(new.account.as_bytes()),
                devices::ed25519_pub.eq(&new.key[..]),
                devices::x25519_pub.eq(&new.x25519[..]),
                devices::caps.eq(i32::from(new.caps)),
                devices::not_after.eq(signed(new.not_after)),
                devices::added_index.eq(signed(index)),
            ))
            .execute(self.conn)?;
        if let Some(genesis) = &new.genesis {
            diesel::insert_into(key_events::table)
                .values((
                    key_events::sth_index.eq(signed(index)),
                    key_events::account_id.eq(new.account.as_bytes()),
                    key_events::seq.eq(0),
                    key_events::event.eq(&genesis.event),
                    key_events::sig.eq(&genesis.sig),
                    key_events::accept_sig.eq(&genesis.accept_sig),
                ))
                .execute(self.conn)?;
        }
        Ok(())
    }
}
