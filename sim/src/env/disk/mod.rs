//! A disk that forgets, fills up, lies and breaks.
//!
//! Nothing is durable before it is synced: a file's bytes and length until `sync_data`, a name
//! until `sync_directory` of the directory it is in. What was not synced when the power goes may
//! be kept, lost or kept in part:
//!
//! - of a file, as [`remains`] says: any sectors in any order;
//! - of directories, the first so many changes, since file systems journal them in order. A new
//!   file may be gone although its bytes were synced, if its directory was not.
//!
//! ext4 and XFS promise a little more (syncing a file syncs its new name, syncing one directory
//! those changed before); POSIX does not, and neither does this disk.
//!
//! The power can go at the n-th write or sync from now, so also in the middle of a commit. From
//! then on every call fails and the machine's network is dead at the same moment. Each boot has a
//! generation: handles of an earlier one do nothing, so destructors that run when a member is
//! killed cannot write. A killed process loses nothing: what it wrote is in the machine's memory.
//!
//! **Errors** come as planned, by kind, once or for ever. After a sync that fails, what was dirty
//! is clean, as on Linux: reads show it, but it never becomes durable, and the next sync succeeds
//! without it. A boot that relies on such a next sync of a file is reported as a failure of the
//! run: it had to stop. (A file that was emptied in between is a new one.)
//!
//! **Space**: written blocks and reserved ones are taken, promised ones (`set_len`) are not. A
//! removed file gives its own back when it is closed. Of a write that does not fit, the beginning
//! may be there.
//!
//! **Damage**: a durable bit flips, or a write goes to another place of its file, which shows
//! once the machine's memory has forgotten what was meant. [`Host::damaged`] tells whether it
//! happened, so that it does not happen to a quorum.

mod errors;
mod remains;
mod state;
#[cfg(test)]
mod tests;

use super::clock::SimClock;
use super::network::{Machine, Switch};
use super::random::{Random, Streams};
use crate::plan::{DiskErrorKind, DiskKnobs};
use crate::trace::Trace;
use quorate::env::{Disk, File};
use remains::Luck;
use state::{State, gone};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Where members keep their files; only these are damaged.
const DATA: &str = "/data";

/// The disk of one machine, and its clock, as those see it who break it.
#[derive(Clone)]
pub struct Host {
    machine: Machine,
    switch: Switch,
    trace: Trace,
    streams: Streams,
    clock: SimClock,
    state: Arc<Mutex<State>>,
    on_failure: Arc<dyn Fn(String) + Send + Sync>,
}

