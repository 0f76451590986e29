//! A report as a page to look at: operations on a time axis, one row per process.
//!
//! The page is one file with nothing from elsewhere, so that it can be attached to a failed run
//! and still be opened years later. Above stands what was found, with the states of the store;
//! below a chart that can be moved, zoomed and searched:
//!
//! ```text
//! faults        [ partition         ]
//! member m1  leader, term 2 | down    | follower, term 3
//! process 0  [put]   [range ]
//! process 1     [put unknown - - >
//! watcher 0  o-------o---o---<>-----
//! ```
//!
//! - The chart (`page.js`) draws what is in view only, so ten thousand operations stay quick.
//! - No text of the history is trusted: in the page it is escaped, in the data it cannot end the
//!   element that holds it, and the chart writes text, never markup.
//! - A very long history is cut to a window around the first violation; the page says so.

use super::data::Data;
use super::history::History;
use super::op::{EventKind, Operation, Outcome, Request, WatchResponse, keys};
use super::report::{Report, Verdict};
use super::violation::Violation;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// More operations than this are not shown.
const OPERATIONS_MAX: usize = 20_000;
/// More messages of watchers than this are not shown.
const MESSAGES_MAX: usize = 60_000;
/// A longer text is cut.
const TEXT_MAX: usize = 900;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page for a history and what was found in it.
pub fn page(history: &History, report: &Report) -> String {
    let (title, class) = match report.verdict {
        Verdict::Lawful => ("Lawful", "lawful"),
        Verdict::Unlawful => ("Unlawful", "unlawful"),
        Verdict::Unknown => ("Unknown", "undecided"),
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title}: history of {} operations</title>\n<style>\n\
         {STYLE}</style></head><body>\n<h1><span class=\"{class}\">{title}</span></h1>\n<p \
         class=\"soft\">{}</p>\n",
        report.operations,
        escape(&report.summary())
    );
    for violation in &report.violations {
        found(&mut page, violation);
    }
    if let Some(why) = &report.unknown {
        put(&mut page, format_args!("<p>Not all was checked: {}</p>\n", escape(why)));
    }
    let window = Window::new(history, report);
    if window.shown.len() < history.operations.len() {
        put(
            &mut page,
            format_args!(
                "<p class=\"soft\">Shown are {} of {} operations, around the first \
                 violation.</p>\n",
                window.shown.len(),
                history.operations.len()
            ),
        );
    }
    tools(&mut page, report);
    // A "<" could end the element; in JSON's strings it can be written otherwise.
    let data = window.data(report).to_string().replace('<', "\\u003c");
    put(
        &mut page,
        format_args!(
            "<script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{SCRIPT}\
             </script>\n</body></html>\n"
        ),
    );
    page
}

/// What was found, for reading.
fn found(page: &mut String, violation: &Violation) {
    put(
        page,
        format_args!(
            "<div class=\"violation\"><h2>{}</h2><p>{}</p>",
            violation.rule.title(),
            escape(&violation.text)
        ),
    );
    if !violation.expected.is_empty() || !violation.got.is_empty() {
        put(
            page,
            format_args!(
                "<dl><dt>expected</dt><dd>{}</dd><dt>got</dt><dd>{}</dd></dl>",
                escape(&violation.expected),
                escape(&violation.got)
            ),
        );
    }
    if !violation.states.is_empty() {
        page.push_str("<ul class=\"states\">");
        for state in &violation.states {
            put(page, format_args!("<li>{}</li>", escape(state)));
        }
        page.push_str("</ul>");
    }
    for place in &violation.operations {
        put(
            page,
            format_args!(
                "<button class=\"jump\" data-operation=\"{place}\">operation {place}</button>"
            ),
        );
    }
    page.push_str("</div>\n");
}

/// What stands above the chart.
fn tools(page: &mut String, report: &Report) {
    page.push_str("<div class=\"tools\">");
    if report.violations.iter().any(|violation| !violation.operations.is_empty()) {
        page.push_str(
            "<button id=\"jump\" class=\"jump\" style=\"margin:0\">Jump to violation</button>",
        );
    }
    page.push_str(
        "<button id=\"fit\">Whole run</button><button id=\"in\">Zoom in</button><button \
         id=\"out\">Zoom out</button><input id=\"search\" type=\"search\" placeholder=\"Search by \
         key\" aria-label=\"Search by key\"><button id=\"before\" aria-label=\"previous \
         match\">‹</button><button id=\"next\" aria-label=\"next match\">›</button><span \
         id=\"found\" aria-live=\"polite\"></span></div>\n<div class=\"key\">",
    );
    for (colour, name) in [
        ("read", "read"),
        ("write", "write"),
        ("failed", "failed"),
        ("unknown", "outcome unknown, may still happen"),
        ("event", "watch events"),
        ("progress", "watch progress"),
        ("fault", "fault"),
        ("leader", "leader"),
        ("follower", "follower"),
        ("candidate", "candidate"),
        ("down", "down"),
    ] {
        put(page, format_args!("<span><i style=\"background:var(--{colour})\"></i>{name}</span>"));
    }
    page.push_str(
        "<span><i style=\"outline:2px solid var(--bad)\"></i>part of a violation</span></div>\n\
         <div id=\"chart\"><canvas id=\"canvas\" tabindex=\"0\" aria-label=\"Operations on a time \
         axis\"></canvas></div><div id=\"tip\" role=\"tooltip\"></div>\n<p class=\"keys\">Wheel: \
         zoom. Drag: move. Click: keep the description open. <kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> \
         <kbd>↓</kbd> move, <kbd>+</kbd> <kbd>-</kbd> zoom, <kbd>0</kbd> whole run, <kbd>n</kbd> \
         <kbd>p</kbd> next and previous operation of a violation, <kbd>/</kbd> search, \
         <kbd>Esc</kbd> close.</p>\n",
    );
}

