//! Walks through cases recorded from a real etcd 3.7.1.
//!
//! The requests that change the store go to the model, those of watch streams to the hub, and
//! what the hub queues must be what etcd sent, response by response and field by field.

#![allow(clippy::disallowed_methods, reason = "reads the recorded cases")]

use super::{Change, Model};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::proto::mvccpb;
use crate::types::Revision;
use crate::watch::{Hub, HubOptions, StreamId, StreamQueue};
use prost::Message;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

struct Player {
    model: Model,
    hub: Hub,
    streams: BTreeMap<String, (StreamId, Arc<StreamQueue>, Vec<WatchResponse>)>,
    opened: u64,
    leases: BTreeMap<String, Vec<Vec<u8>>>,
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or("");
    if let Some(repeat) = text.strip_prefix("${REPEAT:61:") {
        return vec![0x61; repeat.trim_end_matches('}').parse().expect("a number")];
    }
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for symbol in text.bytes().filter(|symbol| *symbol != b'=') {
        let digit = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

fn number(value: &Value) -> i64 {
    value.as_str().map_or(0, |text| text.parse().expect("a number"))
}

fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

impl Player {
    fn changes(&mut self, op: &str, request: &Value) -> Vec<Change> {
        match op {
            "put" => {
                let key = bytes(&request["key"]);
                let lease = number(&request["lease"]);
                for keys in self.leases.values_mut() {
                    keys.retain(|other| *other != key);
                }
                if lease != 0 {
                    self.leases.entry(lease.to_string()).or_default().push(key.clone());
                }
                vec![Change::Put { key, value: bytes(&request["value"]), lease }]
            }
            "delete" => {
                let (start, end) = (bytes(&request["key"]), bytes(&request["range_end"]));
                let keys = self.model.keys(|key| in_range(key, &start, &end));
                keys.into_iter().map(|key| Change::Delete { key }).collect()
            }
            other => panic!("operation {other}"),
        }
    }

    fn change(&mut self, changes: &[Change]) {
        if let Some(batch) = self.model.change(changes) {
            self.hub.apply(batch, &self.model);
        }
    }

    fn call(&mut self, rpc: &str, request: &Value) {
        match rpc {
            "KV.Put" => {
                let changes = self.changes("put", request);
                self.change(&changes);
            }
            "KV.DeleteRange" => {
                let changes = self.changes("delete", request);
                self.change(&changes);
            }
            "KV.Txn" => {
                let mut changes = Vec::new();
                for op in request["success"].as_array().expect("a list") {
                    if let Some(put) = op.get("request_put") {
                        changes.extend(self.changes("put", put));
                    } else if let Some(delete) = op.get("request_delete_range") {
                        changes.extend(self.changes("delete", delete));
                    }
                }
                self.change(&changes);
            }
            "KV.Compact" => {
                self.model.compacted = number(&request["revision"]);
                self.hub.compacted(Revision(self.model.compacted));
            }
            "Lease.LeaseRevoke" => {
                let mut keys =
                    self.leases.remove(request["ID"].as_str().expect("id")).unwrap_or_default();
                keys.sort();
                let changes: Vec<Change> =
                    keys.into_iter().map(|key| Change::Delete { key }).collect();
                self.change(&changes);
            }
            "KV.Range" | "Lease.LeaseGrant" => {}
            other => panic!("call {other}"),
        }
    }

    fn send(&mut self, stream: &str, message: &Value) {
        let union = if let Some(create) = message.get("create_request") {
            let filters = create["filters"].as_array().cloned().unwrap_or_default();
            RequestUnion::CreateRequest(WatchCreateRequest {
                key: bytes(&create["key"]).into(),
                range_end: bytes(&create["range_end"]).into(),
                start_revision: number(&create["start_revision"]),
                progress_notify: create["progress_notify"] == true,
                filters: filters.iter().map(|filter| i32::from(filter == "NODELETE")).collect(),
                prev_kv: create["prev_kv"] == true,
                watch_id: number(&create["watch_id"]),
                fragment: create["fragment"] == true,
            })
        } else if let Some(cancel) = message.get("cancel_request") {
            let watch_id = number(&cancel["watch_id"]);
            RequestUnion::CancelRequest(WatchCancelRequest { watch_id })
        } else {
            assert!(message.get("progress_request").is_some(), "{message}");
            RequestUnion::ProgressRequest(WatchProgressRequest {})
        };
        let id = self.streams[stream].0;
        self.hub.request(id, WatchRequest { request_union: Some(union) });
    }

    fn collect(&mut self) {
        while self.hub.catch_up(&self.model, 1_000_000) {}
        for (_, queue, got) in self.streams.values_mut() {
            queue.pull(got, usize::MAX);
        }
    }

    fn step(&mut self, step: &Value) {
        if let Some(stream) = step["stream"].as_str() {
            if step["rpc"] == "Watch.Watch" {
                self.opened += 1;
                let id = StreamId(self.opened);
                let interval = Duration::from_secs(600);
                let queue = self.hub.open_stream(id, Duration::ZERO, interval).expect("room");
                self.streams.insert(stream.to_owned(), (id, queue, Vec::new()));
            }
            for message in step["send"].as_array().unwrap_or(&Vec::new()) {
                self.send(stream, message);
            }
            self.collect();
            let (id, _, got) = self.streams.get_mut(stream).expect("open");
            if step["close"] == true {
                self.hub.close_stream(*id);
            }
            if let Some(expected) = step["responses"].as_array() {
                let count = expected.len();
                assert!(got.len() >= count, "got {got:?}, expected {expected:?}");
                let mut actual: Vec<Value> = got.drain(..count).map(show).collect();
                let mut expected = expected.clone();
                let masked = step["mask"].is_array();
                actual.iter_mut().chain(&mut expected).for_each(|value| tidy(value, masked));
                if step["sorted"] == true {
                    let by_text = |value: &Value| value.to_string();
                    actual.sort_by_key(by_text);
                    expected.sort_by_key(by_text);
                }
                assert_eq!(actual, expected);
                if step["quiet_ms"].is_number() {
                    assert!(got.is_empty(), "unexpected {got:?}");
                }
            }
            return;
        }
        if let Some(rpc) = step["rpc"].as_str() {
            self.call(rpc, &step["request"]);
        } else if step["restart"].is_string() {
            let (revision, compacted) = (self.model.revision, self.model.compacted);
            self.hub = Hub::new(Revision(revision), Revision(compacted), HubOptions::default());
            self.streams.clear();
        } else {
            assert!(step["sleep_ms"].is_number(), "{step}");
        }
        self.collect();
    }
}

/// As JSON, zero values left out, bytes as lists.
fn show(response: WatchResponse) -> Value {
    let mut out = Map::new();
    let mut field = |name: &str, value: Value| {
        if value != json!(0) && value != json!(false) && value != json!("") && value != json!([]) {
            out.insert(name.into(), value);
        }
    };
    let revision = response.header.expect("set").revision;
    field("header", if revision == 0 { json!({}) } else { json!({ "revision": revision }) });
    field("watch_id", json!(response.watch_id));
    field("created", json!(response.created));
    field("canceled", json!(response.canceled));
    field("compact_revision", json!(response.compact_revision));
    field("cancel_reason", json!(response.cancel_reason));
    field("fragment", json!(response.fragment));
    field("events", response.events.iter().map(|event| show_event(event)).collect());
    Value::Object(out)
}

fn show_event(event: &[u8]) -> Value {
    let event = mvccpb::Event::decode(event).expect("lawful");
    let mut out = Map::new();
    if event.r#type == 1 {
        out.insert("type".into(), json!("DELETE"));
    }
    for (name, pair) in [("kv", event.kv), ("prev_kv", event.prev_kv)] {
        let Some(pair) = pair else { continue };
        let mut shown = Map::new();
        shown.insert("key".into(), json!(pair.key.to_vec()));
        shown.insert("value".into(), json!(pair.value.to_vec()));
        for (name, value) in [
            ("create_revision", pair.create_revision),
            ("mod_revision", pair.mod_revision),
            ("version", pair.version),
            ("lease", pair.lease),
        ] {
            if value != 0 {
                shown.insert(name.into(), json!(value));
            }
        }
        out.insert(name.into(), Value::Object(shown));
    }
    Value::Object(out)
}

/// Brings recorded and shown responses to one form: numbers as numbers, bytes as lists.
fn tidy(value: &mut Value, masked: bool) {
    match value {
        Value::Object(fields) => {
            if masked || fields.get("value").is_some_and(|value| *value == json!([])) {
                fields.remove("value");
            }
            for (name, field) in fields.iter_mut() {
                if matches!(&name[..], "key" | "value") && field.is_string() {
                    *field = json!(bytes(field));
                } else if let Some(number) =
                    field.as_str().and_then(|text| text.parse::<i64>().ok())
                {
                    *field = json!(number);
                } else {
                    tidy(field, masked);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| tidy(value, masked)),
        _ => {}
    }
}

#[test]
#[ignore = "needs QUORATE_WATCH_VECTORS, the path of recorded cases"]
fn recorded_cases() {
    let path = std::env::var("QUORATE_WATCH_VECTORS").expect("QUORATE_WATCH_VECTORS is set");
    let text = std::fs::read_to_string(path).expect("readable");
    let mut cases = 0;
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        eprintln!("case {}", case["name"]);
        let mut player = Player {
            model: Model::new(),
            hub: Hub::new(Revision(1), Revision(-1), HubOptions::default()),
            streams: BTreeMap::new(),
            opened: 0,
            leases: BTreeMap::new(),
        };
        for step in case["steps"].as_array().expect("steps") {
            player.step(step);
        }
        cases += 1;
    }
    assert!(cases > 0, "an empty file shows nothing");
    eprintln!("{cases} cases");
}
