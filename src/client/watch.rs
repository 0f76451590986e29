//! Watches that survive lost connections.
//!
//! A watch is resumed by asking for the revision after the last one delivered. Which that is, is
//! the whole art, and [`Cursor`] holds it apart from any network:
//!
//! - The server's confirmation of a watch "from now on" carries the revision "now": from then on
//!   the watch begins one later, so that what happens while the connection is down is not missed.
//! - Events move the cursor behind the last of them. The header does not: while a watch catches
//!   up it names a revision far ahead of what was sent.
//! - A message without events (progress) promises that nothing up to its revision is still to
//!   come, so there the header does move the cursor.
//! - Events of one revision are delivered together. A response sent in fragments is held back
//!   until it is whole; if the connection breaks in between, the pieces are dropped and sent
//!   again.
//!
//! Nothing is filtered out: what a faulty server sends twice is delivered twice, since the same
//! client is the witness in our tests.
//!
//! Each watcher has a stream of its own. Many watchers on one stream, as the benchmarks want,
//! are to be had through [`Client::watch_stream`], without resuming.

use super::error::{Error, Result};
use super::wire::{Requests, Responses, decode};
use super::{Client, backoff, kv, method};
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    ResponseHeader, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::proto::mvccpb::Event;
use bytes::Bytes;
use std::time::Duration;

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct Watch(pub WatchCreateRequest);

impl Watch {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Watch {
        Watch(WatchCreateRequest { key: key.into(), ..Default::default() })
    }

    /// Keys from `start` to before `end`.
    pub fn range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Watch {
        let (key, range_end) = (start.into(), end.into());
        Watch(WatchCreateRequest { key, range_end, ..Default::default() })
    }

    /// Keys that begin with `prefix`; all keys if it is empty.
    pub fn prefix(prefix: impl Into<Bytes>) -> Watch {
        let range = kv::Get::prefix(prefix).0;
        Watch::range(range.key, range.range_end)
    }

    /// From a revision on; 0, the default, is "from now on".
    pub fn from(mut self, revision: i64) -> Watch {
        self.0.start_revision = revision;
        self
    }

    /// Asks for the pair before each event.
    pub fn prev_kv(mut self) -> Watch {
        self.0.prev_kv = true;
        self
    }

    /// Asks for regular progress while nothing happens.
    pub fn progress_notify(mut self) -> Watch {
        self.0.progress_notify = true;
        self
    }

    /// Lets the server send what is too large for one message in pieces.
    pub fn fragment(mut self) -> Watch {
        self.0.fragment = true;
        self
    }

    /// Leaves out one kind of event.
    pub fn without(mut self, filter: FilterType) -> Watch {
        self.0.filters.push(filter as i32);
        self
    }
}

/// What a watcher learns.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchUpdate {
    /// The server has taken up the watch: once at first, then after each resumption.
    Created { header: ResponseHeader },
    /// Something changed: one or several whole revisions, in order.
    Events { header: ResponseHeader, events: Vec<Event> },
    /// All events up to the header's revision have been delivered.
    Progress { header: ResponseHeader },
}

/// Where a watch stands: which revision it needs next, and the fragments of an unfinished one.
struct Cursor {
    /// The revision to ask for when the watch is opened again; 0 while it is "from now on" and
    /// no server has confirmed it.
    next_revision: i64,
    /// Events of a response whose end has not come.
    fragments: Vec<Event>,
}

