//! What a watcher watches, and when it changes its mind.
//!
//! Watches begin now, in the past, at the very beginning or in the future; they cover a key, a
//! prefix, a part of it or everything; with every option the API has. All of it is drawn from dice
//! of the watcher, the stream and the turn, and from how far the store is known to be.

use super::Settings;
use super::dice::Dice;
use super::names;
use crate::check::Data;
use crate::check::op::Watch;
use crate::client::prefix_end;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::types::Revision;
use std::time::Duration;

/// Watches of one stream at a time.
const WATCHES_MAX: usize = 6;
/// One stream in so many is slow.
const SLOW_ONE_IN: u64 = 4;
/// How far in the past and in the future watches begin, in revisions.
const BACK_MAX: u64 = 200;
const AHEAD_MAX: u64 = 60;

/// Who decides for one watcher.
pub(super) struct Watching {
    name: [u64; 3],
    prefixes: &'static [&'static str],
    /// Streams opened so far.
    round: u64,
    /// Things that happened on this one.
    turn: u64,
    /// Whether this one is slow.
    slow: bool,
}

/// A watch to ask for.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Wanted {
    pub key: Data,
    pub range_end: Data,
    pub start: Start,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub fragment: bool,
    pub progress_notify: bool,
}

/// Where a watch begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    At(Revision),
    /// After the revision of a list read just before.
    AfterList,
}

/// A stream of watches.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct StreamPlan {
    pub require_leader: bool,
    /// Whether the watches' ids are chosen by the client.
    pub own_ids: bool,
    /// Takes little of what it has not read, wants a lot and dozes long, so that the member has to
    /// keep what it wants to send.
    pub slow: bool,
    pub watches: Vec<Wanted>,
    /// Turns until the stream is given up for another.
    pub turns_max: u64,
}

/// What to do after a turn of a stream.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Turn {
    GoOn,
    Open(Wanted),
    /// Cancels the watch at this place of those that are open, modulo their number.
    Cancel(usize),
    AskProgress,
    /// Reads nothing for a while.
    Doze(Duration),
}

/// A watch that is resumed by the client.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct ResumedPlan {
    pub require_leader: bool,
    pub wanted: Wanted,
    /// How long it is followed.
    pub life: Duration,
}

impl Watching {
    /// Decides for the watcher of a number; `part` keeps its streams and its resumed watches
    /// apart.
    pub fn new(settings: &Settings, number: u8, part: u64) -> Watching {
        let name = [names::WATCHER + part, settings.seed, u64::from(number)];
        Watching { name, prefixes: settings.profile.prefixes, round: 0, turn: 0, slow: false }
    }

    fn dice(&self) -> Dice {
        Dice::new(&[self.name[0], self.name[1], self.name[2], self.round, self.turn])
    }

    /// The next stream; `known` is the highest revision anybody was told of.
    pub fn stream(&mut self, known: Revision) -> StreamPlan {
        (self.round, self.turn) = (self.round + 1, 0);
        let mut dice = self.dice();
        self.slow = dice.one_in(SLOW_ONE_IN);
        let count = match self.slow {
            true => WATCHES_MAX,
            false => dice.weighted(&[(4, 1), (3, 2), (2, 4)]),
        };
        let wanted = |_| match self.slow {
            true => Wanted { start: Start::At(Revision(0)), ..options(&mut dice) },
            false => self.wanted(&mut dice, known),
        };
        let watches = (0..count).map(wanted).collect();
        StreamPlan {
            require_leader: dice.one_in(2),
            own_ids: dice.one_in(2),
            slow: self.slow,
            watches,
            turns_max: dice.weighted(&[(1, 10), (2, 100), (2, 1_000)]),
        }
    }

    /// What to do now that something happened on the stream, which has `open` watches.
    pub fn turn(&mut self, known: Revision, open: usize) -> Turn {
        self.turn += 1;
        let mut dice = self.dice();
        match dice.below(200) {
            0..4 if open < WATCHES_MAX => Turn::Open(self.wanted(&mut dice, known)),
            4..7 if open > 1 => {
                Turn::Cancel(usize::try_from(dice.below(1_000)).expect("a small number"))
            }
            7..27 => Turn::AskProgress,
            27..31 if self.slow => Turn::Doze(Duration::from_millis(dice.between(1_000, 10_000))),
            27..29 => Turn::Doze(Duration::from_millis(dice.between(50, 2_000))),
            _ => Turn::GoOn,
        }
    }

