//! Histories for Jepsen's checkers: EDN, as Knossos and Elle read it.
//!
//! Two shapes of history are common there:
//!
//! - *register*: `{:type :invoke, :process 0, :f :write, :value [key 1], ...}` with `:read` and
//!   `:cas`, one operation per key (an "independent" history);
//! - *list-append*: `{:type :ok, :process 0, :f :txn, :value [[:append 1 2] [:r 1 [2]]], ...}`.
//!
//! The register's operations are taken from a history of ours where they are plain: a range of a
//! single key, a put, and the transaction that puts if the value is equal (or else does nothing,
//! or reads). Everything else is passed over, so the outcome of Jepsen's checker is about the
//! rest only where there is nothing else that writes. Values are written as strings.
//!
//! A process that got an unknown outcome is dead in Jepsen's world, so its later operations go by
//! another number.

use super::data::Data;
use super::history::History;
use super::op::{CompareResult, CompareTarget, Operation, Outcome, Request, Response};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// A register operation of a history, in Jepsen's terms.
enum Step {
    Read(Option<Data>),
    Write(Data),
    CompareAndSet(Data, Data, bool),
}

/// One micro-operation of a list-append transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListStep {
    Append(i64, i64),
    /// The elements are none before the answer.
    Read(i64, Option<Vec<i64>>),
}

/// A list-append transaction: process, call, answer (none: unknown), and its steps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListTransaction {
    pub process: u64,
    /// In nanoseconds.
    pub invoke: u64,
    /// In nanoseconds.
    pub returned: Option<u64>,
    pub steps: Vec<ListStep>,
}

/// Writes the register operations of a history; returns how many were passed over.
pub fn write_register(history: &History, output: impl Write) -> io::Result<usize> {
    let mut lines = Lines::default();
    let mut passed_over = 0;
    for operation in &history.operations {
        let Some((key, step)) = register(operation) else {
            passed_over += 1;
            continue;
        };
        let (f, asked, told) = match step {
            Step::Read(value) => {
                let told = value.map_or("nil".into(), |value| string(&value));
                ("read", "nil".to_owned(), told)
            }
            Step::Write(value) => ("write", string(&value), string(&value)),
            Step::CompareAndSet(old, new, _) => {
                let pair = format!("[{} {}]", string(&old), string(&new));
                ("cas", pair.clone(), pair)
            }
        };
        let unchanged = matches!(register(operation), Some((_, Step::CompareAndSet(_, _, false))));
        let end = match operation.outcome {
            Outcome::Ok(_) if unchanged => Some("fail"),
            Outcome::Ok(_) => Some("ok"),
            Outcome::Failed(_) => Some("fail"),
            Outcome::Unknown(_) => None,
        };
        let value = |inner: &str| format!("[{} {inner}]", string(&key));
        let times = (operation.invoke, operation.returned);
        lines.add(operation.process, f, times, (value(&asked), end, value(&told)));
    }
    lines.write(output)?;
    Ok(passed_over)
}

/// Writes list-append transactions.
pub fn write_list_append(transactions: &[ListTransaction], output: impl Write) -> io::Result<()> {
    let mut lines = Lines::default();
    for transaction in transactions {
        let text = |told: bool| {
            let step = |step: &ListStep| match step {
                ListStep::Append(key, element) => format!("[:append {key} {element}]"),
                ListStep::Read(key, Some(elements)) if told => {
                    let elements: Vec<String> = elements.iter().map(i64::to_string).collect();
                    format!("[:r {key} [{}]]", elements.join(" "))
                }
                ListStep::Read(key, _) => format!("[:r {key} nil]"),
            };
            let steps: Vec<String> = transaction.steps.iter().map(step).collect();
            format!("[{}]", steps.join(" "))
        };
        let end = transaction.returned.map(|_| "ok");
        let times = (transaction.invoke, transaction.returned);
        lines.add(transaction.process, "txn", times, (text(false), end, text(true)));
    }
    lines.write(output)
}

/// What an operation is to a register, if it is that plain.
fn register(operation: &Operation) -> Option<(Data, Step)> {
    let response = operation.response();
    match &operation.request {
        Request::Range(range)
            if range.range_end.is_empty()
                && range.revision.0 == 0
                && !range.serializable
                && !range.keys_only
                && !range.count_only =>
        {
            let value = match response {
                Some(Response::Range(told)) => told.kvs.first().map(|kv| kv.value.clone()),
                _ => None,
            };
            Some((range.key.clone(), Step::Read(value)))
        }
        Request::Put(put) if !put.ignore_value => {
            Some((put.key.clone(), Step::Write(put.value.clone())))
        }
        Request::Txn(txn) => {
            let ([compare], [Request::Put(put)], []) =
                (&txn.compare[..], &txn.success[..], &txn.failure[..])
            else {
                return None;
            };
            let CompareTarget::Value(old) = &compare.target else { return None };
            let plain = compare.result == CompareResult::Equal
                && compare.range_end.is_empty()
                && compare.key == put.key
                && !put.ignore_value;
            let succeeded = matches!(response, Some(Response::Txn(told)) if told.succeeded);
            let step = Step::CompareAndSet(old.clone(), put.value.clone(), succeeded);
            plain.then(|| (put.key.clone(), step))
        }
        Request::Range(_)
        | Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_) => None,
    }
}

