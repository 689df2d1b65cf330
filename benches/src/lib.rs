//! Micro-benchmarks of the parts that every request passes: see `benches/`.
//!
//! What must hold: they run in two ways. `cargo bench -p buckets-benches` measures; `cargo test -p buckets-benches` runs each
//! once and small ([`is_measured`]), with its result checked, so that they never rot. What does I/O does it on real files, on a
//! core of the real environment ([`BenchCore`]).
//!
//! Deliberately absent: sockets and whole requests. Those are measured against the release binary.

use buckets_env::real::{CoreHandle, CoreOptions, CoreWaker, run_core};
use buckets_env::{CoreSender, Env, core_queue};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;

/// True where numbers are wanted, and with them sizes that mean something; false where the run is a test.
pub fn is_measured() -> bool {
    let is_given = |flag: &str| std::env::args().any(|argument| argument == flag);
    is_given("--bench") && !is_given("--test")
}

type Job<S> = Box<dyn FnOnce(Rc<S>) -> LocalBoxFuture<'static, ()> + Send>;

/// A core of the real environment that keeps a benchmark's state and does one job after the other on it.
pub struct BenchCore<S> {
    jobs: CoreSender<Option<Job<S>>>,
    core: Option<CoreHandle>,
}

impl<S: 'static> BenchCore<S> {
    /// A core with what `make` builds on it. The first job waits for it.
    pub fn start<F>(make: impl FnOnce(Env) -> F + Send + 'static) -> BenchCore<S>
    where
        F: Future<Output = S> + 'static,
    {
        let options = CoreOptions { cpu: None, index: 0, name: "bench".to_owned() };
        let started = CoreWaker::new().and_then(|waker| {
            let (jobs, inbox) = core_queue::<Option<Job<S>>>(1, waker.clone());
            let core = run_core(options, waker, move |env| async move {
                let state = Rc::new(make(env).await);
                while let Some(job) = inbox.recv().await {
                    job(state.clone()).await;
                }
            })?;
            Ok(BenchCore { jobs, core: Some(core) })
        });
        match started {
            Ok(started) => started,
            Err(error) => panic!("no core of the real environment can be started: {error}"),
        }
    }

    /// Does a job on the core and waits for its result.
    pub fn run<T, F>(&self, job: impl FnOnce(Rc<S>) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (report, result) = mpsc::sync_channel(1);
        let job = move |state| {
            async move {
                let _ = report.send(job(state).await);
            }
            .boxed_local()
        };
        let sent = self.jobs.send(Some(Box::new(job)));
        match sent.ok().and_then(|()| result.recv().ok()) {
            Some(result) => result,
            None => unreachable!("the core takes one job after the other"),
        }
    }
}

impl<S> Drop for BenchCore<S> {
    fn drop(&mut self) {
        let _ = self.jobs.send(None);
        if let Some(core) = self.core.take() {
            core.join();
        }
    }
}

/// A directory that goes with its owner.
pub struct BenchDir {
    path: PathBuf,
}

impl BenchDir {
    /// An empty directory below `base` that no other process uses.
    pub fn new(base: &str, name: &str) -> BenchDir {
        let path = PathBuf::from(base).join(format!("{name}-{}", std::process::id()));
        match std::fs::create_dir_all(&path) {
            Ok(()) => BenchDir { path },
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

impl Drop for BenchDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
