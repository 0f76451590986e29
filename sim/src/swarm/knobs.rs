//! The world of a plan without its faults: how fast network and disks are, how clocks go, and with
//! which flags servers run.
//!
//! Flags are drawn small, so that what is rare in production (cut logs, snapshots on their way,
//! compactions in many steps) happens all the time. What must stay possible is that a healed
//! cluster elects a leader and serves: elections take longer than messages, and limits on requests
//! are above what the work asks for.

use super::{logarithmic, narrow};
use crate::plan::{ClockKnobs, DiskKnobs, NetworkKnobs};
use quorate::workload::Dice;
use std::collections::BTreeMap;

/// Room for what a member writes in a run, with the 24 MiB below which it refuses writes.
const DISK_BYTES: u64 = 1 << 30;

/// Latencies are drawn below a part of the election timeout that `flags` give.
pub(super) fn network(dice: &mut Dice, flags: &[String]) -> NetworkKnobs {
    let election_ms = flags
        .iter()
        .find_map(|flag| flag.strip_prefix("--election-timeout="))
        .map_or(1_000, |text| text.parse().expect("drawn as a number"));
    let latency_us = logarithmic(dice, 200, 20_000).min(election_ms * 1_000 / 16);
    let tail = dice.one_in(2);
    NetworkKnobs {
        latency_us,
        tail_one_in: if tail {
            u32::try_from(logarithmic(dice, 50, 5_000)).expect("small")
        } else {
            0
        },
        tail_us: if tail { latency_us * dice.between(5, 50) } else { 0 },
        write_bytes_max: if dice.one_in(4) {
            u32::try_from(logarithmic(dice, 16, 4_096)).expect("small")
        } else {
            0
        },
        pipe_bytes_max: u32::try_from(logarithmic(dice, 2 << 10, 256 << 10)).expect("small"),
    }
}

pub(super) fn disk(dice: &mut Dice) -> DiskKnobs {
    DiskKnobs {
        access_us: logarithmic(dice, 1, 20),
        sync_us: logarithmic(dice, 100, 12_000),
        capacity_bytes: DISK_BYTES,
    }
}

/// Mostly good clocks with calendars that are hours apart; now and then a wild one.
pub(super) fn clocks(dice: &mut Dice, nodes: u8) -> Vec<ClockKnobs> {
    let wild = dice.one_in(15);
    let signed = |dice: &mut Dice, most: u64| {
        let size = i64::try_from(dice.below(most + 1)).expect("small");
        if dice.one_in(2) { -size } else { size }
    };
    let clock = |_| {
        let most_ppm = if wild { 50_000 } else { 500 };
        let drift = if dice.one_in(3) { 0 } else { signed(dice, most_ppm) };
        let wall_offset_ms = if dice.one_in(2) { signed(dice, 6 * 3_600_000) } else { 0 };
        ClockKnobs { drift_ppm: i32::try_from(drift).expect("small"), wall_offset_ms }
    };
    (0..nodes).map(clock).collect()
}

/// What all members are started with.
pub fn flags(dice: &mut Dice) -> Vec<String> {
    let mut flags = cutting(dice);
    flags.push(format!("--pre-vote={}", !dice.one_in(6)));
    if dice.one_in(2) {
        let heartbeat = *dice.pick(&[20, 50, 100, 200]);
        let election = heartbeat * dice.pick(&[5, 8, 10, 20]);
        flags.push(format!("--heartbeat-interval={heartbeat}"));
        flags.push(format!("--election-timeout={election}"));
    }
    if dice.one_in(4) {
        flags.push(format!("--initial-election-tick-advance={}", dice.one_in(2)));
    }
    if dice.one_in(10) {
        // A run writes about as much, and what is left after a compaction is less.
        flags.push(format!("--quota-backend-bytes={}", logarithmic(dice, 3 << 14, 1 << 18)));
    }
    if dice.one_in(4) {
        let (mode, retention) = match dice.one_in(2) {
            true => ("periodic", format!("{}s", logarithmic(dice, 1, 20))),
            false => ("revision", logarithmic(dice, 10, 1_000).to_string()),
        };
        flags.push(format!("--auto-compaction-mode={mode}"));
        flags.push(format!("--auto-compaction-retention={retention}"));
    }
    if dice.one_in(2) {
        flags.push(format!("--compaction-batch-limit={}", logarithmic(dice, 1, 200)));
        flags.push(format!("--compaction-sleep-interval={}ms", logarithmic(dice, 1, 200)));
    }
    if dice.one_in(2) {
        let interval = logarithmic(dice, 100, 5_000);
        flags.push(format!("--watch-progress-notify-interval={interval}ms"));
    }
    if dice.one_in(20) {
        flags.push(format!("--max-concurrent-streams={}", logarithmic(dice, 4, 64)));
    }
    flags
}

/// Now and then members cut their logs at different places, or one of them is old-fashioned.
pub(super) fn member_flags(dice: &mut Dice, nodes: u8) -> BTreeMap<u8, Vec<String>> {
    // Apart from the dice of `flags`, which start at the same place.
    let mut dice = Dice::new(&[dice.next()]);
    if !dice.one_in(3) {
        return BTreeMap::new();
    }
    let odd = narrow(dice.between(1, u64::from(nodes)));
    let flags = |machine| {
        let mut flags = cutting(&mut dice);
        if machine == odd {
            flags.push(format!("--pre-vote={}", dice.one_in(2)));
        }
        (machine, flags)
    };
    (1..=nodes).map(flags).collect()
}

/// How often the log is cut and how much of it is kept.
fn cutting(dice: &mut Dice) -> Vec<String> {
    let count = dice.pick(&[5, 10, 20, 50, 100, 500, 10_000]);
    let kept = dice.pick(&[1, 5, 20, 100, 5_000]);
    vec![format!("--snapshot-count={count}"), format!("--snapshot-catchup-entries={kept}")]
}
