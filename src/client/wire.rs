//! gRPC on HTTP/2: how a message is framed, sent, and read back.
//!
//! A gRPC message travels as one zero byte (not compressed), its length in four bytes, and its
//! protobuf encoding; the outcome of a call is in the trailers (`grpc-status`, `grpc-message`).
//! That is all there is to it, and doing it here rather than through a generic stack keeps a call
//! to one buffer each way: answers are decoded as slices of what came from the socket, and a
//! request that is sent again is not encoded again.
//!
//! - An error of the server ([`Error::Server`]) is never confused with one of the connection.
//! - [`Error::Unreachable`] means that the request was not handed to the connection.
//! - [`Responses::next`] may be dropped and called again without losing a message.

use super::error::{Error, Result};
use super::world::BoxFuture;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::SendRequest;
use prost::Message;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tonic::Code;

/// Bytes of one stream the server may send ahead of its reader, unless the options say otherwise.
pub(super) const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes of all streams: the most HTTP/2 allows, because the streams' own windows bound it.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// Largest HTTP/2 frame we accept.
pub(super) const FRAME_BYTES_MAX: u32 = 1024 * 1024;
/// Requests that may wait in one stream until the connection takes them.
const STREAM_QUEUE_MAX: usize = 64;
/// What precedes each message: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// A message as gRPC frames it.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).expect("protobuf messages are below 2 GiB"));
    message.encode(&mut buffer).expect("the buffer has the room the message asked for");
    buffer.freeze()
}

/// What a request sends: one message, or those of a queue until its last sender is dropped.
pub(super) enum RequestBody {
    Once(Option<Bytes>),
    Queue(mpsc::Receiver<Bytes>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            RequestBody::Once(bytes) => Poll::Ready(bytes.take().map(|data| Ok(Frame::data(data)))),
            RequestBody::Queue(queue) => {
                queue.poll_recv(context).map(|next| next.map(|data| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, RequestBody::Once(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Once(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            RequestBody::Queue(_) => SizeHint::default(),
        }
    }
}

/// One connection to one endpoint. Cheap to clone.
#[derive(Clone)]
pub(super) struct Channel {
    /// Which of the client's endpoints it leads to.
    pub(super) endpoint: usize,
    authority: Authority,
    require_leader: bool,
    sender: SendRequest<RequestBody>,
}

impl Channel {
    pub(super) fn new(
        endpoint: usize,
        authority: Authority,
        require_leader: bool,
        sender: SendRequest<RequestBody>,
    ) -> Channel {
        Channel { endpoint, authority, require_leader, sender }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends one framed message and returns the one it is answered with.
    pub(super) async fn unary(&mut self, path: &'static str, message: Bytes) -> Result<Bytes> {
        let request = self.request(path, RequestBody::Once(Some(message)));
        let response = match self.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(error) => return Err(send_error(error)),
        };
        let mut deframer = Deframer::default();
        let mut answer = None;
        let (head, mut body) = response.into_parts();
        check_head(head.status, &head.headers)?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::Disconnected(describe(&error)))?;
            match frame.into_data() {
                Ok(data) => {
                    deframer.push(data);
                    while let Some(message) = deframer.pop()? {
                        if answer.replace(message).is_some() {
                            return Err(Error::Malformed("two answers to one request".into()));
                        }
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    check_trailers(&trailers)?;
                    return answer.ok_or_else(|| Error::Malformed("no answer".into()));
                }
            }
        }
        Err(Error::Disconnected("the answer ended without a status".into()))
    }

    /// Opens a stream. Nothing is waited for: the server may answer only after it got a request.
    pub(super) fn stream<Q: Message, R: Message + Default>(
        &mut self,
        path: &'static str,
    ) -> (Requests<Q>, Responses<R>) {
        let (queue, receiver) = mpsc::channel(STREAM_QUEUE_MAX);
        let request = self.request(path, RequestBody::Queue(receiver));
        (Requests { queue, kind: PhantomData }, self.open(request))
    }

    /// Sends one framed message and opens the stream of its answers.
    pub(super) fn server_stream<R: Message + Default>(
        &mut self,
        path: &'static str,
        message: Bytes,
    ) -> Responses<R> {
        let request = self.request(path, RequestBody::Once(Some(message)));
        self.open(request)
    }

    fn open<R: Message + Default>(&mut self, request: http::Request<RequestBody>) -> Responses<R> {
        let response = self.sender.try_send_request(request);
        let opening = Box::pin(async move { response.await.map_err(send_error) });
        Responses {
            endpoint: self.endpoint,
            state: State::Opening(opening),
            deframer: Deframer::default(),
            kind: PhantomData,
        }
    }

    fn request(&self, path: &'static str, body: RequestBody) -> http::Request<RequestBody> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static(path));
        let mut request = http::Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_parts(parts).expect("all three parts are there");
        let headers = request.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("quorate/", env!("CARGO_PKG_VERSION"))),
        );
        if self.require_leader {
            headers.insert("hasleader", HeaderValue::from_static("true"));
        }
        request
    }
}

/// The sending half of a stream. Dropping the last clone tells the server that no more come.
pub struct Requests<Q> {
    queue: mpsc::Sender<Bytes>,
    kind: PhantomData<fn(Q)>,
}

impl<Q> Clone for Requests<Q> {
    fn clone(&self) -> Self {
        Requests { queue: self.queue.clone(), kind: PhantomData }
    }
}

impl<Q: Message> Requests<Q> {
    /// Queues a request, waiting for room. Fails when the stream has ended; why, its responses
    /// say.
    pub async fn send(&self, request: &Q) -> Result<()> {
        let closed = |_| Error::Disconnected("the stream has ended".into());
        self.queue.send(frame(request)).await.map_err(closed)
    }
}

/// The receiving half of a stream. Dropping it cancels the stream.
pub struct Responses<R> {
    pub(super) endpoint: usize,
    state: State,
    deframer: Deframer,
    kind: PhantomData<fn() -> R>,
}

enum State {
    Opening(BoxFuture<'static, Result<http::Response<Incoming>>>),
    Open(Incoming),
    /// The outcome was reported; asking again gives the end.
    Ended,
}

impl<R: Message + Default> Responses<R> {
    /// The next response; `None` when the server ended the stream without an error. Safe to drop
    /// and call again.
    pub async fn next(&mut self) -> Result<Option<R>> {
        let outcome = self.advance().await;
        if !matches!(outcome, Ok(Some(_))) {
            self.state = State::Ended;
        }
        outcome
    }

