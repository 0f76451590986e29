//! [`Node`]: inputs in, [`Effects`] out.

use super::{Log, logger};
use crate::types::{Index, MemberId, Term, limits};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType};
use raft::{Config, RawNode, SnapshotStatus, StateRole};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// How this member takes part.
pub struct Options {
    pub id: MemberId,
    /// Ticks without a leader before an election; each draw lies in `[this, 2 * this)`.
    pub election_ticks: usize,
    pub pre_vote: bool,
    /// What the store holds already.
    pub applied: Index,
    /// Decides the election timeouts.
    pub seed: u64,
}

/// Who leads, as this member knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    pub term: Term,
    /// 0 while there is none.
    pub leader: MemberId,
    /// We are the leader.
    pub leading: bool,
}

/// A confirmed read: what was committed when it was asked.
pub struct Read {
    pub context: Bytes,
    pub index: Index,
}

/// What must be durable, and what may be sent only then.
#[derive(Default)]
pub struct Persist {
    /// To be given back to [`Node::persisted`].
    pub number: u64,
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// Whether it has to be synced before anything depends on it.
    pub sync: bool,
    /// To be sent once persisted.
    pub messages: Vec<Message>,
    /// A snapshot the leader sent replaces log and store before `entries` are written.
    pub snapshot: Option<(Index, Term)>,
}

/// What to do, in any order but for [`Persist`].
#[derive(Default)]
pub struct Effects {
    /// May leave at once, even before our own log is synced.
    pub messages: Vec<Message>,
    pub persist: Persist,
    pub committed: Vec<Entry>,
    pub reads: Vec<Read>,
}

/// One member's Raft state machine.
pub struct Node {
    raw: RawNode<Log>,
    id: MemberId,
    election_ticks: usize,
    seed: u64,
    draws: u64,
    /// Term and role the timeout was drawn for.
    drawn_for: Option<(u64, StateRole)>,
    timeout: usize,
}

impl Node {
    /// A node that continues from `log`.
    ///
    /// # Panics
    /// If `log` contradicts itself (for example a commit index past its end).
    pub fn new(options: Options, log: Log) -> Node {
        let config = Config {
            id: options.id.0,
            election_tick: options.election_ticks,
            heartbeat_tick: 1,
            applied: options.applied.0,
            max_size_per_msg: limits::RAFT_MESSAGE_BYTES_MAX,
            max_inflight_msgs: limits::RAFT_INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: options.pre_vote,
            // Not `batch_append`: raft 0.7 puts entries into a waiting message that has none
            // without looking whether they follow its index (`is_continuous_ents`), so after a
            // rejected probe a follower can be sent entries at the wrong place, and panic or
            // acknowledge what it lacks. Proposals are batched before they get here anyway.
            batch_append: false,
            ..Config::default()
        };
        let raw = RawNode::new(&config, log, &logger::logger())
            .expect("the configuration is ours and the log was checked when it was opened");
        let mut node = Node {
            raw,
            id: options.id,
            election_ticks: options.election_ticks,
            seed: options.seed,
            draws: 0,
            drawn_for: None,
            timeout: 0,
        };
        node.draw_timeout();
        node
    }

    /// raft-rs draws a new election timeout from the thread's random numbers whenever its role
    /// or term changes. After each call it is given ours, drawn anew at the same occasions.
    fn draw_timeout(&mut self) {
        let drawn_for = (self.raw.raft.term, self.raw.raft.state);
        if self.drawn_for != Some(drawn_for) {
            self.drawn_for = Some(drawn_for);
            self.draws += 1;
            let mut hasher = DefaultHasher::new();
            (self.seed, self.id.0, self.draws).hash(&mut hasher);
            self.timeout = self.election_ticks + (hasher.finish() as usize) % self.election_ticks;
        }
        self.raw.raft.set_randomized_election_timeout(self.timeout);
    }

    /// One heartbeat interval went by.
    pub fn tick(&mut self) {
        self.raw.tick();
        self.draw_timeout();
    }

    /// Ticks off most of the first election timeout: at boot nobody is leading yet, or the
    /// leader's heartbeat arrives within a tick or two.
    pub fn hasten_election(&mut self) {
        for _ in 0..self.election_ticks.saturating_sub(2) {
            self.raw.tick();
        }
        self.draw_timeout();
    }

    /// Stands for election at once; for a member that is alone.
    pub fn campaign(&mut self) {
        // The only error says that it cannot be promoted (not a voter): then there is no election.
        let _ = self.raw.campaign();
        self.draw_timeout();
    }

    /// Whether a leader's heartbeat shows that our log has lost entries: a leader tells a follower
    /// to commit only what that has acknowledged. raft-rs would panic.
    pub fn has_lost(&self, message: &Message) -> bool {
        message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= self.raw.raft.term
            && message.commit > self.raw.raft.raft_log.last_index()
    }

