//! Calls by name, with JSON in and out, over a gRPC connection of hyper's.
//!
//! The messages come from `proto/*.proto`, compiled when the tests start, and not from the
//! server's generated code: that one keeps some messages as encoded bytes and could hide a
//! mistake from a test that shares it.
//!
//! - A message with a field that the proto files do not know is a failure: the JSON would not
//!   show it, and then a comparison that calls itself exact would not be.
//! - JSON as in the recordings: names of the proto files, defaults left out, 64 bits as strings.
//! - There is no limit on what is received; the server's own limits are under test.

use super::json::failure;
use futures_core::Stream;
use http::uri::PathAndQuery;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage,
    SerializeOptions, Value as Field, prost::Message,
};
use serde_json::{Value, json};
use std::path::Path;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

/// How long a unary call may take before it counts as unanswered.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What the proto files say.
static PROTOS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let entries = std::fs::read_dir(&folder).expect("proto/ is part of the repository");
    let names = entries.map(|entry| entry.expect("proto/ can be listed").file_name());
    let mut names: Vec<String> = (names.map(|name| name.to_string_lossy().into_owned()))
        .filter(|name| name.ends_with(".proto"))
        .collect();
    names.sort();
    let files = protox::compile(&names, [&folder]).expect("the proto files compile");
    DescriptorPool::from_file_descriptor_set(files).expect("the proto files are complete")
});

/// The call that recordings name `Service.Method`, without the service's package.
fn method(rpc: &str) -> Result<MethodDescriptor, String> {
    let (service, method) = rpc.split_once('.').ok_or(format!("{rpc} is not SERVICE.METHOD"))?;
    (PROTOS.services().filter(|found| found.name() == service))
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .find(|found| found.name() == method)
        .ok_or(format!("no proto file has the call {rpc}"))
}

/// An open connection. Clones share it.
#[derive(Clone)]
pub struct Connection(hyper::client::conn::http2::SendRequest<tonic::body::Body>);

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(address: &str) -> Result<Connection, String> {
        let socket = tokio::net::TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
                .await
                .map_err(|e| e.to_string())?;
        // Ends by itself when the last sender is dropped or the server goes.
        tokio::spawn(connection);
        Ok(Connection(sender))
    }

    /// A unary call; its raw ending: `response`, `error` or `failure`.
    pub async fn unary(self, rpc: &str, token: Option<String>, request: &Value) -> Value {
        let call = async {
            let (mut client, path, codec, method) = self.client(rpc)?;
            let request = with_token(to_message(method.input(), request)?, token)?;
            client.ready().await.map_err(|error| format!("connection: {error}"))?;
            Ok(match client.unary(request, path, codec).await {
                Ok(response) => json!({ "response": to_json(response.get_ref())? }),
                Err(status) => json!({ "error": error(&status) }),
            })
        };
        match timeout(CALL_TIMEOUT, call).await {
            Ok(ending) => ending.unwrap_or_else(|reason: String| failure(reason)),
            Err(_) => failure(format!("no answer within {CALL_TIMEOUT:?}")),
        }
    }

    /// Opens a stream on which the client may send until it calls [`Call::finish`].
    pub fn stream(self, rpc: &str, token: Option<String>) -> Result<Call, String> {
        let (mut client, path, codec, method) = self.client(rpc)?;
        let (outgoing, messages) = mpsc::unbounded_channel();
        let (incoming, inbox) = mpsc::unbounded_channel();
        let request = with_token(Outgoing(messages), token)?;
        let task = tokio::spawn(async move {
            let ending = async {
                client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
                let mut answers = client.streaming(request, path, codec).await?.into_inner();
                while let Some(message) = answers.message().await? {
                    let _ = incoming.send(to_json(&message).unwrap_or_else(failure));
                }
                Ok::<(), Status>(())
            };
            // The case may have ended: then nobody listens any more, which is fine.
            if let Err(status) = ending.await {
                let _ = incoming.send(json!({ "error": error(&status) }));
            }
            let _ = incoming.send(json!({ "end_of_stream": true }));
        });
        Ok(Call { outgoing: Some(outgoing), inbox, input: method.input(), task })
    }

    fn client(
        self,
        rpc: &str,
    ) -> Result<(Client, PathAndQuery, JsonCodec, MethodDescriptor), String> {
        let method = method(rpc)?;
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let path = path.parse().map_err(|error| format!("{path}: {error}"))?;
        let origin = http::Uri::from_static("http://server.test");
        let client = tonic::client::Grpc::with_origin(self, origin)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Ok((client, path, JsonCodec(method.output()), method))
    }
}

type Client = tonic::client::Grpc<Connection>;

impl tower_service::Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// An open stream. Cancelled with this value.
pub struct Call {
    outgoing: Option<mpsc::UnboundedSender<DynamicMessage>>,
    inbox: mpsc::UnboundedReceiver<Value>,
    input: MessageDescriptor,
    task: JoinHandle<()>,
}

impl Call {
    /// Sends a message.
    pub fn send(&self, message: &Value) -> Result<(), String> {
        let message = to_message(self.input.clone(), message)?;
        let outgoing = self.outgoing.as_ref().ok_or("the client's side is finished")?;
        outgoing.send(message).map_err(|_| "the stream has ended".to_string())
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        self.outgoing = None;
    }

    /// The next message if one comes within `patience`. A stream's end is a message too.
    pub async fn next(&mut self, patience: Duration) -> Option<Value> {
        timeout(patience, self.inbox.recv()).await.ok().flatten()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn error(status: &Status) -> Value {
    json!({ "grpc_code": status.code() as i32, "message": status.message() })
}

fn with_token<T>(message: T, token: Option<String>) -> Result<Request<T>, String> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let token = token.parse().map_err(|_| "the token is not ASCII".to_string())?;
        request.metadata_mut().insert("token", token);
    }
    Ok(request)
}

fn to_message(kind: MessageDescriptor, value: &Value) -> Result<DynamicMessage, String> {
    let name = kind.full_name().to_string();
    DynamicMessage::deserialize(kind, value).map_err(|error| format!("{name}: {error}"))
}

fn to_json(message: &DynamicMessage) -> Result<Value, String> {
    if let Some(stranger) = unknown_field(message) {
        return Err(stranger);
    }
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(true)
        .stringify_64_bit_integers(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| error.to_string())
}

/// The first field, at any depth, that the proto files lack.
fn unknown_field(message: &DynamicMessage) -> Option<String> {
    if let Some(field) = message.unknown_fields().next() {
        let name = message.descriptor().full_name().to_string();
        return Some(format!("{name} has no field {}, but one was received", field.number()));
    }
    message.fields().find_map(|(_, field)| match field {
        Field::Message(inner) => unknown_field(inner),
        Field::List(items) => items.iter().filter_map(Field::as_message).find_map(unknown_field),
        _ => None,
    })
}

/// What a client sends on a stream.
struct Outgoing(mpsc::UnboundedReceiver<DynamicMessage>);

impl Stream for Outgoing {
    type Item = DynamicMessage;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// Encodes any message; decodes those of one kind.
#[derive(Clone)]
struct JsonCodec(MessageDescriptor);

impl Codec for JsonCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for JsonCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for JsonCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, data: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.0.clone(), data);
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
