//! The events of a handle in the public log, found by its label: for those who have no account
//! to ask with. What is found is not believed; it is where a signed event is aimed at, and the
//! chain is verified once there is an account to ask with.

use nexo_audit::entry::{Entry, split_bundle};
use nexo_audit::tile::spans;
use nexo_schema::entry;
use nexo_schema::ids::Handle;
use sha2::{Digest as _, Sha256};

use crate::api::{ApiError, Relay};

/// Hashes of the events under a handle, in log order, of a tree of `size` leaves. Reads every
/// entry bundle of the log.
///
/// # Errors
/// [`ApiError`].
pub async fn find_chain(
    relay: &Relay,
    origin: &str,
    handle: &Handle,
    size: u64,
) -> Result<Vec<[u8; 32]>, ApiError> {
    let wanted: [u8; 32] = Sha256::digest(entry::label(origin, handle.as_str())).into();
    let mut found = Vec::new();
    for span in spans(0, size) {
        let path = span.bundle_path();
        let bytes = relay.bundle_of_entries(&path).await?;
        let malformed = || ApiError::Malformed {
            route: format!("GET /{path}"),
            expected: "a bundle of entries",
        };
        for one in split_bundle(&bytes, span.width).map_err(|_| malformed())? {
            match Entry::parse(one) {
                Ok(Entry::KeyEvent { label, event, .. }) if label == wanted => found.push(event),
                // Other entries, and those of kinds to come, are nobody's chain.
                _ => {}
            }
        }
    }
    Ok(found)
}
