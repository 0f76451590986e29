//! A history of ours for Jepsen's checkers: Knossos reads registers, Elle lists.
//!
//! A history all of whose keys are lists (`append/...`, values being elements between spaces, each
//! write adding one) is written as transactions on lists: a guarded transaction appends what its
//! value ends in, and has read what stands before, since its condition says so. A list that is
//! begun anew is another list, named after its first element.
//!
//! Of any other history the keys are taken that are registers: read, put, deleted (a write of
//! `nil`) and written by transactions on that key alone. A transaction that puts if the value is
//! equal is a `:cas`; under another condition it is written as the write or the read that it turned
//! out to be, which asks less. A key that anything else may have changed (a range deletion, a lease,
//! a transaction on several keys) is left out, so that what is written of a lawful history is
//! lawful. Values are written as strings.
//!
//! A process that got an unknown outcome is dead in Jepsen's world, so its later operations go by
//! another number.

use crate::check::data::Data;
use crate::check::history::History;
use crate::check::lists::{ListStep, ListTransaction};
use crate::check::op::{
    Compare, CompareResult, CompareTarget, Operation, Outcome, RangeRequest, Request, Response,
    TxnRequest,
};
use crate::types::KeyRange;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

/// What the keys of lists begin with.
const LISTS: &[u8] = b"append/";

/// Writes a history in the form that fits it; returns how many operations were passed over.
pub fn write(history: &History, output: impl Write) -> io::Result<usize> {
    let mut ranges = Vec::new();
    history.operations.iter().for_each(|operation| operation.request.footprint(&mut ranges));
    let is_list =
        |range: &crate::types::KeyRange| range.is_single() && range.start.starts_with(LISTS);
    let lists: Vec<ListTransaction> = history.operations.iter().filter_map(list).collect();
    // The last words of a run may read everything else.
    let count = ranges.iter().filter(|range| is_list(range)).count();
    if !lists.is_empty() && count * 10 >= ranges.len() * 9 {
        write_list_append(&lists, output)?;
        return Ok(history.operations.len() - lists.len());
    }
    write_register(history, output)
}

/// What an operation is to lists, if it is that.
fn list(operation: &Operation) -> Option<ListTransaction> {
    let response = operation.response();
    let outcome = match operation.outcome {
        Outcome::Ok(_) => Some(true),
        Outcome::Failed(_) => Some(false),
        Outcome::Unknown(_) => None,
    };
    let mut steps = Vec::new();
    match (&operation.request, response) {
        (Request::Range(_), _) => steps.extend(list_read(&operation.request, response)?),
        (Request::Txn(txn), response) => {
            let told = match response {
                Some(Response::Txn(told)) => Some(told),
                _ => None,
            };
            let succeeded = told.is_none_or(|told| told.succeeded);
            let branch = if succeeded { &txn.success } else { &txn.failure };
            for (place, part) in branch.iter().enumerate() {
                let told = told.and_then(|told| told.responses.get(place));
                match part {
                    Request::Range(_) => steps.extend(list_read(part, told)?),
                    Request::Put(put) => {
                        steps.extend(list_append(&put.key, &put.value, &txn.compare)?)
                    }
                    _ => return None,
                }
            }
        }
        _ => return None,
    }
    let Operation { process, invoke, returned, .. } = *operation;
    Some(ListTransaction { process, invoke, returned, outcome, steps })
}

/// The elements of a value.
fn elements(value: &Data) -> Vec<Data> {
    let words = value.0.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    words.map(|word| Data::from(word.to_vec())).collect()
}

/// A list goes by its key and its first element.
fn list_name(key: &Data, elements: &[Data]) -> Option<Data> {
    let first = elements.first()?;
    Some(Data::from([&key.0[..], b" from ", &first.0[..]].concat()))
}

/// A read of a list; nothing if the list does not exist, since then it has no name.
fn list_read(request: &Request, told: Option<&Response>) -> Option<Vec<ListStep>> {
    let Request::Range(range) = request else { return None };
    if !is_plain(range) || !range.key.0.starts_with(LISTS) {
        return None;
    }
    let Some(Response::Range(told)) = told else { return Some(Vec::new()) };
    let Some(kv) = told.kvs.first() else { return Some(Vec::new()) };
    let elements = elements(&kv.value);
    Some(vec![ListStep::Read(list_name(&range.key, &elements)?, Some(elements))])
}

