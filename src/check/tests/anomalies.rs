//! Histories with a known verdict, each the smallest that shows its anomaly.

use crate::check::history::History;
use crate::check::violation::Rule;
use crate::check::{Limits, Verdict, check};

/// `p.invoke-return request => answer`, as the lines of a history.
///
/// | line | meaning |
/// |---|---|
/// | `0 1-2 put x 1 => 2` | process 0, called at 1, answered at 2 with revision 2 |
/// | `0 1-2 put x 1 => ?` or `!` | outcome unknown, or failed |
/// | `1 3-4 get x => 2: x=1@2.2.1` | key = value @ create . mod . version |
/// | `1 3-4 stale x => 2: ...` | the same, serializable |
/// | `1 3-4 all@2 => 3: ...` | all keys as of revision 2 |
/// | `1 3-4 del x => 3: 1` | one deleted |
/// | `1 3-4 cas x 1 2 => 3: yes` | transaction: if x is 1, x becomes 2 |
/// | `1 3-4 two x y 1 => 3` | transaction: puts both |
/// | `1 3-4 compact 5 => 9` | |
/// | `1 3-4 grant 7 2 => 1` | lease 7 with 2 seconds to live |
/// | `1 3-4 leased x 1 7 => 2` | a put with lease 7 |
fn history(script: &str) -> History {
    let mut lines = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('{') {
            lines.push_str(line);
        } else {
            lines.push_str(&operation(line));
        }
        lines.push('\n');
    }
    History::read(lines.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{lines}"))
}

