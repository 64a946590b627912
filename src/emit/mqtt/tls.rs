//! The encrypted connection: certificates from files, rustls with ring.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Certificates of the system: Debian's place, and that of what is built on it (Raspberry Pi OS, Ubuntu, JetPack).
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where the certificates are.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// What the broker's certificate is checked against; without it the system's.
    pub ca: Option<PathBuf>,
    /// This device's certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Reads `files`.
///
/// # Errors
/// Which file, and what is wrong with it.
pub fn config(files: &Files) -> Result<ClientConfig, String> {
    let ca = files.ca.as_deref().unwrap_or(Path::new(SYSTEM_CA));
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(ca)?);
    if added == 0 {
        return Err(format!("{}: no certificate in it; expected PEM, BEGIN CERTIFICATE", ca.display()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_root_certificates(roots);
    let Some((certificate, key_file)) = &files.client else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| format!("{}: {e}", key_file.display()))?;
    let both = builder.with_client_auth_cert(certificates(certificate)?, key);
    both.map_err(|e| format!("{}: does not fit its key: {e}", certificate.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let said = |e| format!("{}: {e}", path.display());
    CertificateDer::pem_file_iter(path).map_err(said)?.collect::<Result<_, _>>().map_err(said)
}
