//! Who is let in, who is not, and what is said about it.

use super::*;

#[tokio::test]
async fn another_cluster_is_refused_and_both_sides_log_it_once() {
    let (log, _guard) = Log::start();
    let two = Node::new(TWO).await;
    let identity = Identity { cluster: ClusterId(0xbad), member: ONE };
    let mut one = Setup { identity, ..Setup::new(ONE) }.start().await;
    one.knows(&[(TWO, &two.address)]);
    let refused = one.sees(|inbound| matches!(inbound, Inbound::Refused { .. })).await;
    let expected = Inbound::Refused { peer: TWO, refusal: Refusal::ClusterMismatch };
    assert_eq!(format!("{refused:?}"), format!("{expected:?}"));
    // Several retries later there is still one line on each side.
    until(|| log.count(&["remote peer still cannot be reached"]) >= 3).await;
    let refused = ["WARN", "connection refused by remote peer", "cluster ID mismatch"];
    assert_eq!(log.count(&refused), 1);
    assert_eq!(log.count(&[&refused[..], &["=11", "=22", "=bad", "=c1"]].concat()), 1);
    let rejected = ["WARN", "rejected connection from remote peer", "cluster ID mismatch"];
    assert_eq!(log.count(&rejected), 1);
    assert_eq!(log.count(&[&rejected[..], &["=11", "=22", "=bad", "=c1"]].concat()), 1);
    assert!(!one.handle.send(TWO, Bytes::new()));
}

