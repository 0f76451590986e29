//! Which faults come when. Two fiends work side by side for the time of the run: one on machines,
//! one on the network, so that their faults meet. Each mends what it broke before it goes on;
//! [`Cluster::heal`] ends what is left.

use crate::cluster::Cluster;
use crate::env::below;
use crate::env::disk::Speed;
use crate::env::network::Machine;
use crate::trace::Trace;
use madsim::rand::Rng;
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
    let dice = madsim::rand::thread_rng().gen_range(0..12);
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
        _ => {
            cluster.set_disk_speed(machine, Speed::SLOW);
            madsim::time::sleep(pause()).await;
            cluster.set_disk_speed(machine, Speed::NORMAL);
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
