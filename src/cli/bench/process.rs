//! CPU time and memory of processes, read from Linux's `/proc`.

#![expect(clippy::disallowed_methods, reason = "/proc is no disk: the rim reads it directly")]

use std::time::Duration;

/// One tick of the times in `/proc/PID/stat`. `USER_HZ` is 100 on every architecture Linux
/// offers to user space, whatever the kernel's own tick.
const TICK: Duration = Duration::from_millis(10);

/// What some processes have used so far, together.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Usage {
    /// User and system time of all threads, ended ones included.
    pub cpu: Duration,
    /// Memory resident now.
    pub resident_bytes: u64,
}

/// Usage of all of `pids` together; an error names the one that is not there.
pub(super) fn usage(pids: &[u32]) -> Result<Usage, String> {
    let mut sum = Usage::default();
    for pid in pids {
        let read = |name| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        let malformed = || format!("/proc/{pid}: not understood");
        sum.cpu += parse_cpu(&stat).ok_or_else(malformed)?;
        // A process that has ended but was not waited for has no memory to speak of.
        sum.resident_bytes += parse_resident(&status).unwrap_or(0);
    }
    Ok(sum)
}

/// Usage of this process.
pub(super) fn own_usage() -> Usage {
    usage(&[std::process::id()]).unwrap_or_default()
}

/// Fields 14 and 15 of `/proc/PID/stat`. The second field, the name in parentheses, may hold
/// anything, so fields are counted from the last parenthesis.
fn parse_cpu(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_whitespace().skip(11);
    let user: u32 = times.next()?.parse().ok()?;
    let system: u32 = times.next()?.parse().ok()?;
    Some(TICK * user.checked_add(system)?)
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_cannot_shift_the_fields() {
        let stat = "1 (a) b (c) S 1 1 1 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 100";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(parse_cpu("1 (a"), None);
    }

    #[test]
    fn memory_is_read_in_kibibytes() {
        assert_eq!(parse_resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_resident("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_uses_memory_and_a_missing_one_is_an_error() {
        assert!(own_usage().resident_bytes > 0);
        assert!(usage(&[u32::MAX]).is_err());
    }
}
