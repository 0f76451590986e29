//! The outcome of a run.

use super::plan::{Plan, Profile};
use super::stage::{Measured, Recorder};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What a run found. Field names are those of the JSON output.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub profile: String,
    pub connections: u64,
    pub clients: u64,
    /// How long was measured.
    pub seconds: f64,
    /// Operations of the kind the profile is about that succeeded.
    pub operations: u64,
    pub operations_per_second: f64,
    /// Keys in those operations, where there are several in each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_per_second: Option<f64>,
    pub latency: Latency,
    /// The writes beside them, for profiles that are not about writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes: Option<Writes>,
    pub errors: u64,
    pub error_texts: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// The load generator's own CPU time for each operation, in microseconds.
    pub generator_cpu_us: f64,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Latency {
    pub mean_us: f64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Writes {
    pub operations: u64,
    pub operations_per_second: f64,
    pub latency: Latency,
}

/// What the server's processes used, together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Server {
    /// CPU time for each operation (request, event, renewal) in microseconds.
    pub cpu_us: f64,
    /// CPU time for each key, for the load profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_key: Option<f64>,
    /// Cores busy on average.
    pub cores: f64,
    pub resident_bytes: u64,
}

impl Report {
    pub(super) fn new(plan: &Plan, counted: &Recorder, measured: &Measured) -> Report {
        let seconds = measured.seconds.max(1e-9);
        let operations = counted.main.len();
        let per_operation =
            |cpu: std::time::Duration, count: u64| cpu.as_secs_f64() * 1e6 / count.max(1) as f64;
        let is_load = matches!(plan.profile, Profile::Load { .. });
        let writes = counted.write.len();
        // A mixed run's writes are requests like its reads; a watch's writes only feed it.
        let requests = match plan.profile {
            Profile::Mixed { .. } => operations + writes,
            Profile::Put
            | Profile::Range { .. }
            | Profile::RangeMany { .. }
            | Profile::Txn
            | Profile::Watch { .. }
            | Profile::LeaseKeepalive
            | Profile::Load { .. } => operations,
        };
        Report {
            profile: plan.profile.to_string(),
            connections: plan.connections,
            clients: plan.clients,
            seconds: measured.seconds,
            operations,
            operations_per_second: operations as f64 / seconds,
            keys_per_second: is_load.then(|| counted.items as f64 / seconds),
            latency: Latency::of(&counted.main),
            writes: (writes > 0).then(|| Writes {
                operations: writes,
                operations_per_second: writes as f64 / seconds,
                latency: Latency::of(&counted.write),
            }),
            errors: counted.errors.values().sum(),
            error_texts: counted.errors.clone(),
            server: measured.server.map(|usage| Server {
                cpu_us: per_operation(usage.cpu, requests),
                cpu_us_per_key: is_load.then(|| per_operation(usage.cpu, counted.items)),
                cores: usage.cpu.as_secs_f64() / seconds,
                resident_bytes: usage.resident_bytes,
            }),
            generator_cpu_us: per_operation(measured.generator, requests),
        }
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("a report has nothing JSON cannot say")
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        Latency {
            mean_us: histogram.mean(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency { mean_us, p50_us, p90_us, p99_us, p999_us, max_us } = self;
        write!(
            f,
            "mean {mean_us:.0}  p50 {p50_us}  p90 {p90_us}  p99 {p99_us}  p99.9 {p999_us}  \
             max {max_us} µs"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { profile, connections, clients, seconds, .. } = self;
        writeln!(f, "{profile}: {connections} connections, {clients} clients, {seconds:.2} s")?;
        write!(f, "  rate       {:.0} ops/s", self.operations_per_second)?;
        if let Some(keys) = self.keys_per_second {
            write!(f, " ({keys:.0} keys/s)")?;
        }
        writeln!(f, ", {} in all", self.operations)?;
        writeln!(f, "  latency    {}", self.latency)?;
        if let Some(writes) = &self.writes {
            writeln!(f, "  writes     {:.0} ops/s", writes.operations_per_second)?;
            writeln!(f, "             {}", writes.latency)?;
        }
        if let Some(server) = &self.server {
            write!(f, "  server     {:.2} µs CPU/op", server.cpu_us)?;
            if let Some(per_key) = server.cpu_us_per_key {
                write!(f, " ({per_key:.2} per key)")?;
            }
            let mebibytes = server.resident_bytes as f64 / f64::from(1 << 20);
            writeln!(f, ", {:.2} cores, {mebibytes:.0} MiB resident", server.cores)?;
        }
        writeln!(f, "  generator  {:.2} µs CPU/op", self.generator_cpu_us)?;
        writeln!(f, "  errors     {}", self.errors)?;
        for (text, count) in &self.error_texts {
            writeln!(f, "    {count} x {text}")?;
        }
        Ok(())
    }
}
