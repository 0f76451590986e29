//! Which server to talk to.
//!
//! The client stays with one endpoint until it has a reason to leave: the connection broke, the
//! server said `Unavailable`, or a call got no answer in time. Then the next in the list is
//! current. An endpoint that cannot be reached is not tried again before a pause that doubles
//! with each failure.
//!
//! - One task at a time connects, the others wait for it: a dead server is not stormed.
//! - Connecting is done by the callers themselves. Nobody calls, nothing runs.
//! - A connection that was left stays open for the streams it carries and is used again when its
//!   endpoint's turn comes.

use super::error::{Error, Result};
use super::wire::Channel;
use super::world::World;
use super::{Options, backoff};
use http::uri::Authority;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// etcd's port, for an endpoint that names none.
const PORT_DEFAULT: u16 = 2379;

pub(super) struct Endpoints {
    list: Vec<Authority>,
    state: Mutex<State>,
    /// Held by the one who connects.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    /// The endpoint in use; below the length of the list.
    current: usize,
    /// One for each endpoint.
    slots: Vec<Slot>,
    /// Connections made so far.
    connections: u64,
    /// Why the last connection was left or could not be made.
    last_error: String,
}

#[derive(Default)]
struct Slot {
    channel: Option<Channel>,
    /// Attempts to connect that failed since the last that did not.
    failures: u32,
    /// Not to be tried before.
    retry_at: Duration,
}

/// What to do next to get a connection.
enum Step {
    Use(Channel),
    Connect(usize),
    Wait(Duration),
}

impl Endpoints {
    pub(super) fn parse(endpoints: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Endpoints> {
        let list: Vec<Authority> =
            endpoints.into_iter().map(|text| parse(text.as_ref())).collect::<Result<_>>()?;
        if list.is_empty() {
            return Err(Error::Endpoint("none given".into()));
        }
        let slots = list.iter().map(|_| Slot::default()).collect();
        let state = State { current: 0, slots, connections: 0, last_error: String::new() };
        Ok(Endpoints { list, state: Mutex::new(state), turn: tokio::sync::Mutex::new(()) })
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn connections(&self) -> u64 {
        self.state().connections
    }

    pub(super) fn last_error(&self) -> String {
        self.state().last_error.clone()
    }

    /// A connection to the current endpoint or, failing that, to any. Tries for ever; the caller
    /// has the deadline.
    pub(super) async fn channel(&self, world: &dyn World, options: &Options) -> Channel {
        if let Some(channel) = self.state().open() {
            return channel;
        }
        let _turn = self.turn.lock().await;
        loop {
            let step = self.state().step(world.now());
            match step {
                Step::Use(channel) => return channel,
                Step::Wait(pause) => world.sleep(pause).await,
                Step::Connect(endpoint) => {
                    let authority = &self.list[endpoint];
                    let connected = world.connect(authority.as_str(), options).await;
                    let mut state = self.state();
                    let slot = &mut state.slots[endpoint];
                    match connected {
                        Ok(sender) => {
                            let leader = options.require_leader;
                            slot.channel =
                                Some(Channel::new(endpoint, authority.clone(), leader, sender));
                            slot.failures = 0;
                            state.connections += 1;
                            state.current = endpoint;
                        }
                        Err(reason) => {
                            slot.retry_at = world.now() + backoff(world, options, slot.failures);
                            slot.failures = slot.failures.saturating_add(1);
                            state.last_error = reason;
                        }
                    }
                }
            }
        }
    }

    /// Gives up on an endpoint for now, unless somebody already did.
    pub(super) fn leave(&self, endpoint: usize, reason: &str) {
        let mut state = self.state();
        if state.current == endpoint {
            state.current = (endpoint + 1) % self.list.len();
            state.last_error = format!("{}: {reason}", self.list[endpoint]);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }
}

impl State {
    fn open(&self) -> Option<Channel> {
        self.slots[self.current].channel.as_ref().filter(|channel| !channel.is_closed()).cloned()
    }

    /// The first usable endpoint from the current one on.
    fn step(&mut self, now: Duration) -> Step {
        let count = self.slots.len();
        for offset in 0..count {
            let endpoint = (self.current + offset) % count;
            let slot = &mut self.slots[endpoint];
            if let Some(channel) = slot.channel.take_if(|channel| channel.is_closed()) {
                drop(channel);
            }
            if let Some(channel) = &slot.channel {
                let channel = channel.clone();
                self.current = endpoint;
                return Step::Use(channel);
            }
            if slot.retry_at <= now {
                return Step::Connect(endpoint);
            }
        }
        let earliest = self.slots.iter().map(|slot| slot.retry_at).min();
        Step::Wait(earliest.expect("there is at least one endpoint").saturating_sub(now))
    }
}

/// `[http://]host[:port][/]`.
fn parse(text: &str) -> Result<Authority> {
    let address = match text.split_once("://") {
        None => text,
        Some(("http", address)) => address,
        Some((scheme, _)) => {
            return Err(Error::Endpoint(format!("{text}: the scheme {scheme} is not supported")));
        }
    };
    let address = address.strip_suffix('/').unwrap_or(address);
    let invalid = || Error::Endpoint(format!("{text}: want host:port"));
    let authority: Authority = address.parse().map_err(|_| invalid())?;
    if authority.host().is_empty() || address.contains('@') {
        return Err(invalid());
    }
    match authority.port() {
        Some(port) if port.as_u16() == 0 => Err(invalid()),
        Some(_) => Ok(authority),
        None if address.ends_with(':') => Err(invalid()),
        None => format!("{address}:{PORT_DEFAULT}").parse().map_err(|_| invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_etcdctl_reads_them() {
        for (text, expected) in [
            ("127.0.0.1:2379", "127.0.0.1:2379"),
            ("http://host:80/", "host:80"),
            ("host", "host:2379"),
            ("[::1]:2380", "[::1]:2380"),
            ("http://[::1]", "[::1]:2379"),
        ] {
            assert_eq!(parse(text).unwrap().as_str(), expected, "{text}");
        }
        for text in
            ["", "https://host:1", "host:", "host:0", "host:99999", "a b:1", "u@h:1", "http://"]
        {
            assert!(matches!(parse(text), Err(Error::Endpoint(_))), "{text}");
        }
        assert!(Endpoints::parse(Vec::<String>::new()).is_err());
    }

    #[test]
    fn leaving_moves_on_once_however_many_callers_complain() {
        let endpoints = Endpoints::parse(["a:1", "b:1", "c:1"]).unwrap();
        endpoints.leave(0, "x");
        endpoints.leave(0, "x");
        assert_eq!(endpoints.state().current, 1);
        assert_eq!(endpoints.last_error(), "a:1: x");
        endpoints.leave(1, "y");
        endpoints.leave(2, "z");
        assert_eq!(endpoints.state().current, 0);
    }

    #[test]
    fn an_endpoint_that_failed_is_skipped_until_its_pause_is_over() {
        let endpoints = Endpoints::parse(["a:1", "b:1"]).unwrap();
        let mut state = endpoints.state();
        let seconds = Duration::from_secs;
        assert!(matches!(state.step(seconds(1)), Step::Connect(0)));
        state.slots[0].retry_at = seconds(5);
        assert!(matches!(state.step(seconds(1)), Step::Connect(1)));
        state.slots[1].retry_at = seconds(3);
        assert!(matches!(state.step(seconds(1)), Step::Wait(pause) if pause == seconds(2)));
        assert!(matches!(state.step(seconds(3)), Step::Connect(1)));
    }
}
