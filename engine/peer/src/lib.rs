//! Connections between the cores of nodes, on top of `buckets_env` (for real and in the simulator) and `buckets_rpc`.
//!
//! A core that asks a core of another node has one [`Peer`] for it: one connection, made when it is first wanted and made
//! again when it is lost. Every core of a node has a [`PeerServer`], which accepts, lets the handshake prove who is there,
//! hands the connection to the core that it is for, and gives questions to a [`Service`].
//!
//! What must hold:
//! - Heads and payloads are bytes here: this room knows nothing of storage.
//! - A question ends with an answer or with an [`AskError`] that says whether it may have happened; it is never sent twice.
//! - Nothing of a peer that has not proved the deployment's secret is kept, and little is read of it, for a short time.
//! - An idle connection holds no buffer.
//! - Where connections are encrypted, TLS lies below the handshake and changes nothing above it: what does not show a
//!   certificate of the deployment's CA does not come to the handshake.

mod bell;
mod certificates;
mod channel;
mod inbox;
mod link;
mod options;
mod peer;
mod server;
mod shake;
mod tls;

pub use buckets_rpc::connection::{Counts, Message as RpcMessage, Refused};
pub use buckets_rpc::frame::TooLong;
pub use buckets_rpc::handshake::{HandshakeError, Identity, NodeId, Remote, Target, VERSIONS};
pub use buckets_rpc::health::{HealthOptions, HealthState};
pub use buckets_rpc::limits::Limits;
pub use buckets_rpc::session::{Secret, ShortSecret};
pub use certificates::{Pem, Tls, TlsError, TlsFile};
pub use link::AskError;
pub use options::PeerOptions;
pub use peer::{Peer, PeerAddress, PeerCounts};
pub use server::{Arrival, Door, PeerServer, ServerCounts, Service, doors};

use buckets_env::AlignedBytes;

/// What travels: an encoded head, and a payload in aligned pieces.
pub type Message = RpcMessage<AlignedBytes>;
