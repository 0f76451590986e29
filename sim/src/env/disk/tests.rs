//! What the disk promises and what it does not, over many seeds.

use super::*;
use crate::env::random::Streams;
use crate::env::test::{NETWORK, simulated};
use std::collections::BTreeSet;

const KNOBS: DiskKnobs = DiskKnobs { access_us: 2, sync_us: 700, capacity_bytes: 1 << 30 };
const SECTOR: usize = 512;

type Failures = Arc<Mutex<Vec<String>>>;

/// A machine, and what it reported as a failure of the run.
fn machine(seed: u64, knobs: DiskKnobs) -> (Host, Failures) {
    let (trace, streams) = (Trace::new(false), Streams::new(seed));
    let switch = Switch::new(trace.clone(), streams, NETWORK);
    let failures = Failures::default();
    let told = failures.clone();
    let on_failure = move |failure| told.lock().expect("no holder panics").push(failure);
    (Host::new(Machine(1), switch, trace, streams, knobs, on_failure), failures)
}

/// Runs a test on the disk of a good machine with a durable `/data`.
fn on_disk<T>(seed: u64, test: impl FnOnce(&Host, SimDisk) -> T) -> T {
    simulated(seed, async {
        let (host, failures) = machine(seed, KNOBS);
        let disk = host.mount();
        disk.create_directory(Path::new("/data")).expect("room");
        disk.sync_directory(Path::new("/")).expect("power");
        let result = test(&host, disk);
        assert_eq!(*failures.lock().expect("no holder panics"), Vec::<String>::new());
        result
    })
}

fn path(name: &str) -> PathBuf {
    Path::new("/data").join(name)
}

/// A durable file with so many bytes of a kind.
fn durable(disk: &SimDisk, name: &str, byte: u8, len: usize) -> SimFile {
    let file = disk.create(&path(name)).expect("room");
    file.write_at(0, &vec![byte; len]).expect("room");
    file.sync_data().expect("power");
    disk.sync_directory(Path::new("/data")).expect("power");
    file
}

fn content(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(&path(name)).expect("it is there");
    let mut bytes = vec![0; file.len().expect("power") as usize];
    file.read_at(0, &mut bytes).expect("power");
    bytes
}

#[test]
fn any_unsynced_sectors_survive_and_synced_ones_always_do() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let bytes = on_disk(seed, |host, disk| {
            let file = durable(&disk, "log", b'a', 5 * SECTOR);
            for sector in 0..4 {
                file.write_at((sector * SECTOR) as u64, &[b'b'; SECTOR]).expect("room");
            }
            host.cut_power();
            content(&host.mount(), "log")
        });
        assert_eq!(bytes.len(), 5 * SECTOR);
        for sector in bytes.chunks(SECTOR) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is whole");
        }
        assert_eq!(bytes[4 * SECTOR], b'a');
        let survived = (0..4).map(|sector| bytes[sector * SECTOR] == b'b');
        seen.insert(survived.collect::<Vec<_>>());
    }
    assert_eq!(seen.len(), 16, "every combination comes");
}

#[test]
fn within_a_sector_later_writes_do_not_survive_without_earlier_ones() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        seen.insert(on_disk(seed, |host, disk| {
            let file = durable(&disk, "log", b'a', SECTOR);
            file.write_at(0, b"1").expect("room");
            file.write_at(100, b"2").expect("room");
            host.cut_power();
            let bytes = content(&host.mount(), "log");
            (bytes[0], bytes[100])
        }));
    }
    assert_eq!(seen, BTreeSet::from([(b'a', b'a'), (b'1', b'a'), (b'1', b'2')]));
}

#[test]
fn what_was_written_after_a_lost_cut_is_lost_too() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let bytes = on_disk(seed, |host, disk| {
            let file = durable(&disk, "log", b'a', 4 * SECTOR);
            file.set_len(100).expect("power");
            file.write_at(100, &[b'b'; 2 * SECTOR]).expect("room");
            host.cut_power();
            content(&host.mount(), "log")
        });
        assert!(bytes[..100].iter().all(|byte| *byte == b'a'));
        let behind: BTreeSet<u8> = bytes[100..].iter().copied().collect();
        match bytes.len() {
            2048 => assert_eq!(behind, BTreeSet::from([b'a']), "as it was"),
            100 => assert!(behind.is_empty()),
            1124 => assert!(!behind.contains(&b'a'), "what was cut off does not come back"),
            other => panic!("no such length was ever set: {other}"),
        }
        seen.insert((bytes.len(), behind));
    }
    assert!(seen.contains(&(1124, BTreeSet::from([0, b'b']))), "grown, and torn: {seen:?}");
    assert_eq!(seen.len(), 5, "as it was, cut, and grown by all, some, nothing: {seen:?}");
}

