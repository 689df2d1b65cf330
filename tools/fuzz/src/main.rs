//! Runs fuzz targets by hand, as long as asked for.

use buckets_fuzz::{TARGETS, Target, inputs};
use clap::Parser;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Feeds readers of foreign bytes (HTTP, signatures, XML, durable records) with mutations of valid inputs. An input that
/// breaks one is printed; keep it as a file in tools/fuzz/corpus/TARGET/, where every test run takes it.
#[derive(Parser)]
#[command(name = "buckets-fuzz", max_term_width = 100)]
struct Cli {
    /// Targets to run; without any, all of them
    targets: Vec<String>,
    /// Executions of each
    #[arg(long, default_value_t = 10_000_000)]
    executions: u64,
    /// Another seed gives other inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(unknown) = cli.targets.iter().find(|name| TARGETS.iter().all(|target| target.name != **name))
    {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("no target is called {unknown}; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let chosen =
        TARGETS.iter().filter(|t| cli.targets.is_empty() || cli.targets.iter().any(|name| name == t.name));
    let mut broken = false;
    for target in chosen {
        broken |= !run(target, &cli);
    }
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// False where an input broke the target.
fn run(target: &Target, cli: &Cli) -> bool {
    let all = match inputs(target, cli.seed) {
        Ok(all) => all,
        Err(error) => {
            eprintln!("{}: the kept inputs cannot be read: {error}", target.name);
            return false;
        }
    };
    let begun = Instant::now();
    let mut told = begun;
    for (number, input) in (0..cli.executions).zip(all) {
        if catch_unwind(|| (target.run)(&input)).is_err() {
            println!(
                "{}: input {number} of seed {} breaks it: b\"{}\"",
                target.name,
                cli.seed,
                input.escape_ascii()
            );
            return false;
        }
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let rate = (number + 1) as f64 / begun.elapsed().as_secs_f64();
            let left = (cli.executions - number) as f64 / rate;
            eprintln!("{}: {} of {}, {rate:.0}/s, {left:.0} s left", target.name, number + 1, cli.executions);
        }
    }
    println!(
        "{}: {} executions, nothing broke, {:.1} s",
        target.name,
        cli.executions,
        begun.elapsed().as_secs_f64()
    );
    true
}