#[tokio::test]
async fn an_address_that_leads_to_another_member_is_refused() {
    let three = Node::new(THREE).await;
    let mut one = Node::new(ONE).await;
    one.knows(&[(TWO, &three.address)]);
    let refused = one.sees(|inbound| matches!(inbound, Inbound::Refused { .. })).await;
    assert!(
        matches!(refused, Inbound::Refused { peer: TWO, refusal: Refusal::MemberMismatch }),
        "{refused:?}"
    );
    // Dialing ourselves under another name is the same mistake.
    let own = one.address.clone();
    one.knows(&[(THREE, &own)]);
    let refused = one.sees(|inbound| matches!(inbound, Inbound::Refused { .. })).await;
    assert!(
        matches!(refused, Inbound::Refused { peer: THREE, refusal: Refusal::MemberMismatch }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_removed_member_is_disconnected_and_not_let_in_again() {
    let (mut one, two) = pair().await;
    two.handle.set_removed(BTreeSet::from([ONE]));
    one.loses(TWO).await;
    let refused = one.sees(|inbound| matches!(inbound, Inbound::Refused { .. })).await;
    assert!(
        matches!(refused, Inbound::Refused { peer: TWO, refusal: Refusal::SenderRemoved }),
        "{refused:?}"
    );
    two.handle.set_removed(BTreeSet::new());
    one.reaches(TWO).await;
}

#[tokio::test]
async fn a_member_nobody_knows_yet_may_speak() {
    let mut two = Node::new(TWO).await;
    let mut three = Node::new(THREE).await;
    three.knows(&[(TWO, &two.address)]);
    three.reaches(TWO).await;
    assert!(three.handle.send(TWO, Bytes::from_static(b"let me in")));
    assert_eq!(two.message().await, (THREE, Bytes::from_static(b"let me in")));
}

#[tokio::test]
async fn another_protocol_version_gets_an_answer() {
    let (log, _guard) = Log::start();
    let two = Node::new(TWO).await;
    let mut stream = TcpStream::connect(&two.address).await.unwrap();
    // A longer preface, as a later version might have.
    let mut preface = [7; 100];
    preface[..8].copy_from_slice(b"\xf1Quorate");
    preface[8..10].copy_from_slice(&9u16.to_le_bytes());
    stream.write_all(&preface).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer.len(), 32);
    assert_eq!(answer[8..11], [1, 0, 5]);
    drop(stream);
    assert_eq!(log.count(&["WARN", "rejected connection", "version unsupported", "=9"]), 1);
}

#[tokio::test]
async fn strangers_are_closed_at_once_with_a_clear_line() {
    let (log, _guard) = Log::start();
    // So patient that closing cannot come from a timeout.
    let options = Options { connect_timeout: 10 * DEADLINE, ..impatient() };
    let two = Setup { options, ..Setup::new(TWO) }.start().await;
    for (bytes, words) in [
        (&b"GET /health HTTP/1.1\r\n\r\n"[..], "HTTP"),
        (b"\x16\x03\x01\x00\xf1\x01\x00\x00\xed\x03\x03", "TLS"),
        (b"\x00\x01\x02\x03", "unknown protocol"),
        (b"\xf1Quorate\x01\x00 and then nothing that makes sense ....", "damaged"),
    ] {
        let mut stream = TcpStream::connect(&two.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        is_closed(&mut stream).await;
        let line = ["WARN", "not from a peer", words, "remote-address=\"127.0.0.1:"];
        assert_eq!(log.count(&line), 1, "{words}: {:?}", log.0.lock().unwrap());
    }
    assert_eq!(two.inbound.len(), 0);
}

#[tokio::test]
async fn damaged_frames_end_the_connection() {
    let (log, _guard) = Log::start();
    let mut two = Node::new(TWO).await;
    let mut damaged = frame_bytes(Kind::Message, 0, b"payload");
    *damaged.last_mut().unwrap() ^= 1;
    let mut damaged_header = frame_bytes(Kind::Message, 0, b"payload");
    damaged_header[0] ^= 1;
    // A header that is whole and claims 4 GiB.
    let mut oversized = frame::header(Kind::Message, 0, b"");
    oversized[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let checksum = crc32c::crc32c(&oversized[..HEADER_BYTES - 4]);
    oversized[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
    for (bytes, words) in [
        (&damaged[..], "Message frame of 7 bytes does not match its checksum"),
        (&damaged_header[..], "frame header does not match"),
        (&oversized[..], "frame of 4294967295 bytes exceeds the limit"),
        (&frame_bytes(Kind::SnapshotEnd, 0, b"")[..], "SnapshotEnd frame does not belong here"),
    ] {
        let mut stream = connect_as(ONE, TWO, &two.address, Purpose::Messages).await;
        stream.write_all(&frame_bytes(Kind::Message, 0, b"good")).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        is_closed(&mut stream).await;
        assert_eq!(log.count(&["local-member-id=22", "remote-peer-id=11", words]), 1, "{words}");
        assert_eq!(two.message().await, (ONE, Bytes::from_static(b"good")));
    }
    assert!(two.inbound.try_recv().is_err(), "nothing damaged was delivered");
}

#[tokio::test]
async fn a_newer_connection_of_a_peer_replaces_the_older() {
    let mut two = Node::new(TWO).await;
    let mut old = connect_as(ONE, TWO, &two.address, Purpose::Messages).await;
    let mut new = connect_as(ONE, TWO, &two.address, Purpose::Messages).await;
    is_closed(&mut old).await;
    new.write_all(&frame_bytes(Kind::Message, 0, b"new")).await.unwrap();
    assert_eq!(two.message().await, (ONE, Bytes::from_static(b"new")));
}

#[tokio::test]
async fn a_crowd_that_says_nothing_keeps_no_peer_out() {
    let options = Options { connect_timeout: DEADLINE, ..impatient() };
    let two = Setup { options, ..Setup::new(TWO) }.start().await;
    let mut crowd = Vec::new();
    for _ in 0..2 * PEER_HANDSHAKES_MAX {
        crowd.push(TcpStream::connect(&two.address).await.unwrap());
    }
    let mut one = Node::new(ONE).await;
    one.knows(&[(TWO, &two.address)]);
    one.reaches(TWO).await;
    // The oldest had to go.
    is_closed(&mut crowd[0]).await;
}

#[tokio::test]
async fn one_who_says_yes_under_another_name_is_not_talked_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for (cluster, member, refusal) in [
        (CLUSTER, THREE, Refusal::MemberMismatch),
        (ClusterId(0xbad), TWO, Refusal::ClusterMismatch),
    ] {
        let mut one = Node::new(ONE).await;
        one.knows(&[(TWO, &address)]);
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        soon(handshake::listen(&mut stream)).await.unwrap();
        let answer = Answer { refusal: None, version: PROTOCOL_VERSION, cluster, member };
        handshake::answer(&mut stream, &answer).await.unwrap();
        match one.next().await {
            Inbound::Refused { peer: TWO, refusal: told } => assert_eq!(told, refusal),
            other => panic!("{other:?}"),
        }
        soon(one.handle.stop()).await;
        // What was dialed meanwhile is not to be taken for the next one's.
        while tokio::time::timeout(Duration::from_millis(50), listener.accept()).await.is_ok() {}
    }
}