#[test]
fn names_survive_in_the_order_they_were_made_and_without_their_directory_not_at_all() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        seen.insert(on_disk(seed, |host, disk| {
            for name in ["1", "2", "3"] {
                let file = disk.create(&path(name)).expect("room");
                file.write_at(0, b"synced").expect("room");
                file.sync_data().expect("power");
            }
            host.cut_power();
            host.mount().list(Path::new("/data")).expect("it is durable")
        }));
    }
    let all: Vec<Vec<&str>> = vec![vec![], vec!["1"], vec!["1", "2"], vec!["1", "2", "3"]];
    assert_eq!(
        seen.iter()
            .map(|names| names.iter().map(|name| &name[..]).collect())
            .collect::<Vec<Vec<_>>>(),
        all
    );
    let lost = (0..50).any(|seed| {
        on_disk(seed, |host, disk| {
            disk.create_directory(Path::new("/data/wal")).expect("room");
            disk.create(Path::new("/data/wal/1")).expect("room");
            disk.sync_directory(Path::new("/data/wal")).expect("power");
            host.cut_power();
            host.mount().open(Path::new("/data/wal/1")).is_err()
        })
    });
    assert!(lost, "a directory in a directory that was not synced");
}

#[test]
fn a_rename_replaces_at_once_and_for_good_once_its_directory_is_synced() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        for sync in [false, true] {
            let (old, new, bytes) = on_disk(seed, |host, disk| {
                durable(&disk, "state", b'a', 10);
                durable(&disk, "next", b'b', 10);
                disk.rename(&path("next"), &path("state")).expect("power");
                assert_eq!(content(&disk, "state"), [b'b'; 10]);
                assert!(!disk.exists(&path("next")).expect("power"));
                if sync {
                    disk.sync_directory(Path::new("/data")).expect("power");
                }
                host.cut_power();
                let disk = host.mount();
                let exists = |name| disk.exists(&path(name)).expect("power");
                (exists("next"), exists("state"), content(&disk, "state")[0])
            });
            assert!(new && old == (bytes == b'a'), "one or the other");
            assert!(!sync || bytes == b'b');
            seen.insert(bytes);
        }
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_killed_process_loses_nothing_and_its_handles_are_dead() {
    on_disk(1, |host, disk| {
        let file = durable(&disk, "log", b'a', 10);
        let lock = disk.lock(&path("lock")).expect("free");
        assert!(disk.lock(&path("lock")).is_err(), "it is taken");
        file.write_at(0, b"b").expect("room");
        host.fence();
        assert!(file.write_at(1, b"c").is_err());
        let disk = host.mount();
        let again = disk.lock(&path("lock")).expect("its holder is dead");
        drop(lock);
        assert!(disk.lock(&path("lock")).is_err(), "a dead handle does not free it");
        drop(again);
        assert!(file.sync_data().is_err());
        assert_eq!(content(&disk, "log"), b"baaaaaaaaa");
    });
}

#[test]
fn the_power_goes_at_the_nth_operation_and_a_sync_there_is_not_acknowledged() {
    let mut survived = BTreeSet::new();
    for seed in 0..50 {
        survived.insert(on_disk(seed, |host, disk| {
            let file = durable(&disk, "log", b'a', 10);
            host.cut_power_after(3);
            file.write_at(0, b"b").expect("the first");
            assert!(host.has_power());
            file.write_at(1, b"b").expect("the second");
            file.sync_data().expect_err("the third");
            assert!(!host.has_power());
            assert!(file.read_at(0, &mut [0]).is_err() && disk.open(&path("log")).is_err());
            content(&host.mount(), "log")[..2].to_vec()
        }));
    }
    assert_eq!(survived, [b"aa".to_vec(), b"ba".to_vec(), b"bb".to_vec()].into());
}

