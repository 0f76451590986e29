//! A history as a file: one JSON object per line.
//!
//! Each line is an object with one field, whose name says what the line is:
//!
//! ```json
//! {"start":{"revision":1}}
//! {"op":{"process":0,"member":"a","invoke":10,"return":25,
//!        "request":{"put":{"key":"x","value":"1"}},"outcome":{"ok":{"put":{"revision":2}}}}}
//! {"op":{"process":1,"member":"b","invoke":30,"return":41,"request":{"range":{"key":"x"}},
//!        "outcome":{"ok":{"range":{"revision":2,"count":1,"kvs":[{"key":"x","value":"1",
//!        "create_revision":2,"mod_revision":2,"version":1}]}}}}}
//! {"op":{"process":0,"invoke":50,"request":{"put":{"key":"x","value":"2"}},
//!        "outcome":{"unknown":"deadline exceeded"}}}
//! {"watch":{"process":2,"invoke":12,"key":"x","responses":[{"at":13,"revision":1,"created":true},
//!        {"at":27,"revision":2,"events":[{"type":"put","kv":{"key":"x","value":"1",
//!        "create_revision":2,"mod_revision":2,"version":1}}]}]}}
//! {"fault":{"name":"partition a | b c","from":20,"to":60}}
//! {"node":{"member":"a","at":21,"state":"follower","term":7}}
//! ```
//!
//! (Broken here for the eye; in a file each object is one line.) Fields are those of `op`, by
//! name. A transaction is `{"txn":{"compare":[{"key":"x","result":"equal","target":{"value":
//! "1"}}],"success":[{"put":{...}}],"failure":[{"range":{...}}]}}`. Times are nanoseconds on one
//! clock; revisions, counts and ids are numbers; keys and values are strings, or `{"hex":"ff00"}`
//! if they are not UTF-8. Empty lines are passed over. The order of the lines says nothing.
//!
//! - What is written reads back the same.
//! - A field that nobody knows is an error: a misspelt `serializable` would change the verdict.
//! - A line that cannot be read is told by its number, the way to the field, and what is wrong.

use super::op::{Fault, Node, Operation, Outcome, Start, Watch};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, BufRead, Write};

/// All that was recorded of one run.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct History {
    pub start: Start,
    pub operations: Vec<Operation>,
    pub watches: Vec<Watch>,
    pub faults: Vec<Fault>,
    pub nodes: Vec<Node>,
}

/// One line of the file, for a recorder that writes as it goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Start(Start),
    Op(Box<Operation>),
    Watch(Watch),
    Fault(Fault),
    Node(Node),
}

/// Why a file is no history.
#[derive(Debug)]
pub enum ReadError {
    /// The file cannot be read.
    Io(io::Error),
    /// A line is not what it should be.
    Line {
        /// Counted from 1.
        line: usize,
        /// The way to the field, with dots; empty if it is the line as a whole.
        field: String,
        problem: String,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io(error) => write!(f, "cannot read the history: {error}"),
            ReadError::Line { line, field, problem } if field.is_empty() => {
                write!(f, "line {line}: {problem}")
            }
            ReadError::Line { line, field, problem } => {
                write!(f, "line {line}, field {field}: {problem}")
            }
        }
    }
}

impl std::error::Error for ReadError {}

impl History {
    /// Reads a history.
    pub fn read(mut input: impl BufRead) -> Result<History, ReadError> {
        let mut history = History::default();
        let mut text = String::new();
        let mut started = false;
        for line in 1.. {
            text.clear();
            match input.read_line(&mut text) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let problem = "not UTF-8".into();
                    return Err(ReadError::Line { line, field: String::new(), problem });
                }
                Err(error) => return Err(ReadError::Io(error)),
            }
            if text.trim().is_empty() {
                continue;
            }
            let wrong = |(field, problem)| ReadError::Line { line, field, problem };
            match parse(&text).map_err(wrong)? {
                Line::Start(_) if started => {
                    return Err(wrong(("start".into(), "the second line of its kind".into())));
                }
                Line::Start(start) => {
                    history.start = start;
                    started = true;
                }
                Line::Op(operation) => history.operations.push(*operation),
                Line::Watch(watch) => history.watches.push(watch),
                Line::Fault(fault) => history.faults.push(fault),
                Line::Node(node) => history.nodes.push(node),
            }
        }
        Ok(history)
    }

    /// Writes the history as `read` takes it.
    pub fn write(&self, mut output: impl Write) -> io::Result<()> {
        let mut line = |line: &LineOut<'_>| -> io::Result<()> {
            serde_json::to_writer(&mut output, line)?;
            output.write_all(b"\n")
        };
        line(&LineOut::Start(&self.start))?;
        self.faults.iter().try_for_each(|fault| line(&LineOut::Fault(fault)))?;
        self.nodes.iter().try_for_each(|node| line(&LineOut::Node(node)))?;
        self.operations.iter().try_for_each(|operation| line(&LineOut::Op(operation)))?;
        self.watches.iter().try_for_each(|watch| line(&LineOut::Watch(watch)))?;
        output.flush()
    }

    /// The last time that is noted anywhere, in nanoseconds.
    pub fn end(&self) -> u64 {
        let operations =
            self.operations.iter().map(|operation| operation.returned.unwrap_or(operation.invoke));
        let watches = self.watches.iter().map(|watch| {
            watch.responses.last().map_or(watch.invoke, |response| response.at.max(watch.invoke))
        });
        let faults = self.faults.iter().map(|fault| fault.to.unwrap_or(fault.from));
        let nodes = self.nodes.iter().map(|node| node.at);
        operations.chain(watches).chain(faults).chain(nodes).max().unwrap_or(0)
    }
}

