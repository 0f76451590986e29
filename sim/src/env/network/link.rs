//! The way from one machine to another, and what is wrong with it.

use super::super::random::Random;
use std::time::Duration;

/// After which time TCP first sends again what was not confirmed, and at most.
const RETRANSMISSION: Duration = Duration::from_millis(200);
const RETRANSMISSION_MAX: Duration = Duration::from_secs(120);
/// Bytes of a segment beside its data, on the wire, and of data at most.
const HEADER_BYTES: u64 = 66;
const SEGMENT_BYTES: usize = 1448;
/// Losses in a row that luck can bring; that many take minutes.
const LOSSES_MAX: u32 = 10;

/// A link that is not as it should be.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    pub down: bool,
    pub loss_percent: u8,
    pub delay: Duration,
    pub bytes_per_second: Option<u64>,
    /// Until when it sends what it has taken.
    busy_until: Option<Duration>,
}

impl Link {
    pub fn is_normal(&self) -> bool {
        !self.down
            && self.loss_percent == 0
            && self.delay.is_zero()
            && self.bytes_per_second.is_none()
    }

    /// What is queued already is not its concern.
    pub fn set_rate(&mut self, bytes_per_second: Option<u64>) {
        self.bytes_per_second = bytes_per_second;
        self.busy_until = None;
    }

    /// When the last of so many bytes that are sent now has left.
    pub fn send(&mut self, now: Duration, bytes: usize) -> Duration {
        let Some(rate) = self.bytes_per_second else { return now };
        let segments = bytes.div_ceil(SEGMENT_BYTES).max(1) as u64;
        let bytes = bytes as u64 + segments * HEADER_BYTES;
        let takes = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1));
        let end = self.busy_until.map_or(now, |busy| busy.max(now)) + takes;
        self.busy_until = Some(end);
        end
    }

    /// Whether one segment is lost.
    pub fn loses(&self, random: &mut Random) -> bool {
        self.loss_percent > 0 && random.number(100) < u64::from(self.loss_percent)
    }

    /// How much later data arrives because some of it was lost, perhaps more than once.
    pub fn losses(&self, bytes: usize, random: &mut Random) -> Duration {
        if self.loss_percent == 0 {
            return Duration::ZERO;
        }
        let arrives = 1.0 - f64::from(self.loss_percent.min(100)) / 100.0;
        let segments = i32::try_from(bytes.div_ceil(SEGMENT_BYTES).max(1)).unwrap_or(i32::MAX);
        let (mut late, mut timeout) = (Duration::ZERO, RETRANSMISSION);
        let mut whole = arrives.powi(segments);
        for _ in 0..LOSSES_MAX {
            if random.chance(whole) {
                break;
            }
            late += timeout;
            timeout = (timeout * 2).min(RETRANSMISSION_MAX);
            // The first that is missing is sent again, and with it goes the rest.
            whole = arrives;
        }
        late
    }
}

/// When TCP next tries to send what it first sent at `sent` and nobody has confirmed by `now`.
pub(super) fn next_attempt(sent: Duration, now: Duration) -> Duration {
    let (mut at, mut timeout) = (sent, RETRANSMISSION);
    while at < now {
        at += timeout;
        timeout = (timeout * 2).min(RETRANSMISSION_MAX);
    }
    at
}
