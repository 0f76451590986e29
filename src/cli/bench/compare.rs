//! Two servers, measured in turn.
//!
//! Throughput on a shared machine drifts from minute to minute, so a run against one server says
//! little about a run against another an hour later. Here each scenario runs A B A B ..., and the
//! medians of the rounds are compared.

use super::plan::{Limit, Plan, Profile, Scenario};
use super::report::Report;
use super::{DataArgs, WriteOut, fail, on_threads, plan, stage};
use crate::env::real::Real;
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

/// Clients and batch that fill the servers before they are measured.
const LOAD_CLIENTS: u64 = 8;
const LOAD_BATCH: u64 = 100;

#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    /// Endpoints of the first server, separated by commas
    a: String,
    /// Endpoints of the second server, separated by commas
    b: String,
    /// Process ids of the first server
    #[arg(long, value_delimiter = ',')]
    a_pid: Vec<u32>,
    /// Process ids of the second server
    #[arg(long, value_delimiter = ',')]
    b_pid: Vec<u32>,
    /// Name of the first server in the table
    #[arg(long, default_value = "A")]
    a_name: String,
    /// Name of the second server in the table
    #[arg(long, default_value = "B")]
    b_name: String,
    /// What to run, each as profile@CONNECTIONSxCLIENTS
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "put@1x1,put@8x100,put@100x1000,range@1x1,range@8x100,range@100x1000,\
                         range-s@8x100,range-many@8x16,txn@8x100,mixed@8x100,watch@8x1,\
                         watch@8x10,lease-keepalive@8x100"
    )]
    scenarios: Vec<Scenario>,
    /// Runs against each server
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// How long each run counts
    #[arg(long, default_value = "3s", value_parser = plan::parse_duration)]
    duration: Duration,
    /// How long each run goes before it counts
    #[arg(long, default_value = "500ms", value_parser = plan::parse_duration)]
    warm_up: Duration,
    #[command(flatten)]
    data: DataArgs,
    /// Do not fill the key space first
    #[arg(long)]
    no_load: bool,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// How to print the outcome
    #[arg(short = 'w', long, value_enum, default_value = "simple")]
    write_out: WriteOut,
}

/// The medians of one server in one scenario.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Medians {
    operations_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// Absent without process ids.
    cpu_us: Option<f64>,
    resident_bytes: Option<f64>,
    errors: f64,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    scenario: String,
    a: Medians,
    b: Medians,
}

pub(super) fn run(args: CompareArgs) -> ExitCode {
    match on_threads(args.threads, measure(&args)) {
        Ok(rows) => {
            match args.write_out {
                WriteOut::Simple => print!("{}", table(&args, &rows)),
                WriteOut::Json => {
                    let json = serde_json::to_string(&rows);
                    println!("{}", json.expect("rows have nothing JSON cannot say"));
                }
            }
            ExitCode::SUCCESS
        }
        Err(reason) => fail(&reason),
    }
}

async fn measure(args: &CompareArgs) -> Result<Vec<Row>, String> {
    let env = Real::new();
    let sides = [(&args.a, &args.a_pid), (&args.b, &args.b_pid)];
    let plan = |side: usize, scenario: Scenario, limit: Limit| {
        let plan = Plan {
            profile: scenario.profile,
            endpoints: sides[side].0.split(',').map(str::to_owned).collect(),
            connections: scenario.connections,
            clients: scenario.clients,
            limit,
            warm_up: args.warm_up,
            data: args.data.shape(),
            server_pids: sides[side].1.clone(),
            shards: args.threads,
        };
        plan.check()
    };
    // What cannot be run is refused before anything is.
    for &scenario in &args.scenarios {
        plan(0, scenario, Limit::Duration(args.duration))?;
    }
    if !args.no_load {
        let profile = Profile::Load { batch: LOAD_BATCH };
        let scenario = Scenario { profile, connections: 1, clients: LOAD_CLIENTS };
        for side in 0..sides.len() {
            let plan = plan(side, scenario, Limit::Total(args.data.key_space))?;
            progress(args, side, &stage::run(env.clone(), plan).await?);
        }
    }
    let mut rows = Vec::new();
    for &scenario in &args.scenarios {
        let mut reports = [Vec::new(), Vec::new()];
        for _ in 0..args.rounds {
            for (side, reports) in reports.iter_mut().enumerate() {
                let plan = plan(side, scenario, Limit::Duration(args.duration))?;
                let report = stage::run(env.clone(), plan).await?;
                progress(args, side, &report);
                reports.push(report);
            }
        }
        let [a, b] = reports;
        rows.push(Row { scenario: scenario.to_string(), a: Medians::of(&a), b: Medians::of(&b) });
    }
    Ok(rows)
}

/// Says on standard error how a run went, so that a long comparison can be followed.
fn progress(args: &CompareArgs, side: usize, report: &Report) {
    let name = [&args.a_name, &args.b_name][side];
    eprintln!(
        "{name}: {} {}x{}: {:.0} ops/s, {}, {} errors",
        report.profile,
        report.connections,
        report.clients,
        report.operations_per_second,
        report.latency,
        report.errors
    );
}

impl Medians {
    fn of(reports: &[Report]) -> Medians {
        let of = |value: &dyn Fn(&Report) -> f64| median(reports.iter().map(value).collect());
        let server = |value: &dyn Fn(&super::report::Server) -> f64| {
            let values: Option<Vec<f64>> =
                reports.iter().map(|report| report.server.as_ref().map(value)).collect();
            values.map(median)
        };
        Medians {
            operations_per_second: of(&|report| report.operations_per_second),
            p50_us: of(&|report| report.latency.p50_us as f64),
            p99_us: of(&|report| report.latency.p99_us as f64),
            cpu_us: server(&|server| server.cpu_us),
            resident_bytes: server(&|server| server.resident_bytes as f64),
            errors: of(&|report| report.errors as f64),
        }
    }
}

/// The middle of at least one value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// A table in Markdown. Ratios are B to A: above 1 is better for B in rate, below 1 in the rest.
fn table(args: &CompareArgs, rows: &[Row]) -> String {
    let (a, b) = (&args.a_name, &args.b_name);
    let mut lines = vec![
        format!(
            "| scenario | {a} ops/s | {b} ops/s | ratio | {a} p50 / p99 µs | {b} p50 / p99 µs \
             | ratio p50 | ratio p99 | {a} CPU µs | {b} CPU µs | ratio | errors |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|".into(),
    ];
    let ratio = |a: f64, b: f64| if a > 0.0 { format!("{:.2}", b / a) } else { "-".into() };
    let cpu = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
    for Row { scenario, a, b } in rows {
        let cpu_ratio = match (a.cpu_us, b.cpu_us) {
            (Some(a), Some(b)) => ratio(a, b),
            (None, _) | (_, None) => "-".into(),
        };
        lines.push(format!(
            "| {scenario} | {:.0} | {:.0} | {} | {:.0} / {:.0} | {:.0} / {:.0} | {} | {} | {} | {} \
             | {cpu_ratio} | {:.0} / {:.0} |",
            a.operations_per_second,
            b.operations_per_second,
            ratio(a.operations_per_second, b.operations_per_second),
            a.p50_us,
            a.p99_us,
            b.p50_us,
            b.p99_us,
            ratio(a.p50_us, b.p50_us),
            ratio(a.p99_us, b.p99_us),
            cpu(a.cpu_us),
            cpu(b.cpu_us),
            a.errors,
            b.errors,
        ));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
    }
}
