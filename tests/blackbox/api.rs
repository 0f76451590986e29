//! Calls that no recording covers, since the JSON gateway they were recorded through lacks them:
//! streamed ranges, and messages over the limits.

use super::process::Cluster;
use quorate::client::{Error, Get, Op, Put, Txn};
use quorate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use std::collections::BTreeSet;
use tonic::Code;

/// Fills a member with `count` keys, each with `size` bytes of value.
async fn filled(count: usize, size: usize) -> Cluster {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    for first in (0..count).step_by(100) {
        let puts = (first..count.min(first + 100))
            .map(|number| Op::from(Put::new(format!("key{number:06}"), vec![b'v'; size])));
        let txn = puts.fold(Txn::new(), Txn::then);
        client.txn(txn).await.expect("a healthy member writes");
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_range_is_the_range_in_pieces_at_one_revision() {
    let cluster = filled(3_000, 1_000).await;
    let client = cluster.client();
    let whole = client.get(Get::all()).await.expect("a plain range");
    let mut stream = client.get_stream(Get::all()).await.expect("a streamed range");
    let (mut keys, mut pieces, mut last) = (Vec::new(), 0, None);
    while let Some(message) = stream.next().await.expect("an unbroken stream") {
        let piece = message.range_response.expect("each message holds a piece");
        assert!(last.is_none(), "a piece came behind the one with the header");
        if pieces == 0 {
            assert_eq!(piece.kvs.len(), 10, "the first piece is small");
            // What is written from here on must not be seen.
            client.put(Put::new("key000000a", "late")).await.expect("a put beside the stream");
        }
        pieces += 1;
        keys.extend(piece.kvs);
        last = piece.header.map(|header| (header, piece.count, piece.more));
    }
    let (header, count, more) = last.expect("the last piece has the header");
    assert!(pieces > 2, "3 MB came in {pieces} pieces");
    assert_eq!((header.revision, count, more), (whole.header.revision, 3_000, false));
    assert_eq!(keys.len(), 3_000);
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 3_000, "a pair came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_range_keeps_limits_and_refuses_what_it_cannot_do() {
    let cluster = filled(100, 10).await;
    let client = cluster.client();
    let mut stream = client.get_stream(Get::all().limit(30)).await.expect("a limit is fine");
    let (mut kvs, mut more, mut count) = (0, false, 0);
    while let Some(message) = stream.next().await.expect("an unbroken stream") {
        let piece = message.range_response.expect("each message holds a piece");
        kvs += piece.kvs.len();
        (more, count) = (piece.more, piece.count);
    }
    assert_eq!((kvs, more, count), (30, true, 100));
    let sorted = Get::all().sort(SortTarget::Value, SortOrder::Descend);
    let error = match client.get_stream(sorted).await {
        Err(error) => error,
        Ok(mut stream) => stream.next().await.expect_err("a sorted stream is refused"),
    };
    assert_eq!(error.code(), Code::Unimplemented, "{error}");
    assert!(error.to_string().contains("does not support custom sort orders"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_over_the_limits_get_the_answers_clients_know() {
    let cluster = Cluster::start(1, &["--max-request-bytes", "10000"]).await;
    let client = cluster.client();
    client.put(Put::new("fits", vec![0; 9_000])).await.expect("below the limit");
    let error = client.put(Put::new("k", vec![0; 10_001])).await.expect_err("over the limit");
    assert_is(&error, Code::InvalidArgument, "etcdserver: request is too large");
    // gRPC lets through half a mebibyte more, then does not even read it.
    let error = client.put(Put::new("k", vec![0; 600_000])).await.expect_err("far over it");
    assert_is(&error, Code::ResourceExhausted, "grpc: received message larger than max (");
}

fn assert_is(error: &Error, code: Code, text: &str) {
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(text), "{error}");
}