    /// A message from another member. Messages that make no sense are dropped by raft-rs.
    pub fn step(&mut self, message: Message) {
        let _ = self.raw.step(message);
        self.draw_timeout();
    }

    /// Proposals another member forwarded. They come back when they cannot be taken now, because
    /// there is no leader or leadership is being handed over.
    pub fn step_proposals(&mut self, message: Message) -> Option<Message> {
        if self.leadership().leader == MemberId(0) || self.raw.raft.lead_transferee.is_some() {
            return Some(message);
        }
        self.step(message);
        None
    }

    /// Proposes commands as one batch: `(context, data)` each. `false`: refused for now (no
    /// leader, or leadership is being handed over), ask again later.
    pub fn propose(&mut self, commands: impl Iterator<Item = (Bytes, Bytes)>) -> bool {
        if self.leadership().leader == MemberId(0) {
            return false;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id.0;
        for (context, data) in commands {
            message.mut_entries().push(Entry { context, data, ..Entry::default() });
        }
        self.raw.raft.step(message).is_ok()
    }

    /// Asks for a linearizable read point; the answer comes in [`Effects::reads`], or never
    /// (no leader, message lost): then ask again.
    pub fn read(&mut self, context: Vec<u8>) {
        self.raw.read_index(context);
    }

    /// Asks the leader to hand over to `target`; only the leader itself does.
    pub fn transfer_leader(&mut self, target: MemberId) {
        self.raw.transfer_leader(target.0);
    }

    /// A peer cannot be reached.
    pub fn unreachable(&mut self, peer: MemberId) {
        self.raw.report_unreachable(peer.0);
    }

    /// The snapshot for `peer` was taken, or was not.
    pub fn snapshot_sent(&mut self, peer: MemberId, taken: bool) {
        self.raw.mut_store().withdraw_snapshot(peer.0);
        let status = if taken { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(peer.0, status);
    }

    /// What to do now, `None` if nothing. Everything must be done.
    pub fn effects(&mut self) -> Option<Effects> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let mut effects = Effects {
            messages: ready.take_messages(),
            committed: ready.take_committed_entries(),
            ..Effects::default()
        };
        effects.reads.extend(ready.take_read_states().into_iter().map(|state| Read {
            context: Bytes::from(state.request_ctx),
            index: Index(state.index),
        }));
        let persist = &mut effects.persist;
        persist.number = ready.number();
        persist.sync = ready.must_sync();
        persist.hard_state = ready.hs().cloned();
        persist.messages = ready.take_persisted_messages();
        let log = self.raw.mut_store();
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let at = (Index(metadata.index), Term(metadata.term));
            log.reset(at, metadata.get_conf_state().clone());
            persist.snapshot = Some(at);
        }
        persist.entries = ready.take_entries();
        log.append(&persist.entries);
        if let Some(hard_state) = &persist.hard_state {
            log.set_hard_state(hard_state.clone());
        }
        self.raw.advance_append_async(ready);
        self.draw_timeout();
        Some(effects)
    }

    /// All up to this [`Persist::number`] is durable.
    pub fn persisted(&mut self, number: u64) {
        self.raw.on_persist_ready(number);
    }

    /// The store holds everything up to `index`.
    pub fn applied(&mut self, index: Index) {
        if index.0 > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index.0);
        }
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        Leadership {
            term: Term(self.raw.raft.term),
            leader: MemberId(self.raw.raft.leader_id),
            leading: self.raw.raft.state == StateRole::Leader,
        }
    }

    /// What this member is to the others.
    pub fn role(&self) -> StateRole {
        self.raw.raft.state
    }

    /// Whether an entry of the current term is committed: before that a leader cannot know
    /// what is committed, so it confirms no read.
    pub fn committed_in_term(&self) -> bool {
        self.raw.raft.commit_to_current_term()
    }

    /// Last committed index.
    pub fn committed(&self) -> Index {
        Index(self.raw.raft.raft_log.committed)
    }

    /// Who votes and who learns.
    pub fn conf_state(&self) -> ConfState {
        self.raw.raft.prs().conf().to_conf_state()
    }

    /// How far each other member's log is known to match; only the leader knows.
    pub fn matched(&self) -> BTreeMap<MemberId, Index> {
        let progress = self.raw.raft.prs().iter();
        progress.map(|(&id, progress)| (MemberId(id), Index(progress.matched))).collect()
    }

    /// The leader that is handing over, to whom.
    pub fn transferee(&self) -> Option<MemberId> {
        self.raw.raft.lead_transferee.map(MemberId)
    }

    /// The log in memory.
    pub fn log(&mut self) -> &mut Log {
        self.raw.mut_store()
    }
}
