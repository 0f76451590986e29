//! Broken files. A tail that a crash tore is cut; anything else is not guessed at: the server
//! refuses, names the place and the way out, and leaves the files as they are.
//!
//! The files are those of a real server that was killed; a byte is flipped in them by hand.

use super::load::{PREFIX, Revisions, Writers, assert_holds, read_all};
use super::process::Cluster;
use quorate::client::{Get, Put};
use rand::RngCore;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes that stand nowhere else.
const MARK: &[u8] = b"a mark that is found in the store's file by its bytes";

/// Every file below a directory, with its content.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(content(&path)),
            false => drop(files.insert(path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    files
}

/// Paths that differ.
fn differences(
    before: &BTreeMap<PathBuf, Vec<u8>>,
    after: &BTreeMap<PathBuf, Vec<u8>>,
) -> Vec<PathBuf> {
    let paths = before.keys().chain(after.keys());
    let mut paths: Vec<_> = paths.filter(|p| before.get(*p) != after.get(*p)).cloned().collect();
    paths.dedup();
    paths
}

/// The segment written last.
fn newest_segment(data: &Path) -> PathBuf {
    let names = fs::read_dir(data.join("member/wal")).expect("the log");
    let paths = names.map(|entry| entry.expect("an entry").path());
    let segments = paths.filter(|path| path.extension().is_some_and(|end| end == "wal"));
    segments.max().expect("a segment")
}

/// Where the written part of a file ends.
fn written_bytes(path: &Path) -> usize {
    let bytes = fs::read(path).expect("a file");
    bytes.iter().rposition(|&byte| byte != 0).expect("something is written") + 1
}

/// Changes a file in place, so that what is reserved stays reserved.
fn patch(path: &Path, offset: usize, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(path).expect("a file");
    file.write_all_at(bytes, offset as u64).expect("written");
}

fn flip(path: &Path, offset: usize) {
    let byte = fs::read(path).expect("a file")[offset];
    patch(path, offset, &[byte ^ 0x10]);
}

/// A single node that was killed under load, and what it acknowledged.
async fn killed_under_load() -> (Cluster, Revisions) {
    let mut cluster = Cluster::start(1, &[]).await;
    let load = Writers::start(&cluster.endpoints(), 16, 200);
    load.progress(800).await;
    cluster.members[0].kill();
    let acknowledged = load.stop().await;
    (cluster, acknowledged)
}

/// Starts the member and expects it to refuse; returns the last line of its log.
async fn refusal(cluster: &mut Cluster) -> serde_json::Value {
    let before = content(&cluster.members[0].data);
    let member = &mut cluster.members[0];
    member.start();
    let status = member.wait_for_exit(EXIT_TIMEOUT).await;
    let log = member.log();
    assert!(status.code().is_some_and(|code| code != 0), "{status}; {}", member.log_tail());
    let changed = differences(&before, &content(&member.data));
    assert!(changed.is_empty(), "files changed: {changed:?}");
    let last = log.lines().last().expect("a line");
    serde_json::from_str(last).unwrap_or_else(|_| panic!("not a line of the log: {last}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_garbage_behind_its_end_starts_with_everything() {
    let (mut cluster, acknowledged) = killed_under_load().await;
    let segment = newest_segment(&cluster.members[0].data);
    let mut garbage = vec![0; 3_000];
    rand::rng().fill_bytes(&mut garbage);
    // The last frame may end in zeros; the garbage must not begin inside it.
    patch(&segment, written_bytes(&segment).next_multiple_of(8) + 64, &garbage);
    cluster.members[0].start_ready().await;
    assert_holds(&read_all(&cluster.client(), PREFIX).await, &acknowledged);
    assert_eq!(cluster.members[0].log_lines("cut off").len(), 1);
    // What is written behind the cut is found again.
    let put = cluster.client().put(Put::new("after", "cut")).await.expect("a put");
    cluster.members[0].kill();
    cluster.members[0].start_ready().await;
    let found = cluster.client().get(Get::key("after")).await.expect("an answer");
    assert_eq!(found.kvs[0].mod_revision, put.header.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_last_write_is_torn_starts_with_everything_before_it() {
    for cut_file in [true, false] {
        let (mut cluster, acknowledged) = killed_under_load().await;
        let segment = newest_segment(&cluster.members[0].data);
        let end = written_bytes(&segment);
        match cut_file {
            // As if the file system had lost its end.
            true => {
                let file = fs::OpenOptions::new().write(true).open(&segment).expect("a file");
                file.set_len(end as u64 - 10).expect("cut");
            }
            false => patch(&segment, end - 10, b"garbage at the end of the log"),
        }
        cluster.members[0].start_ready().await;
        let found = read_all(&cluster.client(), PREFIX).await;
        // The newest frame is what we damaged: it holds what 16 clients waited for, at most.
        let newest = acknowledged.values().max().expect("some") - 16;
        let durable: Revisions =
            acknowledged.into_iter().filter(|(_, revision)| *revision <= newest).collect();
        assert_holds(&found, &durable);
        let put = cluster.client().put(Put::new("after", "cut")).await.expect("a put");
        cluster.members[0].kill();
        cluster.members[0].start_ready().await;
        let after = cluster.client().get(Get::key("after")).await.expect("an answer");
        assert_eq!(after.kvs[0].mod_revision, put.header.revision);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_a_flipped_byte_in_the_middle_is_refused_with_place_and_remedy() {
    let (mut cluster, acknowledged) = killed_under_load().await;
    let segment = newest_segment(&cluster.members[0].data);
    let end = written_bytes(&segment);
    // The header of the segment, an early frame, and one in the middle.
    for offset in [40, 200, end / 2] {
        flip(&segment, offset);
        let line = refusal(&mut cluster).await;
        assert_eq!(line["level"], "fatal", "{line}");
        let error = line["error"].as_str().expect("text");
        let name = segment.file_name().expect("a name").to_string_lossy();
        assert!(error.contains(&*name), "{error}");
        assert!(error.contains("the log is damaged at byte"), "{error}");
        assert!(error.contains("rebuild this member from its peers"), "{error}");
        assert!(error.contains("restore a backup"), "{error}");
        flip(&segment, offset);
    }
    // With the byte put right nothing is lost.
    cluster.members[0].start_ready().await;
    assert_holds(&read_all(&cluster.client(), PREFIX).await, &acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_flipped_byte_in_a_value_is_refused_with_place_and_remedy() {
    let mut cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    for key in 0..200 {
        client.put(Put::new(format!("k{key}"), vec![b'x'; 500])).await.expect("a put");
    }
    let marked = client.put(Put::new("marked", MARK)).await.expect("a put").header.revision;
    let flags = &mut cluster.members[0];
    flags.signal(Signal::TERM);
    assert!(flags.wait_for_exit(EXIT_TIMEOUT).await.success());
    let store = cluster.members[0].data.join("member/store/quorate.redb");
    let bytes = fs::read(&store).expect("the store's file");
    let places: Vec<usize> = (bytes.windows(MARK.len()).enumerate())
        .filter_map(|(offset, window)| (window == MARK).then_some(offset))
        .collect();
    assert!(!places.is_empty(), "the value was flushed when the server stopped");
    // Pages are written anew when they change: every copy is hit, so the one in use is.
    places.iter().for_each(|&offset| flip(&store, offset + 7));
    let line = refusal(&mut cluster).await;
    assert_eq!(line["level"], "fatal", "{line}");
    let error = line["error"].as_str().expect("text");
    assert!(error.contains("quorate.redb"), "{error}");
    assert!(error.contains("damaged"), "{error}");
    assert!(error.contains(&format!("{marked}")), "names the revision {marked}: {error}");
    assert!(error.contains("remove this member and add it again"), "{error}");
    places.iter().for_each(|&offset| flip(&store, offset + 7));
    cluster.members[0].start_ready().await;
    let found = client.get(Get::key("marked")).await.expect("an answer");
    assert_eq!(found.kvs[0].value, MARK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_damaged_page_header_is_refused() {
    let mut cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    for key in 0..2_00 {
        client.put(Put::new(format!("k{key}"), vec![b'x'; 500])).await.expect("a put");
    }
    let member = &mut cluster.members[0];
    member.signal(Signal::TERM);
    assert!(member.wait_for_exit(EXIT_TIMEOUT).await.success());
    let store = member.data.join("member/store/quorate.redb");
    // The magic number at the beginning of redb's file.
    flip(&store, 3);
    let line = refusal(&mut cluster).await;
    let error = line["error"].as_str().expect("text");
    assert!(error.contains("quorate.redb"), "{error}");
    assert!(error.contains("remove this member and add it again"), "{error}");
}
