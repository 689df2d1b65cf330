//! A server on one simulated node and a client on another.

use crate::client::Client;
use crate::model::Model;
use buckets_engine::object::api::ObjectError;
use buckets_env::sim::{SimNode, Simulation};
use buckets_env::{Env, Stream};
use buckets_s3::server::{Limits, Metrics, Options, Server};
use buckets_s3::store::NodeReport;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub const ACCESS_KEY: &str = "root-access";
pub const SECRET_KEY: &str = "root-secret-key";

/// What a test sees.
#[derive(Clone)]
pub struct World {
    pub env: Env,
    pub model: Model,
    pub server: Server<Model>,
    pub report: Rc<Report>,
    node: SimNode,
    address: SocketAddr,
}

/// A node that says what the test wants.
#[derive(Default)]
pub struct Report {
    pub unready: RefCell<Option<String>>,
    pub draining: Cell<bool>,
}

struct Spoken(Rc<Report>);

impl NodeReport for Spoken {
    fn ready(&self) -> Result<(), String> {
        self.0.unready.borrow().clone().map_or(Ok(()), Err)
    }
    fn info(&self) -> LocalBoxFuture<'_, serde_json::Value> {
        async { serde_json::json!({ "verdict": "safe" }) }.boxed_local()
    }
    fn drain<'a>(&'a self, node: &'a str, draining: bool) -> LocalBoxFuture<'a, Result<(), ObjectError>> {
        async move {
            if node != "n1:9100" {
                return Err(ObjectError::Conflict(format!("there is no node `{node}`")));
            }
            self.0.draining.set(draining);
            Ok(())
        }
        .boxed_local()
    }
    fn metrics(&self) -> LocalBoxFuture<'_, String> {
        async { "buckets_disks 4\n".to_owned() }.boxed_local()
    }
}

impl World {
    /// A connection of its own.
    pub async fn connect(&self) -> Stream {
        self.node.connect(self.address).await.unwrap()
    }

    /// A client on a connection of its own, with root's keys.
    pub async fn client(&self) -> Client {
        Client::new(self.env.clone(), self.connect().await, ACCESS_KEY, SECRET_KEY)
    }
}

/// Limits small enough for their edges to be reached.
pub fn small_limits() -> Limits {
    Limits {
        connections_max: 4,
        in_flight_max: 2,
        head_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(20),
        body_timeout: Duration::from_secs(10),
        body_bytes_per_second_min: 1000,
        body_grace: Duration::from_secs(30),
        linger_timeout: Duration::from_secs(1),
    }
}

/// Runs `test` against a server with the default options, under several seeds: bytes arrive in other pieces under each.
pub fn with_server<F: Future<Output = ()>>(test: impl Fn(World) -> F) {
    for seed in 0..3 {
        with_options(seed, Options::default(), &test);
    }
}

/// Runs `test` against a server with these options.
pub fn with_options<F: Future<Output = ()>>(seed: u64, options: Options, test: impl Fn(World) -> F) {
    let simulation = Simulation::new(seed);
    let (server_node, client_node) = (simulation.node("server"), simulation.node("client"));
    let env = server_node.env(0);
    let model = Model::new(env.clone(), ACCESS_KEY, SECRET_KEY);
    let report = Rc::new(Report::default());
    let metrics = Arc::new(Metrics::new(1));
    let server = Server::new(env.clone(), model.clone(), Spoken(report.clone()), metrics, 0, options);
    let listener = env.listen(SocketAddr::from(([0, 0, 0, 0], 9000))).unwrap();
    let serving = server.clone();
    env.spawn(serving.serve(listener));
    simulation.run_for(Duration::from_millis(1));
    let address = SocketAddr::new(server_node.ip(), 9000);
    let node = client_node.clone();
    client_node.run(0, |env| test(World { env, model, server, report, node, address })).unwrap();
}
