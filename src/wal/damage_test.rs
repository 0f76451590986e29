//! Damage to what was durable: found, named and left as it is.

use super::fault_disk::FaultDisk;
use super::model::Model;
use super::{Batch, Identity, LogEntry, Recovered, Wal, WalError, WalOptions};
use crate::types::{ClusterId, Index, MemberId, Term};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "/data/wal";
const IDENTITY: Identity = Identity { cluster: ClusterId(0xc), member: MemberId(0xa) };

/// A log on disk and where its frames are.
struct Written {
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// In order; all frames of all segments.
    frames: Vec<Frame>,
    options: WalOptions,
}

#[derive(Clone, Debug)]
struct Frame {
    file: PathBuf,
    range: Range<usize>,
    /// Whether a later frame of the segment, or a later segment, says that this one was durable.
    vouched: bool,
    /// What the log held before this frame.
    before: Model,
}

fn write(seed: u64, batches: usize, identity: Identity) -> Written {
    let mut random = StdRng::seed_from_u64(seed);
    let options = WalOptions { segment_bytes: random.random_range(600..3000) };
    let disk = FaultDisk::default();
    let mut wal = Wal::create(disk.clone(), Path::new(DIRECTORY), identity, options).unwrap();
    let mut model = Model::default();
    let mut frames: Vec<Frame> = Vec::new();
    let mut synced = 0;
    while frames.len() < batches {
        let before = model.clone();
        let operation = model.operation(Index(0), &mut random);
        let (from, segments) = (wal.figures().current_bytes, wal.figures().segments);
        operation.run(&mut wal).unwrap();
        model.run(&operation);
        let rotated = wal.figures().segments > segments;
        let from = if rotated { 128 } else { from as usize };
        let range = from..wal.figures().current_bytes as usize;
        if rotated {
            synced = frames.len();
        }
        if !range.is_empty() {
            frames[..synced].iter_mut().for_each(|frame| frame.vouched = true);
            let file = wal.current_path().to_owned();
            frames.push(Frame { file, range, vouched: false, before });
        }
        if operation.is_durable() {
            synced = frames.len();
        }
    }
    wal.append(&Batch { sync: true, ..Batch::default() }).unwrap();
    // A prepared segment is no part of the log yet.
    let mut files = disk.files();
    files.retain(|path, _| !path.ends_with("next.tmp"));
    Written { files, frames, options }
}

fn open(disk: &FaultDisk, options: WalOptions) -> Result<Recovered, WalError> {
    let opened = Wal::open(disk.clone(), Path::new(DIRECTORY), Index(0), options);
    opened.map(|(_, recovered)| recovered)
}

/// The damage is reported with its place and the advice, and nothing is written.
fn assert_corrupt(disk: &FaultDisk, options: WalOptions, file: &Path, offset: u64) {
    let (before, steps) = (disk.files(), disk.steps());
    let error = open(disk, options).expect_err("the log is corrupt");
    let WalError::Corrupt { file: found, offset: at, reason } = &error else {
        panic!("{error}");
    };
    assert_eq!((found.as_path(), *at), (file, offset), "{reason}");
    let text = error.to_string();
    for part in [file.to_str().unwrap(), &format!("byte {offset}:"), "peers", "backup"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(disk.steps(), steps, "nothing was written or synced");
    assert!(disk.files() == before);
}

/// One bit of every byte of every file, one at a time.
#[test]
fn a_flipped_bit_is_found_wherever_something_vouches_for_it() {
    let mut random = StdRng::seed_from_u64(1);
    let (mut corrupt, mut cut) = (0, 0);
    for seed in 0..4 {
        let written = write(seed, 12, IDENTITY);
        let newest = written.files.keys().next_back().unwrap();
        let whole = open(&FaultDisk::with_files(&written.files), written.options).unwrap();
        for (file, bytes) in &written.files {
            for at in 0..bytes.len() {
                let disk = FaultDisk::with_files(&written.files);
                let bit = 1 << random.random_range(0..8);
                disk.damage(file, at..at + 1, |byte| byte ^ bit);
                if at < 128 {
                    assert_corrupt(&disk, written.options, file, 0);
                    continue;
                }
                let mut frames = written.frames.iter();
                match frames.find(|it| it.file == *file && it.range.contains(&at)) {
                    Some(frame) if frame.vouched => {
                        let offset = frame.range.start as u64;
                        assert_corrupt(&disk, written.options, file, offset);
                        corrupt += 1;
                    }
                    Some(frame) => {
                        let recovered = open(&disk, written.options).unwrap();
                        assert_eq!(Model::from(&recovered), frame.before);
                        let cut_tail = recovered.cut.expect("the frame was cut");
                        assert_eq!(cut_tail.offset, frame.range.start as u64);
                        cut += 1;
                    }
                    None => {
                        let recovered = open(&disk, written.options).unwrap();
                        assert_eq!(Model::from(&recovered), Model::from(&whole));
                        assert_eq!(recovered.cut.is_some(), file == newest);
                    }
                }
            }
        }
    }
    assert!(corrupt > 1000 && cut > 100, "{corrupt} {cut}");
}

/// Whole sectors or more are lost or overwritten, possibly several frames at once.
#[test]
fn damage_of_any_size_is_found_at_its_first_frame() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let written = write(seed, 20, IDENTITY);
        let vouched: Vec<_> = written.frames.iter().filter(|frame| frame.vouched).collect();
        if vouched.is_empty() {
            continue;
        }
        let frame = vouched[random.random_range(0..vouched.len())];
        let disk = FaultDisk::with_files(&written.files);
        let from = random.random_range(frame.range.clone());
        // Up to the end of the frames that are vouched for: a witness has to be left.
        let same = vouched.iter().filter(|it| it.file == frame.file);
        let end = same.map(|it| it.range.end).max().unwrap();
        let to = random.random_range(from + 1..=end);
        let value = if random.random_bool(0.5) { 0 } else { random.random_range(1..=255) };
        disk.damage(&frame.file, from..to, |byte| if value == 0 { 0 } else { byte ^ value });
        if disk.files() == written.files {
            continue;
        }
        let (file, offset) = first_difference(&written, &disk);
        assert_corrupt(&disk, written.options, &file, offset);
    }
}

