//! Looks at the cores from outside: one thread per process, started with the first core.
//!
//! What must hold:
//! - A core that does not tick is kicked: glommio can park an executor that has runnable tasks, and then nothing
//!   inside it ends that sleep (see `core`). The kick is a wake-up from a foreign thread, which glommio takes in
//!   wherever the executor is; where it has nothing to do the kick changes nothing.
//! - A core that does not tick for more than a second is reported, once per standstill: a task that computes or
//!   blocks that long takes all of its core's connections and disks with it, and the core cannot say so itself.

use super::CoreWaker;
use std::io;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// More than a sleep of a core.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const STALL_MIN: Duration = Duration::from_secs(1);

/// Called with a core's name and how long it has stood still so far.
type Report = dyn Fn(&str, Duration) + Send;

struct Watch {
    cores: Vec<Watched>,
    running: bool,
    report: Option<Box<Report>>,
}

static WATCH: Mutex<Watch> = Mutex::new(Watch { cores: Vec::new(), running: false, report: None });

struct Watched {
    waker: Weak<CoreWaker>,
    ticks: u64,
    since: Instant,
    reported: bool,
}

/// Watches a core from its first tick until it retires.
pub(super) fn watch(waker: Weak<CoreWaker>) -> io::Result<()> {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    watch.cores.push(Watched { waker, ticks: 0, since: Instant::now(), reported: false });
    if !watch.running {
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(run)?;
        watch.running = true;
    }
    Ok(())
}

/// Sends the reports of cores that stand still to `report` as well as to the log.
pub fn on_standstill(report: impl Fn(&str, Duration) + Send + 'static) {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner).report = Some(Box::new(report));
}

fn run() {
    loop {
        std::thread::sleep(LOOK_EVERY);
        let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
        let Watch { cores, report, .. } = &mut *watch;
        let now = Instant::now();
        cores.retain_mut(|core| match core.waker.upgrade() {
            Some(waker) if !waker.is_retired() => {
                if let Some(stood_still) = core.look(&waker, now) {
                    tracing::error!(
                        core = waker.name(),
                        ms = stood_still.as_millis() as u64,
                        "a core stands still"
                    );
                    if let Some(report) = report {
                        report(waker.name(), stood_still);
                    }
                }
                true
            }
            _ => false,
        });
    }
}

impl Watched {
    /// Kicks the core if it has not ticked since the last look; how long it has stood still, once per standstill.
    fn look(&mut self, waker: &CoreWaker, now: Instant) -> Option<Duration> {
        let ticks = waker.ticks();
        if ticks != self.ticks {
            self.ticks = ticks;
            self.since = now;
            self.reported = false;
            return None;
        }
        waker.kick();
        let stood_still = now.duration_since(self.since);
        if stood_still < STALL_MIN || self.reported || ticks == 0 {
            return None;
        }
        self.reported = true;
        Some(stood_still)
    }
}
