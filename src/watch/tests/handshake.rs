//! Hub and sender on two real threads: no wake-up is lost in either direction.
//!
//! The queue holds four responses, so the hub finds it full all the time, and both sides sleep
//! whenever they have nothing to do. A lost wake-up would leave one of them asleep for ever; the
//! test gives up after a while instead.

#![allow(clippy::disallowed_methods, reason = "the threads are the point")]

use super::{Change, Model};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use crate::types::Revision;
use crate::watch::{Hub, HubOptions, StreamId, StreamQueue};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Sleeps until `poll` is ready, and asks it again only when woken.
fn wait<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let unpark = Arc::new(Unpark { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(unpark.clone());
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = poll(&mut context) {
            return value;
        }
        let mut naps = 0;
        while !unpark.woken.swap(false, Ordering::Acquire) {
            assert!(naps < 1_000, "nobody woke this thread");
            naps += 1;
            thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// Reads to the end of the stream; how many events there were.
fn sender(queue: &StreamQueue) -> usize {
    let mut events = 0;
    let mut responses = Vec::new();
    while wait(|context| queue.poll_pull(context, &mut responses, 3)) {
        events += responses.drain(..).map(|response| response.events.len()).sum::<usize>();
    }
    events
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    const PUTS: usize = 20_000;
    let options = HubOptions { queue_responses_max: 4, ..HubOptions::default() };
    let mut hub = Hub::new(Revision(1), Revision(-1), options);
    let id = StreamId(1);
    let queue = hub.open_stream(id, Duration::ZERO, Duration::from_secs(600)).expect("room");
    let create = WatchCreateRequest { key: b"k"[..].into(), ..Default::default() };
    let request_union = Some(RequestUnion::CreateRequest(create));
    hub.request(id, WatchRequest { request_union });
    let mut model = Model::new();
    let bell = hub.bell();
    let mut stalls = 0;
    let events = thread::scope(|scope| {
        let reader = scope.spawn(|| sender(&queue));
        for _ in 0..PUTS {
            let change = Change::Put { key: b"k".to_vec(), value: vec![], lease: 0 };
            let batch = model.change(&[change]).expect("a change");
            hub.apply(batch, &model);
            hub.catch_up(&model, 100);
            stalls += hub.counts().lagging;
        }
        while hub.counts().lagging > 0 {
            wait(|context| bell.poll_rung(context));
            while hub.catch_up(&model, 100) {}
        }
        hub.close_stream(id);
        reader.join().expect("the reader is well")
    });
    assert_eq!(events, PUTS);
    assert!(stalls > 0, "the queue was never full");
}
