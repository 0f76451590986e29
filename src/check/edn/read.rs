//! Histories of Jepsen's, read.
//!
//! A history is a sequence of maps, bare or in one vector: `:type` (`:invoke`, `:ok`, `:fail`,
//! `:info`), `:process`, `:f` and `:value`. An `:ok` or `:fail` ends the call of its process; after
//! an `:info`, or without an end, the outcome is unknown. What a process that is no number does
//! (`:nemesis`) becomes bands in the picture.
//!
//! - The order of the lines is the order of time: times are taken from `:time` where they rise, and
//!   made to rise where they do not.
//! - A register's answers name no revisions; a read of `nil` is one of an absent key, and `:cas`
//!   from `nil` creates it. A failed call did not happen, whatever the reason.
//! - Values are compared as they are written: `1` and `"1"` are the same.

use super::value::{Form, Problem, Value, forms};
use crate::check::data::Data;
use crate::check::history::{History, ReadError};
use crate::check::lists::{ListStep, ListTransaction};
use crate::check::op::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Fault,
    KeyValue, Operation, Outcome, PutRequest, PutResponse, RangeRequest, RangeResponse, Request,
    Response, TxnRequest, TxnResponse,
};
use crate::check::recorded::Recorded;
use std::collections::BTreeMap;

/// Reads a history of Jepsen's.
///
/// # Errors
/// The line that is no EDN, or no operation of a register or of lists.
pub fn read(text: &str) -> Result<Recorded, ReadError> {
    let wrong =
        |Problem { line, text }| ReadError::Line { line, field: String::new(), problem: text };
    calls(text).and_then(|(calls, faults)| recorded(calls, faults)).map_err(wrong)
}

/// A call with its end.
struct Call {
    process: u64,
    invoke: u64,
    /// None: never, or not known.
    returned: Option<u64>,
    f: String,
    asked: Form,
    end: End,
}

enum End {
    Ok(Form),
    Fail,
    Unknown,
}

fn problem<T>(form: &Form, text: &str) -> Result<T, Problem> {
    Err(Problem { line: form.line, text: text.to_owned() })
}

/// Pairs calls with their ends.
fn calls(text: &str) -> Result<(Vec<Call>, Vec<Fault>), Problem> {
    let mut lines = forms(text)?;
    if let [Form { value: Value::Sequence(inner), .. }] = &mut lines[..] {
        lines = std::mem::take(inner);
    }
    let mut calls: Vec<Call> = Vec::new();
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    let mut faults = Faults::default();
    let mut now = 0;
    for line in &lines {
        let field = |name: &str| {
            let text = format!("no operation of a history: it has no :{name}");
            line.get(name).ok_or(Problem { line: line.line, text })
        };
        let kind = field("type")?.keyword().unwrap_or_default().to_owned();
        let told = line.get("time").map(|time| &time.value);
        now = match told {
            Some(Value::Integer(time)) => u64::try_from(*time).unwrap_or(0).max(now + 1),
            _ => now + 1,
        };
        let f = field("f")?.keyword().unwrap_or_default().to_owned();
        let nothing = Form { line: line.line, value: Value::Nil };
        let value = line.get("value").unwrap_or(&nothing).clone();
        let Value::Integer(process) = field("process")?.value else {
            faults.add(now, &f);
            continue;
        };
        let Ok(process) = u64::try_from(process) else {
            return problem(line, "a :process below zero");
        };
        match kind.as_str() {
            "invoke" => {
                let call = Call {
                    process,
                    invoke: now,
                    returned: None,
                    f,
                    asked: value,
                    end: End::Unknown,
                };
                if open.insert(process, calls.len()).is_some() {
                    return problem(line, "the process has a call under way already");
                }
                calls.push(call);
            }
            "ok" | "fail" | "info" => {
                let Some(place) = open.remove(&process) else {
                    return problem(line, "an answer without a call before it");
                };
                calls[place].returned = Some(now);
                calls[place].end = match kind.as_str() {
                    "ok" => End::Ok(value),
                    "fail" => End::Fail,
                    _ => End::Unknown,
                };
            }
            _ => return problem(line, "its :type is none of :invoke, :ok, :fail and :info"),
        }
    }
    Ok((calls, faults.end()))
}

/// What the nemesis did, as bands.
#[derive(Default)]
struct Faults {
    done: Vec<Fault>,
    /// Names of what goes on, with the place of the band and whether it is between call and end.
    open: Vec<(String, u64, bool)>,
}