/// EDN's strings are JSON's, near enough: both escape quotes, backslashes and control characters.
fn string(data: &Data) -> String {
    serde_json::to_string(&String::from_utf8_lossy(&data.0)).unwrap_or_default()
}

/// Calls and answers, to be written by time.
#[derive(Default)]
struct Lines {
    /// By time, answers before calls, so that what is not concurrent here is not there.
    lines: Vec<(u64, bool, u64, String)>,
    /// Times of unknown outcomes by process.
    deaths: BTreeMap<u64, Vec<u64>>,
}

impl Lines {
    /// Adds a call and its answer: the value asked, how it ended (none: unknown), the value told.
    fn add(
        &mut self,
        process: u64,
        f: &str,
        (invoke, returned): (u64, Option<u64>),
        (asked, end, told): (String, Option<&str>, String),
    ) {
        let line = |kind: &str, value: &str| format!(":type :{kind}, :f :{f}, :value {value}");
        self.lines.push((invoke, true, process, line("invoke", &asked)));
        match (end, returned) {
            (Some(end), Some(returned)) => {
                self.lines.push((returned, false, process, line(end, &told)));
            }
            _ => self.deaths.entry(process).or_default().push(invoke),
        }
    }

    fn write(mut self, mut output: impl Write) -> io::Result<()> {
        self.lines.sort();
        let highest = self.lines.iter().map(|(_, _, process, _)| *process).max().unwrap_or(0);
        for (at, _, process, line) in &self.lines {
            // Each unknown outcome before moves the process on to a fresh number.
            let deaths = self
                .deaths
                .get(process)
                .map_or(0, |deaths| deaths.iter().filter(|death| *death < at).count());
            let lives = u64::try_from(deaths).expect("a count fits");
            let number = process + lives * (highest + 1);
            writeln!(output, "{{:process {number}, :time {at}, {line}}}")?;
        }
        output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_and_lists_come_out_in_jepsens_words() {
        let text = r#"
{"op":{"process":0,"invoke":1,"return":4,"request":{"put":{"key":"x","value":"1"}},"outcome":{"ok":{"put":{"revision":2}}}}}
{"op":{"process":1,"invoke":2,"return":3,"request":{"range":{"key":"x"}},"outcome":{"ok":{"range":{"revision":1}}}}}
{"op":{"process":1,"invoke":5,"request":{"txn":{"compare":[{"key":"x","result":"equal","target":{"value":"1"}}],"success":[{"put":{"key":"x","value":"2"}}]}},"outcome":{"unknown":""}}}
{"op":{"process":1,"invoke":7,"return":8,"request":{"compact":{"revision":1}},"outcome":{"ok":{"compact":{"revision":3}}}}}
{"op":{"process":1,"invoke":9,"return":10,"request":{"put":{"key":"x","value":"3"}},"outcome":{"failed":""}}}"#;
        let history = History::read(text.as_bytes()).unwrap();
        let mut written = Vec::new();
        assert_eq!(write_register(&history, &mut written).unwrap(), 1);
        let expected = r#"{:process 0, :time 1, :type :invoke, :f :write, :value ["x" "1"]}
{:process 1, :time 2, :type :invoke, :f :read, :value ["x" nil]}
{:process 1, :time 3, :type :ok, :f :read, :value ["x" nil]}
{:process 0, :time 4, :type :ok, :f :write, :value ["x" "1"]}
{:process 1, :time 5, :type :invoke, :f :cas, :value ["x" ["1" "2"]]}
{:process 3, :time 9, :type :invoke, :f :write, :value ["x" "3"]}
{:process 3, :time 10, :type :fail, :f :write, :value ["x" "3"]}
"#;
        assert_eq!(String::from_utf8(written).unwrap(), expected);

        let steps = vec![ListStep::Append(1, 2), ListStep::Read(1, Some(vec![2]))];
        let transaction = ListTransaction { process: 0, invoke: 1, returned: Some(2), steps };
        let mut written = Vec::new();
        write_list_append(&[transaction], &mut written).unwrap();
        let text = String::from_utf8(written).unwrap();
        assert!(text.contains(":invoke, :f :txn, :value [[:append 1 2] [:r 1 nil]]}"), "{text}");
        assert!(text.contains(":ok, :f :txn, :value [[:append 1 2] [:r 1 [2]]]}"), "{text}");
    }
}
