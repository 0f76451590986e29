//! A plan in words, for a terminal.
//!
//! Steps are told from their own fields, so that a new kind of fault reads well without a line
//! here. A list of links is told by its shape where it has one.

use super::table::count;
use crate::plan::{FIRST_CLIENT, FIRST_WATCHER, FOLLOWER, Fault, LEADER, Plan};
use serde_json::Value;
use std::path::Path;

/// The plan in a few lines, each with its end: what there is, then what happens when.
pub fn plan(plan: &Plan) -> String {
    let nodes = count(plan.nodes.into(), "node");
    let clients = count(plan.clients.into(), "client");
    let watchers = count(plan.watchers.into(), "watcher");
    let calls = plan.calls_max.map_or(String::new(), |calls| format!(" of {calls} calls at most"));
    let mut text = format!(
        "{nodes}, {clients}{calls}, {watchers}, profile {}, {}, seed {}\n",
        plan.profile,
        seconds(plan.time_ms),
        plan.seed
    );
    if !plan.flags.is_empty() {
        text.push_str(&format!("flags: {}\n", plan.flags.join(" ")));
    }
    for step in &plan.steps {
        let at = step.at_ms as f64 / 1e3;
        text.push_str(&format!("{at:>9.3} s  {}\n", fault(&step.fault)));
    }
    if plan.steps.is_empty() {
        text.push_str("no faults at all\n");
    }
    text
}

/// A fault with its parameters.
pub fn fault(fault: &Fault) -> String {
    let json = serde_json::to_value(fault).expect("faults are plain data");
    // A variant with fields is an object with one field, the variant.
    let fields = json.as_object().and_then(|variant| variant.values().next()?.as_object().cloned());
    let mut fields: Vec<(String, Value)> = fields.into_iter().flatten().collect();
    // The kind is in the fault's name.
    fields.retain(|(name, _)| name != "kind");
    // Where, what, how long.
    fields.sort_by_key(|(name, _)| match name.as_str() {
        "machine" | "one" | "other" | "to" | "links" => 0,
        "for_ms" | "down_ms" => 2,
        _ => 1,
    });
    let words: Vec<String> = fields.iter().map(|(name, value)| parameter(name, value)).collect();
    match words.is_empty() {
        true => fault.name().to_owned(),
        false => format!("{}: {}", fault.name(), words.join(", ")),
    }
}

fn parameter(name: &str, value: &Value) -> String {
    if name == "links" {
        return links(value);
    }
    if let ("machine" | "one" | "other" | "to", Some(number)) = (name, value.as_u64()) {
        let role = if name == "machine" { "" } else { "to " };
        return format!("{}{}", if name == "one" { "" } else { role }, machine(number));
    }
    let value = match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            items.join(" ")
        }
        other => other.to_string(),
    };
    let name = name.replace('_', " ");
    match name.rsplit_once(' ') {
        // Times that read better in seconds stay as they are written in the plan's file.
        Some((name, unit @ ("ms" | "us" | "bytes"))) => {
            format!("{name} {value} {}", if unit == "us" { "µs" } else { unit })
        }
        _ => format!("{name} {value}"),
    }
}

/// Who a number of a plan stands for.
fn machine(number: u64) -> String {
    match u8::try_from(number) {
        Ok(LEADER) => "the leader".into(),
        Ok(FOLLOWER) => "a follower".into(),
        Ok(client @ FIRST_CLIENT..FIRST_WATCHER) => format!("client {}", client - FIRST_CLIENT),
        Ok(watcher @ FIRST_WATCHER..FOLLOWER) => format!("watcher {}", watcher - FIRST_WATCHER),
        Ok(_) | Err(_) => format!("member {number}"),
    }
}

/// `1>2 2>1 1>3 3>1 3>2` as `1-2,3 3>2`.
fn links(value: &Value) -> String {
    let mut links: Vec<(u64, u64)> = serde_json::from_value(value.clone()).unwrap_or_default();
    // Which are passed over.
    links.retain(|(from, to)| from != to);
    if links.is_empty() {
        return "no links".into();
    }
    let end = |number: u64| match machine(number) {
        name if name.ends_with("leader") || name.ends_with("follower") => {
            name.rsplit(' ').next().unwrap_or_default().to_owned()
        }
        name => name.replace("member ", "").replace(' ', ""),
    };
    let mut groups: Vec<(u64, char, Vec<String>)> = Vec::new();
    for &(from, to) in &links {
        let both = links.contains(&(to, from));
        if both && position(&links, to, from) < position(&links, from, to) {
            continue;
        }
        let sign = if both { '-' } else { '>' };
        match groups.iter_mut().find(|(start, how, _)| (*start, *how) == (from, sign)) {
            Some((_, _, ends)) => ends.push(end(to)),
            None => groups.push((from, sign, vec![end(to)])),
        }
    }
    let words: Vec<String> = groups
        .into_iter()
        .map(|(from, sign, ends)| format!("{}{sign}{}", end(from), ends.join(",")))
        .collect();
    words.join(" ")
}

fn position(links: &[(u64, u64)], from: u64, to: u64) -> Option<usize> {
    links.iter().position(|link| *link == (from, to))
}

/// A file's name as a word of a command line.
pub fn path(file: &Path) -> String {
    let text = file.display().to_string();
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+=:,@".contains(letter);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Milliseconds as seconds, with as many digits as it takes.
pub fn seconds(millis: u64) -> String {
    format!("{} s", millis as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::DiskErrorKind;

    #[test]
    fn a_file_can_be_pasted_into_a_shell() {
        assert_eq!(path(Path::new("target/sim/seed-7/plan.json")), "target/sim/seed-7/plan.json");
        assert_eq!(path(Path::new("it's mine")), "'it'\\''s mine'");
    }

    #[test]
    fn a_fault_reads_as_a_sentence() {
        for (given, text) in [
            (Fault::KillAll { down_ms: 500 }, "kill all: down 500 ms"),
            (
                Fault::Cut {
                    links: vec![(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 2), (LEADER, 101)],
                    for_ms: 900,
                },
                "cut links: 1-2,3 3>2 leader>client1, for 900 ms",
            ),
            (
                Fault::DiskError {
                    machine: 2,
                    kind: DiskErrorKind::Sync,
                    operations: 7,
                    count: 1,
                    down_ms: 40,
                },
                "sync error: member 2, count 1, operations 7, down 40 ms",
            ),
            (Fault::MoveLeader { to: FOLLOWER }, "leader transfer: to a follower"),
            (Fault::Reset { one: 1, other: 150 }, "connection reset: member 1, to watcher 0"),
            (
                Fault::RollingRestart { flags: vec!["--a=1".into(), "--b".into()], pause_ms: 9 },
                "rolling restart: flags --a=1 --b, pause 9 ms",
            ),
        ] {
            assert_eq!(fault(&given), text);
        }
    }
}
