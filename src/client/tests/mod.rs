//! The client against a fake that misbehaves on purpose, and against a real etcd where one is
//! named.

mod etcd;
mod fake;
mod lab;

use super::*;
use crate::env::real::Real;
use crate::env::{Clock, Env, Network};
use crate::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use crate::proto::mvccpb::{Event, KeyValue};
use fake::{Answer, Fake, Step};
use lab::Lab;
use std::future::Future;
use tonic::{Code, Status};

/// A port nobody listens on: below the range the system gives out, and reserved.
const DEAD: &str = "127.0.0.1:1";

fn run(test: impl Future<Output = ()>) {
    Real::run_on(1, test).unwrap();
}

fn client<'a>(endpoints: impl IntoIterator<Item = &'a str>) -> Client {
    let deadline = Some(Duration::from_secs(20));
    let backoff_min = Duration::from_millis(1);
    let options = Options { deadline, backoff_min, ..Options::default() };
    Client::connect(&Real::new(), endpoints, options).unwrap()
}

fn no_leader() -> Answer {
    Answer::Refuse(Status::unavailable("etcdserver: no leader"))
}

fn timed_out() -> Answer {
    Answer::Refuse(Status::unavailable("etcdserver: request timed out"))
}

#[test]
fn a_read_is_sent_again_until_it_is_answered() {
    run(async {
        let fake = Fake::start([timed_out(), Answer::Cut, no_leader(), Answer::Good]).await;
        client([&*fake.address]).get(Get::key("a")).await.unwrap();
        assert_eq!(fake.calls(), ["range"; 4]);
    });
}

#[test]
fn a_write_that_may_have_been_executed_is_not_sent_again() {
    run(async {
        for answer in [timed_out(), Answer::Cut] {
            let fake = Fake::start([answer]).await;
            let other = Fake::start([]).await;
            let client = client([&*fake.address, &*other.address]);
            let error = client.put(Put::new("a", "b")).await.unwrap_err();
            assert!(error.maybe_executed() && error.code() == Code::Unavailable, "{error:?}");
            assert_eq!((fake.calls().len(), other.calls().len()), (1, 0));
            // The next call leaves the endpoint that gave no good answer.
            client.put(Put::new("a", "b")).await.unwrap();
            assert_eq!((fake.calls().len(), other.calls().len()), (1, 1));
        }
    });
}

#[test]
fn a_write_refused_for_want_of_a_leader_goes_to_the_next_endpoint() {
    run(async {
        let cut_off = Fake::start([no_leader()]).await;
        let healthy = Fake::start([]).await;
        let client = client([&*cut_off.address, &*healthy.address]);
        client.put(Put::new("a", "b")).await.unwrap();
        assert_eq!((cut_off.calls(), healthy.calls()), (vec!["put"], vec!["put"]));
    });
}

#[test]
fn a_transaction_is_repeated_only_if_it_only_reads() {
    run(async {
        let fake = Fake::start([timed_out(), Answer::Good, timed_out(), Answer::Good]).await;
        let client = client([&*fake.address]);
        client.txn(Txn::new().then(Get::key("a"))).await.unwrap();
        assert_eq!(fake.calls().len(), 2);
        client.txn(Txn::new().then(Put::new("a", "b"))).await.unwrap_err();
        assert_eq!(fake.calls().len(), 3);
    });
}

#[test]
fn an_error_of_the_server_arrives_as_it_is_and_is_not_repeated() {
    run(async {
        let text = "etcdserver: mvcc: required revision is a future revision";
        let fake = Fake::start([Answer::Refuse(Status::out_of_range(text))]).await;
        let error = client([&*fake.address]).get(Get::key("a")).await.unwrap_err();
        assert_eq!(error, Error::Server { code: Code::OutOfRange, message: text.into() });
        assert_eq!(fake.calls().len(), 1);
    });
}

#[test]
fn an_endpoint_that_is_down_is_passed_over() {
    run(async {
        let fake = Fake::start([]).await;
        client([DEAD, &*fake.address]).put(Put::new("a", "b")).await.unwrap();
        assert_eq!(fake.calls(), ["put"]);
    });
}

#[test]
fn a_call_ends_by_its_deadline_and_says_whether_it_was_sent() {
    run(async {
        let fake = Fake::start([Answer::Hang]).await;
        let other = Fake::start([]).await;
        let deadline = Some(Duration::from_millis(100));
        let hung = client([&*fake.address, &*other.address]);
        let error = hung.with_deadline(deadline).put(Put::new("a", "b")).await.unwrap_err();
        assert!(matches!(error, Error::Deadline { sent: true, .. }), "{error:?}");
        // An endpoint that does not answer is left.
        hung.put(Put::new("a", "b")).await.unwrap();
        assert_eq!((fake.calls().len(), other.calls().len()), (1, 1));

        let error = client([DEAD]).with_deadline(deadline).put(Put::new("a", "b")).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Deadline { sent: false, .. }), "{error:?}");
        assert!(!error.maybe_executed() && error.to_string().contains(DEAD), "{error}");
    });
}

