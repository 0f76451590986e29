//! A report as a page to look at: operations on a time axis, one row per process.
//!
//! The page is one file without scripts or anything from elsewhere, so that it can be attached
//! to a failed run and still be opened years later. Hovering over a bar shows the operation.
//!
//! ```text
//! faults        [ partition       ]
//! process 0  [put]   [range ]
//! process 1     [put unknown ------------->
//! watcher 0  |       |     |
//! ```
//!
//! - Nothing is drawn twice, and no text of the history is trusted: all of it is escaped.
//! - A long history is cut to a window around the first violation; the page says so.
//! - Bars are at least a few pixels wide, so short ones can seem to overlap; hover for times.

use super::history::History;
use super::op::{Operation, Outcome, Request, Watch};
use super::report::{Report, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// More operations than this are not drawn.
const OPERATIONS_MAX: usize = 2_000;
/// Left of the axis, for the names of the rows, in pixels.
const MARGIN: f64 = 130.0;
const ROW: f64 = 22.0;
const WIDTH_MIN: f64 = 900.0;
const WIDTH_MAX: f64 = 60_000.0;
/// What a bar of middling length should be wide, in pixels.
const BAR: f64 = 46.0;

const STYLE: &str = "
:root{color-scheme:light dark;--back:#fff;--text:#1a1c20;--soft:#6b7280;--line:#e3e6ea;--ok:#8fb8de;
--write:#7cc09a;--failed:#c9ced6;--unknown:#e8c468;--bad:#d9363e;--fault:#d9363e22;--event:#6d5bd0}
@media(prefers-color-scheme:dark){:root{--back:#16181d;--text:#e6e8eb;--soft:#9aa1ac;--line:#2b2f37;
--ok:#3d6d99;--write:#2f7d55;--failed:#4a505b;--unknown:#8f7120;--fault:#d9363e33;--event:#9d8fec}}
body{margin:0;padding:24px 32px;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:22px;margin:0 0 4px}h2{font-size:16px;margin:0 0 6px}
p{margin:6px 0;max-width:80ch}.soft{color:var(--soft)}
.violation{border-left:4px solid var(--bad);padding:8px 16px;margin:16px 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:8px 0}
dt{color:var(--soft)}dd{margin:0;font-family:ui-monospace,monospace;font-size:13px;
overflow-wrap:anywhere}
.chart{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin-top:16px}
svg{display:block}svg text{font:11px system-ui,sans-serif;fill:var(--text);pointer-events:none}
.name,.tick{fill:var(--soft)!important}.row{stroke:var(--line)}.fault{fill:var(--fault)}
.bar{rx:3px}.read{fill:var(--ok)}.write{fill:var(--write)}.failed{fill:var(--failed)}
.unknown{fill:var(--unknown)}.bad{stroke:var(--bad);stroke-width:2.5px}
.event{fill:var(--event)}.progress{fill:none;stroke:var(--event)}
.key span{display:inline-block;margin-right:18px}.key i{display:inline-block;width:14px;height:10px;
border-radius:3px;margin-right:6px}";

/// The page for a history and what was found in it.
pub fn page(history: &History, report: &Report) -> String {
    let title = match report.verdict {
        Verdict::Lawful => "Lawful",
        Verdict::Unlawful => "Unlawful",
        Verdict::Unknown => "Unknown",
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}: history \
         of {} operations</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<p \
         class=\"soft\">{}</p>\n",
        report.operations,
        escape(&report.summary())
    );
    for violation in &report.violations {
        put(
            &mut page,
            format_args!(
                "<div class=\"violation\"><h2>{}</h2><p>{}</p><dl><dt>expected</dt><dd>{}</dd>\
                 <dt>got</dt><dd>{}</dd></dl></div>\n",
                violation.rule.title(),
                escape(&violation.text),
                escape(&violation.expected),
                escape(&violation.got)
            ),
        );
    }
    if let Some(why) = &report.unknown {
        put(&mut page, format_args!("<p>Not all was checked: {}</p>\n", escape(why)));
    }
    page.push_str(
        "<p class=\"key\"><span><i style=\"background:var(--ok)\"></i>read</span><span><i \
         style=\"background:var(--write)\"></i>write</span><span><i \
         style=\"background:var(--failed)\"></i>failed</span><span><i \
         style=\"background:var(--unknown)\"></i>outcome unknown</span><span><i \
         style=\"background:var(--event)\"></i>watch event</span><span><i \
         style=\"outline:2px solid var(--bad)\"></i>part of a violation</span></p>\n",
    );
    page.push_str(&Chart::new(history, report).draw());
    page.push_str("</body></html>\n");
    page
}

/// Appends; writing to a string cannot fail.
fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes all");
}

struct Chart<'a> {
    history: &'a History,
    /// The operations drawn, by call.
    shown: Vec<usize>,
    bad: BTreeSet<usize>,
    bad_watches: BTreeSet<usize>,
    from: u64,
    to: u64,
    width: f64,
}

impl<'a> Chart<'a> {
    fn new(history: &'a History, report: &Report) -> Chart<'a> {
        let bad: BTreeSet<usize> =
            report.violations.iter().flat_map(|violation| violation.operations.clone()).collect();
        let bad_watches =
            report.violations.iter().flat_map(|violation| violation.watches.clone()).collect();
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
        let invoke = |place: &usize| history.operations[*place].invoke;
        let returned =
            |place: &usize| history.operations[*place].returned.unwrap_or_else(|| invoke(place));
        let from = shown.first().map_or(0, invoke);
        let watched = history.watches.iter().map(|watch| watch.invoke);
        let from =
            if all { watched.chain(shown.first().map(invoke)).min().unwrap_or(0) } else { from };
        let to = match all {
            true => history.end(),
            false => shown.iter().map(returned).max().unwrap_or(from),
        };
        let to = to.max(from + 1);
        let mut lengths: Vec<u64> =
            shown.iter().map(|place| returned(place) - invoke(place)).collect();
        lengths.sort_unstable();
        let middle = lengths.get(lengths.len() / 2).copied().unwrap_or(1).max(1);
        let width = ((to - from) as f64 / middle as f64 * BAR).clamp(WIDTH_MIN, WIDTH_MAX);
        Chart { history, shown, bad, bad_watches, from, to, width }
    }

    /// A moment as a place on the page, in pixels.
    fn x(&self, at: u64) -> f64 {
        let at = at.clamp(self.from, self.to) - self.from;
        MARGIN + at as f64 / (self.to - self.from) as f64 * self.width
    }

    fn draw(&self) -> String {
        let mut body = String::new();
        let mut y = 28.0;
        let mut lanes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for place in &self.shown {
            lanes.entry(self.history.operations[*place].process).or_default().push(*place);
        }
        if !self.history.faults.is_empty() {
            self.row(&mut body, y, "faults");
            y += ROW;
        }
        for (process, places) in &lanes {
            self.row(&mut body, y, &format!("process {process}"));
            let depth = self.lane(&mut body, y, places);
            y += ROW * depth as f64;
        }
        for (place, watch) in self.history.watches.iter().enumerate() {
            self.row(&mut body, y, &format!("watcher {place} {}", watch.key));
            self.watch(&mut body, y, place, watch);
            y += ROW;
        }
        let height = y + 12.0;
        let width = self.width + MARGIN + 24.0;
        let mut chart = String::new();
        if self.shown.len() < self.history.operations.len() {
            put(
                &mut chart,
                format_args!(
                    "<p class=\"soft\">Drawn are {} of {} operations, around the first \
                     violation.</p>\n",
                    self.shown.len(),
                    self.history.operations.len()
                ),
            );
        }
        put(
            &mut chart,
            format_args!(
                "<div class=\"chart\"><svg xmlns=\"http://www.w3.org/2000/svg\" \
                 width=\"{width:.0}\" height=\"{height:.0}\">\n"
            ),
        );
        self.axis(&mut chart, height);
        self.faults(&mut chart, height);
        chart.push_str(&body);
        chart.push_str("</svg></div>\n");
        chart
    }

    fn row(&self, out: &mut String, y: f64, name: &str) {
        let right = MARGIN + self.width;
        let name: String = name.chars().take(20).collect();
        put(
            out,
            format_args!(
                "<line class=\"row\" x1=\"0\" x2=\"{right:.0}\" y1=\"{y}\" y2=\"{y}\"/><text \
                 class=\"name\" x=\"8\" y=\"{:.1}\">{}</text>\n",
                y + 15.0,
                escape(&name)
            ),
        );
    }

    /// Draws a process's operations, those that overlap below each other; returns how many deep.
    fn lane(&self, out: &mut String, y: f64, places: &[usize]) -> usize {
        let mut ends: Vec<f64> = Vec::new();
        for place in places {
            let operation = &self.history.operations[*place];
            let left = self.x(operation.invoke);
            let unknown = matches!(operation.outcome, Outcome::Unknown(_));
            let end = operation.returned.unwrap_or(operation.invoke);
            let right = self.x(end).max(left + 4.0);
            let level = ends.iter().position(|end| *end <= left + 0.01).unwrap_or(ends.len());
            match ends.get_mut(level) {
                Some(end) => *end = right,
                None => ends.push(right),
            }
            let class = match (&operation.outcome, operation.request.may_write()) {
                (Outcome::Failed(_), _) => "failed",
                (Outcome::Unknown(_), _) => "unknown",
                (Outcome::Ok(_), true) => "write",
                (Outcome::Ok(_), false) => "read",
            };
            let bad = if self.bad.contains(place) { " bad" } else { "" };
            let top = y + ROW * level as f64 + 3.0;
            put(
                out,
                format_args!(
                    "<g><title>{}</title><rect class=\"bar {class}{bad}\" x=\"{left:.1}\" \
                     y=\"{top:.1}\" width=\"{:.1}\" height=\"16\"/>",
                    escape(&self.hover(*place, operation)),
                    right - left
                ),
            );
            if unknown {
                // It may still happen until the end.
                let end = MARGIN + self.width;
                let middle = top + 8.0;
                put(
                    out,
                    format_args!(
                        "<line x1=\"{right:.1}\" x2=\"{end:.1}\" y1=\"{middle:.1}\" \
                         y2=\"{middle:.1}\" stroke=\"var(--unknown)\" stroke-dasharray=\"2 4\"/>"
                    ),
                );
            }
            let label = label(operation);
            if right - left > 6.0 * label.chars().count() as f64 {
                let (x, y) = (left + 4.0, top + 12.0);
                put(out, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(&label)));
            }
            out.push_str("</g>\n");
        }
        ends.len().max(1)
    }

    fn hover(&self, place: usize, operation: &Operation) -> String {
        let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
        let outcome = json(serde_json::to_string(&operation.outcome));
        let end =
            operation.returned.map_or("no answer".into(), |returned| format!("{returned} ns"));
        format!(
            "operation {place}, process {}{}\n{} ns to {end}\n{}\n{}",
            operation.process,
            match operation.member.as_str() {
                "" => String::new(),
                member => format!(", at {member}"),
            },
            operation.invoke,
            json(serde_json::to_string(&operation.request)),
            cut(&outcome)
        )
    }

    fn watch(&self, out: &mut String, y: f64, place: usize, watch: &Watch) {
        let last = watch.responses.last().map_or(watch.invoke, |response| response.at);
        let (left, right) = (self.x(watch.invoke), self.x(last.max(watch.invoke)));
        let bad = if self.bad_watches.contains(&place) { " bad" } else { "" };
        put(
            out,
            format_args!(
                "<rect class=\"bar progress{bad}\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" \
                 height=\"16\"/>",
                y + 3.0,
                (right - left).max(4.0)
            ),
        );
        for response in &watch.responses {
            if response.at < self.from || response.at > self.to {
                continue;
            }
            let json = serde_json::to_string(response).unwrap_or_default();
            let shape = if response.events.is_empty() { "progress" } else { "event" };
            put(
                out,
                format_args!(
                    "<g><title>{}</title><circle class=\"{shape}\" cx=\"{:.1}\" cy=\"{:.1}\" \
                     r=\"4\"/></g>\n",
                    escape(&cut(&json)),
                    self.x(response.at),
                    y + 11.0
                ),
            );
        }
    }

    fn axis(&self, out: &mut String, height: f64) {
        let ticks = (self.width / 180.0).max(1.0) as u64;
        for tick in 0..=ticks {
            let at = self.from
                + ((self.to - self.from) as f64 * tick as f64 / ticks as f64).round() as u64;
            let x = self.x(at);
            put(
                out,
                format_args!(
                    "<line class=\"row\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"20\" \
                     y2=\"{height:.0}\"/><text class=\"tick\" x=\"{:.1}\" y=\"14\">{}</text>\n",
                    x + 0.0,
                    time(at)
                ),
            );
        }
    }

    fn faults(&self, out: &mut String, height: f64) {
        for fault in &self.history.faults {
            let to = fault.to.unwrap_or(self.to);
            if to < self.from || fault.from > self.to {
                continue;
            }
            let (left, right) = (self.x(fault.from), self.x(to));
            let name = escape(&fault.name);
            put(
                out,
                format_args!(
                    "<g><title>{name}</title><rect class=\"fault\" x=\"{left:.1}\" y=\"28\" \
                     width=\"{:.1}\" height=\"{:.0}\"/><text x=\"{:.1}\" y=\"43\">{name}</text>\
                     </g>\n",
                    (right - left).max(2.0),
                    height - 28.0,
                    left + 4.0
                ),
            );
        }
    }
}

/// What stands in a bar, if there is room.
fn label(operation: &Operation) -> String {
    match &operation.request {
        Request::Put(put) => format!("{}={}", plain(&put.key), plain(&put.value)),
        Request::Range(range) => format!("{}?", plain(&range.key)),
        Request::DeleteRange(delete) => format!("del {}", plain(&delete.key)),
        Request::Txn(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_) => operation.request.name().into(),
    }
}

fn plain(data: &super::data::Data) -> String {
    data.to_string().trim_matches('"').to_owned()
}

/// A time in the largest unit that it fills.
fn time(nanoseconds: u64) -> String {
    let (size, unit) = match nanoseconds {
        1_000_000_000.. => (1e9, "s"),
        1_000_000.. => (1e6, "ms"),
        1_000.. => (1e3, "µs"),
        _ => (1.0, "ns"),
    };
    let text = format!("{:.3}", nanoseconds as f64 / size);
    format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A long text without its end.
fn cut(text: &str) -> String {
    const CHARACTERS_MAX: usize = 1_500;
    let kept: String = text.chars().take(CHARACTERS_MAX).collect();
    if kept.len() < text.len() { format!("{kept} ...") } else { kept }
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