    async fn advance(&mut self) -> Result<Option<R>> {
        loop {
            if let Some(message) = self.deframer.pop()? {
                return decode(message).map(Some);
            }
            let body = match &mut self.state {
                State::Opening(opening) => {
                    let (head, body) = opening.await?.into_parts();
                    check_head(head.status, &head.headers)?;
                    self.state = State::Open(body);
                    continue;
                }
                State::Open(body) => body,
                State::Ended => return Ok(None),
            };
            let Some(frame) = body.frame().await else {
                return Err(Error::Disconnected("the stream ended without a status".into()));
            };
            let frame = frame.map_err(|error| Error::Disconnected(describe(&error)))?;
            match frame.into_data() {
                Ok(data) => self.deframer.push(data),
                Err(frame) => {
                    check_trailers(&frame.into_trailers().unwrap_or_default())?;
                    return Ok(None);
                }
            }
        }
    }
}

/// Decodes an answer.
pub(super) fn decode<R: Message + Default>(message: Bytes) -> Result<R> {
    R::decode(message).map_err(|error| Error::Malformed(error.to_string()))
}

/// Cuts messages out of the bytes of a stream. A message that lies in one piece is not copied.
#[derive(Default)]
struct Deframer {
    /// Unread bytes as they came; empty while `partial` is not.
    whole: Bytes,
    /// A message that spans several pieces, as far as it has come.
    partial: BytesMut,
}

impl Deframer {
    fn push(&mut self, data: Bytes) {
        if self.partial.is_empty() && self.whole.is_empty() {
            self.whole = data;
        } else {
            self.partial.extend_from_slice(&self.whole);
            self.whole.clear();
            self.partial.extend_from_slice(&data);
        }
    }

