//! What the recordings mean by "equal": masks, placeholders and an exact comparison.
//!
//! - A masked field is in neither side: it was left out when recording and is removed from what
//!   is received. Everything else counts, in both directions.
//! - Numbers of 64 bits are JSON strings, so text and numbers never compare equal.
//! - Placeholders are put in before anything is compared or sent.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Values kept by `capture`, by name.
pub type Variables = BTreeMap<String, Value>;

/// The keys of a step that say how it ends; the others say what to do.
pub const OUTCOME: [&str; 7] =
    ["response", "error", "responses", "events", "status", "headers", "body"];

/// Fields no two runs agree on, by call (`*` matches anything) and path.
const MASKS: [(&str, &[&str]); 6] = [
    ("*", &["*header.cluster_id", "*header.member_id", "*header.raft_term"]),
    (
        "Maintenance.Status",
        &[
            "version",
            "dbSize",
            "dbSizeInUse",
            "leader",
            "raftIndex",
            "raftTerm",
            "raftAppliedIndex",
            "storageVersion",
        ],
    ),
    ("Maintenance.Hash*", &["hash"]),
    ("Maintenance.Snapshot", &["*remaining_bytes", "*blob", "*version"]),
    ("Auth.Authenticate", &["token"]),
    (
        "Cluster.*",
        &[
            "member.ID",
            "members.*.ID",
            "members.0.peerURLs",
            "members.0.clientURLs",
            "members.0.name",
        ],
    ),
];

/// What a step does, without how it ends.
pub fn asked(step: &Value) -> Value {
    pick(step, |key| !OUTCOME.contains(&key))
}

/// How a step ends.
pub fn wanted(step: &Value) -> Value {
    pick(step, |key| OUTCOME.contains(&key))
}

fn pick(step: &Value, keep: impl Fn(&str) -> bool) -> Value {
    let fields = step.as_object().into_iter().flatten();
    fields.filter(|(key, _)| keep(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Removes what differs between runs and gives lists without order one: a step's own answer.
pub fn tidy(step: &Value, message: Value) -> Value {
    let rpc = step["rpc"].as_str().unwrap_or_default();
    let exact = step["exact"].as_bool().unwrap_or_default();
    let mut patterns = strings(&step["mask"]);
    for (index, (call, paths)) in MASKS.iter().enumerate() {
        if matches(call, rpc) && (index == 0 || !exact) {
            patterns.extend(*paths);
        }
    }
    let mut message = mask(message, &patterns, "");
    sort_unordered(step, &mut message);
    message
}

/// Gives the top-level lists named in the step's `unordered` an order.
pub fn sort_unordered(step: &Value, message: &mut Value) {
    for name in strings(&step["unordered"]) {
        if let Some(Value::Array(list)) = message.get_mut(name) {
            sort(list);
        }
    }
}

/// An order for values that have none.
pub fn sort(list: &mut [Value]) {
    list.sort_by_key(Value::to_string);
}

/// Removes the fields whose path matches a pattern. Items of lists are named by their index.
pub fn mask(value: Value, patterns: &[&str], path: &str) -> Value {
    let child = |name: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
    match value {
        Value::Array(items) => (items.into_iter().enumerate())
            .map(|(i, item)| mask(item, patterns, &child(&i.to_string())))
            .collect(),
        Value::Object(fields) => (fields.into_iter())
            .map(|(name, value)| (child(&name), name, value))
            .filter(|(path, _, _)| !patterns.iter().any(|pattern| matches(pattern, path)))
            .map(|(path, name, value)| (name, mask(value, patterns, &path)))
            .collect(),
        other => other,
    }
}

/// Whether a pattern, in which `*` stands for any text, covers the whole of `text`.
pub fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let mut cuts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            cuts.any(|at| matches(rest, &text[at..]))
        }),
    }
}

/// Puts captured values and repeated bytes in the place of `${..}`.
pub fn substitute(value: &Value, variables: &Variables) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| substitute(item, variables)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(k, v)| (k.clone(), substitute(v, variables))).collect()
        }
        Value::String(text) if text.contains("${") => expand(text, variables),
        other => other.clone(),
    }
}

fn expand(text: &str, variables: &Variables) -> Value {
    // A placeholder that is the whole text stands for the value itself, whatever its type.
    let whole = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    if let Some(value) = whole.and_then(|name| variables.get(name)) {
        return value.clone();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else { break };
        out.push_str(before);
        match (name.strip_prefix("REPEAT:"), variables.get(name)) {
            (Some(repeat), _) => out.push_str(&repeated(repeat)),
            (None, Some(Value::String(value))) => out.push_str(value),
            (None, Some(value)) => out.push_str(&value.to_string()),
            (None, None) => out.push_str(&format!("${{{name}}}")),
        }
        rest = tail;
    }
    out.push_str(rest);
    Value::String(out)
}

