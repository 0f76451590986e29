//! What clients of real processes were told is lawful.
//!
//! Clients and watchers work on three members, the leader is killed and started again, and the
//! checker that judges simulated runs judges the history. A history that is not lawful is left in
//! the system's folder for temporary files, for `quorate check`.

use super::process::{Cluster, PATIENCE, until};
use quorate::check::{self, Limits, Verdict};
use quorate::env::real::Real;
use quorate::workload::{Profile, Recorder, Settings, client, settle, watcher};
use std::fs::File;
use std::io::BufWriter;
use std::time::{Duration, Instant};

/// Nanoseconds since a moment.
fn since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_nanos()).expect("less than 500 years")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_everything_with_the_leader_killed_is_lawful() {
    let flags = ["--snapshot-count", "500"];
    let mut cluster = Cluster::start(3, &flags).await;
    let env = Real::new();
    let origin = Instant::now();
    let recorder = Recorder::new(move || since(origin), |_| {});
    let profile = Profile::named("mixed").expect("it is there");
    let settings = Settings { pause_max: Duration::from_millis(20), ..Settings::new(profile, 1) };
    let endpoints = cluster.endpoints();
    let start = |number: u8| {
        let (env, endpoints) = (env.clone(), endpoints.clone());
        let (settings, recorder) = (settings.clone(), recorder.clone());
        tokio::spawn(client(env, endpoints, number, settings, recorder))
    };
    let clients: Vec<_> = (0..settings.clients).map(start).collect();
    let follow = |number: u8| {
        let (env, endpoints) = (env.clone(), endpoints.clone());
        let (settings, recorder) = (settings.clone(), recorder.clone());
        tokio::spawn(watcher(env, endpoints, number, settings, recorder))
    };
    let watchers: Vec<_> = (0..settings.watchers).map(follow).collect();

    let answered = |count: u64| {
        let recorder = recorder.clone();
        until("clients are answered", async move || (recorder.answered() >= count).then_some(()))
    };
    answered(600).await;
    let leader = cluster.leader().await;
    let from = since(origin);
    cluster.members[leader].kill();
    // The other two go on.
    answered(recorder.answered() + 300).await;
    cluster.members[leader].start_ready().await;
    recorder.fault(from, Some(since(origin)), "kill");
    answered(recorder.answered() + 600).await;
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
    let report = check::check(&history, Limits::default());
    let text = format!(
        "{} calls, {} answered, {} unknown, {} watches, up to {:?} in {:?}",
        recorder.calls(),
        recorder.answered(),
        recorder.unknown(),
        history.watches.len(),
        recorder.revision(),
        origin.elapsed()
    );
    println!("{text}");
    if report.verdict != Verdict::Lawful {
        let path = std::env::temp_dir().join(format!("quorate-history-{}", std::process::id()));
        let file = File::create(&path).expect("a file for the history");
        history.write(BufWriter::new(file)).expect("it is written");
        panic!("{text}; see {}:\n{}", path.display(), report.text(&history));
    }
    assert!(history.watches.len() > 4, "{text}");
}
