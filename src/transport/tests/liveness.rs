//! Connections that break, go silent, move and end.

use super::*;
use crate::transport::directory::stopped;

#[tokio::test]
async fn a_peer_that_restarts_is_found_again() {
    let (mut one, two) = pair().await;
    let address = two.address.clone();
    soon(two.handle.stop()).await;
    one.loses(TWO).await;
    assert!(!one.handle.send(TWO, Bytes::from_static(b"lost")), "nobody is there");
    assert_eq!(one.status(TWO).connected_since, None);
    let mut two = Setup { address, ..Setup::new(TWO) }.start().await;
    one.reaches(TWO).await;
    assert!(one.handle.send(TWO, Bytes::from_static(b"found")));
    assert_eq!(two.message().await, (ONE, Bytes::from_static(b"found")));
    let status = one.status(TWO);
    assert_eq!((status.disconnects, status.drops), (1, 1));
}

#[tokio::test]
async fn an_address_that_never_answers_is_passed_over() {
    let (log, _guard) = Log::start();
    // The system accepts for us; nobody ever reads.
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hole_address = hole.local_addr().unwrap().to_string();
    let mut two = Node::new(TWO).await;
    let mut one = Node::new(ONE).await;
    one.knows(&[(TWO, &hole_address)]);
    until(|| log.count(&["WARN", "failed to dial remote peer", "no answer in time"]) == 1).await;
    assert!(!one.handle.send(TWO, Bytes::new()));
    // With a second address the peer is found there.
    one.handle.set_peers(BTreeMap::from([(TWO, vec![hole_address, two.address.clone()])]));
    one.reaches(TWO).await;
    assert!(one.handle.send(TWO, Bytes::from_static(b"here")));
    assert_eq!(two.message().await, (ONE, Bytes::from_static(b"here")));
    assert_eq!(one.status(TWO).address, Some(two.address.clone()));
}

/// Forwards connections to `target` until told that no more bytes pass, without closing anything.
async fn wire(target: String) -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (cut, is_cut) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let target = target.clone();
            let mut is_cut = is_cut.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    biased;
                    () = stopped(&mut is_cut) => {
                        // Both sockets stay open, and silent, until the test is over.
                        std::future::pending::<()>().await;
                    }
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                }
            });
        }
    });
    (address, cut)
}

#[tokio::test]
async fn a_connection_gone_silent_is_given_up_by_both_and_replaced() {
    let (log, _guard) = Log::start();
    let mut two = Node::new(TWO).await;
    let mut one = Node::new(ONE).await;
    let (address, cut) = wire(two.address.clone()).await;
    one.knows(&[(TWO, &address)]);
    one.reaches(TWO).await;
    assert!(one.handle.send(TWO, Bytes::from_static(b"before")));
    assert_eq!(two.message().await.1, "before");
    cut.send(true).unwrap();
    one.loses(TWO).await;
    assert_eq!(log.count(&["peer became inactive", "nothing received for 1s"]), 1);
    until(|| log.count(&["closed connection from remote peer", "nothing received for 1s"]) == 1)
        .await;
    cut.send(false).unwrap();
    one.reaches(TWO).await;
    assert!(one.handle.send(TWO, Bytes::from_static(b"after")));
    assert_eq!(two.message().await.1, "after");
}

#[tokio::test]
async fn a_quiet_connection_is_kept() {
    let (mut one, two) = pair().await;
    let before = one.status(TWO);
    // Several idle timeouts without a message: pings and pongs are all there is.
    until(|| {
        one.status(TWO).last_seen > before.last_seen.map(|at| at + 3 * impatient().idle_timeout)
    })
    .await;
    assert_eq!(one.status(TWO).connected_since, before.connected_since);
    assert_eq!(two.status(ONE).disconnects, 0);
    assert!(one.status(TWO).round_trip.unwrap() < impatient().idle_timeout);
    assert!(one.inbound.try_recv().is_err());
}

#[tokio::test]
async fn a_server_that_takes_nothing_holds_messages_back_but_keeps_the_connection() {
    let mut two = Setup { queue: 1, ..Setup::new(TWO) }.start().await;
    let mut one = Node::new(ONE).await;
    one.knows(&[(TWO, &two.address)]);
    one.reaches(TWO).await;
    for number in 0..100u8 {
        assert!(one.handle.send(TWO, Bytes::copy_from_slice(&[number])));
    }
    let before = one.status(TWO);
    until(|| {
        one.status(TWO).last_seen > before.last_seen.map(|at| at + 3 * impatient().idle_timeout)
    })
    .await;
    assert_eq!(one.status(TWO).connected_since, before.connected_since);
    for number in 0..100u8 {
        assert_eq!(two.message().await.1[..], [number]);
    }
}