#[test]
fn errors_come_at_the_nth_operation_of_their_kind_and_so_often() {
    on_disk(1, |host, disk| {
        let file = durable(&disk, "log", b'a', 10);
        let mut byte = [0];
        host.fail(DiskErrorKind::Read, 2, 1);
        host.fail(DiskErrorKind::Write, 1, 2);
        assert!(file.read_at(0, &mut byte).is_ok() && !host.has_failed());
        assert_eq!(file.read_at(0, &mut byte).expect_err("EIO").raw_os_error(), Some(5));
        assert!(file.read_at(0, &mut byte).is_ok() && host.has_failed());
        assert!(file.write_at(0, b"b").is_err() && disk.create(&path("new")).is_err());
        assert!(!disk.exists(&path("new")).expect("power"));
        file.write_at(0, b"b").expect("twice is over");
        host.fail(DiskErrorKind::ShortRead, 1, u64::MAX);
        for _ in 0..3 {
            let error = file.read_at(0, &mut byte).expect_err("for ever");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
        host.heal();
        file.read_at(0, &mut byte).expect("mended");
        assert!(host.has_failed());
        host.mount();
        assert!(!host.has_failed(), "not in this boot");
    });
}

#[test]
fn what_a_failed_sync_was_to_keep_is_shown_and_lost_and_relying_on_it_is_reported() {
    let mut kept = BTreeSet::new();
    for seed in 0..50 {
        simulated(seed, async {
            let (host, failures) = machine(seed, KNOBS);
            let disk = host.mount();
            disk.create_directory(Path::new("/data")).expect("room");
            disk.sync_directory(Path::new("/")).expect("power");
            let file = durable(&disk, "log", b'a', 2 * SECTOR);
            file.write_at(0, b"b").expect("room");
            host.fail(DiskErrorKind::Sync, 1, 1);
            file.sync_data().expect_err("as told");
            assert_eq!(content(&disk, "log")[0], b'b', "the cache shows it");
            file.write_at(SECTOR as u64, b"c").expect("room");
            assert!(failures.lock().expect("no holder panics").is_empty());
            file.sync_data().expect("the second succeeds");
            let told = failures.lock().expect("no holder panics").clone();
            assert!(told.len() == 1 && told[0].contains("/data/log"), "{told:?}");
            assert_eq!(content(&disk, "log")[0], b'b');
            host.cut_power();
            let bytes = content(&host.mount(), "log");
            assert_eq!(bytes[SECTOR], b'c', "what was written later is durable");
            kept.insert(bytes[0]);
        });
    }
    assert_eq!(kept, BTreeSet::from([b'a', b'b']), "it mostly is gone");
}

#[test]
fn a_failed_sync_does_not_count_against_an_emptied_file_another_one_or_another_boot() {
    on_disk(1, |host, disk| {
        let (one, other) = (durable(&disk, "1", b'a', 10), durable(&disk, "2", b'a', 10));
        let emptied = durable(&disk, "3", b'a', 10);
        host.fail(DiskErrorKind::Sync, 1, 2);
        one.sync_data().expect_err("as told");
        emptied.sync_data().expect_err("as told");
        other.sync_data().expect("another file");
        let new = disk.create(&path("3")).expect("power");
        new.write_at(0, b"new").expect("room");
        new.sync_data().expect("all of it is new");
        host.fence();
        let disk = host.mount();
        disk.open(&path("1")).expect("there").sync_data().expect("another boot");
        host.cut_power();
        assert_eq!(content(&host.mount(), "3"), b"new");
    });
}

#[test]
fn space_is_taken_by_what_is_written_or_reserved_and_comes_back() {
    let knobs = DiskKnobs { capacity_bytes: 10 * 4096, ..KNOBS };
    simulated(1, async {
        let (host, _) = machine(1, knobs);
        let disk = host.mount();
        let root = Path::new("/");
        let left = || disk.available(root).expect("power") / 4096;
        disk.create_directory(Path::new("/data")).expect("room");
        let file = disk.create(&path("sparse")).expect("room");
        file.set_len(1 << 30).expect("merely promised");
        assert_eq!(left(), 10);
        file.write_at(1 << 20, &[1; 4097]).expect("room");
        assert_eq!(left(), 8);
        file.write_at(1 << 20, &[2; 4097]).expect("no more is taken");
        let log = disk.create(&path("log")).expect("room");
        log.reserve(4 * 4096).expect("room");
        assert_eq!((left(), log.len().expect("power")), (4, 4 * 4096));
        assert_eq!(log.reserve(9 * 4096).expect_err("9").kind(), ErrorKind::StorageFull);
        log.set_len(4 * 4096).expect("to cut is free");
        assert_eq!(left(), 4);
        file.write_at(0, &[1; 4 * 4096]).expect("the rest");
        assert!(!host.has_been_full() || left() == 0);
        let error = file.write_at(8 * 4096, &[1; 10]).expect_err("full");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!(host.has_been_full() && disk.create(&path("new")).is_err());
        log.write_at(0, &[1; 4 * 4096]).expect("that was reserved");
        disk.remove(&path("log")).expect("power");
        assert_eq!(left(), 0, "it is still open");
        drop(log);
        assert_eq!(left(), 4);
        host.set_left(Some(4096));
        assert_eq!(left(), 1);
        let mut byte = [0];
        assert!(file.write_at(8 * 4096, &[7; 5000]).is_err());
        file.read_at(8 * 4096 + 4095, &mut byte).expect("what fitted is there");
        assert_eq!((byte, left()), ([7], 0));
        host.set_left(None);
        assert_eq!(left(), 3);
    });
}

#[test]
fn space_of_a_removed_file_is_free_also_when_the_removal_may_be_lost() {
    on_disk(1, |host, disk| {
        let before = host.used();
        drop(durable(&disk, "big", b'a', 1 << 20));
        assert_eq!(host.used(), before + (1 << 20));
        disk.remove(&path("big")).expect("power");
        assert_eq!(host.used(), before);
    });
    let back = (0..50).any(|seed| {
        on_disk(seed, |host, disk| {
            durable(&disk, "big", b'a', 1 << 20);
            disk.remove(&path("big")).expect("power");
            host.cut_power();
            let disk = host.mount();
            let back = disk.exists(&path("big")).expect("power");
            assert!(!back || content(&disk, "big") == vec![b'a'; 1 << 20]);
            back
        })
    });
    assert!(back, "the removal was not durable");
}

#[test]
fn a_flipped_bit_is_durable_and_the_only_one() {
    let mut places = BTreeSet::new();
    for seed in 0..20 {
        on_disk(seed, |host, disk| {
            assert_eq!(host.flip(seed), None, "there is nothing to flip");
            durable(&disk, "log", b'a', 3 * 4096);
            durable(&disk, "empty", b'a', 0);
            assert!(!host.damaged());
            host.fence();
            let what = host.flip(seed).expect("there is a file");
            assert!(what.contains("/data/log") && host.damaged(), "{what}");
            let cached = content(&host.mount(), "log");
            host.cut_power();
            let bytes = content(&host.mount(), "log");
            assert_eq!(bytes, cached);
            let wrong: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] != b'a').collect();
            assert_eq!(wrong.len(), 1);
            assert_eq!((bytes[wrong[0]] ^ b'a').count_ones(), 1);
            places.insert(wrong[0]);
            host.wipe();
            assert!(!host.damaged());
            assert_eq!(host.mount().list(Path::new("/")).expect("power"), Vec::<String>::new());
        });
    }
    assert!(places.len() > 10, "{places:?}");
}

