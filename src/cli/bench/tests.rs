//! The command line, and whole runs against the server that does nothing.

use super::plan::Scenario;
use super::*;
use crate::env::{Env, Listener, Network};
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

/// The plan of a command line.
fn plan(line: &str) -> Result<Plan, String> {
    let words = ["quorate"].into_iter().chain(line.split_whitespace());
    let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    let (profile, load) = match line.bench.command {
        Command::Put(load) => (Profile::Put, load),
        Command::Range { load, consistency } => (Profile::Range { consistency }, load),
        Command::Txn(load) => (Profile::Txn, load),
        Command::Mixed { load, consistency, reads } => {
            (Profile::Mixed { consistency, read_percent: reads.into() }, load)
        }
        Command::LeaseKeepalive(load) => (Profile::LeaseKeepalive, load),
        Command::Load { load, batch } => (Profile::Load { batch }, load),
        Command::Watch { load, watchers, streams, writers, rate } => {
            (Profile::Watch { watchers, streams, writers, rate }, load)
        }
        other => panic!("not used in these tests: {other:?}"),
    };
    load.plan(profile).check()
}

/// Runs a command line against an echo server.
fn run_against_echo(line: &str) -> Result<Report, String> {
    let run = async {
        let env = Real::new();
        let mut listener = env.network().bind("127.0.0.1:0").await.unwrap();
        let plan = plan(&format!("{line} --endpoints {}", listener.address().unwrap()))?;
        let server = env.clone();
        env.spawn(async move {
            echo::serve(&server, &mut listener, 10).await.unwrap();
        });
        stage::run(env, plan).await
    };
    on_threads(1, run)
}

#[test]
fn what_cannot_be_run_is_refused() {
    assert!(plan("put").is_ok());
    for line in [
        "put --clients 0",
        "put --total 5 --duration 1s",
        "put --key-size 2",
        "put --duration 3",
        "put --duration -3s",
        "range -c x",
        "mixed --reads 101",
        "watch --val-size 4",
        "watch --streams 0",
        "load --batch 0",
    ] {
        assert!(plan(line).is_err(), "{line}");
    }
}

#[test]
fn a_run_with_a_total_counts_that_many() {
    let line = "--total 300 --warm-up 10ms --connections 2 --clients 7";
    for profile in ["put", "range -c s", "txn"] {
        let report = run_against_echo(&format!("{profile} {line}")).unwrap();
        // Clients that end at the same moment may each add one.
        assert!((300..307).contains(&report.operations), "{profile}: {}", report.operations);
        assert_eq!(report.errors, 0);
        assert!(report.latency.p50_us > 0 && report.latency.p50_us <= report.latency.max_us);
    }
}

#[test]
fn a_mixed_run_tells_reads_from_writes() {
    let report =
        run_against_echo("mixed --total 2000 --reads 80 --clients 4 --warm-up 0s --seed 1")
            .unwrap();
    let writes = report.writes.unwrap();
    assert!((300..500).contains(&writes.operations), "{}", writes.operations);
    assert!(report.operations + writes.operations >= 2000);
}

#[test]
fn a_load_writes_the_key_space_once() {
    let report =
        run_against_echo("load --key-space 1050 --batch 100 --clients 3 --warm-up 5s").unwrap();
    assert_eq!(report.operations, 11);
    assert!(report.seconds < 5.0, "a load is not warmed up");
    let keys = report.keys_per_second.unwrap() * report.seconds;
    assert!((keys - 1050.0).abs() < 1e-6, "{keys}");
}

#[test]
fn a_timed_run_takes_its_time_and_reports_its_server() {
    let pid = std::process::id();
    let report =
        run_against_echo(&format!("put --duration 200ms --warm-up 0s --server-pid {pid}")).unwrap();
    assert!(report.seconds >= 0.2 && report.operations > 0);
    assert!(report.server.unwrap().resident_bytes > 0);
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    for field in ["profile", "operations_per_second", "errors"] {
        assert!(!json[field].is_null(), "{field}");
    }
    assert!(json["latency"]["p999_us"].is_u64() && json["server"]["cpu_us"].is_f64());
    assert!(report.to_string().contains("µs CPU/op"));
}

#[test]
fn a_server_that_cannot_do_it_is_an_error_and_not_a_hang() {
    // The echo server has no watches and no leases.
    for line in ["watch --watchers 5 --streams 2", "lease-keepalive --clients 3"] {
        let error = run_against_echo(line).unwrap_err();
        assert!(error.starts_with("cannot set up"), "{error}");
    }
    let dead = on_threads(1, stage::run(Real::new(), plan("put --endpoints nowhere:0").unwrap()));
    assert!(dead.unwrap_err().contains("nowhere"));
}

#[test]
fn scenarios_are_printed_as_they_are_read() {
    for text in ["put@1x1", "range-s@8x100", "range-many@8x16", "watch@8x10", "lease-keepalive@2x3"]
    {
        assert_eq!(text.parse::<Scenario>().unwrap().to_string(), text);
    }
    for text in ["put", "put@1", "put@ax1", "fly@1x1"] {
        assert!(text.parse::<Scenario>().is_err(), "{text}");
    }
}

#[test]
fn durations_have_units() {
    assert_eq!(plan::parse_duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(plan::parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
    assert_eq!(plan::parse_duration("2m"), Ok(Duration::from_secs(120)));
    for text in ["", "s", "5", "-1s", "5 s", "1e99h"] {
        assert!(plan::parse_duration(text).is_err(), "{text}");
    }
}
