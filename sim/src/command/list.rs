//! `list`: what can be asked for, with a line each.

use super::source;
use crate::plan::{DiskErrorKind, Fault};
use std::process::ExitCode;

/// Prints scenarios, profiles and faults.
pub fn main() -> ExitCode {
    let faults: Vec<(&str, &str)> =
        samples().iter().map(|fault| (fault.name(), about(fault))).collect();
    let mut text = section("scenarios (--scenario)", source::scenarios());
    text.push_str(&section("\nprofiles (--profile)", &source::profiles()));
    text.push_str(&section("\nfaults", &faults));
    super::print(&text);
    ExitCode::SUCCESS
}

fn section(title: &str, rows: &[(&str, &str)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines = rows.iter().map(|(name, about)| format!("  {name:<width$}  {about}\n"));
    format!("{title}\n{}", lines.collect::<String>())
}

/// All kinds of faults by the names under which they are counted.
pub fn fault_names() -> Vec<&'static str> {
    samples().iter().map(Fault::name).collect()
}

/// A fault in a line.
fn about(fault: &Fault) -> &'static str {
    match fault {
        Fault::Kill { .. } => "kill -9 of a member; what it wrote stays",
        Fault::KillAll { .. } => "kill -9 of all members at once",
        Fault::PowerCut { .. } => {
            "a machine loses what it did not sync, or keeps it, or half of it"
        }
        Fault::PowerCutAll { .. } => "the same on all machines at once",
        Fault::PowerCutAt { .. } => "the same at the n-th write or sync, inside of a commit",
        Fault::Stop { .. } => "SIGTERM and a start later",
        Fault::RollingRestart { .. } => "one member after the other comes back with other flags",
        Fault::Pause { .. } => "SIGSTOP and SIGCONT",
        Fault::Cut { .. } => "links carry nothing: partitions whole, partial and one-way",
        Fault::Lose { .. } => "packets come a retransmission later",
        Fault::Delay { .. } => "links are slower",
        Fault::Throttle { .. } => "links carry less",
        Fault::Reset { .. } => "all connections between two machines end",
        Fault::DiskError { kind: DiskErrorKind::Read, .. } => "EIO from a read",
        Fault::DiskError { kind: DiskErrorKind::Write, .. } => "EIO from a write",
        Fault::DiskError { kind: DiskErrorKind::Sync, .. } => "EIO from a sync",
        Fault::DiskError { kind: DiskErrorKind::ShortRead, .. } => "a read ends too early",
        Fault::DiskFull { .. } => "ENOSPC for a while",
        Fault::DiskSlow { .. } => "reads, writes and syncs take longer",
        Fault::BitFlip { .. } => "a bit of a durable file changes while the machine is down",
        Fault::MisdirectedWrite { .. } => "a write lands elsewhere in its file",
        Fault::ClockJump { .. } => "the calendar jumps",
        Fault::ClockDrift { .. } => "a clock runs faster or slower",
        Fault::MoveLeader { .. } => "leadership is handed over",
        Fault::Compact { .. } => "old revisions are compacted",
        Fault::Defragment { .. } => "a member rewrites its database",
        Fault::Snapshot { .. } => "a client asks for a snapshot and reads a part",
        Fault::ClearAlarms => "an operator frees the space that a quota misses",
    }
}

/// One fault of each kind.
fn samples() -> Vec<Fault> {
    let (machine, down_ms, for_ms, operations) = (1, 0, 0, 1);
    let mut samples = vec![
        Fault::Kill { machine, down_ms },
        Fault::KillAll { down_ms },
        Fault::PowerCut { machine, down_ms },
        Fault::PowerCutAll { down_ms },
        Fault::PowerCutAt { machine, operations, down_ms },
        Fault::Stop { machine, down_ms },
        Fault::RollingRestart { flags: Vec::new(), pause_ms: 0 },
        Fault::Pause { machine, for_ms },
        Fault::Cut { links: Vec::new(), for_ms },
        Fault::Lose { links: Vec::new(), percent: 0, for_ms },
        Fault::Delay { links: Vec::new(), delay_ms: 0, for_ms },
        Fault::Throttle { links: Vec::new(), bytes_per_second: 0, for_ms },
        Fault::Reset { one: 1, other: 2 },
    ];
    samples.extend(
        [DiskErrorKind::Read, DiskErrorKind::Write, DiskErrorKind::Sync, DiskErrorKind::ShortRead]
            .map(|kind| Fault::DiskError { machine, kind, operations, count: 1, down_ms }),
    );
    samples.extend([
        Fault::DiskFull { machine, left_bytes: 0, for_ms },
        Fault::DiskSlow { machine, access_us: 0, sync_us: 0, for_ms },
        Fault::BitFlip { machine, place: 0, down_ms },
        Fault::MisdirectedWrite { machine, operations, place: 0, down_ms },
        Fault::ClockJump { machine, by_ms: 0 },
        Fault::ClockDrift { machine, ppm: 0 },
        Fault::MoveLeader { to: 1 },
        Fault::Compact { keep: 0, physical: false },
        Fault::Defragment { machine },
        Fault::Snapshot { machine },
        Fault::ClearAlarms,
    ]);
    samples
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// serde names all variants of an enum when it meets one that is none.
    fn variants<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> usize {
        let error = serde_json::from_str::<T>("\"no such variant\"").unwrap_err().to_string();
        let (_, names) = error.split_once("expected one of ").expect("an error of serde's");
        names.matches('`').count() / 2
    }

    #[test]
    fn no_kind_of_fault_is_missing() {
        let names: BTreeSet<&str> = fault_names().into_iter().collect();
        assert_eq!(names.len(), samples().len(), "each has a name of its own");
        let kinds = variants::<Fault>() - 1 + variants::<DiskErrorKind>();
        assert_eq!(names.len(), kinds);
    }
}
