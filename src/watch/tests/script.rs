//! Each rule as a little play. Lines that begin with `>` are what streams receive after the
//! command above them; the runner plays the commands and compares the whole text.
//!
//! | command | meaning |
//! |---|---|
//! | `put KEY...`, `del KEY...` | one revision that puts (deletes) these keys; `put k=v` sets a value |
//! | `big KEY... SIZE` | one revision that puts values of that size |
//! | `compact N`, `restore`, `tick MS` | the inputs of that name; `restore` first makes it miss what `miss KEY` put |
//! | `miss KEY` | a put the hub is never told |
//! | `open S [MS]`, `close S` | a stream, its progress interval |
//! | `watch S KEY [END] [start=N] [id=N] [prev] [noput] [nodelete] [notify] [fragment]` | create; `-` is an empty key, `0` a zero byte |
//! | `cancel S ID`, `progress S`, `refuse S TEXT` | requests |
//! | `hold S`, `free S` | its sender pulls nothing; pulls again |
//! | `take S N` | a held stream's sender pulls N responses |

use super::{Change, Model};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::proto::mvccpb;
use crate::types::Revision;
use crate::watch::{Hub, HubOptions, StreamId, StreamQueue};
use prost::Message;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

struct Stage {
    model: Model,
    hub: Hub,
    streams: BTreeMap<u64, (Arc<StreamQueue>, bool)>,
    now: Duration,
}

fn play(script: &str, options: HubOptions) {
    let mut stage = Stage {
        model: Model::new(),
        hub: Hub::new(Revision(1), Revision(-1), options),
        streams: BTreeMap::new(),
        now: Duration::ZERO,
    };
    let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut expected = String::new();
    let mut actual = String::new();
    for line in lines {
        writeln!(expected, "{line}").expect("memory");
        if !line.starts_with('>') {
            writeln!(actual, "{line}").expect("memory");
            stage.command(line, &mut actual);
        }
    }
    assert!(actual == expected, "expected:\n{expected}\nplayed:\n{actual}");
}

impl Stage {
    fn command(&mut self, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        match words[0] {
            "put" => self.change(&words[1..], |key, value| put(key, value.into()), true),
            "miss" => self.change(&words[1..], |key, value| put(key, value.into()), false),
            "del" => {
                self.change(&words[1..], |key, _| Change::Delete { key: key.into() }, true);
            }
            "big" => {
                let size = number(words.len() - 1) as usize;
                let keys = &words[1..words.len() - 1];
                self.change(keys, |key, _| put(key, vec![b'v'; size]), true);
            }
            "compact" => {
                self.model.compacted = number(1) as i64;
                self.hub.compacted(Revision(self.model.compacted));
            }
            "restore" => {
                let (revision, compacted) = (self.model.revision, self.model.compacted);
                self.hub.restored(Revision(revision), Revision(compacted));
            }
            "tick" => {
                self.now += Duration::from_millis(number(1));
                self.hub.tick(self.now);
            }
            "open" => {
                let interval = Duration::from_millis(words.get(2).map_or(100_000, |_| number(2)));
                let queue = self.hub.open_stream(StreamId(number(1)), self.now, interval);
                match queue {
                    Ok(queue) => drop(self.streams.insert(number(1), (queue, false))),
                    Err(error) => writeln!(out, "> {error}").expect("memory"),
                }
            }
            "close" => self.hub.close_stream(StreamId(number(1))),
            "watch" => self.request(number(1), create(&words[2..])),
            "cancel" => {
                let watch_id = words[2].parse().expect("a number");
                self.request(
                    number(1),
                    RequestUnion::CancelRequest(WatchCancelRequest { watch_id }),
                );
            }
            "progress" => {
                self.request(number(1), RequestUnion::ProgressRequest(WatchProgressRequest {}));
            }
            "unknown" => {
                self.hub.request(StreamId(number(1)), WatchRequest { request_union: None });
            }
            "refuse" => self.hub.refuse(StreamId(number(1)), &words[2..].join(" ")),
            "hold" => self.streams.get_mut(&number(1)).expect("open").1 = true,
            "free" => self.streams.get_mut(&number(1)).expect("open").1 = false,
            "take" => {
                let mut got = Vec::new();
                self.streams[&number(1)].0.pull(&mut got, number(2) as usize);
                got.into_iter().for_each(|response| show(out, number(1), response));
            }
            other => panic!("command {other}"),
        }
        loop {
            let more = self.hub.catch_up(&self.model, 1_000);
            let mut pulled = 0;
            for (name, (queue, held)) in self.streams.iter().filter(|(_, stream)| !stream.1) {
                assert!(!held);
                let mut got = Vec::new();
                pulled += queue.pull(&mut got, usize::MAX);
                got.into_iter().for_each(|response| show(out, *name, response));
            }
            if !more && pulled == 0 {
                break;
            }
        }
        if words[0] == "close"
            && let Some((queue, _)) = self.streams.remove(&number(1))
        {
            assert!(queue.is_closed());
            let mut got = Vec::new();
            queue.pull(&mut got, usize::MAX);
            got.into_iter().for_each(|response| show(out, number(1), response));
        }
    }