/// Appends; writing to a string cannot fail.
fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes all");
}

/// The part of a history that is shown.
struct Window<'a> {
    history: &'a History,
    /// The operations, by call.
    shown: Vec<usize>,
    from: u64,
    to: u64,
}

impl<'a> Window<'a> {
    fn new(history: &'a History, report: &Report) -> Window<'a> {
        let mut shown: Vec<usize> = (0..history.operations.len()).collect();
        shown.sort_by_key(|place| history.operations[*place].invoke);
        if shown.len() > OPERATIONS_MAX {
            let first = report.violations.first().and_then(|found| found.operations.first());
            let middle =
                first.and_then(|place| shown.iter().position(|other| other == place)).unwrap_or(0);
            let start = middle.saturating_sub(OPERATIONS_MAX / 2);
            let start = start.min(shown.len() - OPERATIONS_MAX);
            shown = shown[start..start + OPERATIONS_MAX].to_vec();
        }
        let all = shown.len() == history.operations.len();
        let calls = shown.iter().map(|place| history.operations[*place].invoke);
        let answers = shown.iter().filter_map(|place| history.operations[*place].returned);
        let watched = history.watches.iter().map(|watch| watch.invoke).filter(|_| all);
        let faults = history.faults.iter().map(|fault| fault.from).filter(|_| all);
        let nodes = history.nodes.iter().map(|node| node.at).filter(|_| all);
        let from = calls.clone().chain(watched).chain(faults).chain(nodes).min().unwrap_or(0);
        let to = match all {
            true => history.end(),
            false => calls.chain(answers).max().unwrap_or(from),
        };
        Window { history, shown, from, to: to.max(from + 1) }
    }

    /// What the chart is drawn from; `page.js` knows the order of the fields.
    fn data(&self, report: &Report) -> Value {
        let History { operations, watches, faults, .. } = self.history;
        let mut processes: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
        for place in &self.shown {
            let one = &operations[*place];
            processes.entry(one.process).or_default().push(operation(*place, one));
        }
        let mut left = MESSAGES_MAX;
        let mut shown_watches = Vec::new();
        for (place, watch) in watches.iter().enumerate() {
            let inside =
                |message: &&WatchResponse| self.from <= message.at && message.at <= self.to;
            let messages: Vec<Value> =
                watch.responses.iter().filter(inside).take(left).map(message).collect();
            left -= messages.len();
            let last = watch.responses.last().map_or(watch.invoke, |message| message.at);
            if last < self.from || watch.invoke > self.to {
                continue;
            }
            let watched = range(&watch.key, &watch.range_end);
            let name = format!("watch {watched} by {}", watch.process);
            let key = plain(&watch.key);
            let last = last.max(watch.invoke);
            shown_watches.push(json!([place, name, watch.invoke, last, key, messages]));
        }
        let fault = |fault: &super::op::Fault| json!([fault.name, fault.from, fault.to]);
        let violation = |one: &Violation| {
            json!({
                "title": one.rule.title(),
                "expected": one.expected,
                "got": one.got,
                "states": one.states,
                "operations": one.operations,
                "watches": one.watches,
                "revision": one.revision,
            })
        };
        json!({
            "from": self.from,
            "to": self.to,
            "faults": faults.iter().filter(|fault| fault.from <= self.to).map(fault)
                .collect::<Vec<_>>(),
            "nodes": self.nodes(),
            "processes": processes.into_iter().collect::<Vec<_>>(),
            "watches": shown_watches,
            "violations": report.violations.iter().map(violation).collect::<Vec<_>>(),
        })
    }

    /// Members with their states by time.
    fn nodes(&self) -> Vec<(&'a str, Vec<Value>)> {
        let mut nodes: Vec<_> =
            self.history.nodes.iter().filter(|node| node.at <= self.to).collect();
        nodes.sort_by_key(|node| node.at);
        let mut members: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for node in nodes {
            let state = json!([node.at, node.state, node.term]);
            members.entry(&node.member).or_default().push(state);
        }
        members.into_iter().collect()
    }
}

fn operation(place: usize, one: &Operation) -> Value {
    let kind = i32::from(one.request.may_write());
    let outcome = match one.outcome {
        Outcome::Ok(_) => 0,
        Outcome::Failed(_) => 1,
        Outcome::Unknown(_) => 2,
    };
    let mut ranges = Vec::new();
    if !matches!(one.request, Request::LeaseRevoke(_)) {
        one.request.footprint(&mut ranges);
    }
    let mut touched: Vec<String> =
        ranges.into_iter().map(|range| plain(&Data(range.start))).collect();
    touched.dedup();
    let told = |value: Result<String, serde_json::Error>| cut(&value.unwrap_or_default());
    let mut text = Vec::new();
    if !one.member.is_empty() {
        text.push(format!("asked of {}, connection {}", one.member, one.session));
    }
    text.push(told(serde_json::to_string(&one.request)));
    text.push(told(serde_json::to_string(&one.outcome)));
    let label = label(&one.request);
    json!([place, one.invoke, one.returned, kind, outcome, label, touched.join("\n"), text])
}

/// A message of a watcher: time, number of events, their keys, its text and a short one, and the
/// last revision that it tells of.
fn message(message: &WatchResponse) -> Value {
    let event = |event: &super::op::Event| match event.kind {
        EventKind::Put => format!(
            "{} put {} = {}",
            event.kv.mod_revision,
            plain(&event.kv.key),
            plain(&event.kv.value)
        ),
        EventKind::Delete => format!("{} deleted {}", event.kv.mod_revision, plain(&event.kv.key)),
    };
    let events: Vec<String> = message.events.iter().map(event).collect();
    let touched: Vec<String> = message.events.iter().map(|event| plain(&event.kv.key)).collect();
    let revision = message.revision;
    let label = match (message.created, message.canceled, message.events.len()) {
        (true, _, _) => format!("created at revision {revision}"),
        (_, true, _) if message.compact_revision.0 > 0 => {
            format!("canceled, compacted at {}", message.compact_revision)
        }
        (_, true, _) => "canceled".into(),
        (_, _, 0) => format!("progress up to revision {revision}"),
        (_, _, count) if message.fragment => format!("{count} events, more to follow"),
        (_, _, count) => format!("{count} events at revision {revision}"),
    };
    let last = message.events.iter().map(|event| event.kv.mod_revision.0).max();
    let last = last.unwrap_or(revision.0);
    json!([message.at, events.len(), touched.join("\n"), cut(&events.join("\n")), label, last])
}

/// What stands in a bar, if there is room.
fn label(request: &Request) -> String {
    match request {
        Request::Put(put) => format!("{} = {}", plain(&put.key), plain(&put.value)),
        Request::Range(one) => {
            let at = match one.revision.0 {
                0 => String::new(),
                revision => format!(" @{revision}"),
            };
            let what = if one.count_only { "count" } else { "get" };
            format!("{what} {}{at}", range(&one.key, &one.range_end))
        }
        Request::DeleteRange(delete) => format!("delete {}", range(&delete.key, &delete.range_end)),
        Request::Txn(txn) => {
            let parts: Vec<String> = txn.success.iter().map(label).collect();
            let condition = if txn.compare.is_empty() { "" } else { "if: " };
            format!("{condition}{}", parts.join("; "))
        }
        Request::Compact(compact) => format!("compact {}", compact.revision),
        Request::LeaseGrant(lease) => format!("grant {} {} s", lease.id, lease.ttl_seconds),
        Request::LeaseRevoke(lease) => format!("revoke {}", lease.id),
        Request::LeaseKeepAlive(lease) => format!("keep {}", lease.id),
    }
}

/// A range as a person would say it.
fn range(key: &Data, range_end: &Data) -> String {
    let all = keys(key, range_end);
    match (all.is_single(), all.is_open()) {
        (true, _) => plain(key),
        (_, true) if key.0.as_ref() == [0] => "all".into(),
        (_, true) => format!("{}..", plain(key)),
        _ => format!("{}..{}", plain(key), plain(range_end)),
    }
}

/// A key or a short value without quotes.
fn plain(data: &Data) -> String {
    const LENGTH_MAX: usize = 80;
    let text = data.to_string();
    let text = text.trim_matches('"');
    match text.char_indices().nth(LENGTH_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A long text without its end.
fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Limits, check};

    #[test]
    fn no_text_of_a_history_becomes_markup() {
        let text = r#"
{"op":{"process":0,"invoke":1,"return":2,"request":{"put":{"key":"</script><b>","value":"<i>"}},"outcome":{"ok":{"put":{"revision":2}}}}}
{"op":{"process":0,"invoke":3,"return":4,"request":{"range":{"key":"</script><b>"}},"outcome":{"ok":{"range":{"revision":2}}}}}
{"fault":{"name":"<script>","from":1}}
{"node":{"member":"<u>","at":1,"state":"leader","term":2}}"#;
        let history = History::read(text.as_bytes()).unwrap();
        let report = check(&history, Limits::default());
        assert_eq!(report.verdict, Verdict::Unlawful);
        let page = page(&history, &report);
        for markup in ["<b>", "<i>", "<u>"] {
            assert!(!page.contains(markup), "{markup}");
        }
        // The two that hold data and script.
        assert_eq!(page.matches("<script").count(), 2);
        assert_eq!(page.matches("</script>").count(), 2);
    }
}
