//! Snapshots, whole and broken.

use super::*;

/// Feeds a snapshot of `length` bytes into a channel, counting what was taken from us.
fn produce(
    length: usize,
    chunk: usize,
    end: bool,
) -> (mpsc::Receiver<SnapshotPiece>, Arc<AtomicU64>) {
    let (pieces, source) = mpsc::channel(2);
    let produced = Arc::new(AtomicU64::new(0));
    let count = produced.clone();
    tokio::spawn(async move {
        let mut offset = 0;
        while offset < length {
            let size = chunk.min(length - offset);
            let data: Bytes = (offset..offset + size).map(|at| (at / 251) as u8).collect();
            if pieces.send(SnapshotPiece::Data(data)).await.is_err() {
                return;
            }
            offset += size;
            count.store(offset as u64, Ordering::Relaxed);
        }
        if end {
            let _ = pieces.send(SnapshotPiece::End).await;
        }
    });
    (source, produced)
}

#[tokio::test]
async fn a_large_snapshot_arrives_with_little_of_it_under_way() {
    const LENGTH: usize = 50 * 1024 * 1024;
    let (one, mut two) = pair().await;
    let (source, produced) = produce(LENGTH, 100_000, true);
    let header = Bytes::from_static(b"at index 7");
    let take = async {
        let (from, mut incoming) = two.snapshot().await;
        assert_eq!((from, &incoming.header()[..]), (ONE, &b"at index 7"[..]));
        // Until we take something the sender comes to a halt. It got as far as buffers go.
        let halted = async {
            let mut last = u64::MAX;
            while last != produced.load(Ordering::Relaxed) {
                last = produced.load(Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        soon(halted).await;
        let (mut received, mut under_way_max) = (0, 0);
        while let Some(chunk) = incoming.next().await.unwrap() {
            let under_way = produced.load(Ordering::Relaxed) - received as u64;
            under_way_max = under_way_max.max(under_way);
            for (at, byte) in chunk.iter().enumerate().step_by(997) {
                assert_eq!(*byte, ((received + at) / 251) as u8);
            }
            received += chunk.len();
        }
        assert_eq!(received, LENGTH);
        // Socket buffers of the system hold a few megabytes by themselves.
        assert!(under_way_max < LENGTH as u64 / 3, "{under_way_max} bytes were under way");
        incoming.accept();
    };
    let handle = one.handle.clone();
    let (sent, ()) = tokio::join!(soon(handle.send_snapshot(TWO, header, source)), take);
    assert_eq!(sent, Ok(()));
    assert_eq!(one.status(TWO).disconnects, 0);
}

#[tokio::test]
async fn a_snapshot_whose_source_dies_is_broken_on_both_sides() {
    let (one, mut two) = pair().await;
    let (source, _) = produce(3_000_000, 10_000, false);
    let take = async {
        let (_, mut incoming) = two.snapshot().await;
        loop {
            match incoming.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("half a snapshot passed for a whole one"),
                Err(error) => return error,
            }
        }
    };
    let (sent, taken) = tokio::join!(one.handle.send_snapshot(TWO, Bytes::new(), source), take);
    assert_eq!(sent, Err(SnapshotError::SourceFailed));
    assert!(matches!(taken, SnapshotError::Broken(_)), "{taken:?}");
}

#[tokio::test]
async fn a_sender_that_vanishes_breaks_the_snapshot() {
    let (one, mut two) = pair().await;
    let (source, _) = produce(50_000_000, 100_000, true);
    let handle = one.handle.clone();
    let (gone, broken_off) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = broken_off => {}
            sent = handle.send_snapshot(TWO, Bytes::new(), source) => panic!("{sent:?}"),
        }
    });
    let (_, mut incoming) = two.snapshot().await;
    assert!(incoming.next().await.unwrap().is_some());
    gone.send(()).unwrap();
    let error = soon(async {
        loop {
            match incoming.next().await {
                Ok(chunk) => assert!(chunk.is_some()),
                Err(error) => return error,
            }
        }
    });
    assert!(matches!(error.await, SnapshotError::Broken(_)));
}