impl Host {
    /// A machine with an empty disk. `on_failure` is told what must not happen and did.
    pub fn new(
        machine: Machine,
        switch: Switch,
        trace: Trace,
        streams: Streams,
        knobs: DiskKnobs,
        on_failure: impl Fn(String) + Send + Sync + 'static,
    ) -> Host {
        let state = State::new(streams.stream(&format!("disk of {machine}")), knobs);
        let state = Arc::new(Mutex::new(state));
        let (clock, on_failure) = (SimClock::new(trace.clone()), Arc::new(on_failure));
        Host { machine, switch, trace, streams, clock, state, on_failure }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// The machine's clock, the same over all boots.
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// The disk for a new boot. Handles of earlier boots are dead from here on.
    pub fn mount(&self) -> SimDisk {
        let mut state = self.state();
        state.boot();
        SimDisk { host: self.clone(), generation: state.generation }
    }

    /// Makes handles dead without loss, as when a process is killed.
    pub fn fence(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.close_all();
    }

    /// The power goes now; what was not synced is lost at random.
    pub fn cut_power(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.power = false;
        let luck = Luck::draw(&mut state.random);
        state.forget(luck);
        drop(state);
        self.switch.power_off(self.machine);
        self.trace.event(format_args!("{} has lost power, luck {luck:?}", self.machine));
    }

    /// The power will go at the n-th write or sync from now.
    pub fn cut_power_after(&self, operations: u64) {
        let mut state = self.state();
        state.cut_at = Some(state.operations + operations);
    }

    pub fn has_power(&self) -> bool {
        self.state().power
    }

    /// From the n-th operation of this kind on (1 is the next), `count` of them fail. `Write` is
    /// whatever changes a file or a name, `Sync` that of files and directories. A new plan for a
    /// kind takes the place of the last; plans stay over boots.
    pub fn fail(&self, kind: DiskErrorKind, operations: u64, count: u64) {
        self.state().errors.plan(kind, operations, count);
    }

    /// No operation fails any more, other than for what was lost already.
    pub fn stop_failing(&self) {
        self.state().errors.stop();
    }

    /// Whether an operation has failed as planned since the last boot.
    pub fn has_failed(&self) -> bool {
        self.state().errors.struck()
    }

    /// The files whose bytes could not be read, written or synced since the last boot.
    pub fn failed_files(&self) -> Vec<String> {
        self.state().errors.files().to_vec()
    }

    /// Only so many more bytes can be written; with none, as many as fit the disk.
    pub fn set_left(&self, bytes: Option<u64>) {
        self.state().set_left(bytes);
    }

    /// Whether something did not fit since the last boot.
    pub fn has_been_full(&self) -> bool {
        self.state().been_full
    }

    /// How long each operation takes, and how much longer each sync.
    pub fn set_speed(&self, access: Duration, sync: Duration) {
        let mut state = self.state();
        (state.access, state.sync) = (access, sync);
    }

    /// Flips one durable bit of a file under the data directory; `place` picks which. To be
    /// called while the machine is down. Tells what it did; `None` if there is nothing to flip.
    pub fn flip(&self, place: u64) -> Option<String> {
        self.state().flip(Path::new(DATA), place)
    }

    /// The n-th write from now goes to another place of its file, unless the boot ends before.
    pub fn misdirect(&self, operations: u64, place: u64) {
        self.state().misdirect(operations, place);
    }

    /// Whether such a write is still to come in this boot.
    pub fn is_misdirecting(&self) -> bool {
        self.state().is_misdirecting()
    }

    /// Takes it back. Whether that came too late: it was written, or the boot is another.
    pub fn stop_misdirecting(&self) -> bool {
        self.state().stop_misdirecting()
    }

    /// Whether the disk holds something else than what it was told. A wiped disk is well again.
    pub fn damaged(&self) -> bool {
        self.state().damaged
    }

    /// Puts an empty disk in its place. To be called while the machine is down.
    pub fn wipe(&self) {
        self.state().wipe();
    }

    /// Ends all faults: no planned errors, room again, normal speed. What is damaged stays so.
    pub fn heal(&self) {
        self.state().heal();
    }

    /// Bytes taken.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }
}

/// What an operation does to the disk, for errors and power cuts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Changes a file's bytes; fails in the middle, by itself.
    Write,
    /// Changes names or lengths; fails as a whole.
    Metadata,
    /// Makes a file durable; fails by itself.
    SyncFile,
    SyncDirectory,
}

/// A disk, as one boot sees it.
#[derive(Clone)]
pub struct SimDisk {
    host: Host,
    generation: u64,
}

impl SimDisk {
    /// The machine's clock.
    pub(super) fn clock(&self) -> &SimClock {
        &self.host.clock
    }

    /// Randomness for this boot.
    pub(super) fn random(&self) -> Random {
        let Host { machine, streams, .. } = &self.host;
        streams.stream(&format!("boot {} of {machine}", self.generation))
    }

    /// A time up to this one.
    pub(super) fn below(&self, limit: Duration) -> Duration {
        self.host.state().random.below(limit)
    }

    /// Simulated time of the operations since the last call.
    pub fn take_cost(&self) -> Duration {
        let mut state = self.host.state();
        let cost = std::mem::take(&mut state.cost);
        cost + state.random.below(cost)
    }

    /// Whether this boot is still going.
    pub fn has_power(&self) -> bool {
        let state = self.host.state();
        state.power && state.generation == self.generation
    }

