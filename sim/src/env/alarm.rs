//! Waiting, without what madsim's timers cost.
//!
//! Each time one of madsim's sleeps is polled it sets another timer, and none is ever taken back:
//! a loop that waits for a second or for something else, whichever comes first, leaves a timer
//! behind with every turn, and each of them wakes the task once more when its time comes. Most
//! of the events of a run were such. An [`Alarm`] sets one timer, which wakes whoever polled it
//! last, or, once the alarm is dropped, nobody.

use madsim::time::{Sleep, TimeHandle};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// No run lasts longer: a sleep of a year or more never ends.
pub const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Ends after so much true time, as madsim's sleeps after a millisecond at the earliest. As
/// tokio's sleep, it may be asked again after that.
pub struct Alarm {
    sleep: Sleep,
    bell: Option<Arc<Bell>>,
}

/// Whom the timer wakes.
struct Bell {
    sleeper: Mutex<Option<Waker>>,
}

impl Bell {
    fn set(&self, sleeper: Option<Waker>) -> Option<Waker> {
        std::mem::replace(&mut *self.sleeper.lock().expect("no holder panics"), sleeper)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        if let Some(sleeper) = self.set(None) {
            sleeper.wake();
        }
    }
}

impl Alarm {
    pub fn after(time: &TimeHandle, duration: Duration) -> Alarm {
        Alarm { sleep: time.sleep(duration.min(NEVER)), bell: None }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.sleep.is_elapsed() {
            return Poll::Ready(());
        }
        match &self.bell {
            Some(bell) => {
                let mut sleeper = bell.sleeper.lock().expect("no holder panics");
                match &mut *sleeper {
                    Some(sleeper) => sleeper.clone_from(context.waker()),
                    None => *sleeper = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            None => {
                let bell = Arc::new(Bell { sleeper: Mutex::new(Some(context.waker().clone())) });
                self.bell = Some(bell.clone());
                Pin::new(&mut self.sleep).poll(&mut Context::from_waker(&bell.into()))
            }
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(bell) = &self.bell {
            drop(bell.set(None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::test::simulated;
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Counts how often a future is polled.
    async fn counted(polls: &AtomicU32, future: impl Future<Output = ()>) {
        let mut future = std::pin::pin!(future);
        poll_fn(|context| {
            polls.fetch_add(1, Ordering::Relaxed);
            future.as_mut().poll(context)
        })
        .await;
    }

    #[test]
    fn it_ends_in_time_and_may_be_asked_again() {
        simulated(1, async {
            let time = TimeHandle::current();
            let end = time.elapsed() + Duration::from_secs(5);
            let mut alarm = Alarm::after(&time, Duration::from_secs(5));
            (&mut alarm).await;
            let late = time.elapsed() - end;
            assert!(late < Duration::from_micros(1), "{late:?}");
            (&mut alarm).await;
        });
    }

    #[test]
    fn a_task_is_not_woken_for_alarms_it_dropped() {
        simulated(1, async {
            let time = TimeHandle::current();
            let polls = AtomicU32::new(0);
            counted(&polls, async {
                for _ in 0..100 {
                    // Polled once, then dropped.
                    let mut other = Alarm::after(&time, Duration::from_secs(2));
                    let poll = poll_fn(|context| Poll::Ready(Pin::new(&mut other).poll(context)));
                    assert!(poll.await.is_pending());
                }
                Alarm::after(&time, Duration::from_secs(10)).await;
            })
            .await;
            assert_eq!(polls.load(Ordering::Relaxed), 2);
        });
    }
}
