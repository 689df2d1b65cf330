//! What an operator sets, and the defaults.

use std::time::Duration;

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The region that signatures must name.
    pub region: String,
    /// Host names under which a label in front names a bucket (`bucket.s3.example.com`).
    pub domains: Vec<String>,
    /// See [`Limits`].
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Options {
        Options { region: "us-east-1".to_owned(), domains: Vec::new(), limits: Limits::default() }
    }
}

/// The limits of one core's server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; more are answered 503 `SlowDown` and closed.
    pub connections_max: usize,
    /// Requests in progress; more are answered 503 `SlowDown`.
    pub in_flight_max: usize,
    /// For a request's head, from its first byte to its last.
    pub head_timeout: Duration,
    /// Between requests of a connection.
    pub idle_timeout: Duration,
    /// For the next bytes of a body, in either direction.
    pub body_timeout: Duration,
    /// Bytes that a body must bring, or take, per second on average, once [`Limits::body_grace`] is over.
    pub body_bytes_per_second_min: u64,
    /// Time before a body's rate counts.
    pub body_grace: Duration,
    /// For a client to take the last answer before its connection is dropped.
    pub linger_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 8192,
            in_flight_max: 1024,
            head_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            body_bytes_per_second_min: 4 << 10,
            body_grace: Duration::from_secs(60),
            linger_timeout: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// How long a body may have taken in all for so many bytes.
    pub(crate) fn body_allowance(&self, bytes: u64) -> Duration {
        self.body_grace + Duration::from_secs(bytes / self.body_bytes_per_second_min.max(1))
    }
}
