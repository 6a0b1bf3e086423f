//! Send counters (design 20): which `dseq` a device has used, kept as the highest one and a
//! bitmap of the [`DSEQ_WINDOW`] numbers that end in it.
//!
//! ```text
//! used: bit i (byte i/8, from the least significant) stands for highest - i
//! ```

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Text};
use nexo_schema::ids::DeviceId;
use nexo_schema::limits::DSEQ_WINDOW;

use super::schema::send_counters;
use super::{Conn, StoreError, signed, unsigned};

const WORDS: usize = (DSEQ_WINDOW / 64) as usize;

/// The counters one device has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counter {
    highest: u64,
    /// Word w holds the bits of `highest - 64 w` down to `highest - 64 w - 63`.
    used: [u64; WORDS],
    stored: bool,
    changed: bool,
}

impl Counter {
    fn unused() -> Self {
        Self { highest: 0, used: [0; WORDS], stored: false, changed: false }
    }

    /// Whether `dseq` may be used: a number, not used before, not below the window.
    pub(super) fn is_unused(&self, dseq: u64) -> bool {
        let bit = match self.highest.checked_sub(dseq).map(usize::try_from) {
            None => return dseq <= i64::MAX as u64,
            Some(back) => back.unwrap_or(usize::MAX),
        };
        dseq > 0 && self.used.get(bit / 64).is_some_and(|word| word & 1 << (bit % 64) == 0)
    }

    /// Marks `dseq` used; `false` if it was, or lies below the window.
    pub(super) fn mark(&mut self, dseq: u64) -> bool {
        if dseq > self.highest {
            self.advance(dseq - self.highest);
            self.highest = dseq;
        }
        let back = self.highest - dseq;
        let Ok(bit) = usize::try_from(back) else { return false };
        let Some(word) = self.used.get_mut(bit / 64) else { return false };
        let mask = 1u64 << (bit % 64);
        let fresh = *word & mask == 0;
        *word |= mask;
        self.changed |= fresh;
        fresh
    }

    /// Moves every bit `by` numbers down.
    fn advance(&mut self, by: u64) {
        let words = usize::try_from(by / 64).unwrap_or(WORDS).min(WORDS);
        let bits = (by % 64) as u32;
        self.used.copy_within(..WORDS - words, words);
        self.used[..words].fill(0);
        if bits > 0 {
            for word in (0..WORDS).rev() {
                let from_below = if word > 0 { self.used[word - 1] >> (64 - bits) } else { 0 };
                self.used[word] = self.used[word] << bits | from_below;
            }
        }
    }

    fn load(conn: &mut Conn, device: &DeviceId) -> Result<Self, StoreError> {
        let row = send_counters::table
            .find(device.as_str())
            .select((send_counters::highest, send_counters::used))
            .first::<(i64, Vec<u8>)>(conn)
            .optional()?;
        let Some((highest, bytes)) = row else { return Ok(Self::unused()) };
        let (words, rest) = bytes.as_chunks::<8>();
        if words.len() != WORDS || !rest.is_empty() {
            return Err(StoreError::corrupt("send_counters", "the bitmap has another size"));
        }
        let mut used = [0; WORDS];
        for (word, bytes) in used.iter_mut().zip(words) {
            *word = u64::from_le_bytes(*bytes);
        }
        let highest = unsigned("send_counters", highest)?;
        Ok(Self { highest, used, stored: true, changed: false })
    }

    fn bitmap(&self) -> Vec<u8> {
        self.used.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Writes the counter back.
    fn store(&self, conn: &mut Conn, device: &DeviceId) -> Result<(), StoreError> {
        let values = (
            send_counters::highest.eq(signed(self.highest)),
            send_counters::used.eq(self.bitmap()),
        );
        if self.stored {
            diesel::update(send_counters::table.find(device.as_str())).set(values).execute(conn)?;
        } else {
            diesel::insert_into(send_counters::table)
                .values((send_counters::device_id.eq(device.as_str()), values.0, values.1))
                .execute(conn)?;
        }
        Ok(())
    }
}

/// The counter of `device` among the batch's, read from the database if it is not there yet.
pub(super) fn counter_of<'a>(
    conn: &mut Conn,
    counters: &'a mut HashMap<DeviceId, Counter>,
    device: &DeviceId,
) -> Result<&'a mut Counter, StoreError> {
    // An entry would need the id cloned for every message.
    if !counters.contains_key(device) {
        counters.insert(device.clone(), Counter::load(conn, device)?);
    }
    counters.get_mut(device).ok_or_else(|| StoreError::corrupt("send_counters", "a lost counter"))
}

/// PostgreSQL takes all of a batch's at once.
const STORE_ALL: &str = "INSERT INTO send_counters (device_id, highest, used) \
     SELECT * FROM unnest($1, $2, $3) ON CONFLICT (device_id) \
     DO UPDATE SET highest = EXCLUDED.highest, used = EXCLUDED.used";

/// Writes back the counters that changed. They are those of the database again afterwards.
pub(super) fn store_all(
    conn: &mut Conn,
    counters: &mut HashMap<DeviceId, Counter>,
) -> Result<(), StoreError> {
    let changed: Vec<(&DeviceId, &mut Counter)> =
        counters.iter_mut().filter(|(_, counter)| counter.changed).collect();
    if changed.is_empty() {
        return Ok(());
    }
    match conn {
        Conn::Sqlite(_) => {
            changed.iter().try_for_each(|(device, counter)| counter.store(conn, device))?;
        }
        Conn::Postgres(conn) => {
            let devices: Vec<&str> = changed.iter().map(|(device, _)| device.as_str()).collect();
            let highest: Vec<i64> = changed.iter().map(|(_, c)| signed(c.highest)).collect();
            let used: Vec<Vec<u8>> = changed.iter().map(|(_, c)| c.bitmap()).collect();
            diesel::sql_query(STORE_ALL)
                .bind::<Array<Text>, _>(devices)
                .bind::<Array<BigInt>, _>(highest)
                .bind::<Array<Binary>, _>(used)
                .execute(conn)?;
        }
    }
    for (_, counter) in changed {
        (counter.stored, counter.changed) = (true, false);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_counts_once_and_never_below_the_window() {
        let mut counter = Counter::unused();
        assert!(counter.mark(5));
        assert!(counter.mark(3), "a straggler");
        assert!(!counter.mark(3) && !counter.mark(5));
        assert!(counter.mark(3 + DSEQ_WINDOW), "moves 3 out of the window");
        assert!(counter.mark(4), "the oldest in it");
        assert!(!counter.mark(3), "below it");
        assert!(counter.mark(i64::MAX as u64));
        assert!(!counter.mark(4));
        let unused = Counter::unused();
        assert!(!unused.is_unused(0) && !unused.is_unused(i64::MAX as u64 + 1));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(numbers in proptest::collection::vec(1u64..20_000, 1..400)) {
            let (mut counter, mut seen, mut highest) = (Counter::unused(), BTreeSet::new(), 0);
            for n in numbers {
                highest = highest.max(n);
                let fresh = highest - n < DSEQ_WINDOW && seen.insert(n);
                prop_assert_eq!(counter.is_unused(n), fresh, "{}", n);
                prop_assert_eq!(counter.mark(n), fresh, "{}", n);
            }
        }
    }
}
