//! A disk that fills up: a small file system in memory is the data directory's, and a ballast
//! file takes what others would. Mounting needs root; without it these tests say so and pass.

use super::load::{PREFIX, Writers, assert_holds, read_all};
use super::process::{Cluster, until};
use quorate::client::{Client, Delete, Get, Put};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tonic::Code;

const MIB: u64 = 1024 * 1024;

/// A file system in memory. Unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it at a directory that is made for it.
    fn mount(at: &Path, mib: u64) -> Option<SmallDisk> {
        fs::create_dir_all(at).expect("a directory");
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "quorate-blackbox"])
            .arg(at)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(at.to_owned())),
            other => {
                eprintln!("SKIPPED: cannot mount a tmpfs (root is needed): {other:?}");
                None
            }
        }
    }

    fn resize(&self, mib: u64) {
        let size = format!("remount,size={mib}m");
        let status = Command::new("mount").args(["-o", &size]).arg(&self.0).status();
        assert!(status.expect("mount runs").success());
    }

    fn free_bytes(&self) -> u64 {
        let figures = rustix::fs::statvfs(&self.0).expect("a file system");
        figures.f_bavail * figures.f_frsize
    }

    /// Fills it up to so many free bytes.
    fn fill(&self, leave: u64) {
        let mut ballast = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.0.join("ballast"))
            .expect("a file");
        let block = vec![1; 64 * 1024];
        while self.free_bytes() > leave {
            let bytes = (self.free_bytes() - leave).min(block.len() as u64) as usize;
            if ballast.write_all(&block[..bytes]).is_err() {
                return;
            }
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).expect("the ballast");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that just ended may not have let go of everything.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A single node on a disk of this size, not started. The disk goes after the member.
fn on_small_disk(mib: u64) -> Option<(Cluster, SmallDisk)> {
    let mut cluster = Cluster::prepare(1, &[]);
    let at = cluster.path().join("disk");
    let disk = SmallDisk::mount(&at, mib)?;
    cluster.members[0].data = at.join("data");
    Some((cluster, disk))
}

async fn assert_refuses_writes_but_serves(cluster: &Cluster) {
    let client = cluster.client();
    client.put(Put::new("refused", vec![0; 1_000])).await.map_or_else(
        |error| {
            assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
            assert!(error.to_string().contains("database space exceeded"), "{error}");
        },
        |_| panic!("a put was accepted on a full disk"),
    );
    let member = &cluster.members[0];
    client.get(Get::key("first")).await.expect("reads go on");
    client.delete(Delete::key("nothing")).await.expect("deletes go on");
    let told = member.log_lines("free space");
    assert!(!told.is_empty(), "the log says what to do: {}", member.log_tail());
}

async fn wait_until_refused(client: &Client) {
    until("writes are refused", async || {
        let refused = client.put(Put::new("probe", vec![0; 1_000])).await.err()?;
        (refused.code() == Code::ResourceExhausted).then_some(())
    })
    .await;
}

/// The disk has room for the log and little else; the load itself fills it.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filled_by_writes_refuses_them_early_and_recovers_by_itself() {
    let Some((mut cluster, disk)) = on_small_disk(220) else { return };
    cluster.members[0].start_ready().await;
    disk.fill(40 * MIB);
    let client = cluster.client();
    client.put(Put::new("first", "here")).await.expect("there is room");
    let load = Writers::start(&cluster.endpoints(), 16, 64 * 1024);
    wait_until_refused(&client).await;
    let acknowledged = load.stop().await;
    assert_refuses_writes_but_serves(&cluster).await;
    cluster.members[0].kill();
    cluster.members[0].start_ready().await;
    wait_until_refused(&client).await;
    assert_refuses_writes_but_serves(&cluster).await;
    assert_holds(&read_all(&client, PREFIX).await, &acknowledged);
    disk.free();
    until("writes are accepted again", async || client.put(Put::new("a", "b")).await.ok()).await;
    assert!(cluster.members[0].is_running());
    assert_holds(&read_all(&client, PREFIX).await, &acknowledged);
}

/// Others take the last byte at once, in the middle of load, faster than anybody can look.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filled_to_the_last_byte_under_load_costs_nothing_acknowledged() {
    let Some((mut cluster, disk)) = on_small_disk(300) else { return };
    cluster.members[0].start_ready().await;
    let client = cluster.client();
    client.put(Put::new("first", "here")).await.expect("there is room");
    let load = Writers::start(&cluster.endpoints(), 16, 16 * 1024);
    load.progress(100).await;
    disk.fill(0);
    wait_until_refused(&client).await;
    // Deletes go through the log and, later, the store: both find no room to grow.
    for _ in 0..50 {
        client.delete(Delete::key("nothing")).await.expect("deletes go on");
    }
    assert_refuses_writes_but_serves(&cluster).await;
    // Longer than a flush waits at most.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(cluster.members[0].is_running(), "{}", cluster.members[0].log_tail());
    assert_refuses_writes_but_serves(&cluster).await;
    disk.free();
    load.progress(100).await;
    disk.fill(0);
    wait_until_refused(&client).await;
    let acknowledged = load.stop().await;
    cluster.members[0].kill();
    cluster.members[0].start_ready().await;
    // A member that just started has not looked at its disk yet.
    wait_until_refused(&client).await;
    assert_refuses_writes_but_serves(&cluster).await;
    assert_holds(&read_all(&client, PREFIX).await, &acknowledged);
    disk.free();
    until("writes are accepted again", async || client.put(Put::new("a", "b")).await.ok()).await;
    assert_holds(&read_all(&client, PREFIX).await, &acknowledged);
}

/// Not even the first segment of the log fits.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_too_small_to_begin_with_is_refused_in_words_and_works_once_it_grew() {
    let Some((mut cluster, disk)) = on_small_disk(32) else { return };
    let member = &mut cluster.members[0];
    member.start();
    let status = member.wait_for_exit(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(1));
    let last = member.log().lines().last().expect("a line").to_owned();
    assert!(last.contains("no space left on the disk"), "{last}");
    assert!(last.contains("free space"), "what to do: {last}");
    disk.resize(300);
    member.start_ready().await;
    member.client().put(Put::new("a", "b")).await.expect("it serves");
}