/// An append to a list that was as it was read.
fn list_append(key: &Data, value: &Data, compare: &[Compare]) -> Option<Vec<ListStep>> {
    let guarded = compare.iter().any(|compare| {
        let unchanged = matches!(compare.target, CompareTarget::ModRevision(_));
        compare.key == *key && unchanged && compare.result == CompareResult::Equal
    });
    if !guarded || !key.0.starts_with(LISTS) {
        return None;
    }
    let mut before = elements(value);
    let name = list_name(key, &before)?;
    let last = before.pop()?;
    let read = (!before.is_empty()).then(|| ListStep::Read(name.clone(), Some(before)));
    Some(read.into_iter().chain([ListStep::Append(name, last)]).collect())
}

/// Whether a range asks for the newest value of one key.
fn is_plain(range: &RangeRequest) -> bool {
    range.range_end.is_empty()
        && range.revision.0 == 0
        && !range.serializable
        && !range.keys_only
        && !range.count_only
}

/// A register operation of a history, in Jepsen's terms; none is `nil`.
enum Step {
    Read(Option<Data>),
    Write(Option<Data>),
    CompareAndSet(Data, Data, bool),
}

/// Writes the register operations of a history; returns how many were passed over.
pub fn write_register(history: &History, output: impl Write) -> io::Result<usize> {
    let mut lines = Lines::default();
    let mut passed_over = 0;
    let spoilt = spoilt(history);
    for operation in &history.operations {
        let fits = register(operation).filter(|(key, _)| !spoilt.has(key));
        let Some((key, step)) = fits else {
            passed_over += 1;
            continue;
        };
        let nil = |value: &Option<Data>| value.as_ref().map_or("nil".into(), string);
        let (f, asked, told) = match step {
            Step::Read(value) => ("read", "nil".to_owned(), nil(&value)),
            Step::Write(value) => ("write", nil(&value), nil(&value)),
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
                ListStep::Append(key, element) => {
                    format!("[:append {} {}]", string(key), string(element))
                }
                ListStep::Read(key, Some(elements)) if told => {
                    let elements: Vec<String> = elements.iter().map(string).collect();
                    format!("[:r {} [{}]]", string(key), elements.join(" "))
                }
                ListStep::Read(key, _) => format!("[:r {} nil]", string(key)),
            };
            let steps: Vec<String> = transaction.steps.iter().map(step).collect();
            format!("[{}]", steps.join(" "))
        };
        let end = transaction.outcome.map(|happened| if happened { "ok" } else { "fail" });
        let times = (transaction.invoke, transaction.returned);
        lines.add(transaction.process, "txn", times, (text(false), end, text(true)));
    }
    lines.write(output)
}

/// Keys that are no registers.
struct Spoilt {
    keys: BTreeSet<Data>,
    ranges: Vec<KeyRange>,
}

impl Spoilt {
    fn has(&self, key: &Data) -> bool {
        self.keys.contains(key) || self.ranges.iter().any(|range| range.contains(&key.0))
    }
}

/// The keys that something else than a register's operation may have changed.
fn spoilt(history: &History) -> Spoilt {
    let mut ranges: Vec<KeyRange> = Vec::new();
    for operation in &history.operations {
        let changes = match &operation.outcome {
            Outcome::Ok(response) => response.changed(),
            Outcome::Failed(_) => false,
            Outcome::Unknown(_) => operation.request.may_write(),
        };
        // What hangs on a lease is spoilt by hanging there; a put that keeps the value spoils
        // nothing.
        let revoke = matches!(operation.request, Request::LeaseRevoke(_));
        let touch = matches!(&operation.request, Request::Put(put) if put.ignore_value);
        if changes
            && !revoke
            && !touch
            && (register(operation).is_none() || is_leased(&operation.request))
        {
            operation.request.footprint(&mut ranges);
        }
    }
    let (single, ranges): (Vec<_>, Vec<_>) = ranges.into_iter().partition(KeyRange::is_single);
    let mut keys: BTreeSet<Data> = single.into_iter().map(|range| Data(range.start)).collect();
    keys.extend(history.start.kvs.iter().map(|kv| kv.key.clone()));
    Spoilt { keys, ranges }
}

