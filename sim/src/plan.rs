//! A run as data: everything the seed decides before the first event.
//!
//! A plan says which cluster, which clients, which knobs, and which faults come when, each with
//! all its parameters. It is drawn from the seed ([`swarm`](crate::swarm)) or from a scenario,
//! printed with a failure, stored as JSON, cut down by the shrinker, and run by
//! [`scenario`](crate::scenario). What is left to chance while it runs (latencies, who is polled
//! first, which unsynced sectors survive) comes from the plan's seed as well, so a plan and a
//! commit are one run.
//!
//! - A step that is taken out leaves the others as they are: times are absolute.
//! - A fault that makes no sense when its time comes (the machine is down, too many members are
//!   damaged already) is passed over, never an error.

#![allow(dead_code)]

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Stands for whichever member leads when the time comes; where nobody does, for a member chosen
/// by chance.
pub const LEADER: u8 = 0;
/// Stands for one of the members that do not lead when the time comes, chosen by chance.
pub const FOLLOWER: u8 = 200;
/// The first client's machine.
pub const FIRST_CLIENT: u8 = 100;
/// The first watcher's machine.
pub const FIRST_WATCHER: u8 = 150;

/// What a caller fixes of a plan that is otherwise drawn.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Overrides {
    pub nodes: Option<u8>,
    pub time_ms: Option<u64>,
    pub profile: Option<String>,
}

/// What to run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub seed: u64,
    /// Where it came from: `swarm`, or a scenario's name.
    pub scenario: String,
    /// The kind of work ([`quorate::workload`]).
    pub profile: String,
    /// Members, numbered from 1.
    pub nodes: u8,
    /// Simulated time of faults, in milliseconds.
    pub time_ms: u64,
    pub clients: u8,
    pub watchers: u8,
    /// Calls each client makes at most; none: until it is told to stop.
    pub calls_max: Option<u64>,
    /// A client pauses at most so long between two calls.
    pub pause_max_ms: u64,
    /// What each member is started with, beside its addresses.
    pub flags: Vec<String>,
    /// Beyond that, what single members are started with; of a flag given twice the later counts.
    #[serde(default)]
    pub member_flags: BTreeMap<u8, Vec<String>>,
    pub network: NetworkKnobs,
    pub disk: DiskKnobs,
    pub clocks: Vec<ClockKnobs>,
    /// In the order of their time.
    pub steps: Vec<Step>,
}

/// A network without faults.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkKnobs {
    /// Latencies lie between a half of this and this, mostly.
    pub latency_us: u64,
    /// One packet in so many takes `tail_us` instead; 0: none.
    pub tail_one_in: u32,
    pub tail_us: u64,
    /// Writes are cut in pieces of at most so many bytes; 0: they are not.
    pub write_bytes_max: u32,
    /// Bytes of one direction of a connection that were written and not read.
    pub pipe_bytes_max: u32,
}

/// A disk without faults.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskKnobs {
    pub access_us: u64,
    pub sync_us: u64,
    /// Size of each member's disk.
    pub capacity_bytes: u64,
}

/// The clock of one member.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockKnobs {
    /// How much faster than true time, in millionths; negative: slower.
    pub drift_ppm: i32,
    /// The calendar's distance from true time at the start, in milliseconds.
    pub wall_offset_ms: i64,
}

/// A fault and its time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Since the run began.
    pub at_ms: u64,
    pub fault: Fault,
}

