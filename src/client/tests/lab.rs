//! A world without tokio's runtime, sockets or real time: tasks run on this thread one after the
//! other, streams are pairs of buffers, and the clock jumps to the next timer when nothing else
//! is left to do. What runs here runs in simulation, and ten seconds pass in no time.

use crate::env::real::RealDisk;
use crate::env::{Clock, Env, Listener, Network};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Bytes a stream holds before its writer waits.
const STREAM_BYTES: usize = 64 * 1024;

#[derive(Clone)]
pub(super) struct Lab {
    core: Arc<Core>,
    clock: LabClock,
    network: LabNetwork,
    disk: RealDisk,
}

#[derive(Default)]
struct Core {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    now: Duration,
    /// Timers by time, then in the order they were set.
    timers: BTreeMap<(Duration, u64), Waker>,
    count: u64,
    ready: VecDeque<Arc<Task>>,
    doors: BTreeMap<String, mpsc::UnboundedSender<DuplexStream>>,
}

impl Lab {
    /// Runs `main` and all it starts until `main` ends.
    pub(super) fn run<F: Future<Output = ()> + Send + 'static>(main: impl FnOnce(Lab) -> F) {
        let core = Arc::new(Core::default());
        let lab = Lab {
            clock: LabClock(core.clone()),
            network: LabNetwork(core.clone()),
            disk: RealDisk,
            core,
        };
        let (done, mut finished) = tokio::sync::oneshot::channel();
        let main = main(lab.clone());
        lab.spawn(async move {
            main.await;
            done.send(()).unwrap();
        });
        loop {
            let task = lab.core.state.lock().unwrap().ready.pop_front();
            match task {
                Some(task) => task.poll(),
                None if finished.try_recv().is_ok() => return,
                None => lab.core.advance(),
            }
        }
    }
}

impl Core {
    /// Nothing is left to do now: goes to the time of the next timer.
    fn advance(&self) {
        let mut state = self.state.lock().unwrap();
        let ((time, _), waker) = state.timers.pop_first().expect("all tasks wait for ever");
        state.now = time;
        drop(state);
        waker.wake();
    }
}

struct Task {
    core: Arc<Core>,
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

impl Task {
    fn poll(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        let mut slot = self.future.lock().unwrap();
        if let Some(future) = slot.as_mut()
            && future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            *slot = None;
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.core.state.lock().unwrap().ready.push_back(self.clone());
    }
}

impl Env for Lab {
    type Clock = LabClock;
    type Network = LabNetwork;
    type Disk = RealDisk;

    fn clock(&self) -> &LabClock {
        &self.clock
    }

    fn network(&self) -> &LabNetwork {
        &self.network
    }

    fn disk(&self) -> &RealDisk {
        &self.disk
    }

    fn random(&self) -> u64 {
        let mut state = self.core.state.lock().unwrap();
        state.count += 1;
        state.count.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let future = Mutex::new(Some(Box::pin(task) as Pin<Box<dyn Future<Output = ()> + Send>>));
        Arc::new(Task { core: self.core.clone(), future }).wake();
    }

    fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> impl Future<Output = R> + Send + 'static {
        std::future::ready(work())
    }
}

#[derive(Clone)]
pub(super) struct LabClock(Arc<Core>);

impl Clock for LabClock {
    fn now(&self) -> Duration {
        self.0.state.lock().unwrap().now
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.now()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        let core = self.0.clone();
        let until = self.now() + duration;
        std::future::poll_fn(move |context| {
            let mut state = core.state.lock().unwrap();
            if state.now >= until {
                return Poll::Ready(());
            }
            state.count += 1;
            let key = (until, state.count);
            state.timers.insert(key, context.waker().clone());
            Poll::Pending
        })
    }
}

#[derive(Clone)]
pub(super) struct LabNetwork(Arc<Core>);

impl Network for LabNetwork {
    type Stream = DuplexStream;
    type Listener = LabListener;

    async fn bind(&self, address: &str) -> io::Result<LabListener> {
        let (door, visitors) = mpsc::unbounded_channel();
        let before = self.0.state.lock().unwrap().doors.insert(address.to_owned(), door);
        assert!(before.is_none(), "{address} is taken");
        Ok(LabListener { address: address.to_owned(), visitors })
    }

    async fn connect(&self, address: &str) -> io::Result<DuplexStream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let (ours, theirs) = tokio::io::duplex(STREAM_BYTES);
        // Sending wakes a task, which takes the lock: it must be free by then.
        let door = self.0.state.lock().unwrap().doors.get(address).cloned();
        door.ok_or_else(refused)?.send(theirs).map_err(|_| refused())?;
        Ok(ours)
    }
}

pub(super) struct LabListener {
    address: String,
    visitors: mpsc::UnboundedReceiver<DuplexStream>,
}

impl Listener for LabListener {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, String)> {
        match self.visitors.recv().await {
            Some(stream) => Ok((stream, "lab".into())),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn address(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}
