//! What people and scripts compare to know that an account is the right one
//! (design/e2ee.md 2.21). Both forms name the account's genesis, so they do not
//! change when a device does.

use super::ids::AccountId;
use nexo_schema::bytes::enc;
use sha2::{Digest, Sha512};

/// What a fingerprint begins with.
const PREFIX: &str = "nexo1:";
/// RFC 4648 section 6, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Base32 characters of 32 bytes, without padding.
const CHARS: usize = 52;
/// Rounds after the first hash. Each costs an attacker who looks for an account
/// with a like number as much again, and us about a millisecond in all.
const SAFETY_ROUNDS: usize = 5_200;
/// Five-digit groups for each account.
const SAFETY_GROUPS: usize = 6;

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is {PREFIX} and {CHARS} of a-z 2-7")]
pub struct FingerprintRefused;

/// The fingerprint for pins and scripts: `nexo1:` and the account id in base32.
#[must_use]
pub fn account_fingerprint(account: AccountId) -> String {
    format!("{PREFIX}{}", base32(account.as_bytes()))
}

/// Base32 without padding: five bits a character, the last one filled up with zeros.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    // Bits wait in `pool` until five of them make a character.
    let (mut pool, mut waiting) = (0u16, 0u32);
    for byte in bytes {
        pool = pool << 8 | u16::from(*byte);
        waiting += 8;
        while waiting >= 5 {
            waiting -= 5;
            text.push(symbol(pool >> waiting));
        }
    }
    if waiting > 0 {
        text.push(symbol(pool << (5 - waiting)));
    }
    text
}

/// The bytes of such a text, if it is the one spelling of them.
fn unbase32<const N: usize>(text: &str) -> Result<[u8; N], FingerprintRefused> {
    let (mut pool, mut waiting, mut bytes) = (0u16, 0u32, Vec::with_capacity(N));
    for char in text.bytes() {
        let value = ALPHABET.iter().position(|c| *c == char).ok_or(FingerprintRefused)?;
        pool = pool << 5 | u16::try_from(value).map_err(|_| FingerprintRefused)?;
        waiting += 5;
        if waiting >= 8 {
            waiting -= 8;
            bytes.push(u8::try_from(pool >> waiting).map_err(|_| FingerprintRefused)?);
            pool &= (1 << waiting) - 1;
        }
    }
    let bytes: [u8; N] = bytes.try_into().map_err(|_| FingerprintRefused)?;
    // No spare character, and nothing in the bits behind the last byte.
    if pool == 0 && waiting < 5 { Ok(bytes) } else { Err(FingerprintRefused) }
}

fn symbol(bits: u16) -> char {
    char::from(ALPHABET[usize::from(bits & 31)])
}

/// Reads a fingerprint. There is one spelling for each account.
///
/// # Errors
/// [`FingerprintRefused`] for another prefix, length, case, character, or set bits
/// after the last byte.
pub fn parse_fingerprint(text: &str) -> Result<AccountId, FingerprintRefused> {
    let text = text.strip_prefix(PREFIX).ok_or(FingerprintRefused)?;
    if text.len() != CHARS {
        return Err(FingerprintRefused);
    }
    unbase32(text).map(AccountId::from_bytes)
}

/// Characters of a link code, and of its check behind them.
const CODE_CHARS: usize = 26;
const CHECK_CHARS: usize = 2;

/// A text that is no link code, or has a mistyped character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code is {} letters and digits, the last two of which fit the others", CODE_CHARS + CHECK_CHARS)]
pub struct CodeRefused;

/// A link code as people carry it: base32, then ten bits of a hash against slips, in groups of
/// four.
#[must_use]
pub fn code_text(code: &[u8; 16]) -> String {
    let text = format!("{}{}", base32(code), check(code));
    let groups: Vec<&str> =
        text.as_bytes().chunks(4).filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join("-")
}

/// Reads a link code; case, spaces and hyphens do not matter.
///
/// # Errors
/// [`CodeRefused`].
pub fn parse_code(text: &str) -> Result<[u8; 16], CodeRefused> {
    let plain: String = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace() && *c != '-')
        .map(|c| c.to_ascii_lowercase())
        .collect();
    if !plain.is_ascii() || plain.len() != CODE_CHARS + CHECK_CHARS {
        return Err(CodeRefused);
    }
    let (code, checked) = plain.split_at(CODE_CHARS);
    let code: [u8; 16] = unbase32(code).map_err(|_| CodeRefused)?;
    if check(&code) == checked { Ok(code) } else { Err(CodeRefused) }
}

