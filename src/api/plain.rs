//! The plain HTTP paths that tell whether and what we are.

use crate::proto::etcdserverpb::AlarmType;
use crate::server::Handle;
use crate::types::MemberId;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use std::convert::Infallible;
use std::future::Future;
use tonic::body::Body;

/// The etcd version whose API we speak.
pub(super) use crate::types::version::ETCD as ETCD_VERSION;

/// Answers a request that is not gRPC.
pub(super) fn answer(
    handle: &Handle,
    method: &Method,
    path: &str,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static + use<> {
    let response = match path {
        "/version" | "/health" if method != Method::GET => {
            text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n")
        }
        "/version" => version(handle),
        "/health" => health(handle),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    std::future::ready(Ok(response))
}

fn version(handle: &Handle) -> Response<Body> {
    let cluster = handle.status().cluster_version();
    let cluster = if cluster.is_empty() { "not_decided" } else { &*cluster };
    let storage = if cluster == "not_decided" { "unknown" } else { cluster };
    let body = serde_json::json!({
        "etcdserver": ETCD_VERSION, "etcdcluster": cluster, "storage": storage,
    });
    respond(StatusCode::OK, "application/json", body.to_string())
}

fn health(handle: &Handle) -> Response<Body> {
    let alarms = handle.status().alarms();
    let reason = if alarms.is_raised(AlarmType::Nospace) {
        "ALARM NOSPACE"
    } else if alarms.is_raised(AlarmType::Corrupt) {
        "ALARM CORRUPT"
    } else if handle.status().leadership().leader == MemberId(0) {
        "RAFT NO LEADER"
    } else {
        return respond(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            r#"{"health":"true","reason":""}"#,
        );
    };
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"),
    )
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
