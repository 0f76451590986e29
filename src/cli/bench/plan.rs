//! What to run, as plain values.

use super::data::Shape;
use clap::ValueEnum;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Most clients, connections, watchers or streams of one run: more is a slip of the finger.
const COUNT_MAX: u64 = 1_000_000;

/// How reads are answered.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Consistency {
    /// Linearizable: the newest state of the cluster
    #[value(name = "l", alias = "linearizable")]
    Linearizable,
    /// Serializable: the state of the member that answers
    #[value(name = "s", alias = "serializable")]
    Serializable,
}

/// What one client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Profile {
    Put,
    Range { consistency: Consistency },
    RangeMany { consistency: Consistency, limit: u64 },
    Txn,
    Mixed { consistency: Consistency, read_percent: u64 },
    Watch { watchers: u64, streams: u64, writers: u64, rate: u64 },
    LeaseKeepalive,
    Load { batch: u64 },
}

/// When to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Limit {
    /// After so many counted operations (keys for [`Profile::Load`]).
    Total(u64),
    /// After counting for so long.
    Duration(Duration),
}

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub profile: Profile,
    pub endpoints: Vec<String>,
    pub connections: u64,
    pub clients: u64,
    pub limit: Limit,
    pub warm_up: Duration,
    pub data: Shape,
    pub server_pids: Vec<u32>,
    /// Recorders, one for each thread so that they do not wait for each other.
    pub shards: u64,
}

impl Plan {
    /// Refuses what cannot be run.
    pub(super) fn check(self) -> Result<Plan, String> {
        self.data.check()?;
        let (watchers, streams, writers) = match self.profile {
            Profile::Watch { watchers, streams, writers, .. } => (watchers, streams, writers),
            Profile::Put
            | Profile::Range { .. }
            | Profile::RangeMany { .. }
            | Profile::Txn
            | Profile::Mixed { .. }
            | Profile::LeaseKeepalive
            | Profile::Load { .. } => (1, 1, 1),
        };
        for (name, count) in [
            ("connections", self.connections),
            ("clients", self.clients),
            ("watchers", watchers),
            ("streams", streams),
            ("writers", writers),
        ] {
            if count == 0 || count > COUNT_MAX {
                return Err(format!("--{name} must be between 1 and {COUNT_MAX}"));
            }
        }
        match self.profile {
            Profile::RangeMany { limit, .. } if limit == 0 || limit > self.data.key_space => {
                Err("--limit must be between 1 and --key-space".into())
            }
            Profile::Load { batch: 0 } => Err("--batch must be at least 1".into()),
            Profile::Watch { .. } if self.data.value_bytes < 8 => {
                Err("--val-size must be at least 8: a watched value carries its time".into())
            }
            Profile::Put
            | Profile::Range { .. }
            | Profile::RangeMany { .. }
            | Profile::Txn
            | Profile::Mixed { .. }
            | Profile::Watch { .. }
            | Profile::LeaseKeepalive
            | Profile::Load { .. } => Ok(self),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = |consistency: &Consistency| match consistency {
            Consistency::Linearizable => "",
            Consistency::Serializable => "-s",
        };
        match self {
            Profile::Put => write!(f, "put"),
            Profile::Range { consistency } => write!(f, "range{}", suffix(consistency)),
            Profile::RangeMany { consistency, .. } => {
                write!(f, "range-many{}", suffix(consistency))
            }
            Profile::Txn => write!(f, "txn"),
            Profile::Mixed { consistency, .. } => write!(f, "mixed{}", suffix(consistency)),
            Profile::Watch { .. } => write!(f, "watch"),
            Profile::LeaseKeepalive => write!(f, "lease-keepalive"),
            Profile::Load { .. } => write!(f, "load"),
        }
    }
}

/// A profile with its shape in one word, for lists: `put@8x100` is 8 connections and 100
/// clients, `range-s@1x1` serializable reads, `watch@8x10` 10 writers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Scenario {
    pub profile: Profile,
    pub connections: u64,
    pub clients: u64,
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Scenario, String> {
        let invalid = || format!("{text}: want profile@CONNECTIONSxCLIENTS, such as put@8x100");
        let (name, shape) = text.split_once('@').ok_or_else(invalid)?;
        let (connections, clients) = shape.split_once('x').ok_or_else(invalid)?;
        let connections = connections.parse().map_err(|_| invalid())?;
        let clients = clients.parse().map_err(|_| invalid())?;
        let (linearizable, serializable) = (Consistency::Linearizable, Consistency::Serializable);
        let profile = match name {
            "put" => Profile::Put,
            "range" => Profile::Range { consistency: linearizable },
            "range-s" => Profile::Range { consistency: serializable },
            "range-many" => Profile::RangeMany { consistency: linearizable, limit: 1000 },
            "range-many-s" => Profile::RangeMany { consistency: serializable, limit: 1000 },
            "txn" => Profile::Txn,
            "mixed" => Profile::Mixed { consistency: linearizable, read_percent: 90 },
            "mixed-s" => Profile::Mixed { consistency: serializable, read_percent: 90 },
            "watch" => Profile::Watch { watchers: 1000, streams: 10, writers: clients, rate: 0 },
            "lease-keepalive" => Profile::LeaseKeepalive,
            _ => return Err(format!("{name}: no such profile")),
        };
        Ok(Scenario { profile, connections, clients })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}x{}", self.profile, self.connections, self.clients)
    }
}

/// `500ms`, `3s`, `2m`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| format!("{text}: want a time such as 3s"))?;
    let seconds = match &text[digits.len()..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("{text}: want a unit: ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{text}: {error}"))
}
