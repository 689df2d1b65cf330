//! The handshake over a channel.
//!
//! What must hold: not one byte behind a frame of the handshake is read of the channel here, so that it can be handed on; no
//! more than [`HANDSHAKE_BYTES_MAX`] are read for one frame. How long all of it may take, TLS included, is for the caller to
//! say.

use crate::channel::Channel;
use buckets_env::Env;
use buckets_rpc::handshake::{Handshake, HandshakeError, HandshakeFrame, NONCE_BYTES, Progress, Remote};
use buckets_rpc::limits::HANDSHAKE_BYTES_MAX;
use buckets_rpc::session::Session;
use bytes::Bytes;
use rustls::{AlertDescription, Error as TlsFailure};
use std::io;
use std::time::Duration;

/// How long a peer may take to take a refusal.
const REFUSAL_LIMIT: Duration = Duration::from_millis(200);

/// A random number for a handshake.
pub(crate) fn nonce(env: &Env) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&env.random_u64().to_le_bytes()));
    nonce
}

/// The first byte of what TLS says first.
const TLS_HANDSHAKE: u8 = 22;

/// Why there is no session, and what TLS has to say of it.
#[derive(Clone, Debug)]
pub(crate) struct NoSession {
    pub(crate) error: HandshakeError,
    failure: Option<TlsFailure>,
}

impl std::fmt::Display for NoSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.error, &self.failure) {
            (error, None) => write!(f, "{error}"),
            (HandshakeError::Certificate, Some(TlsFailure::AlertReceived(alert))) => {
                write!(f, "the peer does not accept this node's certificate ({alert:?})")
            }
            (HandshakeError::Certificate, Some(failure)) => write!(f, "the peer's certificate: {failure}"),
            (error, Some(failure)) => write!(f, "{error}: {failure}"),
        }
    }
}

impl From<HandshakeError> for NoSession {
    fn from(error: HandshakeError) -> NoSession {
        NoSession { error, failure: None }
    }
}

impl From<TlsFailure> for NoSession {
    fn from(failure: TlsFailure) -> NoSession {
        let is_of_certificates = match &failure {
            TlsFailure::InvalidCertificate(_) | TlsFailure::NoCertificatesPresented => true,
            TlsFailure::AlertReceived(alert) => matches!(
                alert,
                AlertDescription::AccessDenied
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateRequired
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnknownCA
                    | AlertDescription::UnsupportedCertificate
            ),
            _ => false,
        };
        let error = if is_of_certificates { HandshakeError::Certificate } else { HandshakeError::Tls };
        NoSession { error, failure: Some(failure) }
    }
}

impl NoSession {
    /// What reading of a channel says.
    pub(crate) fn of_io(error: &io::Error) -> NoSession {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsFailure>()) {
            Some(failure) => failure.clone().into(),
            None => HandshakeError::Ended.into(),
        }
    }
}

/// Carries a handshake to its end within `limit`; `first` goes out first. A peer that is refused is told why.
pub(crate) async fn shake(
    env: &Env,
    channel: &mut Channel,
    mut handshake: Handshake,
    first: Option<Bytes>,
    limit: Duration,
) -> Result<(Session, Remote), NoSession> {
    let outcome = match env.timeout(limit, talk(channel, &mut handshake, first)).await {
        Some(Ok(done)) => return Ok(done),
        Some(Err(failure)) => failure,
        None => Failure::Here(HandshakeError::Late.into()),
    };
    match outcome {
        // Who does not speak the protocol is not spoken to.
        Failure::Here(refusal) if refusal.error == HandshakeError::Garbage => Err(refusal),
        Failure::Here(refusal) => {
            let _ = env.timeout(REFUSAL_LIMIT, channel.refuse(&refusal)).await;
            Err(refusal)
        }
        Failure::There(refusal) => Err(refusal),
    }
}

enum Failure {
    /// Found by this side.
    Here(NoSession),
    /// Told by the peer, or it is gone.
    There(NoSession),
}

async fn talk(
    channel: &mut Channel,
    handshake: &mut Handshake,
    first: Option<Bytes>,
) -> Result<(Session, Remote), Failure> {
    let ended = |_| Failure::There(HandshakeError::Ended.into());
    channel.secure().await.map_err(Failure::Here)?;
    if let Some(first) = first {
        channel.write_all(&first).await.map_err(ended)?;
    }
    loop {
        let frame = read_frame(channel).await?;
        let progress = handshake.take(&frame);
        match progress {
            Ok(Progress::Send(answer)) => channel.write_all(&answer).await.map_err(ended)?,
            Ok(Progress::Done { send, session, remote }) => {
                if let Some(last) = send {
                    channel.write_all(&last).await.map_err(ended)?;
                }
                return Ok((*session, remote));
            }
            Err(error) if frame.is_refusal() => return Err(Failure::There(error.into())),
            Err(error) => return Err(Failure::Here(error.into())),
        }
    }
}

async fn read_frame(channel: &mut Channel) -> Result<HandshakeFrame, Failure> {
    let mut buffer = [0; HANDSHAKE_BYTES_MAX];
    let mut filled = 0;
    loop {
        let needs = match HandshakeFrame::decode(&buffer[..filled]) {
            Ok(Some((frame, _))) => return Ok(frame),
            Ok(None) => HandshakeFrame::bytes_needed(&buffer[..filled]),
            Err(HandshakeError::Garbage) if buffer[0] == TLS_HANDSHAKE => {
                return Err(Failure::Here(HandshakeError::TlsMismatch.into()));
            }
            Err(error) => return Err(Failure::Here(error.into())),
        };
        match channel.read(&mut buffer[filled..needs]).await {
            Ok(0) => return Err(Failure::There(HandshakeError::Ended.into())),
            // Who connects with TLS learns only here that its certificate is refused.
            Err(error) => return Err(Failure::There(NoSession::of_io(&error))),
            Ok(read) => filled += read,
        }
    }
}
