//! The one place where random bytes are drawn: the operating system's generator.

use zeroize::Zeroizing;

/// The operating system gives no random bytes. Nothing may go on without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct RandomError;

/// Overwrites `buffer`.
///
/// # Errors
/// [`RandomError`].
pub fn fill(buffer: &mut [u8]) -> Result<(), RandomError> {
    getrandom::fill(buffer).map_err(|_| RandomError)
}

/// `N` random bytes.
///
/// # Errors
/// [`RandomError`].
pub fn array<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// `N` random bytes that will be a secret.
///
/// # Errors
/// [`RandomError`].
pub fn secret<const N: usize>() -> Result<Zeroizing<[u8; N]>, RandomError> {
    let mut bytes = Zeroizing::new([0; N]);
    fill(bytes.as_mut())?;
    Ok(bytes)
}