#[tokio::test]
async fn a_receiver_that_gives_up_tells_the_sender_at_once() {
    let (one, mut two) = pair().await;
    for drops in [true, false] {
        let (source, produced) = produce(50_000_000, 100_000, true);
        let take = async {
            let (_, mut incoming) = two.snapshot().await;
            assert!(incoming.next().await.unwrap().is_some());
            if drops { drop(incoming) } else { incoming.fail("no space left") }
        };
        let handle = one.handle.clone();
        let (sent, ()) = tokio::join!(soon(handle.send_snapshot(TWO, Bytes::new(), source)), take);
        let reason = if drops { "the receiver dropped it" } else { "no space left" };
        assert_eq!(sent, Err(SnapshotError::Rejected(reason.to_owned())));
        assert!(produced.load(Ordering::Relaxed) < 50_000_000);
    }
    assert_eq!(one.status(TWO).disconnects, 0, "the message connection is another one");
}

#[tokio::test]
async fn a_snapshot_without_progress_ends() {
    let (one, mut two) = pair().await;
    // The source says nothing more.
    let (pieces, source) = mpsc::channel(1);
    pieces.try_send(SnapshotPiece::Data(Bytes::from_static(b"begin"))).unwrap();
    let handle = one.handle.clone();
    let take = async {
        let (_, mut incoming) = two.snapshot().await;
        assert_eq!(incoming.next().await, Ok(Some(Bytes::from_static(b"begin"))));
        incoming.next().await
    };
    let (sent, taken) =
        soon(async { tokio::join!(handle.send_snapshot(TWO, Bytes::new(), source), take) }).await;
    assert!(
        matches!(&sent, Err(SnapshotError::Stalled))
            || matches!(&sent, Err(SnapshotError::Broken(_))),
        "{sent:?}"
    );
    assert!(matches!(taken, Err(SnapshotError::Broken(_))), "{taken:?}");
    drop(pieces);
    // The receiver takes nothing.
    let (source, _) = produce(50_000_000, 100_000, true);
    let hold = async {
        let (_, mut incoming) = two.snapshot().await;
        assert!(incoming.next().await.unwrap().is_some());
        incoming
    };
    let (sent, incoming) =
        soon(async { tokio::join!(handle.send_snapshot(TWO, Bytes::new(), source), hold) }).await;
    assert!(
        matches!(&sent, Err(SnapshotError::Rejected(reason)) if reason.contains("no progress"))
            || matches!(&sent, Err(SnapshotError::Stalled)),
        "{sent:?}"
    );
    drop(incoming);
}

#[tokio::test]
async fn a_receiver_that_works_on_a_complete_snapshot_is_waited_for() {
    // Longer than the idle timeout and the stall limit, shorter than the time to install.
    let work = Duration::from_millis(2000);
    let (one, mut two) = pair().await;
    assert!(work > impatient().snapshot_stall && work < impatient().snapshot_install_timeout);
    let (source, _) = produce(100, 10, true);
    let take = async {
        let (_, mut incoming) = two.snapshot().await;
        while incoming.next().await.unwrap().is_some() {}
        tokio::time::sleep(work).await;
        incoming.accept();
    };
    let handle = one.handle.clone();
    let (sent, ()) = tokio::join!(soon(handle.send_snapshot(TWO, Bytes::new(), source)), take);
    assert_eq!(sent, Ok(()));
}

