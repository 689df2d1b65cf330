//! Real cores: their tasks, their clocks, the messages between them, and what happens when one goes wrong.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use buckets_env::real::{CoreOptions, CoreWaker, on_standstill, run_core, usable_cpus};
use buckets_env::{CoreReceiver, CoreSender, Env, Overloaded, core_queue};
use futures::FutureExt;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use support::{on_core, start};

/// Set in the child process of the test that ends in an abort.
const CHILD: &str = "BUCKETS_TEST_CHILD";

/// Two cores with a queue into each; `first` and `second` are their mains.
fn two_cores<T, A, B>(
    capacity: usize,
    first: impl FnOnce(Env, CoreSender<T>, CoreReceiver<T>) -> A + Send + 'static,
    second: impl FnOnce(Env, CoreSender<T>, CoreReceiver<T>) -> B + Send + 'static,
) where
    T: Send + 'static,
    A: Future<Output = ()> + 'static,
    B: Future<Output = ()> + 'static,
{
    let wakers = [CoreWaker::new().unwrap(), CoreWaker::new().unwrap()];
    let (to_first, at_first) = core_queue(capacity, wakers[0].clone());
    let (to_second, at_second) = core_queue(capacity, wakers[1].clone());
    let [first_waker, second_waker] = wakers;
    let cores = [
        start(0, first_waker, move |env| first(env, to_second, at_first)),
        start(1, second_waker, move |env| second(env, to_first, at_second)),
    ];
    for core in cores {
        core.join();
    }
}

#[test]
fn a_hundred_thousand_messages_arrive_once_and_in_order() {
    const MESSAGES: u64 = 100_000;
    two_cores(
        1024,
        |env, to_other, here| async move {
            let echoed = async {
                for expected in 0..MESSAGES {
                    assert_eq!(here.recv().await, expected);
                }
            };
            let sent = async {
                for message in 0..MESSAGES {
                    while to_other.send(message) == Err(Overloaded) {
                        env.yield_now().await;
                    }
                }
            };
            futures::join!(echoed, sent);
        },
        |env, to_other, here| async move {
            for _ in 0..MESSAGES {
                let message = here.recv().await;
                while to_other.send(message) == Err(Overloaded) {
                    env.yield_now().await;
                }
            }
        },
    );
}

#[test]
fn a_full_queue_refuses_and_works_again_once_it_is_read() {
    let waker = CoreWaker::new().unwrap();
    let (sender, receiver) = core_queue(4, waker.clone());
    for message in 0..4 {
        sender.send(message).unwrap();
    }
    assert_eq!(sender.send(4), Err(Overloaded));
    // What was sent before the core ran is there when it runs.
    start(0, waker, |_env| async move {
        for expected in 0..4 {
            assert_eq!(receiver.recv().await, expected);
        }
        assert_eq!(receiver.try_recv(), None);
        sender.send(5).unwrap();
        assert_eq!(receiver.recv().await, 5);
    })
    .join();
}

/// The best of several medians of a message's way to another core, in either direction. One undisturbed series is
/// proof enough: what this guards against (a core that hears others only when its preempt timer fires) spoils all.
fn median_way(receiver_is_busy: bool) -> Duration {
    const ROUND_TRIPS: usize = 1000;
    const SERIES: usize = 20;
    const GOOD: Duration = Duration::from_micros(50);
    let (report, best) = mpsc::channel();
    two_cores(
        16,
        move |env, to_other, here| async move {
            let mut best = Duration::MAX;
            for _ in 0..SERIES {
                let mut ways = Vec::with_capacity(ROUND_TRIPS);
                for _ in 0..ROUND_TRIPS {
                    let start = env.now();
                    to_other.send(false).unwrap();
                    here.recv().await;
                    ways.push(env.now().since(start) / 2);
                }
                ways.sort();
                best = best.min(ways[ROUND_TRIPS / 2]);
                if best < GOOD {
                    break;
                }
            }
            to_other.send(true).unwrap();
            report.send(best).unwrap();
        },
        move |env, to_other, here| async move {
            if receiver_is_busy {
                let busy = env.clone();
                env.spawn(async move {
                    loop {
                        compute(Duration::from_micros(50));
                        busy.yield_if_needed().await;
                    }
                });
            }
            while !here.recv().await {
                to_other.send(false).unwrap();
            }
        },
    );
    best.recv().unwrap()
}

fn compute(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
}

/// A quiet machine needs 20 to 60 us; one whose processors are shared adds to that. Any design that polls needs
/// milliseconds.
const AT_ONCE: Duration = Duration::from_micros(500);

#[test]
fn an_idle_core_hears_another_at_once() {
    let median = median_way(false);
    println!("median way to an idle core: {median:?}");
    assert!(median < AT_ONCE, "{median:?}");
}

#[test]
fn a_busy_core_hears_another_at_once() {
    let median = median_way(true);
    println!("median way to a busy core: {median:?}");
    assert!(median < AT_ONCE, "{median:?}");
}

