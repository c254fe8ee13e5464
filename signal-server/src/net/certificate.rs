//! The certificate that the server shows, read again when its files change: it is renewed every few weeks.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::Signal;
use tokio_rustls::TlsAcceptor;

/// The files are looked at so often.
const LOOK: Duration = Duration::from_secs(60);

/// What tells that a file is another one: its time of change and its length. A link counts as what it leads to.
type Mark = Option<(SystemTime, u64)>;

/// A certificate chain and its key, as they were when they were last good.
pub(super) struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    acceptor: Mutex<TlsAcceptor>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, is not PEM, or does not fit the other.
    pub(super) fn read(chain: PathBuf, key: PathBuf) -> Result<Self> {
        let acceptor = Mutex::new(acceptor(&chain, &key)?);
        Ok(Self {
            chain,
            key,
            acceptor,
        })
    }

    /// What speaks TLS with the newest certificate.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let acceptor = self.acceptor.lock();
        acceptor.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again when they have changed, and when `asked` by a signal; connections that stand go on. Files that are not good
    /// are said so, and looked at again when they change: chain and key are not written at the same time.
    pub(super) async fn follow(&self, mut asked: Signal) {
        let mut looks = tokio::time::interval(LOOK);
        let mut seen = self.marks();
        loop {
            let forced = tokio::select! {
                _ = looks.tick() => false,
                signal = asked.recv() => signal.is_some(),
            };
            let marks = self.marks();
            if !forced && marks == seen {
                continue;
            }
            seen = marks;
            match acceptor(&self.chain, &self.key) {
                Ok(new) => {
                    let acceptor = self.acceptor.lock();
                    *acceptor.unwrap_or_else(PoisonError::into_inner) = new;
                    tracing::info!(chain = %self.chain.display(), "the certificate was read again");
                }
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "the certificate from before stays in use"
                ),
            }
        }
    }

    fn marks(&self) -> [Mark; 2] {
        [&self.chain, &self.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }
}

fn acceptor(chain: &PathBuf, key: &PathBuf) -> Result<TlsAcceptor> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read the certificate {}", chain.display()))?;
    if certificates.is_empty() {
        bail!("no certificate is in {}: it must be PEM", chain.display());
    }
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read the key {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .context("the certificate and the key do not fit together")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
