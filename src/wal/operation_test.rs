//! What each call does when nothing goes wrong, and where space runs out.

use super::fault_disk::{FaultDisk, Plan};
use super::model::{Model, Operation};
use super::{Batch, HardState, Identity, LogEntry, Wal, WalError, WalOptions};
use crate::env::real::{Real, RealDisk};
use crate::env::{Clock, Disk, Env};
use crate::types::limits::LOG_FRAME_BYTES_MAX;
use crate::types::{ClusterId, Index, MemberId, Term};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;

const DIRECTORY: &str = "/data/wal";
const IDENTITY: Identity = Identity { cluster: ClusterId(0xc), member: MemberId(0xa) };

fn create(disk: &FaultDisk, segment_bytes: u64) -> Wal<FaultDisk> {
    let options = WalOptions { segment_bytes };
    Wal::create(disk.clone(), Path::new(DIRECTORY), IDENTITY, options).unwrap()
}

fn entry(index: u64, data: impl Into<Bytes>) -> LogEntry {
    LogEntry { index: Index(index), term: Term(1), kind: 0, data: data.into() }
}

fn batch(index: u64, size: usize) -> Batch {
    let entries = vec![entry(index, vec![b'x'; size])];
    Batch { entries, hard_state: None, sync: true }
}

/// Random calls, and every now and then a stop and a start with a random mark.
fn follow_the_model<D: Disk>(disk: D, directory: &Path, seed: u64, calls: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let options = WalOptions { segment_bytes: random.random_range(256..5000) };
    let mut wal = Wal::create(disk.clone(), directory, IDENTITY, options).unwrap();
    let mut model = Model::default();
    let mut released = Index(0);
    for call in 0..calls {
        let last = model.last().0.0.max(released.0);
        let operation = if random.random_bool(0.05) {
            released = Index(random.random_range(released.0..=last));
            Operation::Release(released)
        } else {
            model.operation(released, &mut random)
        };
        operation.run(&mut wal).unwrap();
        model.run(&operation);
        assert_eq!(wal.figures().last, model.last());
        if random.random_bool(0.05) || call + 1 == calls {
            drop(wal);
            let keep_after = Index(random.random_range(released.0..=last + 2));
            let (opened, recovered) =
                Wal::open(disk.clone(), directory, keep_after, options).unwrap();
            assert_eq!(Model::from(&recovered), model.after(keep_after), "seed {seed}");
            assert_eq!((recovered.identity, recovered.cut), (IDENTITY, None));
            assert!(recovered.bytes_read > 0);
            wal = opened;
        }
    }
    wal.reset(Index(model.last().0.0.max(released.0) + 1), Term(99)).unwrap();
    if random.random_bool(0.5) {
        drop(wal);
        wal = Wal::open(disk, directory, released, options).unwrap().0;
    }
    wal.release(Index(0)).unwrap();
    assert_eq!(wal.figures().segments, 1, "a reset voids every segment before it");
}

#[test]
fn the_log_holds_what_the_model_holds() {
    for seed in 0..150 {
        follow_the_model(FaultDisk::default(), Path::new(DIRECTORY), seed, 150);
    }
}

#[test]
fn the_log_works_on_a_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    for seed in 0..3 {
        let path = directory.path().join(format!("wal{seed}"));
        follow_the_model(RealDisk, &path, seed, 60);
    }
}

#[test]
fn a_log_is_created_once_and_opened_only_where_it_is() {
    let disk = FaultDisk::default();
    let directory = Path::new(DIRECTORY);
    let options = WalOptions::default();
    assert!(!Wal::exists(&disk, directory).unwrap());
    let missing = Wal::open(disk.clone(), directory, Index(0), options).map(|_| ());
    assert!(matches!(missing, Err(WalError::Missing { .. })));
    create(&disk, 1024);
    assert!(Wal::exists(&disk, directory).unwrap());
    let again = Wal::create(disk, directory, IDENTITY, options).map(|_| ());
    assert!(matches!(again, Err(WalError::Exists { .. })));
}

#[test]
fn release_removes_only_segments_that_are_no_longer_needed() {
    let disk = FaultDisk::default();
    let mut wal = create(&disk, 1024);
    // Three frames of 256 B and the header fill a segment.
    for index in 1..=10 {
        wal.append(&batch(index, 200)).unwrap();
    }
    assert_eq!(wal.figures().segments, 4);
    assert_eq!(wal.release(Index(2)).unwrap(), 0, "entry 3 is in the first segment");
    assert_eq!(wal.release(Index(3)).unwrap(), 1);
    assert_eq!(wal.release(Index(100)).unwrap(), 2, "the current one stays");
    assert_eq!(wal.figures().segments, 1);
    assert_eq!(disk.files().len(), 1);
    let options = WalOptions { segment_bytes: 1024 };
    drop(wal);
    let (_, recovered) = Wal::open(disk, Path::new(DIRECTORY), Index(0), options).unwrap();
    assert_eq!(recovered.start, (Index(9), Term(1)), "the log begins later than asked");
    assert_eq!(recovered.entries.len(), 1);
}

