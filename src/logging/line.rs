//! One log line as text: JSON, or tab separated for eyes.
//!
//! The JSON form has etcd's field names, because people's log pipelines parse them:
//!
//! ```json
//! {"level":"info","ts":"2026-11-22T16:37:24.084123Z","caller":"server/mod.rs:12","msg":"ready to serve client requests","address":"127.0.0.1:2379"}
//! ```
//!
//! - A line never contains a line break, whatever the message or the values hold.
//! - Fields come out in the order they were recorded; names are not changed.
//! - `logger` stands there only for a named logger (`raft`), as in etcd.

use super::{Format, Level, Value, timestamp};
use std::fmt::Write;
use std::time::SystemTime;

/// Where a line comes from and what it says; the fields follow apart.
pub(super) struct Head<'a> {
    pub(super) level: Level,
    pub(super) at: SystemTime,
    pub(super) logger: Option<&'a str>,
    /// Source file and line, `dir/file.rs:123`.
    pub(super) caller: &'a str,
    pub(super) message: &'a str,
}

/// The line, with the line break that ends it.
pub(super) fn line(format: Format, head: &Head<'_>, fields: &Fields) -> String {
    match format {
        Format::Json => json_line(head, fields),
        Format::Console => console_line(head, fields),
    }
}

fn json_line(head: &Head<'_>, fields: &Fields) -> String {
    let mut front = Fields::new();
    front.text("level", head.level.name());
    front.text("ts", &timestamp(head.at));
    if let Some(logger) = head.logger {
        front.text("logger", logger);
    }
    front.text("caller", head.caller);
    front.text("msg", head.message);
    let mut line = String::with_capacity(front.0.len() + fields.0.len() + 4);
    line.push('{');
    line.push_str(&front.0);
    if !fields.0.is_empty() {
        line.push(',');
        line.push_str(&fields.0);
    }
    line.push_str("}\n");
    line
}

fn console_line(head: &Head<'_>, fields: &Fields) -> String {
    let mut line = timestamp(head.at);
    let columns = [Some(head.level.name()), head.logger, Some(head.caller), Some(head.message)];
    for column in columns.into_iter().flatten() {
        line.push('\t');
        escape(&mut line, column, Quotes::Plain);
    }
    if !fields.0.is_empty() {
        line.push_str("\t{");
        line.push_str(&fields.0);
        line.push('}');
    }
    line.push('\n');
    line
}

/// Fields as the inside of a JSON object: `"a":1,"b":"x"`.
#[derive(Default)]
pub(super) struct Fields(String);

impl Fields {
    pub(super) fn new() -> Fields {
        Fields::default()
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        quoted(&mut self.0, value);
    }

    /// A number, `true` or `false`.
    pub(super) fn bare(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        write!(self.0, "{value}").expect("a String takes all text");
    }

    /// JSON has no infinities and no NaN: those become text, as in zap.
    pub(super) fn float(&mut self, name: &str, value: f64) {
        match value {
            value if value.is_finite() => self.bare(name, value),
            value if value.is_nan() => self.text(name, "NaN"),
            value => self.text(name, if value > 0.0 { "+Inf" } else { "-Inf" }),
        }
    }

    /// A list or object that is JSON already. What is not is written as text instead, so that a
    /// mistaken caller cannot break the line.
    pub(super) fn json(&mut self, name: &str, value: &[u8]) {
        let one_line = !value.contains(&b'\n');
        match serde_json::from_slice::<serde::de::IgnoredAny>(value) {
            Ok(_) if one_line => {
                self.name(name);
                self.0.push_str(std::str::from_utf8(value).expect("JSON is UTF-8"));
            }
            Ok(_) | Err(_) => self.text(name, &String::from_utf8_lossy(value)),
        }
    }

    pub(super) fn value(&mut self, name: &str, value: &Value) {
        match value {
            Value::Text(text) => self.text(name, text),
            Value::Bool(bool) => self.bare(name, bool),
            Value::Int(int) => self.bare(name, int),
            Value::Uint(uint) => self.bare(name, uint),
            Value::Texts(texts) => self.json(name, &json_list(texts)),
        }
    }