    fn pop(&mut self) -> Result<Option<Bytes>> {
        let source: &[u8] = if self.partial.is_empty() { &self.whole } else { &self.partial };
        let Some((prefix, rest)) = source.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        if prefix[0] != 0 {
            return Err(Error::Malformed("compressed, which was not asked for".into()));
        }
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if rest.len() < length {
            self.partial.extend_from_slice(&self.whole);
            self.whole.clear();
            self.partial.reserve(PREFIX_BYTES + length - self.partial.len());
            return Ok(None);
        }
        if self.partial.is_empty() {
            self.whole.advance(PREFIX_BYTES);
            Ok(Some(self.whole.split_to(length)))
        } else {
            self.partial.advance(PREFIX_BYTES);
            Ok(Some(self.partial.split_to(length).freeze()))
        }
    }
}

/// The answer's head: a status of HTTP, and for an answer without a message the outcome too.
fn check_head(status: http::StatusCode, headers: &HeaderMap) -> Result<()> {
    if headers.contains_key("grpc-status") {
        return check_trailers(headers);
    }
    if status != http::StatusCode::OK {
        // The mapping of the gRPC specification ("HTTP to gRPC status code mapping").
        let code = match status.as_u16() {
            400 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502 | 503 | 504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        return Err(Error::server(code, format!("HTTP status {status}")));
    }
    Ok(())
}

fn check_trailers(trailers: &HeaderMap) -> Result<()> {
    let Some(status) = trailers.get("grpc-status") else {
        return Err(Error::Malformed("no grpc-status".into()));
    };
    let code = Code::from_bytes(status.as_bytes());
    if code == Code::Ok {
        return Ok(());
    }
    let message = trailers.get("grpc-message").map_or(&[][..], |text| text.as_bytes());
    Err(Error::server(code, percent_decode(message)))
}

/// `grpc-message` is percent-encoded UTF-8; what is not well-formed is kept as it is.
fn percent_decode(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|&byte| (byte as char).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A request that comes back with its error never left.
fn send_error<B>(mut error: TrySendError<http::Request<B>>) -> Error {
    match error.take_message() {
        Some(_) => Error::Unreachable(describe(error.error())),
        None => Error::Disconnected(describe(error.error())),
    }
}

/// An error with its causes, which hyper leaves out of its own text.
fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::PutRequest;

    fn framed(key: &'static str) -> Bytes {
        frame(&PutRequest { key: key.into(), ..Default::default() })
    }

    #[test]
    fn messages_come_out_whole_however_the_bytes_are_cut() {
        let stream: Vec<u8> = [framed("a"), framed("bcdefgh"), framed("")].concat();
        for size in 1..=stream.len() {
            let mut deframer = Deframer::default();
            let mut keys = Vec::new();
            for piece in stream.chunks(size) {
                deframer.push(Bytes::copy_from_slice(piece));
                while let Some(message) = deframer.pop().unwrap() {
                    keys.push(decode::<PutRequest>(message).unwrap().key);
                }
            }
            assert_eq!(keys, ["a", "bcdefgh", ""], "pieces of {size}");
            assert!(deframer.whole.is_empty() && deframer.partial.is_empty());
        }
    }

    #[test]
    fn a_message_in_one_piece_is_not_copied() {
        let bytes = framed("key");
        let mut deframer = Deframer::default();
        deframer.push(bytes.clone());
        let message = deframer.pop().unwrap().unwrap();
        assert_eq!(message.as_ptr(), bytes[PREFIX_BYTES..].as_ptr());
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let mut deframer = Deframer::default();
        deframer.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert!(matches!(deframer.pop(), Err(Error::Malformed(_))));
    }

    #[test]
    fn status_texts_are_percent_decoded() {
        assert_eq!(percent_decode(b"a%20b%C3%A9"), "a b\u{e9}");
        assert_eq!(percent_decode(b"100%"), "100%");
        assert_eq!(percent_decode(b"%zz"), "%zz");
    }

    #[test]
    fn the_outcome_is_read_from_trailers_or_head() {
        let mut headers = HeaderMap::new();
        assert!(check_head(http::StatusCode::OK, &headers).is_ok());
        assert!(matches!(check_trailers(&headers), Err(Error::Malformed(_))));
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(check_trailers(&headers).is_ok());
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("grpc-message", HeaderValue::from_static("etcdserver: no leader"));
        let expected = Error::server(Code::Unavailable, "etcdserver: no leader");
        assert_eq!(check_head(http::StatusCode::OK, &headers), Err(expected.clone()));
        assert_eq!(check_trailers(&headers), Err(expected));
    }
}
