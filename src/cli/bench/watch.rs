//! Watchers of one key and its writers.
//!
//! A written value begins with the time of its writing, so a delivered event tells its own
//! latency: writer and watcher are the same process and share a clock. Each watcher also checks
//! that the versions of the key come one by one; an event that is missing, doubled or out of
//! order is an error of the run.

use super::data::Source;
use super::plan::{Plan, Profile};
use super::stage::{Crew, Kind, Stage};
use crate::client::{Client, Error, Put, Requests, Responses, Result, method};
use crate::env::Env;
use crate::env::real::Real;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::proto::mvccpb::Event;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the time at the head of a value.
const STAMP_BYTES: usize = 8;

/// Sets up all watchers, then starts them and the writers.
pub(super) async fn start(
    crew: &Crew,
    stage: &Arc<Stage>,
    plan: &Plan,
    env: &Real,
    connections: &[Client],
    sources: Vec<Source>,
) -> std::result::Result<(), String> {
    let Profile::Watch { watchers, streams, writers, rate } = plan.profile else {
        unreachable!("only the watch profile is started here")
    };
    // A key of this run alone, so that watchers of an earlier run cost nothing.
    let key = Bytes::from(format!("watch-{:016x}", env.random()));
    for stream in 0..streams.min(watchers) {
        let client = &connections[stream as usize % connections.len()];
        let count = watchers / streams + u64::from(stream < watchers % streams);
        let set_up = open(client, &key, count).await;
        let (requests, responses) =
            set_up.map_err(|error| format!("cannot set up watchers: {error}"))?;
        let stage = stage.clone();
        crew.start(async move {
            follow(&stage, stream, count, responses).await;
            // Only now, since dropping it ends the stream.
            drop(requests);
        });
    }
    // Writers have connections of their own: they must not wait behind events.
    let writer_plan = Plan { connections: plan.connections.min(writers), ..plan.clone() };
    let writer_connections = super::stage::connect(env, &writer_plan).await?;
    for (number, mut source) in (0u64..).zip(sources) {
        let client = writer_connections[number as usize % writer_connections.len()].clone();
        let (stage, key) = (stage.clone(), key.clone());
        let pace = (rate > 0).then(|| Duration::from_secs_f64(writers as f64 / rate as f64));
        crew.start(async move {
            let mut due = stage.now();
            while !stage.is_over() {
                if let Some(interval) = pace {
                    stage.sleep(due.saturating_sub(stage.now())).await;
                    due += interval;
                }
                let begun = stage.now();
                let value = stamp(begun, &source.value());
                let outcome = client.call(&method::PUT, &Put::new(key.clone(), value).0).await;
                stage.outcome(number, Kind::Write, begun, 0, outcome);
            }
        });
    }
    Ok(())
}

/// Opens a stream with `count` watchers of `key`, all confirmed.
async fn open(
    client: &Client,
    key: &Bytes,
    count: u64,
) -> Result<(Requests<WatchRequest>, Responses<WatchResponse>)> {
    let (requests, mut responses) = client.watch_stream().await?;
    for _ in 0..count {
        let create = WatchCreateRequest { key: key.clone(), ..Default::default() };
        let union = RequestUnion::CreateRequest(create);
        requests.send(&WatchRequest { request_union: Some(union) }).await?;
        match responses.next().await? {
            Some(response) if response.created && !response.canceled => {}
            Some(response) => return Err(Error::WatchCanceled(response.cancel_reason)),
            None => return Err(Error::Disconnected("the server ended the stream".into())),
        }
    }
    Ok((requests, responses))
}

/// Counts events until the end.
async fn follow(
    stage: &Arc<Stage>,
    stream: u64,
    count: u64,
    mut responses: Responses<WatchResponse>,
) {
    // etcd numbers the watchers of a stream from 0.
    let mut versions = vec![0i64; count as usize];
    let mut ended = pin!(stage.ended());
    while !stage.is_over() {
        let response = tokio::select! {
            // Events first: they are what is measured.
            biased;
            response = responses.next() => response,
            () = &mut ended => break,
        };
        let arrived = stage.now();
        let response = match response {
            Ok(Some(response)) => response,
            Ok(None) => return stage.fail(stream, &"the server ended a watch stream"),
            Err(error) => return stage.fail(stream, &error),
        };
        if response.canceled {
            return stage.fail(stream, &format!("watch canceled: {}", response.cancel_reason));
        }
        for event in response.events {
            let watcher = usize::try_from(response.watch_id).ok();
            match check(event, watcher.and_then(|watcher| versions.get_mut(watcher))) {
                Ok(written) => {
                    stage.count(stream, Kind::Main, arrived.saturating_sub(written), 1);
                }
                Err(reason) => stage.fail(stream, &reason),
            }
        }
    }
}

/// When the event's value was written, if it is the one that had to come.
fn check(event: Bytes, version: Option<&mut i64>) -> std::result::Result<Duration, &'static str> {
    let version = version.ok_or("an event for no watcher of ours")?;
    let event = Event::decode(event).map_err(|_| "an event that cannot be decoded")?;
    let kv = event.kv.ok_or("an event without a key")?;
    let expected = std::mem::replace(version, kv.version) + 1;
    if kv.version != expected {
        return Err(if kv.version > expected { "events are missing" } else { "events came twice" });
    }
    let (head, _) = kv.value.split_first_chunk::<STAMP_BYTES>().ok_or("a value without a time")?;
    Ok(Duration::from_nanos(u64::from_be_bytes(*head)))
}

fn stamp(time: Duration, value: &[u8]) -> Bytes {
    let mut stamped = BytesMut::with_capacity(value.len());
    // 2^64 ns are 584 years.
    stamped.put_u64(time.as_nanos() as u64);
    stamped.put_slice(&value[STAMP_BYTES..]);
    stamped.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb::KeyValue;

    fn event(version: i64) -> Bytes {
        let value = stamp(Duration::from_nanos(77), &[1; 12]);
        let kv = Some(KeyValue { version, value, ..Default::default() });
        Event { kv, ..Default::default() }.encode_to_vec().into()
    }

    #[test]
    fn an_event_tells_when_its_value_was_written() {
        assert_eq!(check(event(1), Some(&mut 0)), Ok(Duration::from_nanos(77)));
    }

    #[test]
    fn missing_and_doubled_events_are_seen() {
        assert_eq!(check(event(3), Some(&mut 1)), Err("events are missing"));
        assert_eq!(check(event(1), Some(&mut 1)), Err("events came twice"));
        assert!(check(event(1), None).is_err());
    }
}