impl Faults {
    /// `start-x` goes on until `stop-x`; anything else from its call to its end.
    fn add(&mut self, now: u64, f: &str) {
        let (name, starts, stops) = match (f.strip_prefix("start"), f.strip_prefix("stop")) {
            (Some(name), _) => (name.trim_start_matches('-'), true, false),
            (_, Some(name)) => (name.trim_start_matches('-'), false, true),
            _ => (f, false, false),
        };
        let name = if name.is_empty() { "fault" } else { name };
        let place = self.open.iter().position(|(open, _, _)| open == name);
        match place {
            // Its second line says that it is started.
            Some(_) if starts => {}
            Some(place) => {
                let (name, from, _) = self.open.remove(place);
                self.done.push(Fault { name, from, to: Some(now) });
            }
            None if stops => {}
            None => self.open.push((name.to_owned(), now, starts)),
        }
    }

    fn end(self) -> Vec<Fault> {
        let Faults { mut done, open } = self;
        done.extend(open.into_iter().map(|(name, from, _)| Fault { name, from, to: None }));
        done.sort_by_key(|fault| fault.from);
        done
    }
}

fn recorded(calls: Vec<Call>, faults: Vec<Fault>) -> Result<Recorded, Problem> {
    let is_list = |call: &Call| call.f == "txn" || micro(&call.asked).is_some();
    if !calls.is_empty() && calls.iter().all(is_list) {
        let transactions = calls.iter().map(transaction).collect::<Result<_, _>>()?;
        return Ok(Recorded::Lists { transactions, faults });
    }
    // A tuple of key and value, everywhere or nowhere.
    let pair = |form: &Form| form.sequence().is_some_and(|pair| pair.len() == 2);
    let mut seen = calls.iter().flat_map(|call| {
        let told = match &call.end {
            End::Ok(value) => Some(value),
            End::Fail | End::Unknown => None,
        };
        let values = [Some(&call.asked), told].into_iter().flatten();
        values.map(|value| (call.f.as_str(), value))
    });
    let keyed = seen.any(|(f, value)| match f {
        "cas" => value.sequence().is_some_and(|values| values.len() == 2 && pair(&values[1])),
        _ => pair(value),
    });
    let operations = calls.iter().map(|call| register(call, keyed)).collect::<Result<_, _>>()?;
    Ok(Recorded::Store(History { operations, faults, ..History::default() }))
}

fn data(form: &Form) -> Data {
    Data::from(form.to_string())
}

/// An operation on a register.
fn register(call: &Call, keyed: bool) -> Result<Operation, Problem> {
    let told = match &call.end {
        End::Ok(value) => Some(value),
        End::Fail | End::Unknown => None,
    };
    let split = |form: &Form| match (keyed, form.sequence()) {
        (false, _) => Ok((Data::from("register"), form.clone())),
        (true, Some([key, value])) => Ok((data(key), value.clone())),
        (true, _) => problem(form, "not a pair of key and value, as others are"),
    };
    let (key, asked) = split(&call.asked)?;
    let told = told.map(split).transpose()?.map(|(_, value)| value);
    let (request, response) = match call.f.as_str() {
        "read" => (range(&key), ranged(&key, told.as_ref())),
        "write" => write(&key, told.as_ref().unwrap_or(&asked)),
        "cas" => {
            let Some([old, new]) = told.as_ref().unwrap_or(&asked).sequence() else {
                return problem(&call.asked, "a :cas whose :value is no pair of old and new");
            };
            let target = match old.is_nil() {
                true => CompareTarget::Version(0),
                false => CompareTarget::Value(data(old)),
            };
            let (write, written) = write(&key, new);
            let (key, range_end, result) = (key.clone(), Data::default(), CompareResult::Equal);
            let compare = vec![Compare { key, range_end, result, target }];
            let txn = TxnRequest { compare, success: vec![write], failure: Vec::new() };
            let responses = vec![written];
            let told = TxnResponse { succeeded: true, responses, ..TxnResponse::default() };
            (Request::Txn(txn), Response::Txn(told))
        }
        other => {
            return problem(
                &call.asked,
                &format!(":f :{other} is none of :read, :write, :cas and :txn"),
            );
        }
    };
    let outcome = match call.end {
        End::Ok(_) => Outcome::Ok(response),
        End::Fail => Outcome::Failed("failed".into()),
        End::Unknown => Outcome::Unknown("no answer".into()),
    };
    let Call { process, invoke, returned, .. } = *call;
    let (member, session) = (String::new(), 0);
    Ok(Operation { process, member, session, invoke, returned, request, outcome })
}

fn range(key: &Data) -> Request {
    Request::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() })
}

