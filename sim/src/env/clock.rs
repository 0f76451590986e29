//! A machine's clocks, which may be wrong.
//!
//! The monotonic clock runs faster or slower than true time by its drift, in millionths; it never
//! goes back, also when the drift changes, and whoever sleeps on it sleeps by it: of a clock that
//! is fast, an hour is short. The calendar runs with it, at a distance that may jump.
//!
//! - A process counts from its own beginning ([`SimClock::of_process`]), as in production, so
//!   nothing can be learned from comparing the times of two machines or of two boots. What
//!   compares them must use the true time, which is the [trace](crate::trace)'s.
//! - Of a sleep that is under way when the drift changes, the rest is only corrected if it would
//!   end too early. With the millionths that are realistic the difference does not matter.

use super::alarm::{Alarm, NEVER};
use crate::trace::Trace;
use madsim::time::TimeHandle;
use quorate::env::Clock;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

const MILLION: i128 = 1_000_000;

/// The clocks of one machine. Clones share them.
#[derive(Clone)]
pub struct SimClock {
    trace: Trace,
    calendar: TimeHandle,
    reading: Arc<Mutex<Reading>>,
    /// What the machine's clock showed when this process began, from which it counts.
    origin: Duration,
}

/// What the clock showed when its drift last changed, and how it goes on from there.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    true_time: Duration,
    shown: Duration,
    drift_ppm: i32,
    wall_offset_ms: i64,
}

impl Reading {
    fn at(&self, true_time: Duration) -> Duration {
        let passed = true_time.saturating_sub(self.true_time);
        if self.drift_ppm == 0 {
            return self.shown + passed;
        }
        let nanos = passed.as_nanos() as i128 * (MILLION + i128::from(self.drift_ppm)) / MILLION;
        self.shown + nanoseconds(nanos)
    }

    /// How much true time passes while the clock goes on by this.
    fn true_length(&self, shown: Duration) -> Duration {
        if self.drift_ppm == 0 {
            return shown;
        }
        let rate = MILLION + i128::from(self.drift_ppm);
        // Rounded up, so that it has passed on the clock then.
        nanoseconds((shown.as_nanos() as i128 * MILLION + rate - 1) / rate)
    }
}

fn nanoseconds(count: i128) -> Duration {
    Duration::from_nanos(u64::try_from(count).expect("nothing lasts centuries"))
}

impl SimClock {
    /// A clock that is right.
    pub fn new(trace: Trace) -> SimClock {
        let calendar = TimeHandle::current();
        SimClock { trace, calendar, reading: Arc::default(), origin: Duration::ZERO }
    }

    /// The same as a process sees it that begins now.
    pub fn of_process(&self) -> SimClock {
        let now = self.trace.now();
        SimClock { origin: self.reading().at(now), ..self.clone() }
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().expect("no holder panics")
    }

    /// Runs faster than true time by so many millionths from now on, or slower.
    pub fn set_drift(&self, ppm: i32) {
        assert!(i128::from(ppm) > -MILLION, "time goes on");
        let now = self.trace.now();
        let mut reading = self.reading();
        reading.shown = reading.at(now);
        reading.true_time = now;
        reading.drift_ppm = ppm;
    }

    /// Sets the calendar forward by so many milliseconds, or back.
    pub fn jump_wall(&self, by_ms: i64) {
        let mut reading = self.reading();
        reading.wall_offset_ms = reading.wall_offset_ms.saturating_add(by_ms);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        let now = self.trace.now();
        self.reading().at(now) - self.origin
    }

    fn wall(&self) -> SystemTime {
        let now = self.trace.now();
        let reading = *self.reading();
        let (shown, calendar) = (reading.at(now), self.calendar.now_time());
        let calendar = match shown.checked_sub(now) {
            Some(ahead) => calendar + ahead,
            None => calendar - (now - shown),
        };
        let jumped = Duration::from_millis(reading.wall_offset_ms.unsigned_abs());
        let moved = match reading.wall_offset_ms >= 0 {
            true => calendar.checked_add(jumped),
            false => calendar.checked_sub(jumped),
        };
        // No calendar is before its beginning.
        moved.map_or(SystemTime::UNIX_EPOCH, |moved| moved.max(SystemTime::UNIX_EPOCH))
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        let duration = duration.min(NEVER);
        // Reckoned from the call, as tokio does, not from the first poll.
        let now = self.trace.now();
        let reading = *self.reading();
        let end = reading.at(now).saturating_add(duration);
        let rest = Alarm::after(&self.calendar, reading.true_length(duration));
        Sleep { clock: self.clone(), end, rest }
    }
}