fn check(code: &[u8; 16]) -> String {
    let hash = Sha512::digest(enc("nexo/1/link-check", &[code]));
    base32(&hash).chars().take(CHECK_CHARS).collect()
}

/// The number two people read to each other: twelve groups of five digits, the
/// same on both sides.
#[must_use]
pub fn safety_number(origin: &str, one: AccountId, other: AccountId) -> String {
    let (one, other) = (half(origin, one), half(origin, other));
    format!("{} {}", (&one).min(&other), (&one).max(&other))
}

/// Six groups of five digits for one account.
fn half(origin: &str, account: AccountId) -> String {
    let id = account.as_bytes();
    let mut hash = Sha512::digest(enc("nexo/1/safety", &[origin.as_bytes(), id]));
    for _ in 0..SAFETY_ROUNDS {
        hash = Sha512::new().chain_update(hash).chain_update(id).finalize();
    }
    let groups: Vec<_> = hash.chunks_exact(5).take(SAFETY_GROUPS).map(digits).collect();
    groups.join(" ")
}

/// Five bytes as a number modulo 100,000.
fn digits(bytes: &[u8]) -> String {
    let number = bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{:05}", number % 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::kat::{hex_n, load};
    use proptest::prelude::*;

    #[test]
    fn kat_safety_numbers() {
        let kat = load("nexo/kat_draft.json");
        let origin = kat["session_with_otk"]["origin"].as_str().unwrap();
        let account = |who: &str| AccountId::from_bytes(hex_n(&kat[who]["account_id_placeholder"]));
        let (alice, bob) = (account("device_alice"), account("device_bob"));
        assert_eq!(half(origin, alice), kat["safety_number"]["alice"]);
        assert_eq!(half(origin, bob), kat["safety_number"]["bob"]);
        assert_eq!(safety_number(origin, alice, bob), kat["safety_number"]["display"]);
        assert_eq!(safety_number(origin, bob, alice), kat["safety_number"]["display"]);
    }

    #[test]
    fn known_fingerprints() {
        // base64.b32encode(bytes).decode().lower().rstrip("=") of Python 3.
        let counting = std::array::from_fn(|n| u8::try_from(n).unwrap());
        for (id, text) in [
            ([0; 32], "a".repeat(52)),
            ([0xff; 32], format!("{}q", "7".repeat(51))),
            (counting, "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq".into()),
        ] {
            let account = AccountId::from_bytes(id);
            assert_eq!(account_fingerprint(account), format!("nexo1:{text}"));
            assert_eq!(parse_fingerprint(&format!("nexo1:{text}")), Ok(account));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = account_fingerprint(AccountId::from_bytes([0x35; 32]));
        let upper = format!("nexo1:{}", good[6..].to_uppercase());
        let unused_bits = format!("nexo1:{}b", "a".repeat(51));
        let eight = format!("nexo1:{}8", "a".repeat(51));
        for bad in [
            &good[6..],
            &good[..57],
            &format!("{good}a"),
            &format!("{good}===="),
            &upper,
            &unused_bits,
            &eight,
            &format!(" {good}"),
            &good.replace("nexo1", "nexo2"),
            "nexo1:",
            "",
            &format!("nexo1:{}é", "a".repeat(50)),
        ] {
            assert_eq!(parse_fingerprint(bad), Err(FingerprintRefused), "{bad:?}");
        }
    }

    #[test]
    fn a_slip_in_a_code_is_seen() {
        let code: [u8; 16] = std::array::from_fn(|n| u8::try_from(n * 7).unwrap());
        let text = code_text(&code);
        assert_eq!(text.len(), 28 + 6);
        assert_eq!(parse_code(&text), Ok(code));
        assert_eq!(parse_code(&format!(" {} ", text.to_uppercase().replace('-', " "))), Ok(code));
        let swapped = format!("{}{}{}{}", &text[..2], &text[3..4], &text[2..3], &text[4..]);
        for bad in [&swapped, &text[1..], &format!("{text}a"), &text.replace('-', "."), "", "é"] {
            assert_eq!(parse_code(bad), Err(CodeRefused), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn codes_are_read_as_written_and_nothing_panics(code: [u8; 16], noise: String) {
            prop_assert_eq!(parse_code(&code_text(&code)), Ok(code));
            prop_assert!(parse_code(&noise).is_err());
        }

        #[test]
        fn printed_is_parsed(id: [u8; 32]) {
            let account = AccountId::from_bytes(id);
            prop_assert_eq!(parse_fingerprint(&account_fingerprint(account)), Ok(account));
        }

        #[test]
        fn text_never_panics(text: String) {
            prop_assert!(parse_fingerprint(&text).is_err());
        }
    }
}