    fn name(&mut self, name: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        quoted(&mut self.0, name);
        self.0.push(':');
    }
}

/// A JSON list of strings. Record it with `tracing` as bytes and it comes out as a list:
/// `tracing::info!("peer-urls" = json_list(&urls).as_slice(), "added member")`.
pub fn json_list<T: AsRef<str>>(texts: &[T]) -> Vec<u8> {
    let mut list = String::from("[");
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            list.push(',');
        }
        quoted(&mut list, text.as_ref());
    }
    list.push(']');
    list.into_bytes()
}

fn quoted(out: &mut String, text: &str) {
    out.push('"');
    escape(out, text, Quotes::Json);
    out.push('"');
}

#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    /// Inside a JSON string.
    Json,
    /// In a console column: only what would break the line is escaped.
    Plain,
}

fn escape(out: &mut String, text: &str, quotes: Quotes) {
    for c in text.chars() {
        match c {
            '"' | '\\' if quotes == Quotes::Json => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // All other control characters, DEL and C1 included: a terminal obeys those.
            c if c.is_control() => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes all text");
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn head(message: &str) -> Head<'_> {
        Head {
            level: Level::Info,
            at: UNIX_EPOCH + Duration::from_micros(1_795_365_444_084_123),
            logger: None,
            caller: "server/mod.rs:12",
            message,
        }
    }

    #[test]
    fn a_json_line_has_etcds_fields_in_etcds_order() {
        let mut fields = Fields::new();
        fields.text("local-member-id", "8e9e05c52164694d");
        fields.bare("election-ticks", 10);
        fields.bare("pre-vote", true);
        fields.float("share", 0.5);
        fields.float("ratio", f64::INFINITY);
        fields.value("urls", &Value::Texts(vec!["http://a:1".into(), "b\"".into()]));
        let head = Head { logger: Some("raft"), ..head("elected") };
        assert_eq!(
            line(Format::Json, &head, &fields),
            "{\"level\":\"info\",\"ts\":\"2026-11-22T16:37:24.084123Z\",\"logger\":\"raft\",\
             \"caller\":\"server/mod.rs:12\",\"msg\":\"elected\",\
             \"local-member-id\":\"8e9e05c52164694d\",\"election-ticks\":10,\"pre-vote\":true,\
             \"share\":0.5,\"ratio\":\"+Inf\",\"urls\":[\"http://a:1\",\"b\\\"\"]}\n"
        );
    }

    #[test]
    fn a_console_line_is_tab_separated() {
        let mut fields = Fields::new();
        fields.text("name", "default");
        assert_eq!(
            line(Format::Console, &head("say \"hi\"\n\u{1b}[31m"), &fields),
            "2026-11-22T16:37:24.084123Z\tinfo\tserver/mod.rs:12\tsay \"hi\"\\n\\u001b[31m\
             \t{\"name\":\"default\"}\n"
        );
        assert_eq!(
            line(Format::Console, &head("bare"), &Fields::new()),
            "2026-11-22T16:37:24.084123Z\tinfo\tserver/mod.rs:12\tbare\n"
        );
    }

    #[test]
    fn bytes_that_are_not_json_become_text() {
        for wrong in ["[1", "[1]]", "", "[1,\n2]", "\u{0}"] {
            let mut fields = Fields::new();
            fields.json("list", wrong.as_bytes());
            let value: serde_json::Value =
                serde_json::from_str(&format!("{{{}}}", fields.0)).expect("still an object");
            assert_eq!(value["list"], wrong);
        }
    }

    proptest! {
        #[test]
        fn any_text_survives_json_on_one_line(message in any::<String>(), name in "[^\"]{1,8}") {
            let mut fields = Fields::new();
            fields.text(&name, &message);
            let text = line(Format::Json, &head(&message), &fields);
            prop_assert_eq!(text.matches('\n').count(), 1);
            prop_assert!(text.ends_with('\n'));
            let value: serde_json::Value = serde_json::from_str(&text).expect("a JSON line");
            prop_assert_eq!(&value["msg"], &message);
            let inner: serde_json::Value =
                serde_json::from_str(&format!("{{{}}}", fields.0)).expect("an object");
            prop_assert_eq!(&inner[&name], &message);
        }
    }
}