impl Cursor {
    fn accept(&mut self, response: WatchResponse) -> Result<Option<WatchUpdate>> {
        let header = response.header.unwrap_or_default();
        if response.canceled {
            return Err(match response.compact_revision {
                0 => Error::WatchCanceled(response.cancel_reason),
                compact_revision => Error::Compacted { compact_revision },
            });
        }
        if response.created {
            if self.next_revision == 0 {
                self.next_revision = header.revision + 1;
            }
            return Ok(Some(WatchUpdate::Created { header }));
        }
        for event in response.events {
            self.fragments.push(decode(event)?);
        }
        if response.fragment {
            return Ok(None);
        }
        if self.fragments.is_empty() {
            self.next_revision = self.next_revision.max(header.revision + 1);
            return Ok(Some(WatchUpdate::Progress { header }));
        }
        let events = std::mem::take(&mut self.fragments);
        let last = events.last().and_then(|event| event.kv.as_ref());
        let last = last.ok_or_else(|| Error::Malformed("an event without a key".into()))?;
        self.next_revision = last.mod_revision + 1;
        Ok(Some(WatchUpdate::Events { header, events }))
    }

    /// The connection broke: what was not delivered will be sent again.
    fn interrupt(&mut self) {
        self.fragments.clear();
    }
}

/// A watch in progress. Dropping it cancels the watch.
pub struct Watcher {
    client: Client,
    request: WatchCreateRequest,
    cursor: Cursor,
    stream: Option<(Requests<WatchRequest>, Responses<WatchResponse>)>,
    /// Streams lost since the server last confirmed the watch.
    failures: u32,
    /// Not to be opened before.
    retry_at: Duration,
    /// Set by an error that no new stream would cure; returned from then on.
    ended: Option<Error>,
}

impl Watcher {
    /// The next thing to learn, waiting for it as long as it takes. Lost connections are made
    /// again. An error is final. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<WatchUpdate> {
        loop {
            if let Some(error) = &self.ended {
                return Err(error.clone());
            }
            let outcome = match &mut self.stream {
                None => {
                    self.open().await;
                    continue;
                }
                Some((_, responses)) => responses.next().await,
            };
            let error = match outcome {
                Ok(Some(response)) => match self.cursor.accept(response) {
                    Ok(Some(update)) => {
                        self.failures = 0;
                        return Ok(update);
                    }
                    Ok(None) => continue,
                    Err(error) => error,
                },
                Ok(None) => Error::Disconnected("the server ended the stream".into()),
                Err(error) => error,
            };
            match error.is_resumable() {
                true => self.lose(&error),
                false => self.end(error),
            }
        }
    }

    /// The revision a resumed watch would begin with; 0 before a watch "from now on" is confirmed.
    pub fn next_revision(&self) -> i64 {
        self.cursor.next_revision
    }

    /// Asks the server for a [`WatchUpdate::Progress`]; etcd keeps silent while the watch is
    /// behind. Does nothing while there is no connection.
    pub async fn request_progress(&mut self) {
        if let Some((requests, _)) = &self.stream {
            let union = RequestUnion::ProgressRequest(WatchProgressRequest {});
            // A stream that has ended says so at the next `next`.
            let _ = requests.send(&WatchRequest { request_union: Some(union) }).await;
        }
    }

    async fn open(&mut self) {
        let shared = &self.client.shared;
        let now = shared.world.now();
        if now < self.retry_at {
            shared.world.sleep(self.retry_at - now).await;
        }
        let mut channel = shared.endpoints.channel(&*shared.world, &shared.options).await;
        let (requests, responses) = channel.stream(method::WATCH);
        let start_revision = self.cursor.next_revision;
        let create = WatchCreateRequest { start_revision, ..self.request.clone() };
        let union = RequestUnion::CreateRequest(create);
        // There is room for the first request, and if the stream is gone its responses tell.
        let _ = requests.send(&WatchRequest { request_union: Some(union) }).await;
        self.stream = Some((requests, responses));
    }

    fn lose(&mut self, error: &Error) {
        let shared = &self.client.shared;
        if let Some((_, responses)) = self.stream.take() {
            shared.endpoints.leave(responses.endpoint, &error.to_string());
        }
        self.cursor.interrupt();
        // The first resumption is immediate: most often only one server went away.
        if self.failures > 0 {
            let pause = backoff(&*shared.world, &shared.options, self.failures - 1);
            self.retry_at = shared.world.now() + pause;
        }
        self.failures = self.failures.saturating_add(1);
    }

    fn end(&mut self, error: Error) {
        self.stream = None;
        self.ended = Some(error);
    }
}

