//! The recovery key as a person keeps it: a line, or 24 words.
//!
//! ```text
//! nexo-recovery-1: and 64 lower-case hex digits
//! 24 words of BIP 39 (English): 256 bits of the key and 8 of its SHA-256, eleven bits a word
//! ```
//!
//! The same 32 bytes, an Ed25519 seed. Words can be read out and written down, and a mistyped
//! one is noticed. They are only another way to write the key: nothing is derived from them, and
//! there is no passphrase to them as wallets have it. A file made here has both; one that is read
//! may have either, or both if they are of one key.

use bip39::{Language, Mnemonic};
use nexo_schema::bytes::{from_hex, to_hex};
use zeroize::{Zeroize as _, Zeroizing};

/// What the line starts with, so that it is recognised where it is kept.
pub const RECOVERY_PREFIX: &str = "nexo-recovery-1:";

/// Words in a key of 32 bytes.
const WORDS: usize = 24;

/// Why a text is no recovery key. No part of the text is repeated: it is a secret, mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryRefused {
    /// Neither a line nor words.
    #[error("expected {RECOVERY_PREFIX} and 64 hex digits, or 24 words")]
    Form,
    /// Another number of words.
    #[error("expected 24 words, there are {0}")]
    Count(usize),
    /// A word that is not in the list.
    #[error("word {0} is not in the list of BIP 39")]
    Word(usize),
    /// All words are in the list, and together they are no key.
    #[error("a word is wrong, or two are in each other's place")]
    Checksum,
    /// Two keys.
    #[error("the line and the words are of two different keys")]
    Two,
}

/// A key as its file has it: the line, then the words, six to a line.
#[must_use]
pub fn recovery_text(seed: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(512));
    let hex = Zeroizing::new(to_hex(seed));
    text.push_str(RECOVERY_PREFIX);
    text.push_str(&hex);
    text.push('\n');
    let words =
        Mnemonic::from_entropy_in(Language::English, seed).expect("BIP 39 has words for 32 bytes");
    for (number, word) in words.words().enumerate() {
        text.push_str(word);
        text.push(if number % 6 == 5 { '\n' } else { ' ' });
    }
    text
}

/// The key that a file has, or a person has typed: case and white space do not matter in words.
///
/// # Errors
/// [`RecoveryRefused`].
pub fn recovery_seed(text: &str) -> Result<Zeroizing<[u8; 32]>, RecoveryRefused> {
    let is_line = |word: &&str| word.starts_with(RECOVERY_PREFIX);
    let mut lines = text.split_ascii_whitespace().filter(is_line);
    let line = lines.next().map(of_line).transpose()?;
    if lines.next().is_some() {
        return Err(RecoveryRefused::Form);
    }
    let words = || text.split_ascii_whitespace().filter(|word| !is_line(word));
    match (line, words().next().is_some()) {
        (Some(key), false) => Ok(key),
        (None, true) => of_words(words()),
        (Some(key), true) if *of_words(words())? == *key => Ok(key),
        (Some(_), true) => Err(RecoveryRefused::Two),
        (None, false) => Err(RecoveryRefused::Form),
    }
}

fn of_line(line: &str) -> Result<Zeroizing<[u8; 32]>, RecoveryRefused> {
    let hex = line.strip_prefix(RECOVERY_PREFIX).and_then(|hex| from_hex(hex).ok());
    hex.map(Zeroizing::new).ok_or(RecoveryRefused::Form)
}

fn of_words<'a>(
    words: impl Iterator<Item = &'a str> + Clone,
) -> Result<Zeroizing<[u8; 32]>, RecoveryRefused> {
    let count = words.clone().count();
    if count == 1 {
        // Rather a line without its beginning than a key of one word.
        return Err(RecoveryRefused::Form);
    }
    if count != WORDS {
        return Err(RecoveryRefused::Count(count));
    }
    let mut text = Zeroizing::new(String::with_capacity(512));
    for word in words {
        text.push_str(word);
        text.push(' ');
    }
    text.make_ascii_lowercase();
    let mut read =
        Mnemonic::parse_in_normalized(Language::English, &text).map_err(|e| match e {
            bip39::Error::UnknownWord(at) => RecoveryRefused::Word(at + 1),
            _ => RecoveryRefused::Checksum,
        })?;
    let (entropy, _) = read.to_entropy_array();
    read.zeroize();
    let entropy = Zeroizing::new(entropy);
    let mut seed = Zeroizing::new([0; 32]);
    seed.copy_from_slice(&entropy[..32]);
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The vectors for 256 bits that BIP 39 names (its reference implementation's vectors.json).
    const VECTORS: [(u8, &str); 4] = [
        (
            0x00,
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
                abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
                abandon abandon abandon art",
        ),
        (
            0x7f,
            "legal winner thank year wave sausage worth useful legal winner thank year wave \
                sausage worth useful legal winner thank year wave sausage worth title",
        ),
        (
            0x80,
            "letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd \
                amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic bless",
        ),
        (
            0xff,
            "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo \
                zoo zoo vote",
        ),
    ];

    #[test]
    fn words_are_those_of_bip_39() {
        for (byte, words) in VECTORS {
            assert_eq!(*recovery_seed(words).unwrap(), [byte; 32]);
            let shouted = words.to_uppercase().replace(' ', "\n\t ");
            assert_eq!(*recovery_seed(&shouted).unwrap(), [byte; 32]);
            let made = recovery_text(&[byte; 32]);
            let made: Vec<&str> = made.split_ascii_whitespace().skip(1).collect();
            assert_eq!(made, words.split_ascii_whitespace().collect::<Vec<_>>());
        }
    }

    #[test]
    fn lines_have_one_form() {
        let line = format!("{RECOVERY_PREFIX}{}", "0a".repeat(32));
        assert_eq!(*recovery_seed(&format!("{line}\n")).unwrap(), [10; 32]);
        let two = format!("{line}\n{line}");
        for bad in ["", &line[1..], &line[..60], &format!("{line}00"), &line.to_uppercase(), &two] {
            let error = recovery_seed(bad).unwrap_err();
            assert_eq!(error, RecoveryRefused::Form, "{bad}");
            assert!(!error.to_string().contains("0a0a"), "no secret in words: {error}");
        }
    }

    #[test]
    fn mistyped_words_are_noticed() {
        let (_, good) = VECTORS[1];
        let refused = |text: &str| recovery_seed(text).unwrap_err();
        assert_eq!(refused(&good.replace("title", "thank")), RecoveryRefused::Checksum);
        assert_eq!(refused(&good.replacen("winner", "winer", 1)), RecoveryRefused::Word(2));
        assert_eq!(refused(&good.replace(" title", "")), RecoveryRefused::Count(23));
        assert_eq!(refused(&format!("{good} zoo")), RecoveryRefused::Count(25));
        assert_eq!(
            refused(&good.replacen("legal winner", "winner legal", 1)),
            RecoveryRefused::Checksum
        );
        let of_another = format!("{RECOVERY_PREFIX}{}\n{good}", "0a".repeat(32));
        assert_eq!(refused(&of_another), RecoveryRefused::Two);
    }

    proptest! {
        #[test]
        fn a_file_reads_back_whole_and_by_halves(seed in any::<[u8; 32]>()) {
            let text = recovery_text(&seed);
            prop_assert_eq!(text.lines().count(), 5);
            let (line, words) = text.split_once('\n').unwrap();
            for half in [&text[..], line, words] {
                prop_assert_eq!(*recovery_seed(half).unwrap(), seed);
            }
        }
    }
}
