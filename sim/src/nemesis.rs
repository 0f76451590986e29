//! Which faults come when. Two fiends work side by side for the time of the run: one on machines,
//! one on the network, so that their faults meet, and an operator does harmless things at bad
//! moments. Each mends what it broke before it goes on;
//! [`Cluster::heal`] ends what is left.

use crate::cluster::{Cluster, DISK};
use crate::env::network::Machine;
use crate::env::{SimEnv, below};
use crate::trace::Trace;
use crate::workload::options;
use madsim::rand::Rng;
use quorate::client::Client;
use std::time::Duration;

/// Breaks machines and links until the time is over.
pub async fn rage(cluster: Cluster, trace: Trace, end: Duration) {
    let machines = {
        let (cluster, trace) = (cluster.clone(), trace.clone());
        madsim::task::spawn(async move {
            while trace.now() < end {
                madsim::time::sleep(below(Duration::from_secs(4))).await;
                break_machine(&cluster).await;
            }
        })
    };
    while trace.now() < end {
        madsim::time::sleep(below(Duration::from_secs(5))).await;
        break_links(&cluster).await;
    }
    machines.await.expect("nobody ends it early");
}

/// Does what operators do, at bad moments: hands leadership over, defragments, asks for state.
pub async fn operate(cluster: Cluster, trace: Trace, env: SimEnv, end: Duration) {
    let connect = |endpoints: &[String]| {
        let options = options(Duration::from_secs(3));
        Client::connect(&env, endpoints, options).expect("the endpoints are well formed")
    };
    let endpoints = cluster.endpoints();
    while trace.now() < end {
        madsim::time::sleep(below(Duration::from_secs(3))).await;
        let (dice, number) = {
            let mut random = madsim::rand::thread_rng();
            (random.gen_range(0..3), random.gen_range(0..endpoints.len()))
        };
        let own = connect(&endpoints[number..=number]);
        match dice {
            0 => {
                let outcome = own.defragment().await.map(|_| ());
                trace.event(format_args!("defragment {}: {outcome:?}", endpoints[number]));
            }
            1 => {
                let outcome = own.alarms().await.map(|reply| reply.alarms);
                trace.event(format_args!("alarms of {}: {outcome:?}", endpoints[number]));
            }
            _ => {
                let Ok(status) = own.status().await else { continue };
                let target = status.header.map_or(0, |header| header.member_id);
                // Only the leader takes it; asking all is asking the leader.
                for endpoint in &endpoints {
                    let leader = connect(std::slice::from_ref(endpoint));
                    let outcome = leader.move_leader(target).await.map(|_| ());
                    trace.event(format_args!("{endpoint}: move leader to {target}: {outcome:?}"));
                }
            }
        }
    }
}

fn pick(machines: &[Machine]) -> Machine {
    machines[madsim::rand::thread_rng().gen_range(0..machines.len())]
}

/// From a moment to seconds, short ones as likely as long ones.
fn pause() -> Duration {
    let longest = Duration::from_millis(10 << madsim::rand::thread_rng().gen_range(0..10));
    below(longest)
}

async fn break_machine(cluster: &Cluster) {
    let machines = cluster.machines();
    let machine = pick(&machines);
    let dice = madsim::rand::thread_rng().gen_range(0..14);
    match dice {
        0 | 1 => cluster.kill(machine),
        2 | 3 => cluster.cut_power(machine),
        4..=6 => {
            let operations = madsim::rand::thread_rng().gen_range(1..150);
            cluster.cut_power_at(machine, operations).await;
        }
        7 => machines.iter().for_each(|&machine| cluster.cut_power(machine)),
        8 => machines.iter().for_each(|&machine| cluster.kill(machine)),
        9 => cluster.stop(machine).await,
        10 => cluster.pause(machine, pause()).await,
        11 | 12 => {
            let operations = madsim::rand::thread_rng().gen_range(1..150);
            cluster.break_disk_at(machine, operations).await;
        }
        _ => {
            let slow = (Duration::from_micros(20), Duration::from_millis(80));
            cluster.set_disk_speed(machine, slow.0, slow.1);
            madsim::time::sleep(pause()).await;
            let micros = Duration::from_micros;
            cluster.set_disk_speed(machine, micros(DISK.access_us), micros(DISK.sync_us));
        }
    }
    madsim::time::sleep(pause()).await;
    for machine in machines {
        cluster.start(machine);
    }
}

async fn break_links(cluster: &Cluster) {
    let machines = cluster.machines();
    let machine = pick(&machines);
    let others = machines.iter().copied().filter(|&other| other != machine);
    let out: Vec<_> = others.clone().map(|other| (machine, other)).collect();
    let back: Vec<_> = others.map(|other| (other, machine)).collect();
    let dice = madsim::rand::thread_rng().gen_range(0..5);
    let links = match dice {
        0 => [out, back].concat(),
        1 => out,
        2 => back,
        // One pair, both ways: the third still sees both.
        3 => out.into_iter().take(1).chain(back.into_iter().take(1)).collect(),
        _ => {
            cluster.set_delay(machine, below(Duration::from_millis(400)));
            madsim::time::sleep(pause()).await;
            return cluster.set_delay(machine, Duration::ZERO);
        }
    };
    cluster.set_links(&links, false);
    madsim::time::sleep(pause() * 2).await;
    cluster.set_links(&links, true);
}
