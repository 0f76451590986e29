//! Carries out one case against one server of its own.

use super::grpc::{Call, Connection};
use super::json::{self, Variables};
use super::plain;
use super::server::{Plan, Server};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long a server may take until it serves. Generous: tests share the machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a start is tried when another process took the port.
const START_ATTEMPTS: usize = 5;
/// The pause between two looks at a server that is starting.
const START_POLL: Duration = Duration::from_millis(20);
/// How long a message may be in coming when the step does not say.
const MESSAGE_TIMEOUT_MS: u64 = 6_000;
/// How long a call that may block is given before the next step looks at it.
const BLOCK_TIME: Duration = Duration::from_millis(150);
/// How long an awaited call may still take.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(8);
/// How much of a value a failure report shows, in characters.
const SHOWN_CHARACTERS: usize = 1_500;

/// One recorded case.
pub struct Case {
    pub name: String,
    why: String,
    flags: Vec<String>,
    steps: Vec<Value>,
}

impl Case {
    /// Reads one line of a recording.
    pub fn parse(line: &str) -> Case {
        let case: Value = serde_json::from_str(line).expect("a recording's line is JSON");
        let text = |name: &str| case[name].as_str().expect("a case has a name and a why").into();
        Case {
            name: text("name"),
            why: text("why"),
            flags: json::strings(&case["flags"]).into_iter().map(String::from).collect(),
            steps: case["steps"].as_array().expect("a case has steps").clone(),
        }
    }

    /// Runs the case on a fresh server; the error is a report for people.
    pub async fn run(&self) -> Result<(), String> {
        let header = format!("FAIL {}\n  why     {}", self.name, self.why);
        let mut run =
            Run::start(&self.flags).await.map_err(|reason| format!("{header}\n  {reason}"))?;
        for (index, step) in self.steps.iter().enumerate() {
            let got = run.step(step).await.unwrap_or_else(json::failure);
            let (want, got) = run.comparable(step, got);
            let differences = json::differences(&want, &got);
            if !differences.is_empty() {
                let lines = [
                    format!("step    {index}: {}", json::asked(step)),
                    format!("wanted  {want}"),
                    format!("got     {got}"),
                    format!("differs {}", differences.join("\n          ")),
                    format!("server  {}", server_state(&mut run.server)),
                ];
                let lines = lines.map(|line| shorten(&line));
                return Err(format!("{header}\n  {}", lines.join("\n  ")));
            }
        }
        Ok(())
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((at, _)) => format!("{} ... ({} bytes)", &text[..at], text.len()),
        None => text.into(),
    }
}

fn server_state(server: &mut Server) -> String {
    match server.is_running() {
        true => "runs".into(),
        false => format!("has ended; the end of its log:\n{}", server.log_tail()),
    }
}

/// A case under way.
struct Run {
    server: Server,
    connection: Connection,
    variables: Variables,
    streams: BTreeMap<String, Call>,
    /// Calls that may block, with the step that started each.
    calls: BTreeMap<String, (Value, JoinHandle<Value>)>,
}

impl Run {
    async fn start(flags: &[String]) -> Result<Run, String> {
        let mut attempt = 1;
        loop {
            let plan = Plan::cluster(1, flags).pop().expect("a cluster of one has a member");
            let mut server = Server::start(plan).map_err(|error| error.to_string())?;
            match ready(&mut server).await {
                Ok(connection) => {
                    let (variables, streams, calls) = Default::default();
                    return Ok(Run { server, connection, variables, streams, calls });
                }
                Err(_) if attempt < START_ATTEMPTS && server.lost_its_port() => attempt += 1,
                Err(reason) => return Err(reason),
            }
        }
    }

    /// Carries out a step and says how it ended, in the fields of [`json::OUTCOME`].
    async fn step(&mut self, step: &Value) -> Result<Value, String> {
        let text = |name: &str| step[name].as_str();
        let nothing = json!({});
        if step.get("http").is_some() {
            return plain::step(&self.server.plan.client, step).await;
        }
        if let Some(name) = text("stream") {
            return self.stream_step(name, step).await;
        }
        if let Some(pause) = step["sleep_ms"].as_u64() {
            sleep(Duration::from_millis(pause)).await;
            return Ok(nothing);
        }
        if step.get("restart").is_some() {
            self.server.restart().map_err(|error| error.to_string())?;
            self.connection = ready(&mut self.server).await?;
            return Ok(nothing);
        }
        if let Some(name) = text("still_waiting") {
            let (_, call) = self.calls.get(name).ok_or("no such call")?;
            return Ok(json!({ "status": !call.is_finished() }));
        }
        if let Some(name) = text("await") {
            let (started, call) = self.calls.remove(name).ok_or("no such call")?;
            let ending = timeout(AWAIT_TIMEOUT, call).await.map_err(|_| "still waiting")?;
            return self.finish_call(&started, ending.map_err(|error| error.to_string())?);
        }
        let call = self.call(step)?;
        if let Some(name) = text("async") {
            self.calls.insert(name.into(), (step.clone(), tokio::spawn(call)));
            sleep(BLOCK_TIME).await;
            return Ok(nothing);
        }
        let ending = call.await;
        self.finish_call(step, ending)
    }