#[tokio::test]
async fn a_snapshot_that_does_not_add_up_is_broken() {
    let mut two = Node::new(TWO).await;
    let checksum = crc32c::crc32c(b"abcdef").to_le_bytes();
    let cases: [(&[Vec<u8>], &str); 4] = [
        (&[frame_bytes(Kind::SnapshotChunk, 4, b"ef")], "follow"),
        (&[frame_bytes(Kind::SnapshotEnd, 3, &checksum)], "checksum"),
        (&[frame_bytes(Kind::SnapshotEnd, 7, &checksum)], "checksum"),
        (
            &[
                frame_bytes(Kind::SnapshotChunk, 3, b"dxf"),
                frame_bytes(Kind::SnapshotEnd, 6, &checksum),
            ],
            "checksum",
        ),
    ];
    for (frames, words) in cases {
        let mut stream = connect_as(ONE, TWO, &two.address, Purpose::Snapshot).await;
        stream.write_all(&frame_bytes(Kind::SnapshotHeader, 0, b"")).await.unwrap();
        stream.write_all(&frame_bytes(Kind::SnapshotChunk, 0, b"abc")).await.unwrap();
        for frame in frames {
            stream.write_all(frame).await.unwrap();
        }
        let (_, mut incoming) = two.snapshot().await;
        let error = soon(async {
            loop {
                match incoming.next().await {
                    Ok(chunk) => assert!(chunk.is_some(), "passed for a whole one"),
                    Err(error) => return error.to_string(),
                }
            }
        })
        .await;
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_snapshot_for_a_peer_that_refuses_or_is_not_there_fails() {
    let (one, two) = pair().await;
    let (source, _) = produce(10, 10, true);
    let sent = one.handle.send_snapshot(THREE, Bytes::new(), source).await;
    assert_eq!(sent, Err(SnapshotError::UnknownPeer));
    two.handle.set_removed(BTreeSet::from([ONE]));
    let (source, _) = produce(10, 10, true);
    let sent = soon(one.handle.send_snapshot(TWO, Bytes::new(), source)).await;
    assert_eq!(sent, Err(SnapshotError::Refused(Refusal::SenderRemoved)));
    soon(two.handle.stop()).await;
    let (source, _) = produce(10, 10, true);
    let sent = soon(one.handle.send_snapshot(TWO, Bytes::new(), source)).await;
    assert!(matches!(sent, Err(SnapshotError::Unreachable(_))), "{sent:?}");
    soon(one.handle.stop()).await;
    let (source, _) = produce(10, 10, true);
    let sent = soon(one.handle.send_snapshot(TWO, Bytes::new(), source)).await;
    assert_eq!(sent, Err(SnapshotError::Stopped));
}

#[tokio::test]
async fn stopping_waits_for_no_snapshot_and_leaves_none() {
    let (one, mut two) = pair().await;
    let (source, _) = produce(50_000_000, 100_000, true);
    let mut sending = Box::pin(one.handle.send_snapshot(TWO, Bytes::new(), source));
    let incoming = tokio::select! {
        biased;
        sent = &mut sending => panic!("{sent:?}"),
        (_, incoming) = two.snapshot() => incoming,
    };
    // Nobody polls the one who waits while the transport stops.
    soon(one.handle.stop()).await;
    assert_eq!(sending.await, Err(SnapshotError::Stopped));
    let mut incoming = incoming;
    let error = soon(async {
        loop {
            match incoming.next().await {
                Ok(chunk) => assert!(chunk.is_some()),
                Err(error) => return error,
            }
        }
    });
    assert!(matches!(error.await, SnapshotError::Broken(_)));
}

#[tokio::test]
async fn the_reason_reaches_a_sender_whose_chunks_are_still_unread() {
    let (log, _guard) = Log::start();
    let mut two = Node::new(TWO).await;
    let mut stream = connect_as(ONE, TWO, &two.address, Purpose::Snapshot).await;
    stream.write_all(&frame_bytes(Kind::SnapshotHeader, 0, b"")).await.unwrap();
    for number in 0..10 {
        let chunk = frame_bytes(Kind::SnapshotChunk, number * 60_000, &[7; 60_000]);
        soon(stream.write_all(&chunk)).await.unwrap();
    }
    let (_, incoming) = two.snapshot().await;
    incoming.fail("not wanted");
    until(|| log.count(&["failed to save database snapshot", "not wanted"]) == 1).await;
    // Had the receiver closed with something unread, the system would reset the connection, and
    // a lost packet with the last words in it would never be sent again.
    let mut received = Vec::new();
    soon(stream.read_to_end(&mut received)).await.expect("closed, not reset");
    assert_eq!(received, frame_bytes(Kind::SnapshotFailed, 0, b"not wanted"));
}
