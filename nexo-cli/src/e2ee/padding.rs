//! Padding of bodies, so that the relay learns sizes in steps only.
//!
//! ```text
//! u32 len || body || zeros, in all:
//!     up to  4 KiB   the next multiple of 256 bytes
//!     above          the next Padmé size (at most 12 % more)
//!     never more than 64 KiB
//! ```
//!
//! Padmé (PURBs, Nikitin et al. 2019, section 4) keeps only the leading bits of a
//! length, so the size says `O(log log len)` bits about it.

use zeroize::Zeroizing;

/// Largest padded body. Longer content is an attachment (a later issue).
pub const MAX_PADDED: usize = 64 * 1024;
/// Largest body: what fits [`MAX_PADDED`] with its length in front.
pub const MAX_BODY: usize = MAX_PADDED - LENGTH;
/// Sizes are multiples of this up to [`STEP_UNTIL`]: short chat lines look alike.
const STEP: usize = 256;
/// Where Padmé takes over; its steps are 256 bytes there too.
const STEP_UNTIL: usize = 4096;
/// Bytes of the length in front.
const LENGTH: usize = 4;

/// A body that is longer than [`MAX_BODY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body has {len} bytes, {MAX_BODY} is the most")]
pub struct BodyTooLong {
    /// Bytes of the body.
    pub len: usize,
}

/// A plaintext that [`pad`] does not make. It is never shown apart from a broken
/// seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the padding is not valid")]
pub struct PaddingBroken;

/// Puts the length in front and zeros behind.
///
/// # Errors
/// [`BodyTooLong`].
pub fn pad(body: &[u8]) -> Result<Zeroizing<Vec<u8>>, BodyTooLong> {
    let too_long = BodyTooLong { len: body.len() };
    if body.len() > MAX_BODY {
        return Err(too_long);
    }
    let len = u32::try_from(body.len()).map_err(|_| too_long)?;
    // Allocated at full size at once, so no copy of the body is left behind.
    let mut padded = Zeroizing::new(vec![0; padded_len(body.len())]);
    padded[..LENGTH].copy_from_slice(&len.to_be_bytes());
    padded[LENGTH..LENGTH + body.len()].copy_from_slice(body);
    Ok(padded)
}

/// The body in a padded plaintext.
///
/// # Errors
/// [`PaddingBroken`] if length, total size or any padding byte is not what
/// [`pad`] makes; there is one padding per body.
pub fn unpad(padded: &[u8]) -> Result<&[u8], PaddingBroken> {
    let (len, rest) = padded.split_first_chunk::<LENGTH>().ok_or(PaddingBroken)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| PaddingBroken)?;
    if len > MAX_BODY || padded_len(len) != padded.len() {
        return Err(PaddingBroken);
    }
    let (body, zeros) = rest.split_at_checked(len).ok_or(PaddingBroken)?;
    if zeros.iter().any(|byte| *byte != 0) {
        return Err(PaddingBroken);
    }
    Ok(body)
}

/// The padded size of a body of `len` bytes, at most [`MAX_BODY`].
fn padded_len(len: usize) -> usize {
    let len = len + LENGTH;
    if len <= STEP_UNTIL {
        return len.next_multiple_of(STEP);
    }
    let exponent = len.ilog2();
    let kept_bits = exponent.ilog2() + 1;
    len.next_multiple_of(1 << (exponent - kept_bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_at_the_edges() {
        for (body, size) in [
            (0, 256),
            (252, 256),
            (253, 512),
            (4092, 4096),
            (4093, 4352),
            (8188, 8192),
            (8189, 8704),
            (65_000, 65_536),
            (MAX_BODY, MAX_PADDED),
        ] {
            assert_eq!(pad(&vec![1; body]).unwrap().len(), size, "body of {body}");
        }
        assert_eq!(pad(&vec![1; MAX_BODY + 1]), Err(BodyTooLong { len: MAX_BODY + 1 }));
    }

    #[test]
    fn padding_grows_in_order_and_stays_small() {
        let mut last = 0;
        for len in 0..=MAX_BODY {
            let size = padded_len(len);
            assert!(size >= last && size <= MAX_PADDED);
            assert!(size >= len + LENGTH);
            assert!(size <= STEP_UNTIL || size * 100 <= (len + LENGTH) * 112, "{len}: {size}");
            last = size;
        }
    }

    #[test]
    fn d7_only_one_padding_is_read() {
        let good = pad(b"hello").unwrap();
        assert_eq!(unpad(&good), Ok(&b"hello"[..]));
        for at in 9..256 {
            let mut bad = good.clone();
            bad[at] = 1;
            assert_eq!(unpad(&bad), Err(PaddingBroken), "padding byte {at}");
        }
        for len in [253, 65_533, u32::MAX] {
            let mut bad = good.clone();
            bad[..4].copy_from_slice(&len.to_be_bytes());
            assert_eq!(unpad(&bad), Err(PaddingBroken), "length {len}");
        }
        // A shorter length makes padding of body bytes; a larger frame is not minimal.
        let mut shorter = good.clone();
        shorter[3] = 4;
        assert_eq!(unpad(&shorter), Err(PaddingBroken));
        let wide = [&good[..], &[0; 256]].concat();
        for bad in [&wide[..], &good[..255], &good[..9], &[]] {
            assert_eq!(unpad(bad), Err(PaddingBroken));
        }
    }

    proptest! {
        #[test]
        fn what_is_padded_comes_back(body in prop::collection::vec(any::<u8>(), 0..9000)) {
            let padded = pad(&body).unwrap();
            prop_assert_eq!(unpad(&padded), Ok(&body[..]));
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            if let Ok(body) = unpad(&noise) {
                let again = pad(body).unwrap();
                prop_assert_eq!(&again[..], &noise[..]);
            }
        }
    }
}
