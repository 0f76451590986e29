//! Crashes: what was acknowledged is there afterwards, whatever the disk did to the rest.
//!
//! Each seed is one log that lives through some crashes. The test keeps the list of contents the
//! log may have: what was last acknowledged as durable, and after it one for every later call.
//! `WAL_SEEDS=100000` runs more seeds than usual, `WAL_FIRST_SEED` says where to begin.

use super::fault_disk::{FaultDisk, Plan};
use super::model::{Model, Operation};
use super::{Batch, HardState, Identity, LogEntry, Recovered, Wal, WalError, WalOptions};
use crate::types::{ClusterId, Index, MemberId, Term};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;

const DIRECTORY: &str = "/data/wal";
const IDENTITY: Identity = Identity { cluster: ClusterId(0xc), member: MemberId(0xa) };

fn number_from_environment(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

struct Story {
    disk: FaultDisk,
    options: WalOptions,
    random: StdRng,
    /// Whether `create` has returned, so that there must be a log.
    created: bool,
    released: Index,
    /// Contents the log may have after a power cut; the first is the least it must have.
    possible: Vec<Model>,
    /// Whether it must have the last of these, since only the process ended.
    nothing_lost: bool,
    figures: Figures,
}

/// How often a rare thing happened, to know that the test tests.
#[derive(Default, Debug)]
struct Figures {
    power_cuts: u64,
    kills: u64,
    cuts: u64,
    failed_opens: u64,
    unsynced_kept: u64,
    unsynced_lost: u64,
    no_space_survived: u64,
    rotations: u64,
    removed: u64,
}

impl Story {
    fn new(seed: u64) -> Story {
        let mut random = StdRng::seed_from_u64(seed);
        Story {
            disk: FaultDisk::default(),
            options: WalOptions { segment_bytes: random.random_range(256..6000) },
            random,
            created: false,
            released: Index(0),
            possible: vec![Model::default()],
            nothing_lost: false,
            figures: Figures::default(),
        }
    }

    fn plan(&mut self) -> Plan {
        let now = self.disk.steps();
        let at = now + self.random.random_range(1..60);
        let none = Plan::default();
        match self.random.random_range(0..10) {
            0 => none,
            1 => Plan { sync_error_after: Some(at), ..none },
            2 => Plan { full_write_after: Some(at), ..none },
            3 => Plan { write_error_after: Some(at), ..none },
            4 => {
                let used: usize = self.disk.files().values().map(Vec::len).sum();
                Plan { space: Some(used as u64 + self.random.random_range(0..8000)), ..none }
            }
            _ => Plan { power_cut_at: Some(at), ..none },
        }
    }

    fn open(&self) -> Result<(Wal<FaultDisk>, Option<Recovered>), WalError> {
        let directory = Path::new(DIRECTORY);
        if !self.created && !Wal::exists(&self.disk, directory)? {
            let wal = Wal::create(self.disk.clone(), directory, IDENTITY, self.options)?;
            return Ok((wal, None));
        }
        let (wal, recovered) =
            Wal::open(self.disk.clone(), directory, self.released, self.options)?;
        Ok((wal, Some(recovered)))
    }

    /// Opens the log, by and by without faults, and checks what it holds.
    fn wake(&mut self) -> Wal<FaultDisk> {
        let mut attempts = 0;
        loop {
            let plan = if attempts < 3 { self.plan() } else { Plan::default() };
            self.disk.set_plan(plan);
            attempts += 1;
            match self.open() {
                Ok((wal, recovered)) => {
                    self.created = true;
                    if let Some(recovered) = recovered {
                        self.check(&recovered);
                    }
                    return wal;
                }
                Err(WalError::Io { .. } | WalError::NoSpace { .. }) if attempts <= 3 => {
                    self.figures.failed_opens += 1;
                    if self.disk.is_off() || self.random.random_bool(0.5) {
                        self.nothing_lost = false;
                        self.disk.power_cycle(&mut self.random);
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn check(&mut self, recovered: &Recovered) {
        assert_eq!(recovered.identity, IDENTITY);
        let found = Model::from(recovered);
        let matching = self.possible.iter().rposition(|it| it.after(self.released) == found);
        let Some(matching) = matching else {
            let brief = |it: &Model| (it.start, it.last(), it.hard_state);
            let expected: Vec<_> = self.possible.iter().map(brief).collect();
            panic!("found {:#?}\nexpected one of {expected:#?}", brief(&found));
        };
        assert!(!self.nothing_lost || matching + 1 == self.possible.len());
        self.figures.cuts += u64::from(recovered.cut.is_some());
        self.figures.unsynced_kept += u64::from(matching > 0);
        self.figures.unsynced_lost += u64::from(matching + 1 < self.possible.len());
        // What `open` returned the owner acts on: it must stay.
        self.possible = vec![self.possible.swap_remove(matching)];
    }

    /// Does things to the log until something fails or it has been enough.
    fn live(&mut self, mut wal: Wal<FaultDisk>) {
        let mut failed = false;
        for _ in 0..self.random.random_range(0..40) {
            let current = self.possible.last().unwrap().clone();
            let settled = self.possible.len() == 1;
            let operation = if settled && self.random.random_bool(0.2) {
                let last = current.last().0.0.max(self.released.0);
                self.released = Index(self.random.random_range(self.released.0..=last));
                Operation::Release(self.released)
            } else {
                current.operation(self.released, &mut self.random)
            };
            let mut next = current.clone();
            next.run(&operation);
            let segments = wal.figures().segments;
            match operation.run(&mut wal) {
                Ok(()) if operation.is_durable() => self.possible = vec![next],
                Ok(()) => self.possible.push(next),
                Err(WalError::NoSpace { .. }) if !wal.is_poisoned() => {
                    self.figures.no_space_survived += 1;
                }
                Err(WalError::Poisoned) => panic!("it was usable before"),
                Err(_) => {
                    self.possible.push(next);
                    failed = true;
                }
            }
            let now = wal.figures().segments;
            self.figures.rotations += u64::from(now > segments);
            self.figures.removed += u64::from(now < segments);
            if failed {
                assert!(matches!(operation.run(&mut wal), Err(WalError::Poisoned)));
                assert!(matches!(wal.append(&Batch::default()), Err(WalError::Poisoned)));
                break;
            }
            assert_eq!(wal.figures().last, self.possible.last().unwrap().last());
        }
        if self.disk.is_off() || self.random.random_bool(0.5) {
            self.figures.power_cuts += 1;
            self.nothing_lost = false;
            self.disk.power_cycle(&mut self.random);
        } else {
            self.figures.kills += 1;
            self.nothing_lost = !failed;
        }
    }
}

#[test]
fn what_was_acknowledged_survives_every_crash() {
    let first = number_from_environment("WAL_FIRST_SEED", 0);
    let mut sum = Figures::default();
    for seed in first..first + number_from_environment("WAL_SEEDS", 400) {
        let story = std::panic::catch_unwind(|| {
            let mut story = Story::new(seed);
            for _ in 0..8 {
                let wal = story.wake();
                story.live(wal);
            }
            story.figures
        });
        let figures = story.unwrap_or_else(|_| panic!("WAL_FIRST_SEED={seed} WAL_SEEDS=1"));
        sum.power_cuts += figures.power_cuts;
        sum.kills += figures.kills;
        sum.cuts += figures.cuts;
        sum.failed_opens += figures.failed_opens;
        sum.unsynced_kept += figures.unsynced_kept;
        sum.unsynced_lost += figures.unsynced_lost;
        sum.no_space_survived += figures.no_space_survived;
        sum.rotations += figures.rotations;
        sum.removed += figures.removed;
    }
    println!("{sum:?}");
    if number_from_environment("WAL_SEEDS", 400) >= 400 {
        let rare = [
            sum.power_cuts,
            sum.kills,
            sum.cuts,
            sum.failed_opens,
            sum.unsynced_kept,
            sum.unsynced_lost,
            sum.no_space_survived,
            sum.rotations,
            sum.removed,
        ];
        assert!(rare.iter().all(|count| *count >= 20), "too rare to be tested: {sum:?}");
    }
}

fn batch(index: u64, data: &'static [u8], sync: bool) -> Batch {
    let entry =
        LogEntry { index: Index(index), term: Term(1), kind: 0, data: Bytes::from_static(data) };
    Batch { entries: vec![entry], hard_state: None, sync }
}

fn indexes(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(|entry| entry.index.0).collect()
}

/// The power goes at each step of a life that creates, rotates and releases, and nothing
/// unsynced survives; then all of it.
#[test]
fn a_power_cut_at_any_step_leaves_a_log_that_opens() {
    let options = WalOptions { segment_bytes: 512 };
    let directory = Path::new(DIRECTORY);
    for unsynced_survives in [false, true] {
        for step in 1.. {
            let disk = FaultDisk::default();
            disk.set_plan(Plan { power_cut_at: Some(step), ..Plan::default() });
            let mut acknowledged = 0;
            let mut live = || -> Result<(), WalError> {
                let mut wal = Wal::create(disk.clone(), directory, IDENTITY, options)?;
                for index in 1..=20 {
                    wal.append(&batch(index, &[7; 100], true))?;
                    acknowledged = index;
                    if index % 3 == 0 {
                        wal.prepare()?;
                    }
                    wal.release(Index(index / 2))?;
                }
                Ok(())
            };
            let ended = live().is_ok();
            disk.set_plan(Plan::default());
            if !unsynced_survives {
                disk.lose_unsynced();
            }
            let disk = FaultDisk::with_files(&disk.files());
            if Wal::exists(&disk, directory).unwrap() {
                let (_, recovered) = Wal::open(disk.clone(), directory, Index(0), options).unwrap();
                let last = recovered.entries.last().map_or(recovered.start.0, |it| it.index).0;
                assert!(last == acknowledged || last == acknowledged + 1, "step {step}");
                assert!(recovered.start.0.0 <= acknowledged / 2, "step {step}");
                assert!(!disk.files().keys().any(|path| path.ends_with("next.tmp")));
            } else {
                assert_eq!(acknowledged, 0, "step {step}");
                Wal::create(disk, directory, IDENTITY, options).unwrap();
            }
            if ended {
                assert!(step > 60, "the life had many steps");
                break;
            }
        }
    }
}

/// A first frame is lost and the one after it survives. After the cut the very same first frame
/// is appended again: the old second one would fit behind it, and must not come back.
#[test]
fn a_frame_that_was_cut_never_comes_back() {
    let options = WalOptions { segment_bytes: 4096 };
    let directory = Path::new(DIRECTORY);
    let disk = FaultDisk::default();
    let mut wal = Wal::create(disk.clone(), directory, IDENTITY, options).unwrap();
    let from = wal.figures().current_bytes as usize;
    wal.append(&batch(1, b"first", false)).unwrap();
    let to = wal.figures().current_bytes as usize;
    wal.append(&batch(2, b"second", false)).unwrap();
    drop(wal);
    let disk = FaultDisk::with_files(&disk.files());
    let file = disk.files().into_keys().next().unwrap();
    disk.damage(&file, from..to, |_| 0);

    let (mut wal, recovered) = Wal::open(disk.clone(), directory, Index(0), options).unwrap();
    assert!(recovered.entries.is_empty());
    let cut = recovered.cut.expect("the second frame was cut");
    assert_eq!((cut.file, cut.offset), (file, from as u64));
    wal.append(&batch(1, b"first", true)).unwrap();
    drop(wal);
    let (_, recovered) = Wal::open(disk, directory, Index(0), options).unwrap();
    assert_eq!(indexes(&recovered), [1]);
    assert_eq!(recovered.cut, None);
}

/// The kernel drops what it failed to write and shows it all the same. A process that restarts
/// and reads it relies on it, so it has to be written again.
#[test]
fn what_a_failed_sync_left_in_memory_is_durable_once_it_was_read() {
    let options = WalOptions { segment_bytes: 4096 };
    let directory = Path::new(DIRECTORY);
    let disk = FaultDisk::default();
    let mut wal = Wal::create(disk.clone(), directory, IDENTITY, options).unwrap();
    wal.append(&batch(1, b"first", true)).unwrap();
    disk.set_plan(Plan { sync_error_after: Some(0), ..Plan::default() });
    let failed = wal.append(&batch(2, b"second", true));
    assert!(matches!(failed, Err(WalError::Io { operation: "sync", .. })), "{failed:?}");
    assert!(matches!(wal.append(&batch(3, b"third", true)), Err(WalError::Poisoned)));
    assert!(matches!(wal.release(Index(1)), Err(WalError::Poisoned)));
    assert!(matches!(wal.reset(Index(9), Term(1)), Err(WalError::Poisoned)));
    assert!(matches!(wal.prepare(), Err(WalError::Poisoned)));
    drop(wal);

    let (wal, recovered) = Wal::open(disk.clone(), directory, Index(0), options).unwrap();
    assert_eq!(indexes(&recovered), [1, 2]);
    drop(wal);
    disk.lose_unsynced();
    let (_, recovered) = Wal::open(disk, directory, Index(0), options).unwrap();
    assert_eq!(indexes(&recovered), [1, 2]);
}

/// A vote needs no entry to be durable.
#[test]
fn a_synced_hard_state_survives() {
    let options = WalOptions { segment_bytes: 4096 };
    let directory = Path::new(DIRECTORY);
    let disk = FaultDisk::default();
    let mut wal = Wal::create(disk.clone(), directory, IDENTITY, options).unwrap();
    let vote = HardState { term: Term(4), vote: MemberId(2), commit: Index(0) };
    let rumour = HardState { term: Term(5), ..vote };
    wal.append(&Batch { hard_state: Some(vote), sync: true, ..Batch::default() }).unwrap();
    wal.append(&Batch { hard_state: Some(rumour), ..Batch::default() }).unwrap();
    drop(wal);
    disk.lose_unsynced();
    let (_, recovered) = Wal::open(disk, directory, Index(0), options).unwrap();
    assert_eq!(recovered.hard_state, vote);
}