#[test]
fn a_prepared_segment_spares_the_append_that_needs_it() {
    let steps_of_rotation = |prepare: bool| {
        let disk = FaultDisk::default();
        let mut wal = create(&disk, 1024);
        assert!(!wal.wants_prepare());
        for index in 1..=3 {
            wal.append(&batch(index, 200)).unwrap();
        }
        assert!(wal.wants_prepare());
        if prepare {
            wal.prepare().unwrap();
            assert!(!wal.wants_prepare());
        }
        let before = disk.steps();
        assert!(wal.append(&batch(4, 200)).unwrap().rotated);
        disk.steps() - before
    };
    // Header, its sync, name, sync of the directory; frame, its sync.
    assert_eq!(steps_of_rotation(true), 6);
    // And before that: create, reserve, sync.
    assert_eq!(steps_of_rotation(false), 9);
}

#[test]
fn an_append_is_one_write_and_at_most_one_sync() {
    let disk = FaultDisk::default();
    let mut wal = create(&disk, 65536);
    let entries = (1..=50).map(|index| entry(index, "value")).collect();
    let hard_state = Some(HardState { term: Term(1), vote: MemberId(1), commit: Index(3) });
    let before = disk.steps();
    let appended = wal.append(&Batch { entries, hard_state, sync: false }).unwrap();
    assert_eq!(disk.steps() - before, 1);
    assert_eq!(appended.bytes, 32 + (50 * (24 + 5) + 32 + 6));
    wal.append(&Batch { sync: true, ..Batch::default() }).unwrap();
    assert_eq!(disk.steps() - before, 2);
    wal.append(&Batch { sync: true, ..Batch::default() }).unwrap();
    assert_eq!(disk.steps() - before, 2, "nothing to sync");
}

#[test]
fn an_entry_may_be_larger_than_a_segment() {
    let disk = FaultDisk::default();
    let mut wal = create(&disk, 1024);
    for index in 1..=3 {
        wal.append(&batch(index, 2_000_000)).unwrap();
        wal.append(&batch(index + 1, 10)).unwrap();
    }
    drop(wal);
    let options = WalOptions { segment_bytes: 1024 };
    let (_, recovered) = Wal::open(disk, Path::new(DIRECTORY), Index(0), options).unwrap();
    let sizes: Vec<_> = recovered.entries.iter().map(|entry| entry.data.len()).collect();
    assert_eq!(sizes, [2_000_000, 2_000_000, 2_000_000, 10]);
}

#[test]
fn a_batch_beyond_the_frame_limit_is_refused_unwritten() {
    let disk = FaultDisk::default();
    let mut wal = create(&disk, 1024);
    let steps = disk.steps();
    let refused = wal.append(&batch(1, LOG_FRAME_BYTES_MAX));
    assert!(matches!(refused, Err(WalError::TooLarge { .. })));
    assert_eq!(disk.steps(), steps);
    wal.append(&batch(1, 10)).unwrap();
}

#[test]
#[should_panic(expected = "leaves a gap")]
fn a_gap_in_the_log_is_a_mistake_of_the_owner() {
    let _ = create(&FaultDisk::default(), 1024).append(&batch(2, 10));
}

/// No space for the next segment: nothing was written, and the same append works later.
#[test]
fn an_append_that_found_no_space_may_be_repeated() {
    let disk = FaultDisk::default();
    let mut wal = create(&disk, 1024);
    for index in 1..=3 {
        wal.append(&batch(index, 200)).unwrap();
    }
    disk.set_plan(Plan { space: Some(1024), ..Plan::default() });
    for _ in 0..2 {
        let full = wal.append(&batch(4, 200));
        assert!(matches!(full, Err(WalError::NoSpace { .. })), "{full:?}");
        assert!(matches!(wal.prepare(), Err(WalError::NoSpace { .. })));
        assert_eq!(disk.files().len(), 1, "no half-made segment sits on the space");
    }
    wal.append(&batch(4, 1)).unwrap();
    disk.set_plan(Plan::default());
    wal.append(&batch(5, 200)).unwrap();
    drop(wal);
    let options = WalOptions { segment_bytes: 1024 };
    let (_, recovered) = Wal::open(disk, Path::new(DIRECTORY), Index(0), options).unwrap();
    assert_eq!(recovered.entries.len(), 5);
}

