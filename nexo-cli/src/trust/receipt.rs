//! That what this device sent is in the log, for good.

use nexo_schema::http::Receipt;

use super::log::{LogSource, LogTrust, TrustError};
use crate::api::path;

/// Believes a receipt only if it proves that `entry`, made here from our own bytes, stands at
/// its position under a head of the pinned log. Returns the position, from 1.
///
/// # Errors
/// [`TrustError`].
pub async fn verify_receipt<S: LogSource>(
    trust: &LogTrust<'_, S>,
    receipt: &Receipt,
    what: &'static str,
    entry: &[u8],
    now: u64,
) -> Result<u64, TrustError> {
    let path = path(&receipt.inclusion).ok_or(TrustError::Path { what })?;
    let head = trust.accept_fresh(receipt.head.as_bytes(), None, now).await?;
    trust.included(what, &head, entry, receipt.sth_index, &path)?;
    Ok(receipt.sth_index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::testlog::TestLog;
    use crate::vault::Vault;
    use nexo_schema::bytes::to_base64;

    fn receipt(log: &TestLog, index: u64) -> Receipt {
        Receipt {
            sth_index: index + 1,
            head: log.note(log.size()),
            inclusion: log.inclusion(index, log.size()).iter().map(|h| to_base64(h)).collect(),
        }
    }

    #[tokio::test]
    async fn e12_only_our_entry_at_its_place_is_believed() {
        let log = TestLog::new("relay.example.test");
        for n in 0..5u8 {
            log.append(&[n]);
        }
        let (vault, key) = (Vault::in_memory().unwrap(), log.key());
        let trust = LogTrust::new(&log, &vault, &key, None, None);
        let good = receipt(&log, 3);
        assert_eq!(verify_receipt(&trust, &good, "it", &[3], log.now()).await.unwrap(), 4);
        let other = verify_receipt(&trust, &good, "it", &[2], log.now()).await;
        assert!(matches!(other, Err(TrustError::NotIncluded { .. })), "another entry");
        for bad in [
            Receipt { sth_index: 3, ..receipt(&log, 3) },
            Receipt { sth_index: 0, ..receipt(&log, 3) },
            Receipt { inclusion: Vec::new(), ..receipt(&log, 3) },
            Receipt { inclusion: vec!["?".into()], ..receipt(&log, 3) },
            Receipt { head: TestLog::new("relay.example.test").note(0), ..receipt(&log, 3) },
        ] {
            assert!(verify_receipt(&trust, &bad, "it", &[3], log.now()).await.is_err(), "{bad:?}");
        }
    }
}