fn operation(line: &str) -> String {
    let (asked, told) = line.split_once(" => ").unwrap();
    let words: Vec<&str> = asked.split_whitespace().collect();
    let (invoke, returned) = words[1].split_once('-').unwrap();
    let put = |key: &str, value: &str| format!(r#"{{"put":{{"key":"{key}","value":"{value}"}}}}"#);
    let (revision, rest) = told.split_once(':').unwrap_or((told, ""));
    let rest = rest.trim();
    let range = || {
        let kvs: Vec<String> = rest.split_whitespace().map(kv).collect();
        format!(
            r#"{{"range":{{"revision":{revision},"count":{},"kvs":[{}]}}}}"#,
            kvs.len(),
            kvs.join(",")
        )
    };
    let header = |name: &str| format!(r#"{{"{name}":{{"revision":{revision}}}}}"#);
    let (request, response) = match words[2] {
        "put" => (put(words[3], words[4]), header("put")),
        "get" => (format!(r#"{{"range":{{"key":"{}"}}}}"#, words[3]), range()),
        "stale" => {
            (format!(r#"{{"range":{{"key":"{}","serializable":true}}}}"#, words[3]), range())
        }
        "all" => (r#"{"range":{"key":"\u0000","range_end":"\u0000"}}"#.into(), range()),
        "del" => (
            format!(r#"{{"delete_range":{{"key":"{}"}}}}"#, words[3]),
            format!(r#"{{"delete_range":{{"revision":{revision},"deleted":{rest}}}}}"#),
        ),
        "cas" => (
            format!(
                r#"{{"txn":{{"compare":[{{"key":"{}","result":"equal","target":{{"value":"{}"}}}}],"success":[{}]}}}}"#,
                words[3],
                words[4],
                put(words[3], words[5])
            ),
            match rest {
                "yes" => format!(
                    r#"{{"txn":{{"revision":{revision},"succeeded":true,"responses":[{{"put":{{}}}}]}}}}"#
                ),
                _ => header("txn"),
            },
        ),
        "two" => (
            format!(
                r#"{{"txn":{{"success":[{},{}]}}}}"#,
                put(words[3], words[5]),
                put(words[4], words[5])
            ),
            format!(
                r#"{{"txn":{{"revision":{revision},"succeeded":true,"responses":[{{"put":{{}}}},{{"put":{{}}}}]}}}}"#
            ),
        ),
        "compact" => (format!(r#"{{"compact":{{"revision":{}}}}}"#, words[3]), header("compact")),
        "grant" => (
            format!(r#"{{"lease_grant":{{"id":{},"ttl_seconds":{}}}}}"#, words[3], words[4]),
            format!(
                r#"{{"lease_grant":{{"revision":{revision},"id":{},"ttl_seconds":{}}}}}"#,
                words[3], words[4]
            ),
        ),
        "revoke" => {
            (format!(r#"{{"lease_revoke":{{"id":{}}}}}"#, words[3]), header("lease_revoke"))
        }
        "leased" => (
            format!(
                r#"{{"put":{{"key":"{}","value":"{}","lease":{}}}}}"#,
                words[3], words[4], words[5]
            ),
            header("put"),
        ),
        past => {
            let at = past.strip_prefix("all@").unwrap_or_else(|| panic!("{line}"));
            let asked =
                format!(r#"{{"range":{{"key":"\u0000","range_end":"\u0000","revision":{at}}}}}"#);
            (asked, range())
        }
    };
    let outcome = match told {
        "?" => r#"{"unknown":"timeout"}"#.into(),
        "!" => r#"{"failed":"refused"}"#.into(),
        _ => format!(r#"{{"ok":{response}}}"#),
    };
    format!(
        r#"{{"op":{{"process":{},"member":"a","invoke":{invoke},"return":{returned},"request":{request},"outcome":{outcome}}}}}"#,
        words[0]
    )
}

/// `x=1@create.mod.version`
fn kv(text: &str) -> String {
    let (key, rest) = text.split_once('=').unwrap();
    let (value, numbers) = rest.split_once('@').unwrap();
    let numbers: Vec<&str> = numbers.split('.').collect();
    format!(
        r#"{{"key":"{key}","value":"{value}","create_revision":{},"mod_revision":{},"version":{}}}"#,
        numbers[0], numbers[1], numbers[2]
    )
}

fn lawful(script: &str) {
    let history = history(script);
    let report = check(&history, Limits::default());
    assert_eq!(report.verdict, Verdict::Lawful, "{script}\n{}", report.text(&history));
}

fn unlawful(rule: Rule, operations: &[usize], script: &str) {
    let history = history(script);
    let report = check(&history, Limits::default());
    let text = report.text(&history);
    let found = report.violations.first().unwrap_or_else(|| panic!("{script}\n{text}"));
    assert_eq!(found.rule, rule, "{script}\n{text}");
    assert_eq!(found.operations, operations, "{script}\n{text}");
}

#[test]
fn an_empty_history_is_lawful() {
    lawful("");
    lawful("0 1-2 all => 1:");
}

#[test]
fn reads_and_writes() {
    lawful(
        "0 1-2 put x 1 => 2\n 1 3-4 get x => 2: x=1@2.2.1\n 1 5-6 del x => 3: 1\n 0 7-8 get x => 3:",
    );
    // Concurrent: before or after.
    lawful("0 1-9 put x 1 => 2\n 1 3-4 get x => 1:");
    unlawful(Rule::StaleAnswer, &[1, 0], "0 1-2 put x 1 => 2\n 1 3-4 get x => 1:");
    // New, then old.
    unlawful(
        Rule::StaleAnswer,
        &[2, 1],
        "0 1-9 put x 1 => 2\n 1 2-3 get x => 2: x=1@2.2.1\n 1 4-5 get x => 1:",
    );
    unlawful(Rule::Answer, &[1, 0], "0 1-2 put x 1 => 2\n 1 3-4 get x => 2:");
    unlawful(Rule::Answer, &[1, 0], "0 1-2 put x 1 => 2\n 1 3-4 get x => 2: x=7@2.2.1");
    unlawful(Rule::Answer, &[1, 0], "0 1-2 put x 1 => 2\n 1 3-4 all => 2: x=1@2.2.1 y=1@2.2.1");
    unlawful(Rule::WriteOrder, &[1, 0], "0 1-2 put x 1 => 3\n 1 3-4 put x 2 => 2");
    unlawful(Rule::RevisionUnique, &[1, 0], "0 1-4 put x 1 => 2\n 1 1-4 put x 2 => 2");
}

#[test]
fn lost_updates_and_broken_comparisons() {
    let both = "0 1-2 put x 0 => 2\n 1 3-6 cas x 0 1 => 3: yes\n 2 4-5 cas x 0 2 => 4: yes";
    unlawful(Rule::Answer, &[2, 1, 0], both);
    lawful("0 1-2 put x 0 => 2\n 1 3-6 cas x 0 1 => 3: yes\n 2 4-5 cas x 0 2 => 3: no");
    unlawful(Rule::Answer, &[1, 0], "0 1-2 put x 0 => 2\n 1 3-4 cas x 0 1 => 2: no");
}

#[test]
fn transactions_are_whole() {
    lawful("0 1-2 two x y 1 => 2\n 1 3-4 all => 2: x=1@2.2.1 y=1@2.2.1");
    unlawful(Rule::Answer, &[1, 0], "0 1-2 two x y 1 => 2\n 1 3-4 all => 2: x=1@2.2.1");
    // One half seen, of a transaction that nobody heard of again.
    unlawful(Rule::Answer, &[1, 0], "0 1-2 two x y 1 => ?\n 1 3-4 all => 2: x=1@2.2.1");
    lawful("0 1-2 two x y 1 => ?\n 1 3-4 all => 2: x=1@2.2.1 y=1@2.2.1");
}

#[test]
fn the_past_stays_what_it_was() {
    lawful("0 1-2 put x 1 => 2\n 0 3-4 put x 2 => 3\n 1 5-6 all@2 => 3: x=1@2.2.1");
    unlawful(
        Rule::Answer,
        &[2, 1, 0],
        "0 1-2 put x 1 => 2\n 0 3-4 put x 2 => 3\n 1 5-6 all@2 => 3: x=2@2.3.2",
    );
    unlawful(
        Rule::Compaction,
        &[3, 2],
        "0 1-2 put x 1 => 2\n 0 3-4 put x 2 => 3\n 0 5-6 compact 3 => 3\n 1 7-8 all@2 => 3: x=1@2.2.1",
    );
}

#[test]
fn unknown_writes_happen_late_or_never_but_once_and_whole() {
    lawful("0 1-2 put x 1 => ?\n 1 3-4 get x => 1:");
    lawful("0 1-2 put x 1 => ?\n 1 3-4 get x => 1:\n 1 5-6 get x => 2: x=1@2.2.1");
    // Nobody saw it, but a revision is missing.
    lawful("0 1-2 put x 1 => ?\n 1 3-4 put y 1 => 3");
    // Twice.
    unlawful(
        Rule::PhantomRevision,
        &[2],
        "0 1-2 put x 1 => ?\n 1 3-4 get x => 2: x=1@2.2.1\n 1 5-6 get x => 3: x=1@2.3.2",
    );
    // Seen before it was called.
    unlawful(Rule::PhantomRevision, &[0], "1 1-2 get x => 2: x=1@2.2.1\n 0 3-4 put x 1 => ?");
    // Which of two it was shows only later: the walk has to come back.
    lawful(
        "2 1-2 put y 0 => 2\n 0 3-4 put x 1 => ?\n 1 3-4 del y => ?\n 2 5-6 put z 1 => 4\n \
         2 7-8 get y => 4:\n 2 9-10 get x => 4:",
    );
    unlawful(
        Rule::Answer,
        &[4, 0],
        "2 1-2 put y 0 => 2\n 0 3-4 put x 1 => ?\n 1 3-4 del y => ?\n 2 5-6 put z 1 => 4\n \
         2 7-8 get y => 4:\n 2 9-10 get x => 4: x=1@3.3.1",
    );
}

#[test]
fn what_failed_did_not_happen() {
    lawful("0 1-2 put x 1 => !\n 1 3-4 get x => 1:");
    unlawful(Rule::PhantomRevision, &[1, 0], "0 1-2 put x 1 => !\n 1 3-4 get x => 2: x=1@2.2.1");
}

#[test]
fn serializable_reads_are_old_but_not_wrong() {
    lawful("0 1-2 put x 1 => 2\n 1 3-4 stale x => 1:\n 1 5-6 stale x => 2: x=1@2.2.1");
    unlawful(
        Rule::SerializableOrder,
        &[2, 1],
        "0 1-2 put x 1 => 2\n 1 3-4 stale x => 2: x=1@2.2.1\n 1 5-6 stale x => 1:",
    );
    unlawful(
        Rule::SerializableAnswer,
        &[1, 0],
        "0 1-2 put x 1 => 2\n 1 3-4 stale x => 2: x=9@2.2.1",
    );
}

#[test]
fn leases_end_neither_early_nor_by_halves() {
    let script = |at: u64| {
        format!("0 1-2 grant 7 2 => 1\n 0 3-4 leased x 1 7 => 2\n 1 {at}-{} get x => 3:", at + 1)
    };
    lawful(&script(2_000_000_001));
    unlawful(Rule::PhantomRevision, &[2], &script(1_000_000_000));
    lawful(
        "0 1-2 grant 7 60 => 1\n 0 3-4 leased x 1 7 => 2\n 0 5-6 revoke 7 => 3\n 1 7-8 get x => 3:",
    );
    unlawful(
        Rule::Answer,
        &[2],
        "0 1-2 grant 7 60 => 1\n 0 3-4 leased x 1 7 => 2\n 0 5-6 revoke 7 => 2",
    );
}

/// A watcher of all keys and its messages: `revision created`, `revision progress`, or
/// `revision key=value@create.mod.version ... key-@mod`.
fn watch(messages: &str) -> String {
    let mut responses = Vec::new();
    for (at, message) in messages.split(';').enumerate() {
        let (revision, rest) = message.trim().split_once(' ').unwrap();
        let head = format!(r#""at":{},"revision":{revision}"#, at + 100);
        responses.push(match rest {
            "created" => format!(r#"{{{head},"created":true}}"#),
            "progress" => format!("{{{head}}}"),
            "canceled" => format!(r#"{{{head},"canceled":true}}"#),
            _ => {
                let events: Vec<String> = rest.split_whitespace().map(event).collect();
                format!(r#"{{{head},"events":[{}]}}"#, events.join(","))
            }
        });
    }
    format!(
        r#"{{"watch":{{"process":9,"invoke":0,"key":"\u0000","range_end":"\u0000","start_revision":2,"responses":[{}]}}}}"#,
        responses.join(",")
    )
}

fn event(text: &str) -> String {
    match text.split_once("-@") {
        Some((key, revision)) => {
            format!(r#"{{"type":"delete","kv":{{"key":"{key}","mod_revision":{revision}}}}}"#)
        }
        None => format!(r#"{{"type":"put","kv":{}}}"#, kv(text)),
    }
}

const WRITES: &str = "0 1-2 put x 1 => 2\n 0 3-4 two x y 2 => 3\n 0 5-6 del x => 4: 1\n";
const SECOND: &str = "x=2@2.3.2 y=2@3.3.1";

#[test]
fn a_watcher_is_told_all_in_order_once() {
    for messages in [
        "1 created".to_owned(),
        format!("1 created; 2 x=1@2.2.1; 3 {SECOND}; 4 x-@4"),
        format!("4 created; 4 x=1@2.2.1 {SECOND}; 4 x-@4; 4 progress; 4 canceled"),
    ] {
        lawful(&format!("{WRITES}{}", watch(&messages)));
    }
    for (rule, messages) in [
        (Rule::WatchUnique, format!("1 created; 2 x=1@2.2.1; 2 x=1@2.2.1; 3 {SECOND}")),
        (Rule::WatchReliable, format!("1 created; 3 {SECOND}; 4 x-@4")),
        (Rule::WatchReliable, "1 created; 2 x=1@2.2.1; 4 x-@4".into()),
        (Rule::WatchReliable, "1 created; 2 x=1@2.2.1; 3 progress".into()),
        (Rule::WatchAtomic, "1 created; 2 x=1@2.2.1; 3 x=2@2.3.2; 3 y=2@3.3.1".into()),
        (Rule::WatchAtomic, "1 created; 2 x=1@2.2.1; 3 x=2@2.3.2; 4 x-@4".into()),
        (Rule::WatchBookmark, format!("1 created; 2 x=1@2.2.1; 3 progress; 3 {SECOND}")),
        (Rule::WatchOrder, format!("1 created; 3 {SECOND}; 3 x=1@2.2.1")),
        (Rule::WatchContent, "1 created; 2 x=7@2.2.1".into()),
        (Rule::WatchContent, "1 created; 2 x=1@2.2.2".into()),
        (Rule::WatchContent, format!("1 created; 2 x=1@2.2.1; 3 {SECOND}; 4 y-@4")),
        (Rule::WatchContent, "1 created; 2 z=1@2.2.1".into()),
        (Rule::WatchStream, "2 x=1@2.2.1".into()),
        (Rule::WatchStream, "1 created; 1 canceled; 2 x=1@2.2.1".into()),
    ] {
        let history = history(&format!("{WRITES}{}", watch(&messages)));
        let report = check(&history, Limits::default());
        let found = report.violations.first().map(|violation| violation.rule);
        assert_eq!(found, Some(rule), "{messages}\n{}", report.text(&history));
    }
}

#[test]
fn an_event_tells_which_unknown_write_it_was() {
    let unknown = "0 1-2 put x 1 => ?\n 1 1-2 put x 2 => ?\n 2 3-4 put z 1 => 4\n";
    lawful(&format!("{unknown}{}", watch("1 created; 2 x=2@2.2.1; 3 x=1@2.3.2; 4 z=1@4.4.1")));
    lawful(&format!("{unknown}{}", watch("1 created; 2 x=1@2.2.1; 3 x=2@2.3.2; 4 z=1@4.4.1")));
    // Only x=1 fits the second gap, so the first must have been the other.
    let elsewhere =
        watch("1 created; 4 z=1@4.4.1").replace(r#""\u0000","range_end":"\u0000""#, r#""z""#);
    lawful(&format!("{unknown}2 5-6 get x => 4: x=1@2.3.2\n{elsewhere}"));
    // A watcher of all that was told of neither.
    unlawful(Rule::PhantomRevision, &[2], &format!("{unknown}{}", watch("1 created; 4 z=1@4.4.1")));
    unlawful(
        Rule::PhantomRevision,
        &[],
        &format!("{unknown}{}", watch("1 created; 2 x=1@2.2.1; 3 x=1@2.3.2; 4 z=1@4.4.1")),
    );
}

#[test]
fn without_revisions_each_key_is_searched() {
    lawful("0 1-2 put x 1 => 0\n 1 1-2 put y 2 => 0\n 1 3-4 get x => 0: x=1@0.0.1");
    unlawful(
        Rule::NotLinearizable,
        &[2, 1, 0],
        "0 1-2 put x 1 => 0\n 0 3-4 put x 2 => 0\n 1 5-6 get x => 0: x=1@0.0.1",
    );
    let wide = history("0 1-2 put x 1 => 0\n 1 3-4 all => 0: x=1@0.0.1");
    assert_eq!(check(&wide, Limits::default()).verdict, Verdict::Unknown);
}