#[tokio::test]
async fn forgotten_peers_are_left_and_moved_peers_followed() {
    let (mut one, mut two) = pair().await;
    let old = two.address.clone();
    // A second way to the same member.
    let (new, _cut) = wire(old.clone()).await;
    one.knows(&[(TWO, &new)]);
    one.loses(TWO).await;
    one.reaches(TWO).await;
    assert_eq!(one.status(TWO).address.as_ref(), Some(&new));
    // Another candidate more is no reason to reconnect.
    let since = one.status(TWO).connected_since;
    one.handle.set_peers(BTreeMap::from([(TWO, vec![old, new])]));
    assert!(one.handle.send(TWO, Bytes::from_static(b"still here")));
    assert_eq!(two.message().await.1, "still here");
    assert_eq!(one.status(TWO).connected_since, since);
    one.knows(&[]);
    assert!(!one.handle.send(TWO, Bytes::new()));
    assert_eq!(one.handle.peers(), []);
}

#[tokio::test]
async fn stopping_ends_every_task_and_closes_the_port() {
    let (one, mut two) = pair().await;
    let mut raw = connect_as(THREE, ONE, &one.address, Purpose::Messages).await;
    soon(one.handle.stop()).await;
    assert_eq!(one.handle.owner.context.stop.receiver_count(), 0, "each task holds one");
    is_closed(&mut raw).await;
    assert!(TcpStream::connect(&one.address).await.is_err());
    two.loses(ONE).await;
    assert!(!one.handle.send(TWO, Bytes::new()));
    // Once more does no harm, nor do new peers come to life.
    one.knows(&[(THREE, &two.address)]);
    soon(one.handle.stop()).await;
}

#[tokio::test]
async fn dropping_the_last_handle_stops() {
    let (mut one, mut two) = pair().await;
    let clone = one.handle.clone();
    drop(one.handle);
    assert!(clone.send(TWO, Bytes::from_static(b"one is left")));
    assert_eq!(two.message().await.1, "one is left");
    drop(clone);
    soon(async { while one.inbound.recv().await.is_some() {} }).await;
    two.loses(ONE).await;
}

#[tokio::test]
async fn a_peer_that_calls_is_called_back_at_once() {
    let (log, _guard) = Log::start();
    let two = Node::new(TWO).await;
    let address = two.address.clone();
    soon(two.handle.stop()).await;
    // Left alone, the next attempt would come after the deadline of this test.
    let wait = 4 * DEADLINE;
    let options = Options { backoff_min: wait, backoff_max: wait, ..impatient() };
    let mut one = Setup { options, ..Setup::new(ONE) }.start().await;
    one.knows(&[(TWO, &address)]);
    until(|| log.count(&["failed to dial remote peer"]) == 1).await;
    let two = Setup { address, ..Setup::new(TWO) }.start().await;
    two.knows(&[(ONE, &one.address)]);
    one.reaches(TWO).await;
}

/// Forwards connections to `target`, but of each passes on only some bytes: then it cuts it off,
/// or goes on after flipping a bit.
async fn faulty_wire(target: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut turn = 0u64;
        while let Ok((near, _)) = listener.accept().await {
            turn += 1;
            let random = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut far = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(async move {
                let mut near = near;
                let (mut near_read, mut near_write) = near.split();
                let (mut far_read, mut far_write) = far.split();
                let spoil = async {
                    let good = 40 + random % 60_000;
                    let mut some = (&mut near_read).take(good);
                    tokio::io::copy(&mut some, &mut far_write).await?;
                    if turn.is_multiple_of(2) {
                        return Ok(());
                    }
                    let byte = near_read.read_u8().await?;
                    far_write.write_u8(byte ^ (1 << (random % 8))).await?;
                    tokio::io::copy(&mut near_read, &mut far_write).await.map(|_| ())
                };
                tokio::select! {
                    biased;
                    _ = spoil => {}
                    _ = tokio::io::copy(&mut far_read, &mut near_write) => {}
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn over_a_faulty_wire_messages_are_lost_but_never_wrong_repeated_or_swapped() {
    let mut two = Node::new(TWO).await;
    let one = Node::new(ONE).await;
    one.knows(&[(TWO, &faulty_wire(two.address.clone()).await)]);
    let payload = |number: u64| {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(8 + number as usize % 500, number as u8);
        Bytes::from(bytes)
    };
    let handle = one.handle.clone();
    let sender = tokio::spawn(async move {
        for number in 1.. {
            handle.send(TWO, payload(number));
            tokio::task::yield_now().await;
        }
    });
    let mut last = 0;
    while one.status(TWO).disconnects < 20 {
        let (_, received) = two.message().await;
        let number = u64::from_le_bytes(received[..8].try_into().unwrap());
        assert_eq!(received, payload(number));
        assert!(number > last, "{number} after {last}");
        last = number;
    }
    sender.abort();
}