/// The base64 of `hex:count`: that byte, so many times.
fn repeated(text: &str) -> String {
    let (byte, count) = text.split_once(':').expect("REPEAT needs a byte and a count");
    let byte = u8::from_str_radix(byte, 16).expect("REPEAT's byte is hexadecimal");
    let count = count.parse().expect("REPEAT's count is a number");
    base64(&vec![byte; count])
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | *group.get(i).unwrap_or(&0) as usize);
        for i in 0..4 {
            let digit = ALPHABET[bits >> (18 - 6 * i) & 63] as char;
            out.push(if i <= group.len() { digit } else { '=' });
        }
    }
    out
}

/// The value at a dotted path.
pub fn dig<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, part| match value {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    })
}

/// Where and how `got` is not what was wanted, one line for each place; empty when it is.
pub fn differences(want: &Value, got: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(want, got, "", &mut found);
    found
}

fn compare(want: &Value, got: &Value, path: &str, found: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(fields), _) if is_approximate(fields) => {
            let near = number(got).zip(number(&want["approx"])).zip(number(&want["tol"]));
            if near.is_none_or(|((got, want), tolerance)| (got - want).abs() > tolerance) {
                found.push(format!("{path}: wanted about {want}, got {got}"));
            }
        }
        (Value::Object(wants), Value::Object(gots)) => {
            for (name, want) in wants {
                match gots.get(name) {
                    Some(got) => compare(want, got, &format!("{path}.{name}"), found),
                    None => found.push(format!("{path}.{name}: wanted {want}, is missing")),
                }
            }
            for (name, got) in gots.iter().filter(|(name, _)| !wants.contains_key(*name)) {
                found.push(format!("{path}.{name}: not wanted, got {got}"));
            }
        }
        (Value::Array(wants), Value::Array(gots)) => {
            if wants.len() != gots.len() {
                found.push(format!("{path}: wanted {} items, got {}", wants.len(), gots.len()));
            }
            for (index, (want, got)) in wants.iter().zip(gots).enumerate() {
                compare(want, got, &format!("{path}.{index}"), found);
            }
        }
        _ if want == got => {}
        _ => found.push(format!("{path}: wanted {want}, got {got}")),
    }
}

fn is_approximate(fields: &Map<String, Value>) -> bool {
    fields.len() == 2 && fields.contains_key("approx") && fields.contains_key("tol")
}

/// A number, written either way.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// The strings of a list; none if it is not there.
pub fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// An ending that no recording has: the step itself could not be done.
pub fn failure(reason: impl std::fmt::Display) -> Value {
    json!({ "failure": reason.to_string() })
}

#[test]
fn comparison_is_exact_in_both_directions() {
    let same = |want: Value, got: Value| differences(&want, &got).is_empty();
    assert!(same(json!({"a": [1, {"b": "2"}]}), json!({"a": [1, {"b": "2"}]})));
    assert!(!same(json!({"a": "1"}), json!({})));
    assert!(!same(json!({}), json!({"a": "1"})));
    assert!(!same(json!({"a": "1"}), json!({"a": 1})));
    assert!(!same(json!([1]), json!([1, 2])));
    assert!(!same(json!([1, 2]), json!([2, 1])));
    assert!(!same(json!([]), json!({})));
    assert!(same(json!({"approx": 60, "tol": 2}), json!("58")));
    assert!(!same(json!({"approx": 60, "tol": 2}), json!("57")));
    assert!(!same(json!({"approx": 60, "tol": 2}), Value::Null));
}

#[test]
fn masks_remove_what_the_recording_leaves_out_and_nothing_else() {
    let message = json!({"header": {"revision": "2", "raft_term": "3"}, "hash": 7});
    let hash = json!({"rpc": "Maintenance.HashKV"});
    assert_eq!(tidy(&hash, message.clone()), json!({"header": {"revision": "2"}}));
    let exact = json!({"rpc": "Maintenance.HashKV", "exact": true});
    assert_eq!(tidy(&exact, message.clone()), json!({"header": {"revision": "2"}, "hash": 7}));
    let own = json!({"rpc": "KV.Put", "mask": ["header.*"]});
    assert_eq!(tidy(&own, message), json!({"header": {}, "hash": 7}));
    let nested = json!({"kvs": [{"key": "a", "value": "b"}]});
    assert_eq!(mask(nested, &["kvs.*.value"], ""), json!({"kvs": [{"key": "a"}]}));
    assert!(matches("*", "") && matches("a*c*", "abcd") && !matches("a*c", "abcd"));
}

#[test]
fn placeholders_stand_for_values_and_for_parts_of_text() {
    let variables = Variables::from([("ID".into(), json!("7")), ("N".into(), json!(8))]);
    let expanded = |text: &str| substitute(&json!([text]), &variables)[0].clone();
    assert_eq!(expanded("${N}"), json!(8));
    assert_eq!(expanded("x${ID}y${N}"), json!("x7y8"));
    assert_eq!(expanded("${OTHER}"), json!("${OTHER}"));
    assert_eq!(expanded("${REPEAT:61:3}"), json!("YWFh"));
    assert_eq!(expanded("${REPEAT:61:4}"), json!("YWFhYQ=="));
    assert_eq!(expanded("${REPEAT:ff:5}"), json!("//////8="));
}
