//! What clients of real processes were told is lawful.
//!
//! Clients and watchers work on three members, the leader is killed and started again, and the
//! checker that judges simulated runs judges the history. A history that is not lawful is left in
//! the system's folder for temporary files, for `quorate check`.

use super::process::{Cluster, PATIENCE, until};
use quorate::check::{self, Limits, Report, Verdict};
use quorate::env::real::Real;
use quorate::workload::{Profile, Recorder, Settings, client, profiles, settle, watcher};
use std::fs::File;
use std::io::BufWriter;
use std::time::{Duration, Instant};

/// Nanoseconds since a moment.
fn since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_nanos()).expect("less than 500 years")
}

/// Runs clients and watchers, kills the leader so many times, and judges the history.
async fn judge(profile: &str, seed: u64, kills: usize) -> Report {
    let mut cluster = Cluster::start(3, &["--snapshot-count", "500"]).await;
    let env = Real::new();
    let origin = Instant::now();
    let recorder = Recorder::new(move || since(origin), |_| {});
    let profile = Profile::named(profile).expect("it is there");
    let pause_max = Duration::from_millis(20);
    let settings = Settings { pause_max, ..Settings::new(profile, seed) };
    let endpoints = cluster.endpoints();
    let start = |number: u8| {
        let (env, endpoints) = (env.clone(), endpoints.clone());
        tokio::spawn(client(env, endpoints, number, settings.clone(), recorder.clone()))
    };
    let clients: Vec<_> = (0..settings.clients).map(start).collect();
    let follow = |number: u8| {
        let (env, endpoints) = (env.clone(), endpoints.clone());
        tokio::spawn(watcher(env, endpoints, number, settings.clone(), recorder.clone()))
    };
    let watchers: Vec<_> = (0..settings.watchers).map(follow).collect();

    let more = |count: u64| {
        let (recorder, count) = (recorder.clone(), recorder.answered() + count);
        until("clients are answered", async move || (recorder.answered() >= count).then_some(()))
    };
    more(600).await;
    for _ in 0..kills {
        let leader = cluster.leader().await;
        let from = since(origin);
        cluster.members[leader].kill();
        // The other two go on.
        more(300).await;
        cluster.members[leader].start_ready().await;
        recorder.fault(from, Some(since(origin)), "kill");
        more(600).await;
    }
    recorder.stop();
    for client in clients {
        client.await.expect("a client ends");
    }

    let settled = settle(env.clone(), endpoints.clone(), &settings, &recorder, PATIENCE).await;
    recorder.finish_at(settled.expect("the cluster settles").revision);
    until("watchers know all", async || recorder.watchers_behind().is_empty().then_some(())).await;
    for watcher in watchers {
        watcher.await.expect("a watcher ends");
    }
    assert_eq!(recorder.complaints(), Vec::<String>::new());

    let history = recorder.history();
    let judged = Instant::now();
    let report = check::check(&history, Limits::default());
    println!(
        "{}, seed {seed}: {} calls, {} failed, {} unknown, {} watches, {} events, revision {} in \
         {:?}; judged in {:?}",
        profile.name,
        report.operations,
        report.failed,
        report.outcome_unknown,
        report.watches,
        report.events,
        recorder.revision(),
        judged - origin,
        judged.elapsed()
    );
    if report.verdict != Verdict::Lawful {
        let path = std::env::temp_dir().join(format!("quorate-history-{}", std::process::id()));
        let file = File::create(&path).expect("a file for the history");
        history.write(BufWriter::new(file)).expect("it is written");
        panic!("see {}:\n{}", path.display(), report.text(&history));
    }
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_everything_with_the_leader_killed_is_lawful() {
    let report = judge("mixed", 1, 1).await;
    assert!(report.ok > 1_400 && report.watches > 4 && report.events > 500, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn heavy_histories_of_every_profile_with_leaders_killed_are_lawful() {
    for seed in 1..3 {
        for profile in profiles() {
            judge(profile.name, seed, 3).await;
        }
    }
}
