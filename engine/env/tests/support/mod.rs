//! Runs a test body on a real core.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use buckets_env::Env;
use buckets_env::real::{CoreHandle, CoreOptions, CoreWaker, run_core};
use std::future::Future;
use std::sync::{Arc, mpsc};

/// Starts a core with the given number.
pub fn start<M, F>(index: usize, waker: Arc<CoreWaker>, main: M) -> CoreHandle
where
    M: FnOnce(Env) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let options = CoreOptions { cpu: None, index, name: format!("core-{index}") };
    run_core(options, waker, main).unwrap()
}

/// The result of `body`, run as the main task of a core of its own.
pub fn on_core<M, F, T>(body: M) -> T
where
    M: FnOnce(Env) -> F + Send + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let (report, result) = mpsc::channel();
    let core = start(0, CoreWaker::new().unwrap(), move |env| {
        let body = body(env);
        async move { report.send(body.await).unwrap() }
    });
    core.join();
    result.recv().unwrap()
}