/// On a file system that cannot reserve, a write may run out of space half way.
#[test]
fn a_log_whose_write_found_no_space_goes_on_once_there_is_some() {
    let disk = FaultDisk::default();
    let mut wal = create(&disk, 1024);
    wal.append(&batch(1, 100)).unwrap();
    disk.set_plan(Plan { full_write_after: Some(0), ..Plan::default() });
    assert!(matches!(wal.append(&batch(2, 100)), Err(WalError::NoSpace { .. })));
    assert!(!wal.is_poisoned());
    disk.set_plan(Plan::default());
    // Shorter than what was begun: the rest of that sticks out behind it.
    wal.append(&batch(2, 10)).unwrap();
    drop(wal);
    let options = WalOptions { segment_bytes: 1024 };
    let (mut wal, recovered) = Wal::open(disk, Path::new(DIRECTORY), Index(0), options).unwrap();
    assert_eq!(recovered.entries.len(), 2);
    wal.append(&batch(3, 100)).unwrap();
}

#[test]
fn a_log_whose_write_found_no_space_can_be_reopened() {
    let disk = FaultDisk::default();
    let mut wal = create(&disk, 1024);
    wal.append(&batch(1, 100)).unwrap();
    disk.set_plan(Plan { full_write_after: Some(0), ..Plan::default() });
    assert!(matches!(wal.append(&batch(2, 100)), Err(WalError::NoSpace { .. })));
    drop(wal);
    let options = WalOptions { segment_bytes: 1024 };
    let (mut wal, recovered) = Wal::open(disk, Path::new(DIRECTORY), Index(0), options).unwrap();
    assert_eq!(recovered.entries.len(), 1);
    assert!(recovered.cut.is_some());
    wal.append(&batch(2, 100)).unwrap();
}

/// The first bytes a log ever writes. If this changes, so must the format version, and the old
/// one must stay readable.
#[test]
fn the_format_is_what_the_documentation_says() {
    let disk = FaultDisk::default();
    let mut wal = create(&disk, 512);
    let hard_state = Some(HardState { term: Term(2), vote: MemberId(0xa), commit: Index(0) });
    let entries = vec![LogEntry { kind: 1, term: Term(2), ..entry(1, "value") }];
    wal.append(&Batch { entries, hard_state, sync: true }).unwrap();
    let (path, bytes) = disk.files().into_iter().next().unwrap();
    assert_eq!(path.file_name().unwrap(), "0000000000000001-0000000000000001.wal");
    assert_eq!(bytes.len(), 512);
    let hex = |range: std::ops::Range<usize>| {
        bytes[range].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let seed = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..128]);
    assert_eq!(hex(0..12), "51554f5257414c0a01000000", "magic and version");
    assert_eq!(bytes[12..16], seed.to_le_bytes());
    assert_eq!(
        hex(16..48),
        "0c000000000000000a000000000000000100000000000000".to_owned() + "0100000000000000"
    );
    assert_eq!(hex(48..128), "00".repeat(80), "base, hard state, previous, unused");

    let body = &bytes[160..224];
    assert_eq!(hex(128..132), "40000000", "64 bytes of body");
    assert_eq!(bytes[132..136], crc32c::crc32c(body).to_le_bytes());
    assert_eq!(hex(136..152), "01000000000000008000000000000000", "number 1, synced 128");
    assert_eq!(bytes[152..156], seed.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &128u64.to_le_bytes());
    assert_eq!(bytes[156..160], crc32c::crc32c_append(crc, &bytes[128..156]).to_le_bytes());
    assert_eq!(hex(160..184), "010100000500000001000000000000000200000000000000");
    assert_eq!(&bytes[184..189], b"value");
    assert_eq!(
        hex(189..221),
        "02000000000000000200000000000000".to_owned() + "0a000000000000000000000000000000"
    );
    assert_eq!(hex(221..512), "00".repeat(291));
}

/// Prints what an append without a sync costs: `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "measures, claims nothing"]
fn cost_of_an_append() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wal");
    let mut wal = Wal::create(RealDisk, &path, IDENTITY, WalOptions::default()).unwrap();
    let data = Bytes::from(vec![b'x'; 300]);
    let count = 100_000;
    let clock = Real::new().clock().clone();
    let begin = clock.now();
    for index in 1..=count {
        let entries = vec![entry(index, data.clone())];
        wal.append(&Batch { entries, hard_state: None, sync: false }).unwrap();
    }
    let appended = clock.now() - begin;
    wal.append(&Batch { sync: true, ..Batch::default() }).unwrap();
    let begin_open = clock.now();
    drop(wal);
    let options = WalOptions::default();
    let (_, recovered) = Wal::open(RealDisk, &path, Index(0), options).unwrap();
    println!("{count} appends: {appended:?}; open: {:?}", clock.now() - begin_open);
    println!("read {} bytes", recovered.bytes_read);
}
