//! Messages and requests between members that know each other.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_in_order_both_ways() {
    let (mut one, mut two) = pair().await;
    let payload = |number: u64| {
        let length = if number.is_multiple_of(100) { 200_000 } else { number as usize % 300 };
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(8 + length, number as u8);
        Bytes::from(bytes)
    };
    let send = |handle: TransportHandle, to: MemberId| async move {
        for number in 0..5000u64 {
            while !handle.send(to, payload(number)) {
                tokio::task::yield_now().await;
            }
        }
    };
    let take = async |node: &mut Node, from: MemberId| {
        for number in 0..5000u64 {
            assert_eq!(node.message().await, (from, payload(number)));
        }
    };
    let (handle_one, handle_two) = (one.handle.clone(), two.handle.clone());
    tokio::join!(
        send(handle_one, TWO),
        send(handle_two, ONE),
        take(&mut two, ONE),
        take(&mut one, TWO)
    );
    let status = one.status(TWO);
    assert_eq!((status.queue_len, status.queue_bytes, status.disconnects), (0, 0, 0));
    assert!(status.sent_bytes > 50 * 200_000 && status.received_bytes > 50 * 200_000);
    until(|| one.status(TWO).round_trip.is_some()).await;
    assert!(status.connected_since <= status.last_seen);
    assert_eq!(status.address.as_ref(), Some(&two.address));
}

#[tokio::test]
async fn three_members_talk_to_each_other() {
    let ids = [ONE, TWO, THREE];
    let mut nodes = Vec::new();
    for id in ids {
        nodes.push(Node::new(id).await);
    }
    let all: Vec<(MemberId, String)> =
        ids.into_iter().zip(nodes.iter().map(|node| node.address.clone())).collect();
    let all: Vec<(MemberId, &str)> = all.iter().map(|(id, at)| (*id, at.as_str())).collect();
    for node in &nodes {
        // The list has the member itself in it, which is passed over.
        node.knows(&all);
    }
    for (node, id) in nodes.iter().zip(ids) {
        until(|| node.handle.peers().iter().all(|peer| peer.connected_since.is_some())).await;
        let peers: Vec<MemberId> = node.handle.peers().iter().map(|peer| peer.id).collect();
        assert_eq!(peers, ids.into_iter().filter(|peer| *peer != id).collect::<Vec<_>>());
        for peer in peers {
            assert!(node.handle.send(peer, Bytes::from(format!("{id} to {peer}"))));
        }
    }
    for (node, id) in nodes.iter_mut().zip(ids) {
        let mut heard = BTreeSet::new();
        for _ in 0..2 {
            let (from, payload) = node.message().await;
            assert_eq!(payload, format!("{from} to {id}"));
            heard.insert(from);
        }
        assert_eq!(heard.len(), 2);
    }
}

#[tokio::test]
async fn requests_are_answered_each_on_its_own() {
    let (one, mut two) = pair().await;
    let ask = |text: &'static str| one.handle.request(TWO, Bytes::from(text), DEADLINE);
    let answers = async {
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let request = two.sees(|inbound| matches!(inbound, Inbound::Request { .. })).await;
            let Inbound::Request { from: ONE, payload, reply } = request else { panic!() };
            waiting.push((payload, reply));
        }
        // In the opposite order, and one not at all.
        for (payload, reply) in waiting.into_iter().rev() {
            if payload != "b" {
                reply.send(Bytes::from([&payload[..], b"!"].concat())).unwrap();
            }
        }
    };
    let (a, b, c, ()) = soon(async { tokio::join!(ask("a"), ask("b"), ask("c"), answers) }).await;
    assert_eq!(a, Ok(Bytes::from_static(b"a!")));
    assert_eq!(b, Err(RequestError::Refused));
    assert_eq!(c, Ok(Bytes::from_static(b"c!")));
}

#[tokio::test]
async fn a_request_without_an_answer_ends() {
    let (one, mut two) = pair().await;
    let nobody = one.handle.request(THREE, Bytes::new(), DEADLINE).await;
    assert_eq!(nobody, Err(RequestError::NoConnection));
    // Held and never answered.
    let timeout = Duration::from_millis(50);
    let late = one.handle.request(TWO, Bytes::from_static(b"late"), timeout).await;
    assert_eq!(late, Err(RequestError::Timeout));
    let held = two.sees(|inbound| matches!(inbound, Inbound::Request { .. })).await;
    // The connection breaks while one waits.
    let handle = one.handle.clone();
    let (broken, ()) = tokio::join!(
        soon(handle.request(TWO, Bytes::from_static(b"broken"), 10 * DEADLINE)),
        async {
            let request = two.sees(|inbound| matches!(inbound, Inbound::Request { .. })).await;
            soon(two.handle.stop()).await;
            drop(request);
        }
    );
    assert_eq!(broken, Err(RequestError::NoConnection));
    drop(held);
}

#[tokio::test]
async fn a_full_queue_drops_and_says_so() {
    // A peer that pings but never reads.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut one = Node::new(ONE).await;
    one.knows(&[(TWO, &address)]);
    let mut stream = accept_as(TWO, &listener).await;
    let pings = tokio::spawn(async move {
        while stream.write_all(&frame_bytes(Kind::Ping, 0, b"")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    one.reaches(TWO).await;
    let megabyte = Bytes::from(vec![1; 1_000_000]);
    // The task that writes gets its turn between messages, until the socket takes no more.
    let fill = async {
        loop {
            while one.handle.send(TWO, megabyte.clone()) {
                tokio::task::yield_now().await;
            }
            let full = one.status(TWO).queue_bytes;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if one.status(TWO).queue_bytes == full {
                return full;
            }
        }
    };
    let full = soon(fill).await;
    assert!(full <= PEER_QUEUE_BYTES_MAX && full > PEER_QUEUE_BYTES_MAX - 2 * megabyte.len());
    let before = one.status(TWO);
    assert!(!one.handle.send(TWO, megabyte.clone()));
    assert_eq!(one.status(TWO).drops, before.drops + 1);
    assert_eq!(one.status(TWO).queue_bytes, before.queue_bytes);
    let refused = one.handle.request(TWO, megabyte.clone(), DEADLINE).await;
    assert_eq!(refused, Err(RequestError::Refused));
    // Small messages still fit, until there are too many.
    while one.handle.send(TWO, Bytes::from_static(b"x")) {}
    assert!(one.status(TWO).queue_bytes < PEER_QUEUE_BYTES_MAX);
    assert_eq!(one.status(TWO).queue_len, PEER_QUEUE_MAX);
    // When the connection breaks, what waited is thrown away.
    pings.abort();
    one.loses(TWO).await;
    until(|| one.status(TWO).queue_len == 0 && one.status(TWO).queue_bytes == 0).await;
}

#[tokio::test]
async fn a_message_longer_than_a_frame_is_never_queued() {
    let (log, _guard) = Log::start();
    let (one, mut two) = pair().await;
    let longest = Bytes::from(vec![7; PEER_FRAME_BYTES_MAX]);
    assert!(one.handle.send(TWO, longest.clone()));
    assert_eq!(two.message().await.1.len(), longest.len());
    assert!(!one.handle.send(TWO, Bytes::from(vec![7; PEER_FRAME_BYTES_MAX + 1])));
    assert_eq!(log.count(&["ERROR", "exceeds the frame limit"]), 1);
}
