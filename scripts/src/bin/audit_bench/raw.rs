//! What hashing alone takes: the limit of any auditor on this machine.
//!
//! A tree of n leaves needs n leaf hashes and n - 1 node hashes. Nothing is read, compared or
//! kept here but one hash that the next one needs, so that nothing is left out.

use std::hint::black_box;
use std::time::Instant;

use nexo_scripts::process::cpu_time;
use sha2::block_api::compress256;
use sha2::{Digest as _, Sha256};

use crate::audit::Run;

/// Bytes of a SHA-256 block.
const BLOCK: usize = 64;
/// A node: 0x01 and two hashes.
const NODE: usize = 65;

/// The time of one leaf hash and one node hash per entry, on so many threads.
pub(crate) fn hashes(threads: usize, entries: u64, entry: usize) -> Run {
    on(threads, entries, |entries| {
        let (mut entry, mut node) = (vec![7; entry], [7; NODE - 1]);
        for _ in 0..entries {
            let leaf = Sha256::new().chain_update([0]).chain_update(&entry).finalize();
            node[..32].copy_from_slice(&leaf);
            let hash = Sha256::new().chain_update([1]).chain_update(node).finalize();
            entry[..32].copy_from_slice(&hash);
        }
        black_box(entry);
    })
}

/// The time of the blocks of the same hashes, without sha2 around its compression function.
pub(crate) fn blocks(threads: usize, entries: u64, entry: usize) -> Run {
    let blocks = blocks_of(entry + 1) + blocks_of(NODE);
    on(threads, entries, move |entries| {
        let (mut state, block) = ([7; 8], vec![[7; BLOCK]; blocks]);
        for _ in 0..entries {
            compress256(&mut state, black_box(&block));
        }
        black_box(state);
    })
}

/// Blocks of a message with its padding: a byte, and eight of length.
fn blocks_of(bytes: usize) -> usize {
    (bytes + 9).div_ceil(BLOCK)
}

fn on(threads: usize, entries: u64, work: impl Fn(u64) + Sync) -> Run {
    let each = entries.div_ceil(threads as u64);
    let used = || cpu_time(std::process::id()).unwrap_or_default();
    let (start, before) = (Instant::now(), used());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(each));
        }
    });
    Run { wall: start.elapsed(), cpu: used().saturating_sub(before), memory: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_with_their_padding() {
        for (bytes, blocks) in [(0, 1), (55, 1), (56, 2), (61, 2), (65, 2), (119, 2), (120, 3)] {
            assert_eq!(blocks_of(bytes), blocks, "{bytes}");
        }
    }

    #[test]
    fn every_thread_has_its_share() {
        let done = std::sync::atomic::AtomicU64::new(0);
        let count = |entries| {
            done.fetch_add(entries, std::sync::atomic::Ordering::Relaxed);
        };
        on(3, 10, count);
        assert_eq!(done.into_inner(), 12);
        hashes(2, 2, 60);
        blocks(2, 2, 60);
    }
}
