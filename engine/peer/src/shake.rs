//! The handshake over a stream.
//!
//! What must hold: not one byte behind a frame of the handshake is read here, so that the stream can be handed on; no more
//! than [`HANDSHAKE_BYTES_MAX`] are read for one frame. How long it may take is for the caller to say.

use buckets_env::{Env, Stream};
use buckets_rpc::handshake::{Handshake, HandshakeError, HandshakeFrame, NONCE_BYTES, Progress, Remote};
use buckets_rpc::limits::HANDSHAKE_BYTES_MAX;
use buckets_rpc::session::Session;
use bytes::Bytes;
use std::time::Duration;

/// How long a peer may take to take a refusal.
const REFUSAL_LIMIT: Duration = Duration::from_millis(200);

/// A random number for a handshake.
pub(crate) fn nonce(env: &Env) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&env.random_u64().to_le_bytes()));
    nonce
}

/// Carries a handshake to its end within `limit`; `first` goes out first. A peer that is refused is told why.
pub(crate) async fn shake(
    env: &Env,
    stream: &mut Stream,
    mut handshake: Handshake,
    first: Option<Bytes>,
    limit: Duration,
) -> Result<(Session, Remote), HandshakeError> {
    let outcome = match env.timeout(limit, talk(stream, &mut handshake, first)).await {
        Some(Ok(done)) => return Ok(done),
        Some(Err(failure)) => failure,
        None => Failure::Here(HandshakeError::Late),
    };
    match outcome {
        // Who does not speak the protocol is not spoken to.
        Failure::Here(error @ HandshakeError::Garbage) => Err(error),
        Failure::Here(error) => {
            let _ = env.timeout(REFUSAL_LIMIT, stream.write_all(&error.refusal())).await;
            Err(error)
        }
        Failure::There(error) => Err(error),
    }
}

enum Failure {
    /// Found by this side.
    Here(HandshakeError),
    /// Told by the peer, or it is gone.
    There(HandshakeError),
}

async fn talk(
    stream: &mut Stream,
    handshake: &mut Handshake,
    first: Option<Bytes>,
) -> Result<(Session, Remote), Failure> {
    let ended = |_| Failure::There(HandshakeError::Ended);
    if let Some(first) = first {
        stream.write_all(&first).await.map_err(ended)?;
    }
    loop {
        let frame = read_frame(stream).await?;
        let progress = handshake.take(&frame);
        match progress {
            Ok(Progress::Send(answer)) => stream.write_all(&answer).await.map_err(ended)?,
            Ok(Progress::Done { send, session, remote }) => {
                if let Some(last) = send {
                    stream.write_all(&last).await.map_err(ended)?;
                }
                return Ok((*session, remote));
            }
            Err(error) if frame.is_refusal() => return Err(Failure::There(error)),
            Err(error) => return Err(Failure::Here(error)),
        }
    }
}

async fn read_frame(stream: &mut Stream) -> Result<HandshakeFrame, Failure> {
    let mut buffer = [0; HANDSHAKE_BYTES_MAX];
    let mut filled = 0;
    loop {
        let needs = match HandshakeFrame::decode(&buffer[..filled]) {
            Ok(Some((frame, _))) => return Ok(frame),
            Ok(None) => HandshakeFrame::bytes_needed(&buffer[..filled]),
            Err(error) => return Err(Failure::Here(error)),
        };
        match stream.read(&mut buffer[filled..needs]).await {
            Ok(0) | Err(_) => return Err(Failure::There(HandshakeError::Ended)),
            Ok(read) => filled += read,
        }
    }
}