    /// The next watch that the client resumes. The first of all watchers follows everything from
    /// the beginning, to the end, so that most histories have a witness of every change.
    pub fn resumed(&mut self, known: Revision) -> ResumedPlan {
        let witness = self.name[2] == 0 && self.round == 0;
        (self.round, self.turn) = (self.round + 1, 0);
        let mut dice = self.dice();
        if witness {
            return ResumedPlan {
                require_leader: true,
                wanted: Wanted::everything(Revision(1)),
                life: Duration::MAX,
            };
        }
        let mut wanted = self.wanted(&mut dice, known);
        if dice.one_in(3) {
            wanted.start = Start::AfterList;
        }
        let life = Duration::from_millis(dice.weighted(&[(1, 500), (2, 5_000), (2, 30_000)]));
        ResumedPlan { require_leader: dice.one_in(2), wanted, life }
    }

    fn wanted(&self, dice: &mut Dice, known: Revision) -> Wanted {
        let prefix = *dice.pick(self.prefixes);
        let (key, range_end) = match dice.below(8) {
            0 => return Wanted { start: start(dice, known), ..options(dice) },
            1 => (Data::from(format!("{prefix}{}", dice.below(5))), Data::default()),
            2 => (Data::from(format!("{prefix}2")), prefix_end(prefix.as_bytes()).into()),
            _ => (Data::from(prefix), prefix_end(prefix.as_bytes()).into()),
        };
        Wanted { key, range_end, start: start(dice, known), ..options(dice) }
    }
}

/// Options of a watch of everything.
fn options(dice: &mut Dice) -> Wanted {
    Wanted {
        prev_kv: dice.one_in(2),
        no_put: dice.one_in(12),
        no_delete: dice.one_in(12),
        fragment: dice.one_in(2),
        progress_notify: dice.one_in(2),
        ..Wanted::everything(Revision(0))
    }
}

fn start(dice: &mut Dice, known: Revision) -> Start {
    let small = |number: u64| i64::try_from(number).expect("a small number");
    Start::At(match dice.below(10) {
        0..3 => Revision(0),
        3..7 => Revision((known.0 - small(dice.below(BACK_MAX))).max(1)),
        7 => Revision(1),
        _ => Revision(known.0 + small(dice.between(1, AHEAD_MAX))),
    })
}

impl Wanted {
    /// All keys from a revision on.
    pub fn everything(from: Revision) -> Wanted {
        Wanted {
            key: vec![0].into(),
            range_end: vec![0].into(),
            start: Start::At(from),
            prev_kv: true,
            no_put: false,
            no_delete: false,
            fragment: true,
            progress_notify: true,
        }
    }

    /// As etcd's message, from a revision on.
    pub fn request(&self, from: Revision, watch_id: i64) -> WatchCreateRequest {
        let filters = [(self.no_put, FilterType::Noput), (self.no_delete, FilterType::Nodelete)];
        let filters = filters.into_iter().filter(|(wanted, _)| *wanted);
        WatchCreateRequest {
            key: self.key.0.clone(),
            range_end: self.range_end.0.clone(),
            start_revision: from.0,
            progress_notify: self.progress_notify,
            filters: filters.map(|(_, filter)| filter as i32).collect(),
            prev_kv: self.prev_kv,
            watch_id,
            fragment: self.fragment,
        }
    }

    /// As the beginning of its record.
    pub fn record(&self, from: Revision, process: u64, member: &str, invoke: u64) -> Watch {
        Watch {
            process,
            member: member.to_owned(),
            invoke,
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            start_revision: from,
            prev_kv: self.prev_kv,
            no_put: self.no_put,
            no_delete: self.no_delete,
            responses: Vec::new(),
        }
    }
}