impl Client {
    /// Watches. Returns at once; the first update tells when a server has taken it up.
    pub fn watch(&self, watch: Watch) -> Watcher {
        let cursor = Cursor { next_revision: watch.0.start_revision, fragments: Vec::new() };
        Watcher {
            client: self.clone(),
            request: watch.0,
            cursor,
            stream: None,
            failures: 0,
            retry_at: Duration::ZERO,
            ended: None,
        }
    }

    /// A bare stream of the watch service: any number of watchers, ids and all, no resuming.
    pub async fn watch_stream(&self) -> Result<(Requests<WatchRequest>, Responses<WatchResponse>)> {
        self.stream(method::WATCH).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb::KeyValue;
    use prost::Message;

    fn response(revision: i64, events: &[i64]) -> WatchResponse {
        let encode = |&mod_revision: &i64| {
            let kv = Some(KeyValue { mod_revision, ..Default::default() });
            Event { kv, ..Default::default() }.encode_to_vec().into()
        };
        WatchResponse {
            header: Some(ResponseHeader { revision, ..Default::default() }),
            events: events.iter().map(encode).collect(),
            ..Default::default()
        }
    }

    fn cursor(next_revision: i64) -> Cursor {
        Cursor { next_revision, fragments: Vec::new() }
    }

    fn revisions(update: Option<WatchUpdate>) -> Vec<i64> {
        match update {
            Some(WatchUpdate::Events { events, .. }) => {
                events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect()
            }
            other => panic!("no events: {other:?}"),
        }
    }

    #[test]
    fn a_watch_from_now_on_begins_after_the_revision_of_its_confirmation() {
        let mut cursor = cursor(0);
        let created = WatchResponse { created: true, ..response(7, &[]) };
        cursor.accept(created.clone()).unwrap();
        assert_eq!(cursor.next_revision, 8);
        // The confirmation of a resumed watch names a later "now" and changes nothing.
        cursor.accept(WatchResponse { created: true, ..response(20, &[]) }).unwrap();
        assert_eq!(cursor.next_revision, 8);
    }

    #[test]
    fn events_move_the_cursor_by_their_own_revision_and_progress_by_the_header() {
        let mut cursor = cursor(3);
        assert_eq!(revisions(cursor.accept(response(100, &[3, 5])).unwrap()), [3, 5]);
        assert_eq!(cursor.next_revision, 6);
        let progress = cursor.accept(response(100, &[])).unwrap();
        assert!(matches!(progress, Some(WatchUpdate::Progress { .. })));
        assert_eq!(cursor.next_revision, 101);
        // Progress older than what was delivered must not move it back.
        cursor.accept(response(50, &[])).unwrap();
        assert_eq!(cursor.next_revision, 101);
    }

    #[test]
    fn fragments_are_delivered_whole_or_not_at_all() {
        let mut cursor = cursor(1);
        let piece = |events: &[i64]| WatchResponse { fragment: true, ..response(9, events) };
        assert_eq!(cursor.accept(piece(&[4, 4])).unwrap(), None);
        assert_eq!(cursor.next_revision, 1);
        cursor.interrupt();
        assert_eq!(cursor.accept(piece(&[4, 4])).unwrap(), None);
        assert_eq!(revisions(cursor.accept(response(9, &[4])).unwrap()), [4, 4, 4]);
        assert_eq!(cursor.next_revision, 5);
    }

    #[test]
    fn compaction_and_cancellation_end_a_watch() {
        let canceled = WatchResponse { canceled: true, ..Default::default() };
        let compacted = WatchResponse { compact_revision: 12, ..canceled.clone() };
        let refused = WatchResponse { cancel_reason: "why".into(), ..canceled };
        assert_eq!(cursor(1).accept(compacted), Err(Error::Compacted { compact_revision: 12 }));
        assert_eq!(cursor(1).accept(refused), Err(Error::WatchCanceled("why".into())));
    }
}