    fn call(&self, step: &Value) -> Result<impl Future<Output = Value> + Send + 'static, String> {
        let rpc = step["rpc"].as_str().ok_or("a step of no known kind")?.to_string();
        let request = json::substitute(&step["request"], &self.variables);
        let (token, connection) = (self.token(step), self.connection.clone());
        Ok(async move { connection.unary(&rpc, token, &request).await })
    }

    fn token(&self, step: &Value) -> Option<String> {
        json::substitute(&step["token"], &self.variables).as_str().map(String::from)
    }

    /// Keeps what the step captures and removes what no recording holds.
    fn finish_call(&mut self, step: &Value, mut ending: Value) -> Result<Value, String> {
        if let Some(error) = ending.get_mut("error") {
            let masks = json!({ "mask": step["mask"] });
            *error = json::tidy(&masks, error.take());
        }
        if let Some(response) = ending.get_mut("response") {
            for (name, path) in step["capture"].as_object().into_iter().flatten() {
                let path = path.as_str().unwrap_or_default();
                let value = json::dig(response, path).ok_or(format!("no {path} to capture"))?;
                self.variables.insert(name.clone(), value.clone());
            }
            *response = json::tidy(step, response.take());
        }
        Ok(ending)
    }

    async fn stream_step(&mut self, name: &str, step: &Value) -> Result<Value, String> {
        let messages = json::substitute(&step["send"], &self.variables);
        if let Some(rpc) = step["rpc"].as_str() {
            let mut call = self.connection.clone().stream(rpc, self.token(step))?;
            for message in messages.as_array().into_iter().flatten() {
                call.send(message)?;
            }
            if step["duplex"] != true {
                call.finish();
            }
            self.streams.insert(name.into(), call);
            return Ok(json!({}));
        }
        let call = self.streams.get_mut(name).ok_or("no such stream")?;
        let patience = step["timeout_ms"].as_u64().unwrap_or(MESSAGE_TIMEOUT_MS);
        let patience = Duration::from_millis(patience);
        let mut got = Vec::new();
        if let Some(messages) = messages.as_array() {
            for message in messages {
                call.send(message)?;
            }
            return Ok(json!({}));
        } else if step.get("close").is_some() {
            self.streams.remove(name);
            return Ok(json!({}));
        } else if let Some(quiet) = step["quiet_ms"].as_u64() {
            got.extend(call.next(Duration::from_millis(quiet)).await);
        } else if let Some(count) = step["until_events"].as_u64() {
            while (got.len() as u64) < count {
                let Some(message) = call.next(patience).await else { break };
                got.extend(events(&message));
            }
            return Ok(json!({ "events": got }));
        } else if let Some(count) = step["recv"].as_u64() {
            while (got.len() as u64) < count {
                got.extend(match call.next(patience).await {
                    None => break,
                    message => message,
                });
            }
        }
        let mut got: Vec<Value> = got.into_iter().map(|m| json::tidy(step, m)).collect();
        if step["sorted"] == true {
            json::sort(&mut got);
        }
        Ok(json!({ "responses": got }))
    }

    /// What was wanted and what was got, in the same form: a recording may have been put in
    /// order by another rule, and holds the gateway's status beside gRPC's.
    fn comparable(&self, step: &Value, mut got: Value) -> (Value, Value) {
        let mut want = json::substitute(&json::wanted(step), &self.variables);
        if step["sorted"] == true
            && let Some(Value::Array(list)) = want.get_mut("responses")
        {
            json::sort(list);
        }
        if let Some(response) = want.get_mut("response") {
            json::sort_unordered(step, response);
        }
        let error = want.get_mut("error").and_then(Value::as_object_mut);
        if let Some(want) = error
            && step.get("http").is_none()
        {
            want.remove("http_status");
            let got = got.get_mut("error").and_then(Value::as_object_mut);
            if let Some(got) = got
                && !want.contains_key("message")
            {
                got.remove("message");
            }
        }
        (want, got)
    }
}

/// A message's events, each with its watcher.
fn events(message: &Value) -> Vec<Value> {
    let watcher = message.get("watch_id").cloned().unwrap_or(json!("0"));
    let events = message["events"].as_array().into_iter().flatten();
    events
        .map(|event| {
            let mut event = event.clone();
            event["watch_id"] = event.get("watch_id").unwrap_or(&watcher).clone();
            event
        })
        .collect()
}

/// Waits until the server takes part in a cluster that answers.
async fn ready(server: &mut Server) -> Result<Connection, String> {
    let deadline = Instant::now() + START_TIMEOUT;
    while server.is_running() {
        if let Ok(connection) = Connection::open(&server.plan.client).await
            && serves(&connection).await
            && version_is_decided(&server.plan.client).await
        {
            return Ok(connection);
        }
        if Instant::now() > deadline {
            return Err(format!("not ready in {START_TIMEOUT:?}; its log:\n{}", server.log_tail()));
        }
        sleep(START_POLL).await;
    }
    Err(format!("the server ended while starting; its log:\n{}", server.log_tail()))
}

/// Whether a linearizable read is answered. A refusal (auth, an alarm) is an answer; having no
/// leader yet (`UNAVAILABLE`) is not.
async fn serves(connection: &Connection) -> bool {
    let request = json!({ "key": "AA==", "count_only": true });
    let ending = connection.clone().unary("KV.Range", None, &request).await;
    let refused = [3, 7, 15, 16].map(|code| json!(code));
    ending.get("response").is_some() || refused.contains(&ending["error"]["grpc_code"])
}

/// Whether the cluster has agreed on its version, which etcd does a moment after it has a
/// leader and which takes part in what it answers. A server without that page has no such moment.
async fn version_is_decided(address: &str) -> bool {
    match plain::request(address, "GET", "/version", &Value::Null, "").await {
        Ok(answer) => !answer.body.contains("not_decided"),
        Err(_) => true,
    }
}
