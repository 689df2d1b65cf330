//! What a node shows to others, and what it believes of them.
//!
//! What must hold:
//! - Only TLS 1.3 is spoken, and both sides are asked for certificates, at every connection: none is resumed.
//! - Certificates with which no other node would let this one in are refused here, before anything listens.
//! - The key is in no error and in no `Debug`.

use crate::HandshakeError;
use crate::shake::NoSession;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How far ahead ends of certificates are looked for.
const EXPIRY_LOOK: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The texts of the three files of a node, each PEM.
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    /// Certificates of those whose signature counts.
    pub ca: &'a [u8],
    /// The node's certificate, and what leads from it to the CA.
    pub certificate: &'a [u8],
    /// The certificate's private key.
    pub key: &'a [u8],
}

/// What encrypts the connections of one node. Cheap to clone; all clones are renewed together.
#[derive(Clone)]
pub struct Tls {
    newest: Arc<RwLock<Configs>>,
}

#[derive(Clone)]
struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    expires_unix_s: Option<u64>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// One of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// [`Pem::ca`].
    Ca,
    /// [`Pem::certificate`].
    Certificate,
    /// [`Pem::key`].
    Key,
}

/// Why nothing can be encrypted with these files. Each text is what comes behind the name of the [`TlsError::file`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// No PEM in the CA's file.
    #[error("holds no certificate; expected is PEM of the CA, beginning with -----BEGIN CERTIFICATE-----")]
    NoCa,
    /// What is there is no CA.
    #[error(
        "holds something that is no CA's certificate ({0}); name the certificate that signed those of the nodes"
    )]
    BadCa(String),
    /// No PEM in the certificate's file.
    #[error("holds no certificate; expected is PEM of this node, beginning with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// It cannot be read, or is of no use.
    #[error(
        "holds a certificate that cannot be used ({0}); issue one of X.509 version 3 with a subjectAltName"
    )]
    BadCertificate(String),
    /// Its time is over.
    #[error("expired {0} ago; issue a new certificate")]
    Expired(String),
    /// Its time has not come.
    #[error("is valid only in {0}; set the clock of this machine, or issue a new certificate")]
    NotYetValid(String),
    /// Another CA's.
    #[error("is not signed by the CA; name the certificate that it issued, with those in between behind it")]
    OtherCa,
    /// Another node's.
    #[error(
        "is for {found}, but others connect to `{expected}`; issue one whose subjectAltName has {expected}"
    )]
    OtherName {
        /// The node's host in the cluster file.
        expected: String,
        /// The names in the certificate.
        found: String,
    },
    /// A node both connects and accepts.
    #[error(
        "may not be used as {0}; issue one whose extendedKeyUsage has serverAuth and clientAuth, or that has none"
    )]
    Purpose(&'static str),
    /// No PEM in the key's file.
    #[error("holds no private key; expected is PEM, beginning with -----BEGIN PRIVATE KEY-----")]
    NoKey,
    /// A passphrase is needed.
    #[error("holds a key behind a passphrase; take that off with: openssl pkey -in OLD -out NEW")]
    EncryptedKey,
    /// Damaged, or of a kind that is not known.
    #[error(
        "holds a key that cannot be used ({0}); expected is ECDSA (P-256, P-384), Ed25519, or RSA of 2048 to 8192 bits"
    )]
    BadKey(String),
    /// Of another certificate.
    #[error("is not the key of the certificate; name the key that it was issued for")]
    OtherKey,
}

impl TlsError {
    /// The file that it is about.
    pub fn file(&self) -> TlsFile {
        match self {
            TlsError::NoCa | TlsError::BadCa(_) => TlsFile::Ca,
            TlsError::NoKey | TlsError::EncryptedKey | TlsError::BadKey(_) | TlsError::OtherKey => {
                TlsFile::Key
            }
            _ => TlsFile::Certificate,
        }
    }
}

impl Tls {
    /// From a node's files, checked as others will check them: `own_host` is what others connect to, `None` where nobody does.
    pub fn new(pem: Pem<'_>, own_host: Option<&str>) -> Result<Tls, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots(pem.ca)?);
        let certificates = certificates(pem.certificate)
            .map_err(TlsError::BadCertificate)?
            .ok_or(TlsError::NoCertificate)?;
        let key = key(pem.key)?;
        fits(&provider, &certificates, key.clone_key())?;
        let bad_ca = |error: rustls::server::VerifierBuilderError| TlsError::BadCa(error.to_string());
        let of_servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(bad_ca)?;
        let of_clients =
            WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().map_err(bad_ca)?;
        would_be_let_in(&certificates, own_host, &*of_servers, &*of_clients)?;
        let expires_unix_s = expiry(&certificates, &*of_clients);

        let bad = |error: Error| TlsError::BadCertificate(error.to_string());
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(bad)?
            .with_webpki_verifier(of_servers)
            .with_client_auth_cert(certificates.clone(), key.clone_key())
            .map_err(bad)?;
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(bad)?
            .with_client_cert_verifier(of_clients)
            .with_single_cert(certificates, key)
            .map_err(bad)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let configs = Configs { client: Arc::new(client), server: Arc::new(server), expires_unix_s };
        Ok(Tls { newest: Arc::new(RwLock::new(configs)) })
    }

