//! Why `batch_append` stays off: what raft 0.7 does when it is on.
//!
//! A leader that batches puts new entries into an append that waits to be sent. Whether they
//! follow on the entries in there is looked at; whether they follow on the append's own index,
//! when there are none in there, is not.

use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode};

/// Persists and applies everything at once; returns what is sent.
fn settle(node: &mut RawNode<MemStorage>) -> Vec<Message> {
    let mut sent = Vec::new();
    while node.has_ready() {
        let mut ready = node.ready();
        node.store().wl().append(ready.entries()).expect("entries are in order");
        if let Some(hard_state) = ready.hs() {
            node.store().wl().set_hardstate(hard_state.clone());
        }
        sent.extend(ready.take_messages());
        sent.extend(ready.take_persisted_messages());
        sent.extend(node.advance(ready).take_messages());
        node.advance_apply();
    }
    sent
}

fn answer(from: u64, kind: MessageType, index: u64) -> Message {
    let mut message = Message { from, to: 1, term: 1, index, ..Message::default() };
    message.set_msg_type(kind);
    message
}

/// The appends a leader sends to a follower that has lost two of three entries, when it hears of
/// that before it has sent on what another follower's answer committed.
fn appends_after_a_rejection(batch_append: bool) -> Vec<(u64, Vec<u64>)> {
    let conf_state = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let storage = MemStorage::new_with_conf_state(conf_state);
    let config = Config { id: 1, batch_append, max_inflight_msgs: 256, ..Config::default() };
    let discard = slog::Logger::root(slog::Discard, slog::o!());
    let mut node = RawNode::new(&config, storage, &discard).expect("a sound configuration");
    node.campaign().expect("a voter may");
    settle(&mut node);
    node.step(answer(2, MessageType::MsgRequestVoteResponse, 0)).expect("a vote");
    settle(&mut node);
    for follower in [2, 3] {
        node.step(answer(follower, MessageType::MsgAppendResponse, 1)).expect("an answer");
    }
    settle(&mut node);
    for data in ["a", "b"] {
        node.propose(Vec::new(), data.into()).expect("it leads");
        settle(&mut node);
    }
    // Commits entry 3, so that an append without entries waits for each follower.
    node.step(answer(3, MessageType::MsgAppendResponse, 3)).expect("an answer");
    let mut rejection = answer(2, MessageType::MsgAppendResponse, 3);
    rejection.reject = true;
    rejection.reject_hint = 1;
    rejection.log_term = 1;
    node.step(rejection).expect("an answer");
    let sent = settle(&mut node)
        .into_iter()
        .filter(|message| message.to == 2 && message.get_msg_type() == MessageType::MsgAppend);
    let indexes = |entries: &[Entry]| entries.iter().map(|entry| entry.index).collect();
    sent.map(|message| (message.index, indexes(message.get_entries()))).collect()
}

#[test]
fn without_batching_entries_follow_the_index_of_their_append() {
    for (index, entries) in appends_after_a_rejection(false) {
        assert!(
            entries.first().is_none_or(|&first| first == index + 1),
            "{entries:?} behind {index}"
        );
    }
}

/// When this fails, raft-rs is mended and batching may be looked at again.
#[test]
fn with_batching_entries_are_put_into_an_append_they_do_not_follow() {
    let appends = appends_after_a_rejection(true);
    assert!(
        appends
            .iter()
            .any(|(index, entries)| entries.first().is_some_and(|&first| first != index + 1)),
        "{appends:?}"
    );
}