#[test]
fn a_cut_connection_is_made_again() {
    run(async {
        let fake = Fake::start([]).await;
        let client = client([&*fake.address]);
        for round in 1..=5 {
            client.get(Get::key("a")).await.unwrap();
            assert_eq!(fake.calls().len(), round);
            fake.cut();
        }
    });
}

#[test]
fn many_calls_share_a_connection_and_all_are_answered() {
    run(async {
        let fake = Fake::start([]).await;
        let client = client([&*fake.address]);
        let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..500 {
            let (client, done) = (client.clone(), done.clone());
            Real::new().spawn(async move {
                done.send(client.put(Put::new("a", vec![0; 1000])).await.is_ok()).unwrap();
            });
        }
        drop(done);
        let mut good = 0;
        while let Some(answer) = finished.recv().await {
            good += usize::from(answer);
        }
        assert_eq!((good, fake.calls().len()), (500, 500));
    });
}

fn response(revision: i64) -> WatchResponse {
    let header = Some(ResponseHeader { revision, ..Default::default() });
    WatchResponse { header, ..Default::default() }
}

fn created(revision: i64) -> Step {
    Step::Send(WatchResponse { created: true, ..response(revision) })
}

fn events(revisions: impl IntoIterator<Item = i64>) -> WatchResponse {
    let encode = |mod_revision| {
        let kv = Some(KeyValue { mod_revision, ..Default::default() });
        Event { kv, ..Default::default() }.encode_to_vec().into()
    };
    WatchResponse { events: revisions.into_iter().map(encode).collect(), ..response(1000) }
}

/// The next delivered revisions, other updates passed over.
async fn revisions(watcher: &mut Watcher) -> Result<Vec<i64>> {
    loop {
        if let WatchUpdate::Events { events, .. } = watcher.next().await? {
            return Ok(events
                .iter()
                .map(|event| event.kv.as_ref().unwrap().mod_revision)
                .collect());
        }
    }
}

#[test]
fn a_watch_resumes_after_the_last_revision_delivered() {
    run(async {
        let fake = Fake::start([]).await;
        let mut streams = 0;
        fake.on_watch(move |_| {
            streams += 1;
            match streams {
                1 => vec![Step::Cut],
                2 => vec![
                    created(5),
                    Step::Send(events([6, 7])),
                    Step::Send(WatchResponse { fragment: true, ..events([8]) }),
                    Step::Fail(Status::unavailable("etcdserver: server stopped")),
                ],
                3 => vec![
                    created(20),
                    Step::Send(events([8, 8])),
                    Step::Send(response(11)),
                    Step::End,
                ],
                4 => vec![created(30), Step::Send(events([15])), Step::Cut],
                _ => vec![
                    created(40),
                    Step::Send(WatchResponse {
                        canceled: true,
                        compact_revision: 33,
                        ..Default::default()
                    }),
                ],
            }
        });
        let mut watcher = client([&*fake.address]).watch(Watch::key("a"));
        assert_eq!(revisions(&mut watcher).await, Ok(vec![6, 7]));
        assert_eq!(revisions(&mut watcher).await, Ok(vec![8, 8]));
        assert_eq!(revisions(&mut watcher).await, Ok(vec![15]));
        let compacted = Error::Compacted { compact_revision: 33 };
        assert_eq!(revisions(&mut watcher).await, Err(compacted.clone()));
        assert_eq!(revisions(&mut watcher).await, Err(compacted), "the end is final");
        assert_eq!(fake.watches(), [0, 0, 8, 12, 16]);
    });
}

#[test]
fn a_watch_that_is_refused_is_not_tried_again() {
    run(async {
        let fake = Fake::start([]).await;
        fake.on_watch(|_| vec![Step::Fail(Status::permission_denied("no"))]);
        let mut watcher = client([&*fake.address]).watch(Watch::key("a"));
        assert_eq!(watcher.next().await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(fake.watches(), [0]);
    });
}

/// What a watch of a store with revisions 1 to `last` may send before its connection dies, with
/// random batches, fragments, progress and moment of death.
fn dying_stream(
    create: &WatchCreateRequest,
    last: i64,
    random: &mut impl FnMut(u64) -> u64,
) -> Vec<Step> {
    let mut steps = vec![created(last)];
    let mut next = create.start_revision;
    while next <= last {
        match random(6) {
            0 => steps.push(Step::Send(WatchResponse { ..response(next - 1) })),
            1 if random(4) == 0 => {
                steps.push(
                    [Step::Cut, Step::End, Step::Fail(Status::internal("x"))][random(3) as usize]
                        .clone(),
                );
                return steps;
            }
            2 => {
                steps.push(Step::Send(WatchResponse { fragment: true, ..events([next]) }));
                steps.push(Step::Send(events([next])));
                next += 1;
            }
            count => {
                let end = (next + count as i64).min(last + 1);
                steps.push(Step::Send(events((next..end).flat_map(|revision| [revision; 2]))));
                next = end;
            }
        }
    }
    steps
}

#[test]
fn a_watch_over_dying_streams_misses_nothing_and_doubles_nothing() {
    run(async {
        let mut streams = 0;
        for seed in 1..=20u64 {
            let mut state = seed;
            let mut random = move |bound| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % bound
            };
            let fake = Fake::start([]).await;
            let other = Fake::start([]).await;
            for fake in [&fake, &other] {
                random(7);
                let mut random = random;
                fake.on_watch(move |create| dying_stream(create, 200, &mut random));
            }
            let client = client([&*fake.address, &*other.address]);
            let mut watcher = client.watch(Watch::key("a").from(1));
            let mut seen = Vec::new();
            while seen.last() != Some(&200) {
                seen.extend(revisions(&mut watcher).await.unwrap());
            }
            let expected: Vec<i64> = (1..=200).flat_map(|revision| [revision; 2]).collect();
            assert_eq!(seen, expected, "seed {seed}");
            streams += fake.watches().len() + other.watches().len();
        }
        assert!(streams > 60, "hardly a stream died: {streams}");
    });
}