    fn change(&mut self, words: &[&str], make: impl Fn(&str, &str) -> Change, tell: bool) {
        let split = words.iter().map(|word| word.split_once('=').unwrap_or((word, "")));
        let changes: Vec<Change> = split.map(|(key, value)| make(key, value)).collect();
        let batch = self.model.change(&changes);
        if tell {
            self.hub.apply(batch.expect("changes something"), &self.model);
        }
    }

    fn request(&mut self, stream: u64, union: RequestUnion) {
        self.hub.request(StreamId(stream), WatchRequest { request_union: Some(union) });
    }
}

fn put(key: &str, value: Vec<u8>) -> Change {
    Change::Put { key: key.into(), value, lease: 0 }
}

fn create(words: &[&str]) -> RequestUnion {
    let bytes = |word: &str| match word {
        "-" => Vec::new(),
        "0" => vec![0],
        word => word.as_bytes().to_vec(),
    };
    let mut request = WatchCreateRequest { key: bytes(words[0]).into(), ..Default::default() };
    for word in &words[1..] {
        let number = |text: &str| text.parse().expect("a number");
        match word.split_once('=') {
            Some(("start", text)) => request.start_revision = number(text),
            Some(("id", text)) => request.watch_id = number(text),
            Some(other) => panic!("option {other:?}"),
            None => match *word {
                "prev" => request.prev_kv = true,
                "noput" => request.filters.push(0),
                "nodelete" => request.filters.push(1),
                "notify" => request.progress_notify = true,
                "fragment" => request.fragment = true,
                end => request.range_end = bytes(end).into(),
            },
        }
    }
    RequestUnion::CreateRequest(request)
}