#[test]
fn many_threads_may_wake_one_core() {
    let waker = CoreWaker::new().unwrap();
    let (sender, receiver) = core_queue(64, waker.clone());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for at in 0..2000u64 {
                    while sender.send(1u64).is_err() {
                        std::thread::yield_now();
                    }
                    if at % 100 == 0 {
                        // Lets the core fall asleep now and then.
                        std::thread::sleep(Duration::from_micros(300));
                    }
                }
            })
        })
        .collect();
    start(0, waker, |_env| async move {
        let mut sum = 0;
        while sum < 8000 {
            sum += receiver.recv().await;
        }
    })
    .join();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_spawned_task_starts_after_its_spawner_gives_way() {
    on_core(|env| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        for number in 0..3 {
            let order = order.clone();
            env.spawn(async move { order.borrow_mut().push(number) });
        }
        assert!(order.borrow().is_empty());
        env.yield_now().await;
        assert_eq!(*order.borrow(), [0, 1, 2]);
    });
}

#[test]
fn tasks_that_compute_leave_room_for_timers() {
    on_core(|env| async move {
        let stop = Rc::new(Cell::new(false));
        for _ in 0..3 {
            let (env, stop) = (env.clone(), stop.clone());
            env.clone().spawn(async move {
                while !stop.get() {
                    compute(Duration::from_micros(100));
                    env.yield_if_needed().await;
                }
            });
        }
        let mut best = Duration::MAX;
        for _ in 0..50 {
            let start = env.now();
            env.sleep(Duration::from_millis(1)).await;
            best = best.min(env.now().since(start));
        }
        stop.set(true);
        // The preempt timer alone would make it 10 ms.
        assert!(best < Duration::from_millis(4), "{best:?}");
    });
}

#[test]
fn clocks_and_limits_of_time() {
    on_core(|env| async move {
        let start = env.now();
        assert_eq!(env.timeout(Duration::from_millis(5), std::future::pending::<()>()).await, None);
        let passed = env.now().since(start);
        assert!(passed >= Duration::from_millis(5), "{passed:?}");
        assert_eq!(env.timeout(Duration::from_secs(60), async { 7 }).await, Some(7));
        assert_eq!(env.timeout(Duration::MAX, async { 8 }).await, Some(8));
        assert!(env.sleep(Duration::MAX).now_or_never().is_none());
        assert!(env.unix_millis() > 1_700_000_000_000);
    });
}

#[test]
fn ids_do_not_repeat_on_any_core() {
    let ids = || on_core(|env| async move { (0..1000).map(|_| env.random_id()).collect::<Vec<_>>() });
    let all: BTreeSet<[u8; 16]> = ids().into_iter().chain(ids()).collect();
    assert_eq!(all.len(), 2000);
}

#[test]
fn more_cores_than_cpus_share_them() {
    let many = usable_cpus().len() + 2;
    let (report, started) = mpsc::channel();
    let cores: Vec<_> = (0..many)
        .map(|index| {
            let report = report.clone();
            start(index, CoreWaker::new().unwrap(), move |env| async move {
                env.sleep(Duration::from_millis(20)).await;
                report.send(index).unwrap();
            })
        })
        .collect();
    for core in cores {
        core.join();
    }
    drop(report);
    assert_eq!(started.iter().collect::<BTreeSet<_>>().len(), many);
}

#[test]
fn a_cpu_out_of_reach_is_an_error() {
    let options = CoreOptions { cpu: Some(100_000), index: 0, name: "nowhere".to_owned() };
    let refused = run_core(options, CoreWaker::new().unwrap(), |_env| async {});
    assert!(refused.err().unwrap().to_string().contains("CPU 100000"));
}

/// Other threads take the CPU at every moment, which is what makes glommio park with runnable tasks.
#[test]
fn a_core_that_shares_its_cpu_is_never_lost() {
    let stop = Arc::new(AtomicBool::new(false));
    let rivals: Vec<_> = (0..2 * usable_cpus().len())
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let longest = on_core(|env| async move {
        let mut longest = Duration::ZERO;
        let begin = env.now();
        while env.now().since(begin) < Duration::from_secs(3) {
            let start = env.now();
            // Nothing but the run queue, then nothing but a timer.
            env.yield_now().await;
            env.sleep(Duration::from_micros(300)).await;
            longest = longest.max(env.now().since(start));
        }
        longest
    });
    stop.store(true, Ordering::Relaxed);
    for rival in rivals {
        rival.join().unwrap();
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[test]
fn a_core_that_stands_still_is_reported() {
    let (report, reports) = mpsc::channel();
    on_standstill(move |core, stood_still| {
        // The receiver is gone once it has seen what it waits for.
        let _ = report.send((core.to_owned(), stood_still));
    });
    let options = CoreOptions { cpu: None, index: 0, name: "sleeper".to_owned() };
    let core = run_core(options, CoreWaker::new().unwrap(), |env| async move {
        env.sleep(Duration::from_millis(100)).await;
        std::thread::sleep(Duration::from_millis(1500));
        env.sleep(Duration::from_millis(100)).await;
    });
    core.unwrap().join();
    let mine: Vec<_> = reports.try_iter().filter(|(core, _)| core == "sleeper").collect();
    assert_eq!(mine.len(), 1, "once per standstill: {mine:?}");
    assert!(mine[0].1 >= Duration::from_secs(1));
}

#[test]
fn a_panic_on_a_core_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        on_core(|env| async move {
            env.spawn(async { panic!("a bug in a task") });
            env.sleep(Duration::from_secs(60)).await;
        });
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "a_panic_on_a_core_ends_the_process"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    use std::os::unix::process::ExitStatusExt;
    let told = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.signal(), Some(6), "{told}");
    assert!(told.contains("a bug in a task") && told.contains("core core-0 panicked"), "{told}");
}
