//! Jepsen's histories: read, judged, and written so that they read back.

use crate::check::{History, Limits, Recorded, Rule, Verdict, check, edn};

fn judge(text: &str) -> (Verdict, Option<Rule>) {
    let recorded =
        Recorded::read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let (history, report) = recorded.check(Limits::default());
    // What was found can be shown.
    assert!(!report.text(&history).is_empty());
    (report.verdict, report.violations.first().map(|violation| violation.rule))
}

#[test]
fn registers_are_judged() {
    let start = "{:process 0, :type :invoke, :f :write, :value 1, :time 10, :index 0}\n\
                 {:process 0, :type :ok, :f :write, :value 1, :time 20, :index 1}\n";
    for (rest, verdict) in [
        ("", Verdict::Lawful),
        (":invoke :read nil :ok :read 1", Verdict::Lawful),
        (":invoke :read nil :ok :read nil", Verdict::Unlawful),
        (":invoke :read nil :fail :read nil", Verdict::Lawful),
        (":invoke :cas [1 2] :ok :cas [1 2] :invoke :read nil :ok :read 2", Verdict::Lawful),
        (":invoke :cas [5 2] :ok :cas [5 2]", Verdict::Unlawful),
        (":invoke :cas [5 2] :fail :cas [5 2]", Verdict::Lawful),
        (":invoke :cas [nil 2] :ok :cas [nil 2]", Verdict::Unlawful),
        (":invoke :write nil :ok :write nil :invoke :read nil :ok :read nil", Verdict::Lawful),
        (
            ":invoke :write nil :ok :write nil :invoke :cas [nil 3] :ok :cas [nil 3] \
             :invoke :read nil :ok :read 3",
            Verdict::Lawful,
        ),
    ] {
        let mut text = start.to_owned();
        // Three words to a line; a pair in brackets is one.
        let words = rest.replace(['[', ']'], "'");
        let mut parts = words.split('\'').enumerate().flat_map(|(place, part)| match place % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![format!("[{part}]")],
        });
        while let (Some(kind), Some(f), Some(value)) = (parts.next(), parts.next(), parts.next()) {
            text.push_str(&format!("{{:process 1, :type {kind}, :f {f}, :value {value}}}\n"));
        }
        assert_eq!(judge(&text).0, verdict, "{text}");
        // One vector of tagged maps is the same.
        let tagged = format!("[{}]", text.replace("{:process", "#jepsen.history.Op{:process"));
        assert_eq!(judge(&tagged).0, verdict, "{tagged}");
    }
}

#[test]
fn keys_are_independent() {
    let text = r#"
{:process 0, :type :invoke, :f :write, :value [:a 1]}
{:process :nemesis, :type :info, :f :start-partition, :value nil}
{:process :nemesis, :type :info, :f :start-partition, :value "cut"}
{:process 0, :type :ok, :f :write, :value [:a 1]}
{:process 0, :type :invoke, :f :cas, :value [:b [nil 1]]}
{:process 0, :type :info, :f :cas, :value [:b [nil 1]]}
{:process :nemesis, :type :info, :f :stop-partition}
{:process 1, :type :invoke, :f :read, :value [:b nil]}
{:process 1, :type :ok, :f :read, :value [:b 1]}
"#;
    assert_eq!(judge(text).0, Verdict::Lawful);
    let Ok(Recorded::Store(history)) = Recorded::read(text.as_bytes()) else { unreachable!() };
    assert_eq!(history.faults.len(), 1);
    assert_eq!(history.faults[0].name, "partition");
    assert!(history.faults[0].to.is_some());
    let wrong = text.replace("[:b 1]}\n", "[:b 2]}\n");
    assert_eq!(judge(&wrong), (Verdict::Unlawful, Some(Rule::NotLinearizable)));
}

#[test]
fn lists_are_judged() {
    let text = r#"
{:process 0, :type :invoke, :f :txn, :value [[:append 1 1] [:r 2 nil]]}
{:process 0, :type :ok, :f :txn, :value [[:append 1 1] [:r 2 []]]}
{:process 1, :type :invoke, :f :txn, :value [[:r 1 nil]]}
{:process 1, :type :ok, :f :txn, :value [[:r 1 [1]]]}
"#;
    assert_eq!(judge(text), (Verdict::Lawful, None));
    let lost = text.replace("[[:r 1 [1]]]", "[[:r 1 nil]]");
    assert_eq!(judge(&lost), (Verdict::Unlawful, Some(Rule::ListLost)));
}

#[test]
fn an_error_names_its_line() {
    for (text, told) in [
        ("{:type :invoke\n :f", "line 1"),
        ("\n{:process 0, :type :ok, :f :read, :value 1}", "line 2: an answer without a call"),
        ("{:process 0, :type :invoke, :f :enqueue, :value 1}", "line 1: :f :enqueue is none of"),
        ("{:process 0, :type :what, :f :read}", "line 1: its :type"),
        ("[1 2]", "line 1: no operation of a history"),
        ("{:type :invoke, :f :txn, :process 0, :value [[:w 1 2]]}", "line 1: :w is neither"),
        ("", "the file is empty"),
        ("hello", "line 1"),
    ] {
        let error = Recorded::read(text.as_bytes()).expect_err(text).to_string();
        assert!(error.contains(told), "{text}: {error}");
    }
}

#[test]
fn what_is_written_for_jepsen_reads_back() {
    let lines = [
        r#"{"op":{"process":0,"invoke":1,"return":4,"request":{"put":{"key":"x","value":"1"}},"outcome":{"ok":{"put":{"revision":2}}}}}"#,
        r#"{"op":{"process":1,"invoke":5,"return":6,"request":{"txn":{"compare":[{"key":"x","result":"equal","target":{"value":"1"}}],"success":[{"put":{"key":"x","value":"2"}}]}},"outcome":{"ok":{"txn":{"revision":3,"succeeded":true,"responses":[{"put":{}}]}}}}}"#,
        r#"{"op":{"process":1,"invoke":7,"request":{"put":{"key":"x","value":"3"}},"outcome":{"unknown":""}}}"#,
        r#"{"op":{"process":2,"invoke":8,"return":9,"request":{"range":{"key":"x"}},"outcome":{"ok":{"range":{"revision":3,"count":1,"kvs":[{"key":"x","value":"2","create_revision":2,"mod_revision":3,"version":2}]}}}}}"#,
    ];
    let lawful = lines.join("\n");
    let stale =
        lawful.replace(r#""key":"x","value":"2","create"#, r#""key":"x","value":"1","create"#);
    for (json, verdict) in [(lawful, Verdict::Lawful), (stale, Verdict::Unlawful)] {
        let history = History::read(json.as_bytes()).unwrap();
        assert_eq!(check(&history, Limits::default()).verdict, verdict);
        let mut written = Vec::new();
        assert_eq!(edn::write(&history, &mut written).unwrap(), 0);
        assert_eq!(judge(std::str::from_utf8(&written).unwrap()).0, verdict);
    }
}
