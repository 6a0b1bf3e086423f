//! How far the files of `tail --output` were written: what lies behind is not believed.

use super::{Tx, VaultError};

/// A file as far as it was written, with what was marked as printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The file system's device number.
    pub device: u64,
    /// The file's number there.
    pub inode: u64,
    /// Bytes.
    pub length: u64,
}

const PARTS: usize = 24;

impl Tx<'_> {
    /// How far the file at `path` was written; `None` if it never was.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn output(&mut self, path: &str) -> Result<Option<Written>, VaultError> {
        let Some(bytes) = self.meta(&name(path))? else { return Ok(None) };
        let bytes: [u8; PARTS] = super::array("meta", &bytes)?;
        let part = |at: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(part)
        };
        Ok(Some(Written { device: part(0), inode: part(8), length: part(16) }))
    }

    /// See [`Tx::output`].
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_output(&mut self, path: &str, written: Written) -> Result<(), VaultError> {
        let Written { device, inode, length } = written;
        self.set_meta(&name(path), &[device, inode, length].map(u64::to_be_bytes).concat())
    }
}

fn name(path: &str) -> String {
    format!("output {path}")
}

#[cfg(test)]
mod tests {
    use crate::vault::{Vault, VaultError, Written};

    #[tokio::test]
    async fn each_file_has_its_place() {
        let vault = Vault::in_memory().unwrap();
        let (one, two) = (
            Written { device: 1, inode: 2, length: 3 },
            Written { device: 1, inode: u64::MAX, length: 0 },
        );
        vault
            .write(|tx| {
                tx.set_output("/a", Written { length: 9, ..one })?;
                tx.set_output("/b", two)?;
                tx.set_output("/a", one)
            })
            .await
            .unwrap();
        let read = |path: &str| vault.read(|tx| tx.output(path));
        assert_eq!(read("/a").unwrap(), Some(one));
        assert_eq!(read("/b").unwrap(), Some(two));
        assert_eq!(read("/c").unwrap(), None);
        let damage = vault.write(|tx| tx.set_meta("output /a", b"short"));
        damage.await.unwrap();
        assert!(matches!(read("/a"), Err(VaultError::Corrupt { table: "meta", .. })));
    }
}