/// Whether a request may hang a key on a lease.
fn is_leased(request: &Request) -> bool {
    match request {
        Request::Put(put) => put.lease.0 != 0,
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(is_leased),
        Request::Range(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_) => false,
    }
}

/// What an operation is to a register, if it is that.
fn register(operation: &Operation) -> Option<(Data, Step)> {
    let mut ranges = Vec::new();
    operation.request.footprint(&mut ranges);
    let first = ranges.first()?;
    if !ranges.iter().all(|range| range.is_single() && range.start == first.start) {
        return None;
    }
    let key = Data(first.start.clone());
    let response = operation.response();
    let Request::Txn(txn) = &operation.request else {
        return Some((key, plain(&operation.request, response)?));
    };
    let (told, branches) = match response {
        Some(Response::Txn(told)) if told.succeeded => (Some(told), [&txn.success[..], &[]]),
        Some(Response::Txn(told)) => (Some(told), [&txn.failure[..], &[]]),
        _ => (None, [&txn.success[..], &txn.failure[..]]),
    };
    let swap = swap(txn, told.map(|told| told.succeeded));
    if swap.is_some() {
        return swap.map(|step| (key, step));
    }
    let parts = branches.concat();
    let mut writes = parts.iter().filter(|part| part.may_write());
    let step = match (writes.next(), writes.next()) {
        (Some(write), None) => plain(write, None)?,
        (None, _) => {
            let told = told?.responses.first();
            plain(parts.first()?, told)?
        }
        (Some(_), Some(_)) => return None,
    };
    Some((key, step))
}

/// A transaction that puts if the value is equal, and else writes nothing.
fn swap(txn: &TxnRequest, succeeded: Option<bool>) -> Option<Step> {
    let ([compare], [Request::Put(put)]) = (&txn.compare[..], &txn.success[..]) else {
        return None;
    };
    let CompareTarget::Value(old) = &compare.target else { return None };
    let reads_else = succeeded == Some(false) && !txn.failure.is_empty();
    let writes_else = txn.failure.iter().any(Request::may_write);
    let fits = compare.result == CompareResult::Equal && !put.ignore_value;
    (fits && !reads_else && !writes_else)
        .then(|| Step::CompareAndSet(old.clone(), put.value.clone(), succeeded == Some(true)))
}

/// What a request on one key is to a register, if it is no transaction. A put that keeps the value
/// is nothing.
fn plain(request: &Request, response: Option<&Response>) -> Option<Step> {
    match request {
        Request::Range(range) if is_plain(range) => {
            let value = match response {
                Some(Response::Range(told)) => told.kvs.first().map(|kv| kv.value.clone()),
                _ => None,
            };
            Some(Step::Read(value))
        }
        Request::Put(put) if !put.ignore_value => Some(Step::Write(Some(put.value.clone()))),
        Request::DeleteRange(_) => Some(Step::Write(None)),
        Request::Range(_)
        | Request::Put(_)
        | Request::Txn(_)
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

        let text = r#"
{"op":{"process":0,"invoke":1,"return":2,"request":{"txn":{"compare":[{"key":"append/0","result":"equal","target":{"mod_revision":2}}],"success":[{"put":{"key":"append/0","value":"1 2"}}]}},"outcome":{"ok":{"txn":{"revision":3,"succeeded":true,"responses":[{"put":{}}]}}}}}
{"op":{"process":1,"invoke":3,"return":4,"request":{"range":{"key":"append/0"}},"outcome":{"ok":{"range":{"revision":3,"count":1,"kvs":[{"key":"append/0","value":"1 2"}]}}}}}"#;
        let history = History::read(text.as_bytes()).unwrap();
        let mut written = Vec::new();
        assert_eq!(write(&history, &mut written).unwrap(), 0);
        let expected = r#"{:process 0, :time 1, :type :invoke, :f :txn, :value [[:r "append/0 from 1" nil] [:append "append/0 from 1" "2"]]}
{:process 0, :time 2, :type :ok, :f :txn, :value [[:r "append/0 from 1" ["1"]] [:append "append/0 from 1" "2"]]}
{:process 1, :time 3, :type :invoke, :f :txn, :value [[:r "append/0 from 1" nil]]}
{:process 1, :time 4, :type :ok, :f :txn, :value [[:r "append/0 from 1" ["1" "2"]]]}
"#;
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }
}