    /// Takes over newer files, here and in all clones: they count from the next connection on, those that are there stay.
    pub fn renew(&self, newer: &Tls) {
        let configs = newer.newest();
        *self.newest.write().unwrap_or_else(PoisonError::into_inner) = configs;
    }

    /// When the certificate, or one between it and the CA, expires, in seconds since 1970: nobody lets this node in from then
    /// on. `None` where that is further away than anyone asks.
    pub fn expires_unix_s(&self) -> Option<u64> {
        self.newest().expires_unix_s
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.newest().client
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.newest().server
    }

    fn newest(&self) -> Configs {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the certificate of `host` must name: a DNS name, or an address.
    pub(crate) fn name(host: &str) -> Result<ServerName<'static>, NoSession> {
        ServerName::try_from(host.to_owned()).map_err(|_| HandshakeError::Certificate.into())
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(TlsError::BadCa)?.ok_or(TlsError::NoCa)? {
        roots.add(certificate).map_err(|error| TlsError::BadCa(error.to_string()))?;
    }
    Ok(roots)
}

/// All of a text; `None` where it has none.
fn certificates(pem: &[u8]) -> Result<Option<Vec<CertificateDer<'static>>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| error.to_string())?;
    Ok(Some(all).filter(|all| !all.is_empty()))
}

fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    // PKCS#8 says so in its first line, older files in a header.
    if pem.windows(b"ENCRYPTED".len()).any(|words| words == b"ENCRYPTED") {
        return Err(TlsError::EncryptedKey);
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey,
        // Its text may quote the line that it did not understand.
        _ => TlsError::BadKey("damaged PEM".to_owned()),
    })
}

fn fits(
    provider: &CryptoProvider,
    certificates: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
) -> Result<(), TlsError> {
    let key =
        provider.key_provider.load_private_key(key).map_err(|error| TlsError::BadKey(error.to_string()))?;
    match CertifiedKey::new(certificates.to_vec(), key).keys_match() {
        Ok(()) => Ok(()),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(TlsError::OtherKey),
        Err(error) => Err(TlsError::BadCertificate(error.to_string())),
    }
}

/// Whether others would take the certificate, from who accepts and from who connects.
fn would_be_let_in(
    certificates: &[CertificateDer<'static>],
    own_host: Option<&str>,
    of_servers: &dyn ServerCertVerifier,
    of_clients: &dyn ClientCertVerifier,
) -> Result<(), TlsError> {
    let [own, between @ ..] = certificates else { return Err(TlsError::NoCertificate) };
    let now = UnixTime::now();
    of_clients.verify_client_cert(own, between, now).map_err(|error| refused(error, now, "a client"))?;
    let Some(host) = own_host else { return Ok(()) };
    let name = ServerName::try_from(host).map_err(|_| TlsError::OtherName {
        expected: host.to_owned(),
        found: "hosts with names".to_owned(),
    })?;
    of_servers
        .verify_server_cert(own, between, &name, &[], now)
        .map_err(|error| refused(error, now, "a server"))?;
    Ok(())
}

/// The first end of a certificate that is needed to let this node in.
fn expiry(certificates: &[CertificateDer<'static>], of_clients: &dyn ClientCertVerifier) -> Option<u64> {
    let [own, between @ ..] = certificates else { return None };
    let mut expires = None;
    let mut at = Duration::from_secs(UnixTime::now().as_secs()) + EXPIRY_LOOK;
    // Who verifies names the certificate that it minds first; before that one's end another's may come.
    for _ in 0..=certificates.len() {
        let refusal = of_clients.verify_client_cert(own, between, UnixTime::since_unix_epoch(at)).err();
        let Some(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) = refusal
        else {
            break;
        };
        expires = Some(not_after.as_secs());
        at = Duration::from_secs(not_after.as_secs());
    }
    expires
}

fn refused(error: Error, now: UnixTime, role: &'static str) -> TlsError {
    let between = |from: UnixTime, to: UnixTime| in_words(to.as_secs().saturating_sub(from.as_secs()));
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::ExpiredContext { not_after, .. } => TlsError::Expired(between(not_after, now)),
            CertificateError::NotValidYetContext { not_before, .. } => {
                TlsError::NotYetValid(between(now, not_before))
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsError::OtherCa,
            CertificateError::NotValidForNameContext { expected, presented } => TlsError::OtherName {
                expected: expected.to_str().into_owned(),
                found: if presented.is_empty() { "no host".to_owned() } else { presented.join(", ") },
            },
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                TlsError::Purpose(role)
            }
            error => TlsError::BadCertificate(error.to_string()),
        },
        error => TlsError::BadCertificate(error.to_string()),
    }
}

/// About how long so many seconds are.
fn in_words(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