fn ranged(key: &Data, told: Option<&Form>) -> Response {
    let value = told.filter(|value| !value.is_nil()).map(data);
    let kv = |value| KeyValue { key: key.clone(), value, ..KeyValue::default() };
    let kvs: Vec<KeyValue> = value.map(kv).into_iter().collect();
    let count = i64::from(!kvs.is_empty());
    Response::Range(RangeResponse { kvs, count, ..RangeResponse::default() })
}

/// Writing `nil` deletes; then the answer does not say whether there was something.
fn write(key: &Data, value: &Form) -> (Request, Response) {
    match value.is_nil() {
        true => (
            Request::DeleteRange(DeleteRangeRequest { key: key.clone(), ..Default::default() }),
            Response::DeleteRange(DeleteRangeResponse { deleted: -1, ..Default::default() }),
        ),
        false => (
            Request::Put(PutRequest { key: key.clone(), value: data(value), ..Default::default() }),
            Response::Put(PutResponse::default()),
        ),
    }
}

/// The micro-operations of a transaction, if it is one.
fn micro(form: &Form) -> Option<Vec<(&str, &Form, &Form)>> {
    let steps = form.sequence()?;
    let step = |step: &'_ Form| match step.sequence() {
        Some([f, _, _]) => f.keyword().is_some(),
        _ => false,
    };
    if steps.is_empty() || !steps.iter().all(step) {
        return None;
    }
    let parts = steps.iter().filter_map(|step| match step.sequence() {
        Some([f, key, value]) => Some((f.keyword()?, key, value)),
        _ => None,
    });
    Some(parts.collect())
}

fn transaction(call: &Call) -> Result<ListTransaction, Problem> {
    let (form, outcome) = match &call.end {
        End::Ok(value) => (value, Some(true)),
        End::Fail => (&call.asked, Some(false)),
        End::Unknown => (&call.asked, None),
    };
    let empty = form.is_nil() || form.sequence().is_some_and(<[Form]>::is_empty);
    let Some(parts) = micro(form).or_else(|| empty.then(Vec::new)) else {
        return problem(form, "no transaction: a vector of [:append key element] and [:r key nil]");
    };
    let mut steps = Vec::new();
    for (f, key, value) in parts {
        let key_data = data(key);
        steps.push(match f {
            "append" => ListStep::Append(key_data, data(value)),
            "r" => {
                let known = outcome == Some(true);
                let elements = match value.sequence() {
                    Some(elements) => elements.iter().map(data).collect(),
                    None if value.is_nil() => Vec::new(),
                    None => return problem(value, "a read of lists shows a vector or nil"),
                };
                ListStep::Read(key_data, known.then_some(elements))
            }
            other => {
                return problem(key, &format!(":{other} is neither :append nor :r"));
            }
        });
    }
    let Call { process, invoke, returned, .. } = *call;
    Ok(ListTransaction { process, invoke, returned, outcome, steps })
}

/// A history of transactions on lists as one of ours, to be drawn; it names no revisions.
pub fn register_history(transactions: &[ListTransaction], faults: &[Fault]) -> History {
    let operation = |one: &ListTransaction| {
        let mut txn = TxnRequest::default();
        let mut told = TxnResponse { succeeded: true, ..TxnResponse::default() };
        for step in &one.steps {
            match step {
                ListStep::Append(key, element) => {
                    let value = Data::from(format!("+{}", plain(element)));
                    let key = key.clone();
                    txn.success.push(Request::Put(PutRequest { key, value, ..Default::default() }));
                    told.responses.push(Response::Put(PutResponse::default()));
                }
                ListStep::Read(key, elements) => {
                    txn.success.push(range(key));
                    let shown: Vec<String> = elements.iter().flatten().map(plain).collect();
                    let value = Data::from(format!("[{}]", shown.join(" ")));
                    let kv = KeyValue { key: key.clone(), value, ..KeyValue::default() };
                    let range = RangeResponse { kvs: vec![kv], count: 1, ..Default::default() };
                    told.responses.push(Response::Range(range));
                }
            }
        }
        Operation {
            process: one.process,
            member: String::new(),
            session: 0,
            invoke: one.invoke,
            returned: one.returned,
            request: Request::Txn(txn),
            outcome: match one.outcome {
                Some(true) => Outcome::Ok(Response::Txn(told)),
                Some(false) => Outcome::Failed("failed".into()),
                None => Outcome::Unknown("no answer".into()),
            },
        }
    };
    let operations = transactions.iter().map(operation).collect();
    History { operations, faults: faults.to_vec(), ..History::default() }
}

fn plain(data: &Data) -> String {
    String::from_utf8_lossy(&data.0).into_owned()
}
