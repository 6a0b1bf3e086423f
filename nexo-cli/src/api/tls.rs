//! One TLS configuration for REST and WebSocket alike (design/limits.md 8.1, 8.9).

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use rustls_platform_verifier::BuilderVerifierExt as _;

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of `--ca-file` cannot be read, or a block in it is damaged.
    #[error("--ca-file {path}: {reason}")]
    CaFile {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// rustls or the platform's verifier refused.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Trusts what the system trusts, or with `ca_file` only the certificates in that PEM file.
///
/// # Errors
/// [`TlsError`].
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match ca_file {
        Some(path) => builder.with_root_certificates(roots(path)?).with_no_client_auth(),
        None => builder.with_platform_verifier()?.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let refused = |reason: String| TlsError::CaFile { path: path.display().to_string(), reason };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| refused(e.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| refused(e.to_string()))?;
        roots.add(certificate).map_err(|e| refused(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refused("no certificate in it".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(matches!(client_config(Some(&path)), Err(TlsError::CaFile { .. })), "missing");
        std::fs::write(&path, "no pem").unwrap();
        assert!(matches!(client_config(Some(&path)), Err(TlsError::CaFile { .. })), "empty");
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(client_config(Some(&path)), Err(TlsError::CaFile { .. })), "damaged");
    }

    #[test]
    fn without_a_file_the_system_is_trusted() {
        assert!(client_config(None).is_ok());
    }
}