#[test]
fn a_lease_is_renewed_across_lost_connections_until_it_is_gone() {
    run(async {
        let fake = Fake::start([]).await;
        fake.renew_with([Some(3), None, Some(2), Some(0)]);
        let mut keep_alive = client([&*fake.address]).keep_alive(7);
        assert_eq!(keep_alive.next().await.unwrap().ttl, 3);
        assert_eq!(keep_alive.next().await.unwrap().ttl, 2);
        let gone = keep_alive.next().await.unwrap_err();
        assert_eq!(gone.to_string(), "etcdserver: requested lease not found");
        assert_eq!(fake.calls(), ["renew"; 4]);
    });
}

#[test]
fn renewing_stops_when_the_lease_must_have_expired() {
    run(async {
        let fake = Fake::start([]).await;
        // One good answer, then nothing but cuts.
        fake.renew_with(std::iter::once(Some(1)).chain(std::iter::repeat_n(None, 10_000)));
        let mut keep_alive = client([&*fake.address]).keep_alive(7);
        keep_alive.next().await.unwrap();
        assert!(matches!(keep_alive.next().await, Err(Error::Disconnected(_))));
        let error = client([DEAD]).with_deadline(Some(Duration::from_millis(50)));
        let error = error.lease_keep_alive_once(7).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
    });
}

#[test]
fn the_client_needs_no_runtime_but_its_world() {
    Lab::run(|lab| async move {
        let fake = Fake::start_in(&lab, "a:1", [timed_out(), Answer::Hang]).await;
        fake.on_watch(|_| vec![created(1), Step::Send(events([2])), Step::Cut]);
        let client = Client::connect(&lab, ["a:1"], Options::default()).unwrap();
        let begun = lab.clock().now();
        client.put(Put::new("a", "b")).await.unwrap_err();
        let late = client.get(Get::key("a")).await.unwrap_err();
        assert!(matches!(late, Error::Deadline { sent: true, .. }));
        assert_eq!(lab.clock().now() - begun, Duration::from_secs(10), "the default deadline");
        client.get(Get::key("a")).await.unwrap();
        let mut watcher = client.watch(Watch::key("a"));
        assert_eq!(revisions(&mut watcher).await, Ok(vec![2]));
    });
}

#[test]
fn a_server_that_fell_silent_is_noticed_and_left() {
    Lab::run(|lab| async move {
        // A hole accepts connections and never says a word.
        let hole = lab.network().bind("hole:1").await.unwrap();
        let fake = Fake::start_in(&lab, "fake:1", []).await;
        fake.on_watch(|_| vec![created(1), Step::Send(events([2]))]);
        let options = Options { deadline: None, ..Options::default() };
        let patience = options.keep_alive_interval.unwrap() + options.keep_alive_timeout;
        let client = Client::connect(&lab, ["hole:1", "fake:1"], options).unwrap();
        let mut watcher = client.watch(Watch::key("a"));
        assert_eq!(revisions(&mut watcher).await, Ok(vec![2]));
        assert!(lab.clock().now() <= patience + Duration::from_secs(1), "{:?}", lab.clock().now());
        drop(hole);
    });
}

#[test]
fn a_server_that_cannot_be_reached_is_tried_ever_less_often() {
    Lab::run(|lab| async move {
        let options = Options { deadline: Some(Duration::from_secs(60)), ..Options::default() };
        let (least, most) = (options.backoff_min, options.backoff_max);
        let client = Client::connect(&lab, ["a:1"], options).unwrap();
        let error = client.get(Get::key("a")).await.unwrap_err();
        assert!(matches!(error, Error::Deadline { sent: false, .. }), "{error:?}");
        // Once it is there it is found within the longest pause.
        let fake = Fake::start_in(&lab, "a:1", []).await;
        let begun = lab.clock().now();
        client.get(Get::key("a")).await.unwrap();
        let waited = lab.clock().now() - begun;
        assert!(waited <= most && waited > least, "{waited:?}");
        assert_eq!(fake.calls().len(), 1);
    });
}
