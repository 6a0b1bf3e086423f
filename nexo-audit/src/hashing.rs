//! SHA-256 of the two short messages that a tree is made of (RFC 6962 section 2.1).
//!
//! ```text
//! leaf   0x00 || entry            an entry of today is 60 to 133 bytes: two blocks, or three
//! node   0x01 || left || right    65 bytes: two blocks
//!
//! last block   ... || 0x80 || 0x00 * n || length in bits, u64 big-endian      FIPS 180-4, 5.1.1
//! ```
//!
//! A tree of n leaves is 2n of these, so a full audit is hardly anything else. The blocks are laid
//! out here and given to sha2's compression function at once; sha2's own hasher is made for
//! messages that come in pieces, and takes a quarter longer for these. It takes the longer ones.

use crate::merkle::Hash;
use sha2::block_api::compress256;
use sha2::{Digest, Sha256};

/// FIPS 180-4, 5.3.3.
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
const BLOCK: usize = 64;
/// Blocks of the longest entry that is laid out here.
const BLOCKS: usize = 4;
/// The byte and the length behind a message.
const PADDING: usize = 1 + 8;

/// Hash of an entry.
pub(crate) fn leaf(entry: &[u8]) -> Hash {
    let length = 1 + entry.len();
    let count = (length + PADDING).div_ceil(BLOCK);
    if count > BLOCKS {
        return Sha256::new().chain_update([0x00]).chain_update(entry).finalize().into();
    }
    let mut blocks = [[0; BLOCK]; BLOCKS];
    let blocks = &mut blocks[..count];
    let bytes = blocks.as_flattened_mut();
    bytes[1..length].copy_from_slice(entry);
    end(bytes, length);
    digest(blocks)
}

/// Hash of an inner node.
pub(crate) fn node(left: &Hash, right: &Hash) -> Hash {
    let mut blocks = [[0; BLOCK]; 2];
    let bytes = blocks.as_flattened_mut();
    bytes[0] = 0x01;
    bytes[1..33].copy_from_slice(left);
    bytes[33..65].copy_from_slice(right);
    end(bytes, 65);
    digest(&blocks)
}

/// The padding behind the first `length` bytes, which are at most [`BLOCKS`] blocks.
fn end(bytes: &mut [u8], length: usize) {
    bytes[length] = 0x80;
    let bits = (8 * length as u64).to_be_bytes();
    if let Some(last) = bytes.last_chunk_mut() {
        *last = bits;
    }
}

fn digest(blocks: &[[u8; BLOCK]]) -> Hash {
    let mut state = START;
    compress256(&mut state, blocks);
    let mut hash = [0; 32];
    for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_of_every_length_are_hashed_as_sha2_does() {
        for length in 0..600u16 {
            let entry: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0]).collect();
            let whole = [&[0x00], &entry[..]].concat();
            assert_eq!(leaf(&entry), Hash::from(Sha256::digest(whole)), "{length}");
        }
    }

    proptest! {
        #[test]
        fn nodes_are_hashed_as_sha2_does(left: Hash, right: Hash) {
            let whole = [&[0x01][..], &left, &right].concat();
            prop_assert_eq!(node(&left, &right), Hash::from(Sha256::digest(whole)));
        }
    }
}
