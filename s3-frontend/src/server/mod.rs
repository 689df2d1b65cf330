//! The server of one core: accepts connections, keeps within its limits, drains.

pub(crate) mod admin;
pub(crate) mod call;
mod connection;
mod dispatch;
mod input;
mod metrics;
mod options;
pub(crate) mod request_body;
mod watch;

pub use metrics::Metrics;
pub use options::{Limits, Options};

use crate::date::{self, DateText};
use crate::s3::auth::signing::SigningKeys;
use crate::store::{NodeReport, ObjectStore};
use buckets_env::{Env, Listener, Stream};
use connection::Connection;
use input::InputBuffers;
use metrics::CoreMetrics;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use watch::{SWEEP_INTERVAL, Watches};

/// The pause after a failed accept (no file descriptors left, mostly), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a drain looks whether it is done.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);
/// Connections over the limit that are still told so; more are dropped at once.
const REFUSALS_MAX: usize = 64;

/// What the connections of a core share.
pub(crate) struct Shared<S> {
    pub(crate) env: Env,
    pub(crate) store: S,
    pub(crate) report: Box<dyn NodeReport>,
    pub(crate) options: Options,
    metrics: Arc<Metrics>,
    core: usize,
    keys: RefCell<SigningKeys>,
    watches: Rc<Watches>,
    input_buffers: Rc<InputBuffers>,
    connections: Cell<usize>,
    in_flight: Cell<usize>,
    draining: Cell<bool>,
    date: Cell<(u64, DateText<29>)>,
    request_number: Cell<u64>,
}

impl<S> Shared<S> {
    pub(crate) fn counters(&self) -> &CoreMetrics {
        self.metrics.core(self.core)
    }

    /// The `Date` of a response, made once a second.
    fn date(&self, unix_ms: u64) -> DateText<29> {
        let second = unix_ms / 1000;
        let (known, date) = self.date.get();
        if known == second {
            return date;
        }
        let date = date::imf_fixdate(i64::try_from(second).unwrap_or(i64::MAX));
        self.date.set((second, date));
        date
    }

    /// A number that no other request of this deployment is likely to have.
    fn next_request_number(&self) -> u64 {
        let number = self.request_number.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.request_number.set(number);
        number
    }
}

/// One core's S3 server. A clone is a handle to the same server.
pub struct Server<S> {
    shared: Rc<Shared<S>>,
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Server { shared: self.shared.clone() }
    }
}

impl<S: ObjectStore> Server<S> {
    /// A server on core `core` of those that `metrics` counts for. `report` speaks for the node.
    pub fn new(
        env: Env,
        store: S,
        report: impl NodeReport + 'static,
        metrics: Arc<Metrics>,
        core: usize,
        options: Options,
    ) -> Server<S> {
        let second = env.unix_millis() / 1000;
        let date = date::imf_fixdate(i64::try_from(second).unwrap_or(i64::MAX));
        let shared = Rc::new(Shared {
            request_number: Cell::new(env.random_u64()),
            env,
            store,
            report: Box::new(report),
            options,
            metrics,
            core,
            keys: RefCell::new(SigningKeys::default()),
            watches: Rc::new(Watches::default()),
            input_buffers: Rc::default(),
            connections: Cell::new(0),
            in_flight: Cell::new(0),
            draining: Cell::new(false),
            date: Cell::new((second, date)),
        });
        sweep_deadlines(&shared);
        Server { shared }
    }

    /// Accepts connections for as long as the core lives. This future must not be dropped before (see [`Listener::accept`]).
    /// Once the server drains, what is accepted is dropped at once.
    pub async fn serve(self, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok(_refused) if self.shared.draining.get() => {}
                Ok(stream) => self.welcome(stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.shared.env.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn welcome(&self, stream: Stream) {
        let shared = self.shared.clone();
        let connections_max = shared.options.limits.connections_max;
        let open = shared.connections.get();
        if open >= connections_max {
            shared.counters().refused_total.add(1);
            if open >= connections_max + REFUSALS_MAX {
                return;
            }
        }
        let is_refused = open >= connections_max;
        shared.connections.set(open + 1);
        shared.counters().connections_total.add(1);
        shared.counters().connection(true);
        self.shared.env.spawn(async move {
            let connection = Connection::new(shared.clone(), stream);
            if is_refused {
                connection.refuse().await
            } else {
                connection.run().await
            }
            shared.connections.set(shared.connections.get() - 1);
            shared.counters().connection(false);
        });
    }

    /// Takes no new requests, lets those in progress end, and returns whether all ended within `patience`.
    pub async fn drain(&self, patience: Duration) -> bool {
        let shared = &self.shared;
        shared.draining.set(true);
        shared.watches.expire_idle();
        let deadline = shared.env.now().after(patience);
        while shared.connections.get() > 0 {
            if shared.env.now() >= deadline {
                return false;
            }
            shared.env.sleep(DRAIN_INTERVAL).await;
        }
        true
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.connections.get()
    }
}

/// Looks at the deadlines of all connections for as long as the server lives.
fn sweep_deadlines<S: ObjectStore>(shared: &Rc<Shared<S>>) {
    let env = shared.env.clone();
    let weak = Rc::downgrade(shared);
    shared.env.spawn(async move {
        loop {
            env.sleep(SWEEP_INTERVAL).await;
            match weak.upgrade() {
                Some(shared) => shared.watches.sweep(env.now()),
                None => return,
            }
        }
    });
}
