//! The numbers of connections between nodes, and whether they are encrypted.

use crate::certificates::Tls;
use buckets_rpc::health::HealthOptions;
use buckets_rpc::limits::Limits;
use std::time::Duration;

/// What tests and operators change.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// What encrypts connections; `None`: nothing does. The same on all nodes.
    pub tls: Option<Tls>,
    /// Of one connection.
    pub limits: Limits,
    /// When a peer is slow, suspect, down.
    pub health: HealthOptions,
    /// How long a connection attempt may take.
    pub connect_limit: Duration,
    /// How long a handshake may take, with that of TLS.
    pub handshake_limit: Duration,
    /// Between two pings.
    pub ping_every: Duration,
    /// A connection on which nothing was heard for so long is given up.
    pub silence_max: Duration,
    /// The pause after a failed attempt to connect; doubles with each, and is drawn between half and all of that.
    pub retry_after: Duration,
    /// The longest pause.
    pub retry_after_max: Duration,
    /// Connections of one core whose handshake is under way.
    pub handshakes_max: usize,
    /// Proven connections of one core.
    pub connections_max: usize,
    /// Questions of all peers together that one core serves.
    pub core_serving_max: usize,
}

impl Default for PeerOptions {
    fn default() -> PeerOptions {
        PeerOptions {
            tls: None,
            limits: Limits::PRODUCTION,
            health: HealthOptions::default(),
            connect_limit: Duration::from_secs(3),
            handshake_limit: Duration::from_secs(3),
            ping_every: Duration::from_secs(1),
            silence_max: Duration::from_secs(8),
            retry_after: Duration::from_millis(50),
            retry_after_max: Duration::from_secs(2),
            handshakes_max: 256,
            connections_max: 16_384,
            core_serving_max: 8192,
        }
    }
}