/// `Line` by reference, so that writing copies nothing.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum LineOut<'a> {
    Start(&'a Start),
    Op(&'a Operation),
    Watch(&'a Watch),
    Fault(&'a Fault),
    Node(&'a Node),
}

/// Reads one line, or says which field is wrong and how.
fn parse(text: &str) -> Result<Line, (String, String)> {
    let line: Line = serde_json::from_str(text).map_err(|error| {
        let told = error.to_string();
        let problem = told.rsplit_once(" at line ").map_or(told.as_str(), |(problem, _)| problem);
        (field_at(text, error.column()), problem.to_owned())
    })?;
    if let Line::Op(operation) = &line {
        validate(operation).map_err(|(field, problem)| (field.to_owned(), problem.to_owned()))?;
    }
    Ok(line)
}

/// What the types do not say.
fn validate(operation: &Operation) -> Result<(), (&'static str, &'static str)> {
    if operation.returned.is_some_and(|returned| returned < operation.invoke) {
        return Err(("op.return", "before `invoke`"));
    }
    if matches!(operation.request, super::op::Request::Txn(_)) && !operation.request.is_nestable() {
        return Err(("op.request.txn", "holds a request that a transaction cannot hold"));
    }
    if let Outcome::Ok(response) = &operation.outcome {
        if operation.returned.is_none() {
            return Err(("op.return", "missing, though the outcome is ok"));
        }
        if !operation.request.fits(response) {
            return Err(("op.outcome.ok", "not the kind of response that `op.request` gets"));
        }
    }
    Ok(())
}

/// The way through objects to the field around a column of a line; columns count bytes from 1.
fn field_at(text: &str, column: usize) -> String {
    let mut path: Vec<String> = Vec::new();
    let mut names: Vec<bool> = Vec::new(); // per open bracket: whether it put a name on the path
    let mut pending: Option<String> = None; // the last string read
    let mut current: Option<String> = None; // the name before the last colon
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() && at + 1 < column.max(1) {
        match bytes[at] {
            b'"' => {
                let start = at + 1;
                at = start;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                pending = text.get(start..at).map(str::to_owned);
            }
            b':' => current = pending.take(),
            b',' if names.last().is_some() => current = None,
            b'{' | b'[' => {
                names.push(current.is_some());
                path.extend(current.take());
            }
            b'}' | b']' => {
                current = None;
                if names.pop() == Some(true) {
                    path.pop();
                }
            }
            _ => {}
        }
        at += 1;
    }
    path.extend(current);
    path.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        History::read(text.as_bytes()).expect_err("no history").to_string()
    }

    #[test]
    fn the_example_of_the_module_can_be_read() {
        let documented = include_str!("history.rs");
        let example: Vec<&str> = documented
            .lines()
            .skip_while(|line| *line != "//! ```json")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| line.trim_start_matches("//! "))
            .collect();
        let text = example.join("\n").replace("\n  ", " ");
        let history = History::read(text.as_bytes()).unwrap();
        assert_eq!(history.operations.len(), 3);
        assert_eq!(history.watches[0].responses.len(), 2);
        assert_eq!(history.faults.len(), 1);
        assert_eq!(history.nodes.len(), 1);
        let mut written = Vec::new();
        history.write(&mut written).unwrap();
        assert_eq!(History::read(&written[..]).unwrap(), history);
    }

    #[test]
    fn an_error_names_line_and_field() {
        for (text, told) in [
            ("\n{", "line 2"),
            (r#"{"op":{"process":"x"}}"#, "line 1, field op.process: invalid type"),
            (r#"{"op":{"process":1}}"#, "missing field `invoke`"),
            (
                r#"{"op":{"process":0,"invoke":1,"request":{"range":{"key":"a","limmit":1}},"outcome":{"failed":""}}}"#,
                "unknown field `limmit`",
            ),
            (
                r#"{"op":{"process":0,"invoke":1,"request":{"range":{"key":"a","limit":"1"}},"outcome":{"failed":""}}}"#,
                "field op.request.range.limit: invalid type: string",
            ),
            (
                r#"{"op":{"process":0,"invoke":9,"return":1,"request":{"range":{"key":"a"}},"outcome":{"failed":""}}}"#,
                "field op.return: before",
            ),
            (
                r#"{"op":{"process":0,"invoke":1,"return":2,"request":{"range":{"key":"a"}},"outcome":{"ok":{"put":{}}}}}"#,
                "field op.outcome.ok: not the kind",
            ),
            ("{\"start\":{}}\n{\"start\":{}}", "line 2, field start"),
            (r#"{"nonsense":{}}"#, "unknown variant `nonsense`"),
        ] {
            assert!(problem(text).contains(told), "{text}: {}", problem(text));
        }
    }
}
