//! What one operation of the real environment costs.
//!
//! The tables in benches/README.md come from
//! `cargo test --release -p buckets-env --test real_cost -- --ignored --nocapture --test-threads=1`.
//! The same code runs tiny with every test run, so that it does not rot.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use buckets_env::real::CoreWaker;
use buckets_env::{ALIGNMENT, AlignedBuf, Env, OpenMode, WriteMode, core_queue};
use futures::future::join_all;
use std::cell::RefCell;
use std::future::Future;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::{on_core, start};

/// How long a row is measured, and on how much.
#[derive(Clone, Copy)]
struct Effort {
    /// Size of the file that is overwritten and read; a multiple of 1 MiB.
    file_bytes: u64,
    per_row: Duration,
    round_trips: usize,
}

const TINY: Effort = Effort { file_bytes: 8 << 20, per_row: Duration::from_millis(20), round_trips: 100 };
const FULL: Effort = Effort { file_bytes: 1 << 30, per_row: Duration::from_secs(4), round_trips: 50_000 };

/// CPU time of this process so far, kernel workers of its rings included (their work is what the ring spares or
/// not). In steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name before it is in parentheses and may hold anything; then state is field 3, utime 14, stime 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |at: usize| fields[at - 3].parse::<u64>().unwrap();
    Duration::from_millis(10 * (ticks(14) + ticks(15)))
}

fn percentile(sorted: &[Duration], hundredths: usize) -> f64 {
    sorted[(sorted.len() - 1) * hundredths / 100].as_secs_f64() * 1e6
}

/// Runs `depth` loops of `operation` (given its number) side by side and prints a row.
async fn row<O, F>(what: &str, depth: usize, effort: Effort, operation: O)
where
    O: Fn(u64) -> F,
    F: Future<Output = ()>,
{
    let latencies = RefCell::new(Vec::new());
    let next = RefCell::new(0u64);
    let (start, cpu_start) = (Instant::now(), cpu_time());
    join_all((0..depth).map(|_| async {
        while start.elapsed() < effort.per_row {
            let number = *next.borrow();
            *next.borrow_mut() += 1;
            let begin = Instant::now();
            operation(number).await;
            latencies.borrow_mut().push(begin.elapsed());
        }
    }))
    .await;
    let (passed, cpu) = (start.elapsed(), cpu_time().saturating_sub(cpu_start));
    let mut latencies = latencies.into_inner();
    latencies.sort();
    let count = latencies.len() as f64;
    println!(
        "| {what} | {depth} | {:.0} | {:.0} | {:.0} | {:.1} |",
        count / passed.as_secs_f64(),
        percentile(&latencies, 50),
        percentile(&latencies, 99),
        cpu.as_secs_f64() * 1e6 / count,
    );
}

