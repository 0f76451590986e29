//! Plain HTTP requests, one connection each: the gateway's and the health pages' side.

use super::json;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::time::timeout;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What came back. Of a header sent twice the last one is kept.
pub struct Answer {
    pub status: u16,
    pub headers: Map<String, Value>,
    pub body: String,
}

/// Sends a request to `host:port`.
pub async fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &Value,
    body: &str,
) -> Result<Answer, String> {
    let exchange = async {
        let socket = tokio::net::TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path);
        let fields = || headers.as_object().into_iter().flatten();
        if !fields().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", address);
        }
        for (name, value) in fields() {
            request = request.header(name, value.as_str().unwrap_or_default());
        }
        let request = request.body(Full::new(Bytes::from(body.to_string())))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let headers = (head.headers.iter())
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into())
            })
            .collect();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: head.status.as_u16(), headers, body })
    };
    let error = |error: Box<dyn std::error::Error + Send + Sync>| error.to_string();
    timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| "no answer".to_string())?.map_err(error)
}

/// Carries out an `http` step.
pub async fn step(address: &str, step: &Value) -> Result<Value, String> {
    let http = &step["http"];
    let text = |name: &str| http[name].as_str().unwrap_or_default();
    let answer =
        request(address, text("method"), text("path"), &http["headers"], text("body")).await?;
    let seen = json::strings(&step["see_headers"]).into_iter();
    let seen: Map<String, Value> =
        seen.map(|name| (name.into(), answer.headers.get(name).cloned().into())).collect();
    let mut ending = serde_json::json!({ "status": answer.status, "headers": seen });
    if step["no_body"] != true {
        ending["body"] = match serde_json::from_str(&answer.body) {
            Ok(body) => json::tidy(step, body),
            Err(_) if step["sort_lines"] == true => sorted_lines(&answer.body),
            Err(_) => Value::String(answer.body),
        };
    }
    Ok(ending)
}

fn sorted_lines(text: &str) -> Value {
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.sort();
    lines.into()
}