    fn look<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.host.state();
        if !state.power || state.generation != self.generation {
            return Err(gone());
        }
        let access = state.access;
        state.cost += access;
        act(&mut state)
    }

    /// An operation at which the power may go: then it is done but not synced, which leaves it to
    /// luck, or, if it is a sync, not done.
    fn alter<T>(&self, kind: Kind, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let sync = matches!(kind, Kind::SyncFile | Kind::SyncDirectory);
        let outcome = self.look(|state| {
            state.operations += 1;
            let cut = state.cut_at.is_some_and(|cut_at| state.operations >= cut_at);
            if sync {
                state.cost += state.sync;
                state.syncs += 1;
            }
            if sync && cut {
                return Ok((None, true));
            }
            let fails = match kind {
                Kind::Metadata => state.errors.strikes(DiskErrorKind::Write),
                Kind::SyncDirectory => state.errors.strikes(DiskErrorKind::Sync),
                Kind::Write | Kind::SyncFile => false,
            };
            let done = if fails { Err(errors::input_output()) } else { act(state) };
            // Whether it failed or not: the power goes.
            if cut { Ok((None, true)) } else { done.map(|done| (Some(done), false)) }
        });
        match outcome {
            Ok((Some(done), false)) => Ok(done),
            Ok(_) => {
                self.host.cut_power();
                Err(gone())
            }
            Err(error) => Err(error),
        }
    }

    fn file(&self, number: u64) -> SimFile {
        SimFile { disk: self.clone(), number }
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let number = self.look(|state| state.open(path))?;
        Ok(self.file(number))
    }

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let number = self.alter(Kind::Metadata, |state| {
            state.create(path)?;
            state.open(path)
        })?;
        Ok(self.file(number))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.look(|state| Ok(state.names.contains_key(path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alter(Kind::Metadata, |state| state.move_to(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.alter(Kind::Metadata, |state| state.remove(path))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.look(|state| state.list(directory))
    }

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        self.alter(Kind::Metadata, |state| state.create_directory(directory))
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.alter(Kind::SyncDirectory, |state| state.sync_directory(directory))
    }

    fn lock(&self, path: &Path) -> io::Result<SimLock> {
        self.alter(Kind::Metadata, |state| {
            if !state.names.contains_key(path) {
                state.create(path)?;
            }
            match state.locks.insert(path.into()) {
                true => Ok(()),
                false => Err(ErrorKind::WouldBlock.into()),
            }
        })?;
        Ok(SimLock { disk: self.clone(), path: path.into() })
    }

    fn available(&self, _path: &Path) -> io::Result<u64> {
        self.look(|state| Ok(state.available()))
    }
}

/// A lock on a file; it ends with the boot.
pub struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        // Fails when the boot is over, and then the lock is gone anyway.
        let _ = self.disk.look(|state| Ok(state.locks.remove(&self.path)));
    }
}

/// An open file. It stays usable when its name goes.
pub struct SimFile {
    disk: SimDisk,
    number: u64,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({})", self.number)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        // When the boot is over, the file was closed already.
        let _ = self.disk.look(|state| {
            state.close(self.number);
            Ok(())
        });
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.disk.look(|state| state.len(self.number))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.look(|state| state.read(self.number, offset, out))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.alter(Kind::Write, |state| state.write(self.number, offset, data))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.alter(Kind::Metadata, |state| state.set_len(self.number, len))
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.disk.alter(Kind::Metadata, |state| state.reserve(self.number, len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.host.trace.bytes(self.number, b"sync");
        let after_failure = self.disk.alter(Kind::SyncFile, |state| {
            let after_failure = state.sync_file(self.number)?;
            Ok(after_failure.then(|| state.name_of(self.number)))
        })?;
        if let Some(name) = after_failure {
            let host = &self.disk.host;
            let machine = host.machine;
            (host.on_failure)(format!("{machine} went on after a failed sync and synced {name}"));
        }
        Ok(())
    }
}
