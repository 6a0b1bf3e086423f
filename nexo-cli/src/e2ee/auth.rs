//! Logging in to the relay: signing the line of text it sends (README.md 5).
//!
//! ```text
//! nexo/1/auth <origin> <device_id> <sha256 of the register request> <exp> <random>
//! ```
//!
//! Six words with one space between them; the two hashes are lower-case hex, `exp`
//! is Unix seconds in decimal. The line is signed only if it names our relay, our
//! device and the very request we sent, so that no relay can obtain a signature
//! that serves anywhere else. `exp` and `random` are the relay's own safeguards:
//! their shape is checked, their value is not, since a wrong clock on this side
//! must not lock anybody out.

use super::ids::DeviceId;
use super::kdf;
use super::keys::DeviceSecret;
use nexo_schema::bytes::from_hex;

/// First word of the line; no other signed statement begins like this.
const LABEL: &str = "nexo/1/auth";
/// Longest random part; ours is 43 characters.
const MAX_RANDOM: usize = 128;

/// Why a challenge is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeRefused {
    /// Not the six words.
    #[error("the relay's challenge has another form than expected")]
    Form,
    /// It names another relay: this one may be passing on somebody else's challenge.
    #[error("the relay's challenge is for another relay")]
    Origin,
    /// It names another device.
    #[error("the relay's challenge is for another device")]
    Device,
    /// It answers another request than ours.
    #[error("the relay's challenge answers another request")]
    Request,
}

/// The words of a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge<'a> {
    /// The relay's origin string.
    pub origin: &'a str,
    /// The device that shall prove itself.
    pub device: DeviceId,
    /// SHA-256 of the register request's body, as sent.
    pub request: [u8; 32],
    /// Unix seconds.
    pub expires: u64,
    /// The relay's random text.
    pub random: &'a str,
}

impl<'a> Challenge<'a> {
    /// Reads a challenge; there is one spelling for each.
    ///
    /// # Errors
    /// [`ChallengeRefused::Form`].
    pub fn parse(line: &'a str) -> Result<Self, ChallengeRefused> {
        let form = ChallengeRefused::Form;
        let words: Vec<&str> = line.splitn(7, ' ').collect();
        let [LABEL, origin, device, request, expires, random] = words[..] else {
            return Err(form);
        };
        let visible = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !visible(origin) || !visible(random) || random.len() > MAX_RANDOM {
            return Err(form);
        }
        Ok(Self {
            origin,
            device: DeviceId::from_bytes(from_hex(device).map_err(|_| form)?),
            request: from_hex(request).map_err(|_| form)?,
            expires: decimal(expires).ok_or(form)?,
            random,
        })
    }
}

/// A u64 in its one decimal spelling.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Signs `line`, if it is the challenge of the relay `origin` for this device in
/// answer to `request`, the body of our register request as sent.
///
/// # Errors
/// [`ChallengeRefused`] names what is not ours.
pub fn sign_challenge(
    device: &DeviceSecret,
    line: &str,
    origin: &str,
    request: &[u8],
) -> Result<[u8; 64], ChallengeRefused> {
    let challenge = Challenge::parse(line)?;
    if challenge.origin != origin {
        return Err(ChallengeRefused::Origin);
    }
    if challenge.device != device.public().device_id() {
        return Err(ChallengeRefused::Device);
    }
    if challenge.request != kdf::hash(request) {
        return Err(ChallengeRefused::Request);
    }
    Ok(device.sign(line.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::bytes::to_hex;
    use proptest::prelude::*;

    const ORIGIN: &str = "relay.example.org";
    const REQUEST: &[u8] = br#"{"handle":"alice"}"#;

    fn device() -> DeviceSecret {
        DeviceSecret::from_seed(&[1; 32])
    }

    fn line() -> String {
        let device = device().public().device_id();
        let request = to_hex(&kdf::hash(REQUEST));
        format!("nexo/1/auth {ORIGIN} {device} {request} 1700000300 AZaz09-_")
    }

    fn sign(line: &str) -> Result<[u8; 64], ChallengeRefused> {
        sign_challenge(&device(), line, ORIGIN, REQUEST)
    }

    #[test]
    fn our_challenge_is_signed_as_it_stands() {
        let signature = sign(&line()).unwrap();
        assert_eq!(device().public().verify(line().as_bytes(), &signature), Ok(()));
        assert_eq!(Challenge::parse(&line()).unwrap().expires, 1_700_000_300);
    }

    #[test]
    fn a10_what_is_not_ours_is_not_signed() {
        let line = line();
        let other = DeviceSecret::from_seed(&[2; 32]);
        let refused = sign_challenge(&other, &line, ORIGIN, REQUEST);
        assert_eq!(refused, Err(ChallengeRefused::Device));
        let refused = sign_challenge(&device(), &line, "evil.example.org", REQUEST);
        assert_eq!(refused, Err(ChallengeRefused::Origin));
        let refused = sign_challenge(&device(), &line, ORIGIN, b"another body");
        assert_eq!(refused, Err(ChallengeRefused::Request));
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = line();
        let long = good.replace("AZaz09-_", &"x".repeat(129));
        for bad in [
            "",
            "nexo/1/auth",
            &good.replace("nexo/1/auth", "nexo/1/auti"),
            &good.replace(' ', "  "),
            &format!("{good} "),
            &format!(" {good}"),
            &format!("{good}\n"),
            &format!("{good} more"),
            &good.replace(' ', "\t"),
            &good.replace("1700000300", "+1700000300"),
            &good.replace("1700000300", "01700000300"),
            &good.replace("1700000300", "-1"),
            &good.replace("1700000300", "18446744073709551616"),
            &good.replace("1700000300", "1.7e9"),
            &good.replace("AZaz09-_", ""),
            &good.replace("AZaz09-_", "é"),
            &good.to_uppercase(),
            &long,
            &good.replace(ORIGIN, ""),
            &good.replace(ORIGIN, "rélay"),
        ] {
            assert_eq!(sign(bad), Err(ChallengeRefused::Form), "{bad:?}");
        }
        let device = device().public().device_id().to_string();
        let upper = good.replace(&device, &device.to_uppercase());
        assert_eq!(sign(&upper), Err(ChallengeRefused::Form));
        assert_eq!(sign(&good.replace(&device, &device[1..])), Err(ChallengeRefused::Form));
    }

    proptest! {
        #[test]
        fn text_never_panics(text: String) {
            prop_assert!(Challenge::parse(&text).is_err());
            let _ = Challenge::parse(&format!("nexo/1/auth {text}"));
        }
    }
}