/// Ends when its clock shows the end. As tokio's, it may be asked again after that.
struct Sleep {
    clock: SimClock,
    end: Duration,
    rest: Alarm,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if Pin::new(&mut self.rest).poll(context).is_pending() {
                return Poll::Pending;
            }
            let now = self.clock.trace.now();
            let reading = *self.clock.reading();
            match self.end.saturating_sub(reading.at(now)) {
                Duration::ZERO => return Poll::Ready(()),
                // It was slowed down meanwhile.
                rest => {
                    let rest = reading.true_length(rest);
                    self.rest = Alarm::after(&self.clock.calendar, rest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::test::simulated;

    #[test]
    fn a_fast_clock_shows_more_and_sleeps_less() {
        simulated(1, async {
            let trace = Trace::new(false);
            let clock = SimClock::new(trace.clone());
            clock.set_drift(100_000);
            clock.sleep(Duration::from_secs(110)).await;
            let (shown, passed) = (clock.now().as_secs_f64(), trace.now().as_secs_f64());
            assert!((passed - 100.0).abs() < 0.01, "{passed}");
            assert!((shown - 110.0).abs() < 0.01, "{shown}");
        });
    }

    #[test]
    fn a_slow_clock_shows_less_and_sleeps_more() {
        simulated(1, async {
            let trace = Trace::new(false);
            let clock = SimClock::new(trace.clone());
            clock.set_drift(-500_000);
            clock.sleep(Duration::from_secs(5)).await;
            let passed = trace.now().as_secs_f64();
            assert!((passed - 10.0).abs() < 0.01, "{passed}");
        });
    }

    #[test]
    fn time_never_goes_back_when_the_drift_changes() {
        simulated(1, async {
            let trace = Trace::new(false);
            let clock = SimClock::new(trace);
            let mut last = clock.now();
            for drift in [400, -400, 0, 1_000_000, -999_999, 7] {
                clock.set_drift(drift);
                assert!(clock.now() >= last, "{drift}");
                madsim::time::sleep(Duration::from_secs(1)).await;
                assert!(clock.now() >= last, "{drift}");
                last = clock.now();
            }
        });
    }

    #[test]
    fn a_sleep_ends_when_its_own_clock_says_so_after_it_was_slowed() {
        simulated(1, async {
            let trace = Trace::new(false);
            let clock = SimClock::new(trace.clone());
            let sleep = clock.sleep(Duration::from_secs(10));
            clock.set_drift(-500_000);
            sleep.await;
            assert!(clock.now() >= Duration::from_secs(10));
            assert!((trace.now().as_secs_f64() - 20.0).abs() < 0.01);
        });
    }

    #[test]
    fn a_sleep_for_ever_lasts_on_any_clock() {
        simulated(1, async {
            let clock = SimClock::new(Trace::new(false));
            for drift in [0, 500_000, -500_000] {
                clock.set_drift(drift);
                let (sleep, hour) = (clock.sleep(Duration::MAX), Duration::from_secs(3_600));
                let ended = madsim::time::timeout(hour, sleep).await.is_ok();
                assert!(!ended, "{drift}");
            }
        });
    }

    #[test]
    fn each_process_counts_from_its_beginning_on_the_same_clock() {
        simulated(1, async {
            let clock = SimClock::new(Trace::new(false));
            clock.set_drift(1_000_000);
            clock.sleep(Duration::from_secs(10)).await;
            let process = clock.of_process();
            assert_eq!(process.now(), Duration::ZERO);
            process.sleep(Duration::from_secs(4)).await;
            clock.set_drift(0);
            let (shown, passed) = (process.now().as_secs_f64(), clock.now().as_secs_f64());
            assert!((shown - 4.0).abs() < 0.01 && (passed - 14.0).abs() < 0.01);
            assert_eq!(process.wall(), clock.wall());
        });
    }

    #[test]
    fn the_calendar_jumps_and_the_other_clock_does_not() {
        simulated(1, async {
            let clock = SimClock::new(Trace::new(false));
            let (now, wall) = (clock.now(), clock.wall());
            clock.jump_wall(60_000);
            assert_eq!((clock.now(), clock.wall()), (now, wall + Duration::from_secs(60)));
            clock.jump_wall(-3_660_000);
            assert_eq!(clock.wall(), wall - Duration::from_secs(3_600));
            clock.jump_wall(i64::MIN);
            assert_eq!(clock.wall(), SystemTime::UNIX_EPOCH);
        });
    }
}
