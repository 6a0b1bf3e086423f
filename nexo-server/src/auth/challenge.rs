//! Login challenges: one line of text that names relay, device and request (design 5).
//!
//! The line's shape is [`Nonce`]'s; here its unknowns are filled in. Keeping challenges, and
//! using each up once, is the store's work.

use nexo_schema::auth::Nonce;
use nexo_schema::bytes::to_base64url;
use nexo_schema::ids::{DeviceId, Origin};
use sha2::{Digest as _, Sha256};

/// A fresh line for `device` to sign, valid until `exp` (Unix seconds). `request` is the
/// register request's body as received: what is signed is consent to that request alone.
///
/// # Errors
/// If the system gives no random bytes.
pub fn nonce(
    origin: &Origin,
    device: &DeviceId,
    request: &[u8],
    exp: u64,
) -> Result<String, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    let nonce = Nonce {
        origin: origin.clone(),
        device: device.clone(),
        request: Sha256::digest(request).into(),
        exp,
        random: to_base64url(&random),
    };
    Ok(nonce.to_line())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::bytes::to_hex;

    #[test]
    fn a_nonce_names_its_relay_device_request_and_end() {
        let origin = Origin::parse("relay.example.org").unwrap();
        let device = DeviceId::parse("tab-1").unwrap();
        let line = nonce(&origin, &device, b"{}", 1_700_000_300).unwrap();
        let read = Nonce::parse(&line).unwrap();
        assert_eq!(
            (read.origin, read.device, read.exp),
            (origin.clone(), device.clone(), 1_700_000_300)
        );
        assert_eq!(
            to_hex(&read.request),
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
        assert_eq!(read.random.len(), 43);
        assert_ne!(nonce(&origin, &device, b"{}", 1_700_000_300).unwrap(), line);
    }
}
