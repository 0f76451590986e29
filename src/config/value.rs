//! What a flag's value may look like, in Go's syntax.
//!
//! A value is checked once, where it is read, against its flag's [`Kind`]; the typed readers
//! below then cannot fail. Error texts begin with Go's (`parse error`, `value out of range`) and
//! go on with what was expected.

use super::url::Url;
use crate::logging::parse_go_duration;
use std::num::IntErrorKind;
use std::time::Duration;

/// The form of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `true` or `false`; the bare flag means `true`.
    Bool,
    Uint,
    Uint32,
    Int,
    /// `10s`, `1h30m`.
    Duration,
    /// Anything.
    Text,
    /// At least one URL, separated by commas.
    Urls,
    /// URLs or nothing.
    UrlsOrNone,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A flag of etcd's past: takes a value only after `=`, and any.
    Legacy,
}

impl Kind {
    /// Whether the bare flag is complete: the next argument is then not its value.
    pub fn stands_alone(self) -> bool {
        matches!(self, Kind::Bool | Kind::Legacy)
    }

    /// Says what is wrong with a value, if anything is.
    pub fn check(self, text: &str) -> Result<(), String> {
        match self {
            Kind::Bool => bool(text).map(drop),
            Kind::Uint => uint(text).map(drop),
            Kind::Uint32 => match uint(text)? {
                value if u32::try_from(value).is_ok() => Ok(()),
                _ => Err("value out of range; the largest is 4294967295".to_owned()),
            },
            Kind::Int => int(text).map(drop),
            Kind::Duration => duration(text).map(drop),
            Kind::Text | Kind::Legacy => Ok(()),
            Kind::Urls if text.trim().is_empty() => {
                Err("no URL given; expected for example http://127.0.0.1:2379".to_owned())
            }
            Kind::UrlsOrNone if text.trim().is_empty() => Ok(()),
            Kind::Urls | Kind::UrlsOrNone => urls(text).map(drop),
            Kind::OneOf(words) if words.contains(&text) => Ok(()),
            Kind::OneOf(words) => Err(format!("expected one of: {}", words.join(", "))),
        }
    }

    /// What the help text shows in place of a value; nothing for flags that stand alone.
    pub fn placeholder(self) -> &'static str {
        match self {
            Kind::Bool | Kind::Legacy => "",
            Kind::Uint | Kind::Uint32 | Kind::Int => "<number>",
            Kind::Duration => "<duration>",
            Kind::Text => "<text>",
            Kind::Urls | Kind::UrlsOrNone => "<urls>",
            Kind::OneOf(_) => "<word>",
        }
    }
}

/// Go's `strconv.ParseBool`.
pub fn bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("parse error; expected true or false".to_owned()),
    }
}

/// Go's `strconv.ParseUint(text, 0, 64)`, without its underscores.
pub fn uint(text: &str) -> Result<u64, String> {
    let (digits, radix) = radix(text);
    // Rust would take a sign here, Go does not.
    if digits.starts_with(['+', '-']) {
        return Err("parse error; expected a whole number, 0 or more".to_owned());
    }
    u64::from_str_radix(digits, radix).map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow => "value out of range".to_owned(),
        _ => "parse error; expected a whole number, 0 or more".to_owned(),
    })
}

/// Go's `strconv.ParseInt(text, 0, 64)`, without its underscores.
pub fn int(text: &str) -> Result<i64, String> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = uint(unsigned).map_err(|error| error.replace(", 0 or more", ""))?;
    let value = i128::from(magnitude) * if negative { -1 } else { 1 };
    i64::try_from(value).map_err(|_| "value out of range".to_owned())
}

/// A duration as Go writes it, not below zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_go_duration(text)
        .map_err(|error| format!("{error}; expected for example 500ms, 10s or 1h30m"))
}

/// URLs separated by commas, sorted and each once, as etcd keeps them.
pub fn urls(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = Vec::new();
    for part in text.split(',') {
        urls.push(Url::parse(part)?);
    }
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// Go's base 0: the prefix decides.
fn radix(text: &str) -> (&str, u32) {
    let lower =
        |prefix: &str| text.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if lower("0x") {
        (&text[2..], 16)
    } else if lower("0b") {
        (&text[2..], 2)
    } else if lower("0o") {
        (&text[2..], 8)
    } else if text.len() > 1 && text.starts_with('0') {
        (&text[1..], 8)
    } else {
        (text, 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, value) in
            [("0", 0), ("42", 42), ("0x1F", 31), ("0b101", 5), ("0o17", 15), ("017", 15)]
        {
            assert_eq!(uint(text), Ok(value), "{text}");
            assert_eq!(int(text), Ok(i64::try_from(value).unwrap()), "{text}");
        }
        assert_eq!(uint("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(int("-9223372036854775808"), Ok(i64::MIN));
        for text in ["", "+1", "-1", "1.5", "x", "0x", "08", "1 ", "é"] {
            assert!(uint(text).unwrap_err().starts_with("parse error"), "{text}");
        }
        for text in ["", "--1", "+-1", "1.5"] {
            assert!(int(text).unwrap_err().starts_with("parse error"), "{text}");
        }
        assert_eq!(uint("18446744073709551616").unwrap_err(), "value out of range");
        assert_eq!(int("9223372036854775808").unwrap_err(), "value out of range");
    }

    #[test]
    fn each_kind_refuses_what_it_cannot_mean() {
        let table = [
            (Kind::Bool, "yes", "parse error; expected true or false"),
            (Kind::Uint32, "4294967296", "value out of range; the largest is 4294967295"),
            (Kind::OneOf(&["new", "existing"]), "old", "expected one of: new, existing"),
            (Kind::Urls, "", "no URL given; expected for example http://127.0.0.1:2379"),
            (
                Kind::Duration,
                "10",
                "time: missing unit in duration \"10\"; expected for example 500ms, 10s or 1h30m",
            ),
        ];
        for (kind, text, error) in table {
            assert_eq!(kind.check(text), Err(error.to_owned()), "{kind:?} {text}");
        }
        assert_eq!(Kind::UrlsOrNone.check(""), Ok(()));
    }

    #[test]
    fn urls_are_sorted_and_each_once() {
        let urls = urls("http://b:1, http://a:2,http://b:1").unwrap();
        let texts: Vec<String> = urls.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["http://a:2", "http://b:1"]);
    }
}