/// The frame in which the first changed byte lies.
fn first_difference(written: &Written, disk: &FaultDisk) -> (PathBuf, u64) {
    for (file, now) in disk.files() {
        let was = &written.files[&file];
        if let Some(at) = now.iter().zip(was).position(|(now, was)| now != was) {
            let mut frames = written.frames.iter();
            let frame = frames.find(|it| it.file == file && it.range.contains(&at)).unwrap();
            return (file, frame.range.start as u64);
        }
    }
    unreachable!("something differs")
}

/// A log of at least four segments and their paths.
fn four_segments() -> (Written, Vec<PathBuf>) {
    for seed in 0.. {
        let written = write(seed, 30, IDENTITY);
        let paths: Vec<_> = written.files.keys().cloned().collect();
        if paths.len() >= 4 {
            return (written, paths);
        }
    }
    unreachable!("there are many seeds")
}

#[test]
fn a_missing_segment_is_found() {
    let (mut written, paths) = four_segments();
    written.files.remove(&paths[1]);
    let disk = FaultDisk::with_files(&written.files);
    assert_corrupt(&disk, written.options, &paths[2], 0);
}

#[test]
fn exchanged_segments_are_found() {
    let (mut written, paths) = four_segments();
    let second = written.files[&paths[1]].clone();
    let third = written.files.insert(paths[2].clone(), second).unwrap();
    written.files.insert(paths[1].clone(), third);
    let disk = FaultDisk::with_files(&written.files);
    assert_corrupt(&disk, written.options, &paths[1], 0);
}

#[test]
fn a_segment_cut_short_is_found() {
    let (written, paths) = four_segments();
    for length in [0, 64, 128, 200] {
        let mut files = written.files.clone();
        files.get_mut(&paths[1]).unwrap().truncate(length);
        let disk = FaultDisk::with_files(&files);
        let offset = if length < 128 { 0 } else { 128 };
        assert_corrupt(&disk, written.options, &paths[1], offset);
    }
}

/// The same member, but the segment is from before its log was replaced by another.
#[test]
fn a_segment_of_another_life_is_found() {
    let (mut written, paths) = four_segments();
    let mut options = vec![];
    for seed in 1000.. {
        let other = write(seed, 30, IDENTITY);
        if let Some(bytes) = other.files.get(&paths[1]) {
            written.files.insert(paths[1].clone(), bytes.clone());
            options.push(other.options);
            break;
        }
    }
    let disk = FaultDisk::with_files(&written.files);
    assert_corrupt(&disk, options[0], &paths[1], 0);
}

