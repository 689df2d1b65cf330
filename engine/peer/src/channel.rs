//! What carries the frames of a connection: a stream as it is, or TLS over one.
//!
//! What must hold: a plain channel adds nothing to its stream but a branch for each call; what was read ahead of a stream
//! moves along when the channel is handed to another core.

use crate::shake::NoSession;
use crate::tls::{Tls, TlsReadHalf, TlsStream, TlsWriteHalf};
use buckets_env::{DetachedStream, Env, ReadHalf, Stream, WriteHalf};
use std::io;
use std::time::Duration;

/// A connected channel of this core.
pub(crate) enum Channel {
    Plain(Stream),
    // Boxed: TLS keeps its state beside its stream.
    Tls(Box<TlsStream<Stream>>),
}

/// A channel on its way to another core of the same process.
pub(crate) enum DetachedChannel {
    Plain(DetachedStream),
    Tls(Box<TlsStream<DetachedStream>>),
}

/// What reads of a channel.
pub(crate) enum ChannelReadHalf {
    Plain(ReadHalf),
    Tls(TlsReadHalf),
}

/// What writes to a channel.
pub(crate) enum ChannelWriteHalf {
    Plain(WriteHalf),
    Tls(TlsWriteHalf),
}

impl Channel {
    /// Over a stream to `host`, whose certificate must name it.
    pub(crate) fn connecting(stream: Stream, tls: Option<&Tls>, host: &str) -> Result<Channel, NoSession> {
        match tls {
            Some(tls) => Ok(Channel::Tls(Box::new(TlsStream::connecting(stream, tls, host)?))),
            None => Ok(Channel::Plain(stream)),
        }
    }

    /// Over a stream that was accepted.
    pub(crate) fn accepting(stream: Stream, tls: Option<&Tls>) -> Result<Channel, NoSession> {
        match tls {
            Some(tls) => Ok(Channel::Tls(Box::new(TlsStream::accepting(stream, tls)?))),
            None => Ok(Channel::Plain(stream)),
        }
    }

    /// Encrypts what follows, where it is to be encrypted. Errors: the peer does not speak TLS, or a certificate is not
    /// accepted.
    pub(crate) async fn secure(&mut self) -> Result<(), NoSession> {
        match self {
            Channel::Plain(_) => Ok(()),
            Channel::Tls(stream) => stream.secure().await,
        }
    }

    /// Reads some bytes into `buf`; 0 at the end.
    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Channel::Plain(stream) => stream.read(buf).await,
            Channel::Tls(stream) => stream.read(buf).await,
        }
    }

    /// Writes all of `data`.
    pub(crate) async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Channel::Plain(stream) => stream.write_all(data).await,
            Channel::Tls(stream) => stream.write_all(data).await,
        }
    }

    /// Tells the peer why it is refused, as far as it can be told.
    pub(crate) async fn refuse(&mut self, refusal: &NoSession) -> io::Result<()> {
        let frame = refusal.error.refusal();
        match self {
            Channel::Plain(stream) => stream.write_all(&frame).await,
            Channel::Tls(stream) => stream.refuse(refusal.error, &frame).await,
        }
    }

    /// As [`Stream::keep_alive`].
    pub(crate) fn keep_alive(&self, limit: Duration) -> io::Result<()> {
        match self {
            Channel::Plain(stream) => stream.keep_alive(limit),
            Channel::Tls(stream) => stream.stream().keep_alive(limit),
        }
    }

    /// The two directions, for two futures of this core.
    pub(crate) fn split(self) -> (ChannelReadHalf, ChannelWriteHalf) {
        match self {
            Channel::Plain(stream) => {
                let (reading, writing) = stream.split();
                (ChannelReadHalf::Plain(reading), ChannelWriteHalf::Plain(writing))
            }
            Channel::Tls(stream) => {
                let (reading, writing) = stream.split();
                (ChannelReadHalf::Tls(reading), ChannelWriteHalf::Tls(writing))
            }
        }
    }

    /// Makes the channel ready for another core.
    pub(crate) fn detach(self) -> io::Result<DetachedChannel> {
        match self {
            Channel::Plain(stream) => Ok(DetachedChannel::Plain(stream.detach()?)),
            Channel::Tls(stream) => {
                Ok(DetachedChannel::Tls(Box::new(stream.try_map_stream(Stream::detach)?)))
            }
        }
    }
}

impl DetachedChannel {
    /// Makes it a channel of the core of `env`.
    pub(crate) fn attach(self, env: &Env) -> Channel {
        match self {
            DetachedChannel::Plain(stream) => Channel::Plain(env.attach(stream)),
            DetachedChannel::Tls(stream) => {
                Channel::Tls(Box::new(stream.map_stream(|stream| env.attach(stream))))
            }
        }
    }
}

impl ChannelReadHalf {
    /// As [`ReadHalf::readable`]; holds no buffer while it waits.
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        match self {
            ChannelReadHalf::Plain(half) => half.readable().await,
            ChannelReadHalf::Tls(half) => half.readable().await,
        }
    }

    /// As [`ReadHalf::read`].
    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            ChannelReadHalf::Plain(half) => half.read(buf).await,
            ChannelReadHalf::Tls(half) => half.read(buf).await,
        }
    }
}

impl ChannelWriteHalf {
    /// As [`WriteHalf::write_all_vectored`].
    pub(crate) async fn write_all_vectored(&mut self, data: &[&[u8]]) -> io::Result<()> {
        match self {
            ChannelWriteHalf::Plain(half) => half.write_all_vectored(data).await,
            ChannelWriteHalf::Tls(half) => half.write_all_vectored(data).await,
        }
    }
}