/// What is done to the cluster. Machines are members' numbers; clients' machines are
/// [`FIRST_CLIENT`] and up, watchers' [`FIRST_WATCHER`] and up. [`LEADER`] and [`FOLLOWER`] stand
/// for members that are known only when the step's time comes, the same ones throughout a step; a
/// link from a machine to itself is passed over, so "all links of the leader" can be listed.
/// `down_ms` is how long until the machine is started again; `for_ms` how long a fault lasts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// `kill -9`: nothing written is lost, connections are closed by the system.
    Kill {
        machine: u8,
        down_ms: u64,
    },
    KillAll {
        down_ms: u64,
    },
    /// The power goes: what was not synced is lost, kept or torn.
    PowerCut {
        machine: u8,
        down_ms: u64,
    },
    PowerCutAll {
        down_ms: u64,
    },
    /// The power goes at the n-th write or sync from now.
    PowerCutAt {
        machine: u8,
        operations: u64,
        down_ms: u64,
    },
    /// SIGTERM, and a start later.
    Stop {
        machine: u8,
        down_ms: u64,
    },
    /// One member after the other is stopped and started with these flags in place of its own.
    RollingRestart {
        flags: Vec<String>,
        pause_ms: u64,
    },
    /// SIGSTOP and SIGCONT.
    Pause {
        machine: u8,
        for_ms: u64,
    },
    /// Links, each from one machine to another, deliver nothing. Whole, one-way and partial
    /// partitions are lists of links.
    Cut {
        links: Vec<(u8, u8)>,
        for_ms: u64,
    },
    /// Links lose packets: what was lost comes after a retransmission timeout.
    Lose {
        links: Vec<(u8, u8)>,
        percent: u8,
        for_ms: u64,
    },
    /// Links are slower by so much.
    Delay {
        links: Vec<(u8, u8)>,
        delay_ms: u64,
        for_ms: u64,
    },
    /// Links carry so many bytes a second.
    Throttle {
        links: Vec<(u8, u8)>,
        bytes_per_second: u64,
        for_ms: u64,
    },
    /// All connections between two machines end with a reset.
    Reset {
        one: u8,
        other: u8,
    },
    /// From the n-th operation of the kind on, `count` of them fail.
    DiskError {
        machine: u8,
        kind: DiskErrorKind,
        operations: u64,
        count: u64,
        down_ms: u64,
    },
    /// So many bytes are left on the disk; afterwards there is room again.
    DiskFull {
        machine: u8,
        left_bytes: u64,
        for_ms: u64,
    },
    DiskSlow {
        machine: u8,
        access_us: u64,
        sync_us: u64,
        for_ms: u64,
    },
    /// A bit of a durable file changes while the machine is down. `place` picks file and offset.
    BitFlip {
        machine: u8,
        place: u64,
        down_ms: u64,
    },
    /// The n-th write from now goes to another place of the same file.
    MisdirectedWrite {
        machine: u8,
        operations: u64,
        place: u64,
        down_ms: u64,
    },
    /// The calendar jumps.
    ClockJump {
        machine: u8,
        by_ms: i64,
    },
    /// The clock runs faster or slower from now on.
    ClockDrift {
        machine: u8,
        ppm: i32,
    },
    MoveLeader {
        to: u8,
    },
    /// Compacts to so many revisions before the newest.
    Compact {
        keep: u64,
        physical: bool,
    },
    Defragment {
        machine: u8,
    },
    /// Space is freed if a quota misses some: compact, defragment, disarm.
    ClearAlarms,
    /// A client asks a member for a snapshot and reads a part of it.
    Snapshot {
        machine: u8,
    },
}

/// Which operation of a disk fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskErrorKind {
    Read,
    Write,
    Sync,
    /// A read ends before the file does.
    ShortRead,
}

impl Plan {
    /// The longest election timeout any member is ever started with.
    pub fn election_timeout_max(&self) -> Duration {
        let later = self.steps.iter().filter_map(|step| match &step.fault {
            Fault::RollingRestart { flags, .. } => Some(flags),
            _ => None,
        });
        let flags = self.flags.iter().chain(self.member_flags.values().flatten());
        let given = flags.chain(later.flatten()).filter_map(|flag| {
            flag.strip_prefix("--election-timeout=")?.parse().ok().map(Duration::from_millis)
        });
        // The server's own where none is given; never mind where all are shorter.
        given.max().unwrap_or_default().max(Duration::from_secs(1))
    }
}

impl Fault {
    /// Its kind, as counted in the summary.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "kill",
            Fault::KillAll { .. } => "kill all",
            Fault::PowerCut { .. } => "power cut",
            Fault::PowerCutAll { .. } => "power cut of all",
            Fault::PowerCutAt { .. } => "power cut in an operation",
            Fault::Stop { .. } => "stop",
            Fault::RollingRestart { .. } => "rolling restart",
            Fault::Pause { .. } => "pause",
            Fault::Cut { .. } => "cut links",
            Fault::Lose { .. } => "packet loss",
            Fault::Delay { .. } => "slow links",
            Fault::Throttle { .. } => "narrow links",
            Fault::Reset { .. } => "connection reset",
            Fault::DiskError { kind: DiskErrorKind::Read, .. } => "read error",
            Fault::DiskError { kind: DiskErrorKind::Write, .. } => "write error",
            Fault::DiskError { kind: DiskErrorKind::Sync, .. } => "sync error",
            Fault::DiskError { kind: DiskErrorKind::ShortRead, .. } => "short read",
            Fault::DiskFull { .. } => "full disk",
            Fault::DiskSlow { .. } => "slow disk",
            Fault::BitFlip { .. } => "bit flip",
            Fault::MisdirectedWrite { .. } => "misdirected write",
            Fault::ClockJump { .. } => "clock jump",
            Fault::ClockDrift { .. } => "clock drift",
            Fault::MoveLeader { .. } => "leader transfer",
            Fault::Compact { .. } => "compaction",
            Fault::Defragment { .. } => "defragmentation",
            Fault::ClearAlarms => "alarms cleared",
            Fault::Snapshot { .. } => "snapshot to a client",
        }
    }
}