/// Synced entries 1 to 9 of term 1, three in a segment, each with this byte as data.
fn uniform(byte: u8) -> BTreeMap<PathBuf, Vec<u8>> {
    let options = WalOptions { segment_bytes: 1024 };
    let disk = FaultDisk::default();
    let mut wal = Wal::create(disk.clone(), Path::new(DIRECTORY), IDENTITY, options).unwrap();
    for index in 1..=9 {
        let data = vec![byte; 200].into();
        let entry = LogEntry { index: Index(index), term: Term(1), kind: 0, data };
        wal.append(&Batch { entries: vec![entry], hard_state: None, sync: true }).unwrap();
    }
    disk.files()
}

/// Offset, number and seed are right, only the frame before was another one.
#[test]
fn a_frame_of_another_history_is_found() {
    let options = WalOptions { segment_bytes: 1024 };
    let (mut files, other) = (uniform(1), uniform(2));
    let first = files.keys().next().unwrap().clone();
    files.get_mut(&first).unwrap()[384..640].copy_from_slice(&other[&first][384..640]);
    assert_corrupt(&FaultDisk::with_files(&files), options, &first, 384);

    // In the newest segment, where the last frame vouches for the one before. The seeds of the
    // two histories differ by now.
    let mut files = uniform(1);
    let newest = files.keys().next_back().unwrap().clone();
    files.get_mut(&newest).unwrap()[384..640].copy_from_slice(&other[&newest][384..640]);
    assert_corrupt(&FaultDisk::with_files(&files), options, &newest, 384);
}

/// Indexes, terms and frame numbers are right, only the data was another.
#[test]
fn a_segment_of_another_history_is_found() {
    let options = WalOptions { segment_bytes: 1024 };
    let (mut files, other) = (uniform(1), uniform(2));
    let paths: Vec<_> = files.keys().cloned().collect();
    files.insert(paths[0].clone(), other[&paths[0]].clone());
    assert_corrupt(&FaultDisk::with_files(&files), options, &paths[1], 0);
}

#[test]
fn a_segment_of_another_member_is_found() {
    let (written, paths) = four_segments();
    let stranger = Identity { member: MemberId(0xb), ..IDENTITY };
    let mut other = write(0, 1, stranger).files.into_values().next().unwrap();
    // The lawful header of the stranger, made to look as if it stood in the right place.
    let own: &[u8; 128] = written.files[&paths[1]][..128].try_into().unwrap();
    let mut header = super::segment::SegmentHeader::decode(own).unwrap().0;
    header.identity = stranger;
    other[..128].copy_from_slice(&header.encode().0);
    let mut files = written.files.clone();
    files.insert(paths[1].clone(), other);
    let error = open(&FaultDisk::with_files(&files), written.options).expect_err("foreign");
    let text = error.to_string();
    let WalError::Foreign { file, expected, found } = error else { panic!("{text}") };
    assert_eq!((file, expected, found), (paths[1].clone(), IDENTITY, stranger));
    assert!(text.contains("member b of cluster c"), "{text}");
}

#[test]
fn another_format_version_is_refused() {
    let (mut written, paths) = four_segments();
    let header = &mut written.files.get_mut(&paths[0]).unwrap()[..128];
    header[8..12].copy_from_slice(&7u32.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    let disk = FaultDisk::with_files(&written.files);
    let error = open(&disk, written.options).expect_err("a later format");
    assert!(matches!(&error, WalError::Format { found: 7, .. }), "{error}");
    assert!(error.to_string().contains("format version 7, this program reads version 1"));
}

/// A client stores the bytes of a log, and the power goes while that entry is written. What
/// looks like frames inside of it vouches for nothing.
#[test]
fn frames_inside_a_value_are_not_believed() {
    let inner = write(3, 12, IDENTITY);
    let value: Vec<u8> = inner.files.values().flatten().copied().collect();
    let options = WalOptions { segment_bytes: 65536 };
    for shift in 0..8 {
        let disk = FaultDisk::default();
        let mut wal = Wal::create(disk.clone(), Path::new(DIRECTORY), IDENTITY, options).unwrap();
        let mut data = vec![1; shift];
        data.extend_from_slice(&value);
        let entry = LogEntry { index: Index(1), term: Term(1), kind: 0, data: data.into() };
        wal.append(&Batch { entries: vec![entry], ..Batch::default() }).unwrap();
        drop(wal);
        let disk = FaultDisk::with_files(&disk.files());
        let file = disk.files().into_keys().next().unwrap();
        disk.damage(&file, 128..136, |_| 0);
        let recovered = open(&disk, options).unwrap();
        assert!(recovered.entries.is_empty());
        assert_eq!(recovered.cut.expect("a torn entry").offset, 128);
    }
}