async fn disk_rows(env: Env, directory: PathBuf, effort: Effort) {
    // A fixed walk over the file that no cache or read-ahead sees through.
    let place = |number: u64, bytes: u64| {
        (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % (effort.file_bytes / bytes) * bytes
    };
    let path = directory.join("ring");
    let file = env.open(&path, OpenMode::CreateNew).await.unwrap();
    file.allocate(0, effort.file_bytes).await.unwrap();
    // Blocks never written before cost a change of metadata with their first flush: not what is measured here.
    let megabyte = AlignedBuf::zeroed(1 << 20).freeze();
    for at in 0..effort.file_bytes >> 20 {
        file.write_at(at << 20, megabyte.clone(), WriteMode::Unflushed).await.unwrap();
    }
    file.sync_data().await.unwrap();
    println!("| operation | depth | per second | p50 us | p99 us | CPU us each |");
    println!("|---|---|---|---|---|---|");
    let page = AlignedBuf::zeroed(ALIGNMENT).freeze();
    for depth in [1, 32] {
        let (file, page) = (&file, &page);
        row("ring: 4 KiB write, flushed", depth, effort, async |number| {
            file.write_at(place(number, 4096), page.clone(), WriteMode::Flushed).await.unwrap();
        })
        .await;
        row("ring: 4 KiB write, then fdatasync", depth, effort, async |number| {
            file.write_at(place(number, 4096), page.clone(), WriteMode::Unflushed).await.unwrap();
            file.sync_data().await.unwrap();
        })
        .await;
        row("ring: 4 KiB write, unflushed", depth, effort, async |number| {
            file.write_at(place(number, 4096), page.clone(), WriteMode::Unflushed).await.unwrap();
        })
        .await;
        row("ring: 4 KiB read", depth, effort, async |number| {
            file.read_at(place(number, 4096), 4096).await.unwrap();
        })
        .await;
        row("ring: 128 KiB read", depth, effort, async |number| {
            file.read_at(place(number, 128 << 10), 128 << 10).await.unwrap();
        })
        .await;
    }
}

fn core_rows(effort: Effort) {
    println!("| receiver | round trip p50 us | p99 us | CPU us each (both cores) |");
    println!("|---|---|---|---|");
    for busy in [false, true] {
        let wakers = [CoreWaker::new().unwrap(), CoreWaker::new().unwrap()];
        let (to_first, at_first) = core_queue(16, wakers[0].clone());
        let (to_second, at_second) = core_queue(16, wakers[1].clone());
        let [first_waker, second_waker] = wakers;
        let (report, result) = mpsc::channel();
        let first = start(0, first_waker, move |env| async move {
            let cpu_start = cpu_time();
            let mut trips = Vec::new();
            for _ in 0..effort.round_trips {
                let begin = env.now();
                to_second.send(false).unwrap();
                at_first.recv().await;
                trips.push(env.now().since(begin));
            }
            let cpu = cpu_time().saturating_sub(cpu_start);
            to_second.send(true).unwrap();
            report.send((trips, cpu)).unwrap();
        });
        let second = start(1, second_waker, move |env| async move {
            if busy {
                let busy = env.clone();
                env.spawn(async move {
                    loop {
                        let begin = Instant::now();
                        while begin.elapsed() < Duration::from_micros(50) {
                            std::hint::spin_loop();
                        }
                        busy.yield_if_needed().await;
                    }
                });
            }
            while !at_second.recv().await {
                to_first.send(()).unwrap();
            }
        });
        let (mut trips, cpu) = result.recv().unwrap();
        first.join();
        second.join();
        trips.sort();
        let cpu = if busy {
            "-".to_owned()
        } else {
            format!("{:.1}", cpu.as_secs_f64() * 1e6 / trips.len() as f64)
        };
        let name = if busy { "computes in slices of 50 us" } else { "idle" };
        println!("| {name} | {:.0} | {:.0} | {cpu} |", percentile(&trips, 50), percentile(&trips, 99));
    }
}

/// An answer of a small head and a 4 KiB body, sent in three ways. The client costs the same in all of them.
async fn socket_rows(env: Env, effort: Effort) {
    println!("| answer of 200 B head, 4 KiB body | requests per second | CPU us each (with the client) |");
    println!("|---|---|---|");
    let (head, body) = (vec![1u8; 200], vec![2u8; 4096]);
    for way in ["one sendmsg of two slices", "copied together, one send", "two sends"] {
        let listener = env.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_address().unwrap();
        let client = std::thread::spawn(move || {
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            socket.set_nodelay(true).unwrap();
            let (start, cpu_start) = (Instant::now(), cpu_time());
            let mut answer = vec![0; 4296];
            let mut count = 0u32;
            while start.elapsed() < effort.per_row {
                socket.write_all(b"request").unwrap();
                socket.read_exact(&mut answer).unwrap();
                count += 1;
            }
            (
                f64::from(count) / start.elapsed().as_secs_f64(),
                (cpu_time().saturating_sub(cpu_start)).as_secs_f64() * 1e6 / f64::from(count),
            )
        });
        let mut stream = listener.accept().await.unwrap();
        let mut request = [0; 16];
        let mut together = Vec::new();
        while stream.read(&mut request).await.unwrap() > 0 {
            match way {
                "one sendmsg of two slices" => stream.write_all_vectored(&[&head, &body]).await.unwrap(),
                "two sends" => {
                    stream.write_all(&head).await.unwrap();
                    stream.write_all(&body).await.unwrap();
                }
                _ => {
                    together.clear();
                    together.extend_from_slice(&head);
                    together.extend_from_slice(&body);
                    stream.write_all(&together).await.unwrap();
                }
            }
        }
        let (rate, cpu) = client.join().unwrap();
        println!("| {way} | {rate:.0} | {cpu:.1} |");
    }
}

/// What a core costs that has nothing to do.
async fn idle_row(env: Env, effort: Effort) {
    let cpu_start = cpu_time();
    env.sleep(effort.per_row).await;
    let share = (cpu_time().saturating_sub(cpu_start)).as_secs_f64() / effort.per_row.as_secs_f64();
    println!("An idle core takes {:.2} % of a CPU, the watchdog included.", share * 100.0);
}

fn all_rows(effort: Effort) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    on_core(move |env| disk_rows(env, path, effort));
    core_rows(effort);
    on_core(move |env| socket_rows(env, effort));
    on_core(move |env| idle_row(env, effort));
}

#[test]
fn the_measurements_run() {
    all_rows(TINY);
}

#[test]
#[ignore = "takes minutes and wants a release build on a quiet machine"]
fn measure() {
    all_rows(FULL);
}