fn show(out: &mut String, stream: u64, response: WatchResponse) {
    let revision = response.header.expect("set").revision;
    write!(out, "> {stream}/{} @{revision}", response.watch_id).expect("memory");
    for (flag, name) in [
        (response.created, " created"),
        (response.canceled, " canceled"),
        (response.fragment, " fragment"),
        (response.events.is_empty() && !response.created && !response.canceled, " progress"),
    ] {
        out.push_str(if flag { name } else { "" });
    }
    if response.compact_revision != 0 {
        write!(out, " compacted={}", response.compact_revision).expect("memory");
    }
    if !response.cancel_reason.is_empty() {
        write!(out, " ({})", response.cancel_reason).expect("memory");
    }
    for event in response.events {
        let event = mvccpb::Event::decode(event).expect("lawful");
        let pair = event.kv.expect("set");
        let (sign, key) = (if event.r#type == 0 { '+' } else { '-' }, pair.key.escape_ascii());
        write!(out, " {sign}{key}:{}", pair.mod_revision).expect("memory");
        if let Some(previous) = event.prev_kv {
            let value = previous.value.escape_ascii();
            write!(out, "(was {value}:{})", previous.mod_revision).expect("memory");
        }
    }
    out.push('\n');
}

/// Queues of two responses, a recent log of four events, merges of three revisions.
fn tiny() -> HubOptions {
    HubOptions {
        queue_responses_max: 2,
        recent_events_max: 4,
        batch_revisions_max: 3,
        ..HubOptions::default()
    }
}

#[test]
fn events_after_creation_come_one_response_per_revision() {
    let script = "
        put a
        open 1
        watch 1 a
        > 1/0 @2 created
        put a
        > 1/0 @3 +a:3
        put b
        put a c
        > 1/0 @5 +a:5
        del a
        > 1/0 @6 -a:6
    ";
    play(script, HubOptions::default());
}

#[test]
fn the_past_comes_merged_and_then_the_present() {
    let script = "
        put a
        put b
        put a
        open 1
        watch 1 a start=1
        > 1/0 @4 created
        > 1/0 @4 +a:2 +a:4
        put a
        > 1/0 @5 +a:5
        watch 1 a start=5
        > 1/1 @5 created
        > 1/1 @5 +a:5
        watch 1 x start=2
        > 1/2 @5 created
        watch 1 a start=7
        > 1/3 @5 created
        cancel 1 0
        > 1/0 @5 canceled
        put a
        > 1/1 @6 +a:6
        put a
        > 1/3 @7 +a:7
        > 1/1 @7 +a:7
    ";
    play(script, HubOptions::default());
}

#[test]
fn ids_are_counted_per_stream_and_skip_those_in_use() {
    let script = "
        open 1
        open 2
        watch 1 a id=1
        > 1/1 @1 created
        watch 1 a
        > 1/0 @1 created
        watch 1 a
        > 1/2 @1 created
        watch 1 b id=2
        > 1/-1 @1 created canceled (mvcc: duplicate watch ID provided on the WatchStream)
        watch 1 a id=-5
        > 1/-5 @1 created
        watch 1 a id=-1
        > 1/-1 @1 created
        cancel 1 2
        > 1/2 @1 canceled
        cancel 1 2
        watch 1 a
        > 1/3 @1 created
        watch 1 b id=2
        > 1/2 @1 created
        watch 2 b
        > 2/0 @1 created
        put b
        > 1/2 @2 +b:2
        > 2/0 @2 +b:2
    ";
    play(script, HubOptions::default());
}

#[test]
fn unlawful_requests_are_created_and_canceled() {
    let script = "
        open 1
        watch 1 d b
        > 1/-1 @1 created canceled (mvcc: watcher range is empty)
        watch 1 d d
        > 1/-1 @1 created canceled (mvcc: watcher range is empty)
        watch 1 d start=-1
        > 1/-1 @1 created canceled (etcdserver: mvcc: required revision has been compacted)
        refuse 1 rpc error: code = PermissionDenied desc = etcdserver: permission denied
        > 1/-1 @1 created canceled (rpc error: code = PermissionDenied desc = etcdserver: permission denied)
        unknown 1
        cancel 1 7
        watch 1 d
        > 1/0 @1 created
        watch 9 d
        refuse 9 late
        close 9
        open 9
        > TooManyRequests
        watch 1 d
        > 1/1 @1 created
        watch 1 d
        > 1/-1 @1 created canceled (etcdserver: too many watchers on the stream)
        close 1
        open 2
        watch 2 d
        > 2/0 @1 created
        put d
        > 2/0 @2 +d:2
    ";
    let options = HubOptions { streams_max: 1, stream_watchers_max: 2, ..HubOptions::default() };
    play(script, options);
}

#[test]
fn too_many_watchers_in_all_are_refused() {
    let script = "
        open 1
        open 2
        watch 1 d
        > 1/0 @1 created
        watch 2 d
        > 2/-1 @1 created canceled (etcdserver: too many watchers)
    ";
    play(script, HubOptions { watchers_max: 1, ..HubOptions::default() });
}

#[test]
fn ranges_take_what_lies_in_them() {
    let script = "
        open 1
        watch 1 - 
        > 1/0 @1 created
        watch 1 - 0
        > 1/1 @1 created
        watch 1 b d
        > 1/2 @1 created
        watch 1 c 0
        > 1/3 @1 created
        watch 1 0 0
        > 1/4 @1 created
        put a b c d
        > 1/1 @2 +a:2 +b:2 +c:2 +d:2
        > 1/4 @2 +a:2 +b:2 +c:2 +d:2
        > 1/2 @2 +b:2 +c:2
        > 1/3 @2 +c:2 +d:2
    ";
    play(script, HubOptions::default());
}

#[test]
fn filters_hold_for_live_events_and_the_past() {
    let script = "
        open 1
        watch 1 a noput
        > 1/0 @1 created
        watch 1 a nodelete
        > 1/1 @1 created
        watch 1 a noput nodelete
        > 1/2 @1 created
        put a
        > 1/1 @2 +a:2
        del a
        > 1/0 @3 -a:3
        watch 1 a noput start=1
        > 1/3 @3 created
        > 1/3 @3 -a:3
    ";
    play(script, HubOptions::default());
}

#[test]
fn previous_pairs_are_absent_for_creates_and_compacted_revisions() {
    let script = "
        open 1
        watch 1 a prev
        > 1/0 @1 created
        put a=1
        > 1/0 @2 +a:2
        put a=2
        > 1/0 @3 +a:3(was 1:2)
        del a
        > 1/0 @4 -a:4(was 2:3)
        put a=4
        > 1/0 @5 +a:5
        compact 3
        watch 1 a prev start=3
        > 1/1 @5 created
        > 1/1 @5 +a:3 -a:4(was 2:3) +a:5
    ";
    play(script, HubOptions::default());
}

#[test]
fn a_start_below_the_compacted_revision_is_created_then_ended() {
    let script = "
        put a
        put a
        put a
        compact 3
        open 1
        watch 1 a start=2
        > 1/0 @4 created
        > 1/0 @0 canceled compacted=3
        watch 1 a start=3
        > 1/1 @4 created
        > 1/1 @4 +a:3 +a:4
        compact 4
        put a
        > 1/1 @5 +a:5
        watch 1 a id=0
        > 1/2 @5 created
    ";
    play(script, HubOptions::default());
}

#[test]
fn a_full_queue_makes_its_watchers_lag_and_no_others() {
    let script = "
        open 1
        open 2
        watch 1 a
        > 1/0 @1 created
        watch 2 a
        > 2/0 @1 created
        hold 1
        put a
        > 2/0 @2 +a:2
        put a
        > 2/0 @3 +a:3
        put a
        > 2/0 @4 +a:4
        put a
        > 2/0 @5 +a:5
        progress 1
        take 1 1
        > 1/0 @2 +a:2
        put b
        take 1 1
        > 1/0 @3 +a:3
        take 1 1
        > 1/0 @5 +a:4 +a:5
        put a
        > 2/0 @7 +a:7
        progress 1
        free 1
        > 1/0 @7 +a:7
        > 1/-1 @7 progress
    ";
    // The bell rings as soon as one of two is taken; what lags is queued in its place.
    play(script, tiny());
}

#[test]
fn watchers_of_one_key_come_and_go_while_one_lags() {
    let script = "
        open 1
        open 2
        open 3
        watch 1 a
        > 1/0 @1 created
        watch 2 a
        > 2/0 @1 created
        watch 3 a
        > 3/0 @1 created
        hold 1
        put a
        > 2/0 @2 +a:2
        > 3/0 @2 +a:2
        put a
        > 2/0 @3 +a:3
        > 3/0 @3 +a:3
        put a
        > 2/0 @4 +a:4
        > 3/0 @4 +a:4
        cancel 3 0
        > 3/0 @4 canceled
        cancel 1 0
        put a
        > 2/0 @5 +a:5
        free 1
        > 1/0 @2 +a:2
        > 1/0 @3 +a:3
        > 1/0 @4 canceled
        cancel 2 0
        > 2/0 @5 canceled
        put a
        open 4
        watch 4 a start=6
        > 4/0 @6 created
        > 4/0 @6 +a:6
    ";
    play(script, tiny());
}

#[test]
fn a_long_way_back_comes_from_the_store_in_several_responses() {
    let script = "
        put a
        put a
        put a
        put a
        put a
        put a
        put a
        put a
        open 1
        watch 1 a start=1
        > 1/0 @9 created
        > 1/0 @9 +a:2 +a:3 +a:4
        > 1/0 @9 +a:5 +a:6 +a:7
        > 1/0 @9 +a:8 +a:9
        put a
        > 1/0 @10 +a:10
    ";
    play(script, tiny());
}

#[test]
fn a_watcher_that_got_a_part_waits_for_those_who_got_nothing() {
    let script = "
        put a
        put a
        put a
        put a
        put a
        put a
        put a
        put b
        open 1
        hold 1
        watch 1 a start=1
        watch 1 b start=1
        take 1 2
        > 1/0 @9 created
        > 1/0 @9 +a:2 +a:3 +a:4
        take 1 2
        > 1/1 @9 created
        > 1/0 @9 +a:5 +a:6 +a:7
        take 1 2
        > 1/1 @9 +b:9
        > 1/0 @9 +a:8
    ";
    play(script, tiny());
}

#[test]
fn a_lagging_watcher_overtaken_by_a_compaction_is_told() {
    let script = "
        open 1
        watch 1 a
        > 1/0 @1 created
        watch 1 b
        > 1/1 @1 created
        hold 1
        put a
        put a
        put a
        put a
        compact 5
        free 1
        > 1/0 @2 +a:2
        > 1/0 @3 +a:3
        > 1/0 @0 canceled compacted=5
        put b
        > 1/1 @6 +b:6
    ";
    play(script, tiny());
}

#[test]
fn after_a_snapshot_everybody_gets_what_was_missed_once() {
    let script = "
        put a
        open 1
        watch 1 a
        > 1/0 @2 created
        watch 1 a start=5
        > 1/1 @2 created
        watch 1 a start=9
        > 1/2 @2 created
        put a
        > 1/0 @3 +a:3
        miss a
        miss a
        restore
        > 1/0 @5 +a:4 +a:5
        > 1/1 @5 +a:5
        put a
        > 1/0 @6 +a:6
        > 1/1 @6 +a:6
        restore
        miss a
        miss a
        compact 6
        restore
        > 1/0 @8 +a:7 +a:8
        > 1/1 @8 +a:7 +a:8
        cancel 1 2
        > 1/2 @8 canceled
        put a
        > 1/1 @9 +a:9
        > 1/0 @9 +a:9
    ";
    play(script, HubOptions::default());
}

#[test]
fn progress_requests_are_answered_when_all_are_synced() {
    let script = "
        put a
        open 1
        progress 1
        watch 1 x
        > 1/0 @2 created
        put b
        progress 1
        > 1/-1 @3 progress
        watch 1 x start=5
        > 1/1 @3 created
        progress 1
        put b
        put b
        progress 1
        > 1/-1 @5 progress
        watch 1 a start=1
        > 1/2 @5 created
        > 1/2 @5 +a:2
        progress 1
        > 1/-1 @5 progress
    ";
    play(script, HubOptions::default());
}

#[test]
fn progress_notifications_skip_the_tick_after_events() {
    let script = "
        open 1 100
        watch 1 a notify
        > 1/0 @1 created
        watch 1 b
        > 1/1 @1 created
        watch 1 a notify start=3
        > 1/2 @1 created
        tick 99
        tick 1
        > 1/0 @1 progress
        put a
        > 1/0 @2 +a:2
        tick 100
        tick 100
        > 1/0 @2 progress
        put c
        tick 450
        > 1/0 @3 progress
        > 1/2 @3 progress
        tick 99
        cancel 1 2
        > 1/2 @3 canceled
        tick 1
        > 1/0 @3 progress
    ";
    play(script, HubOptions::default());
}

#[test]
fn big_responses_are_split_for_those_who_allow_it() {
    let script = "
        open 1
        watch 1 a z fragment
        > 1/0 @1 created
        watch 1 a z
        > 1/1 @1 created
        big b c d e 400
        > 1/0 @2 fragment +b:2 +c:2
        > 1/0 @2 +d:2 +e:2
        > 1/1 @2 +b:2 +c:2 +d:2 +e:2
        big b 4000
        > 1/0 @3 +b:3
        > 1/1 @3 +b:3
        watch 1 a z fragment start=2
        > 1/2 @3 created
        > 1/2 @3 fragment +b:2 +c:2
        > 1/2 @3 fragment +d:2 +e:2
        > 1/2 @3 +b:3
    ";
    play(script, HubOptions { fragment_bytes: 1_000, ..HubOptions::default() });
}

#[test]
fn a_closed_stream_gets_what_was_queued_and_its_watchers_are_gone() {
    let script = "
        open 1
        open 2
        watch 1 a
        > 1/0 @1 created
        watch 1 a start=1
        > 1/1 @1 created
        hold 1
        put a
        put a
        watch 2 a
        > 2/0 @3 created
        close 1
        > 1/0 @2 +a:2
        > 1/1 @2 +a:2
        put a
        > 2/0 @4 +a:4
        open 1
        watch 1 a
        > 1/0 @4 created
    ";
    play(script, tiny());
}