#[test]
fn a_misdirected_write_shows_once_memory_has_forgotten_it() {
    for seed in 0..20 {
        on_disk(seed, |host, disk| {
            let file = durable(&disk, "log", b'a', 8 * SECTOR);
            host.misdirect(2, seed);
            file.write_at(0, &[b'b'; SECTOR]).expect("the first goes right");
            assert!(!host.damaged());
            file.write_at(SECTOR as u64, &[b'c'; SECTOR]).expect("the second does not");
            assert!(host.damaged());
            file.write_at(7 * SECTOR as u64, &[b'a'; SECTOR]).expect("the third does");
            file.sync_data().expect("power");
            assert_eq!(content(&disk, "log")[SECTOR], b'c');
            host.cut_power();
            let bytes = content(&host.mount(), "log");
            assert_eq!(bytes.len(), 8 * SECTOR);
            assert_ne!(bytes[SECTOR], b'c', "not where it belongs");
            let sectors = bytes.chunks(SECTOR).filter(|sector| sector[0] == b'c');
            // The third may have gone over it.
            assert!(sectors.count() <= 1);
        });
    }
}

#[test]
fn the_same_seed_leaves_the_same_and_another_something_else() {
    let run = |seed| {
        on_disk(seed, |host, disk| {
            let file = durable(&disk, "log", b'a', 64 * SECTOR);
            file.write_at(0, &[b'b'; 64 * SECTOR]).expect("room");
            host.cut_power();
            content(&host.mount(), "log")
        })
    };
    assert!((0..20).all(|seed| run(seed) == run(seed)));
    let different: BTreeSet<_> = (0..20).map(run).collect();
    assert!(different.len() > 5);
}
