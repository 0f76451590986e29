//! A disk that forgets.
//!
//! Nothing is durable before it is synced: a file's bytes and length until `sync_data`, a name
//! until `sync_directory` of the directory it is in. What was not synced when the power goes may
//! be kept, lost or kept in part:
//!
//! - of a file, any subset of the 512-byte sectors written and of the length changes;
//! - of a directory, the first so many of its changes, since file systems journal them in order.
//!   A new file may be gone although its bytes were synced, if its directory was not.
//!
//! The power can go at the n-th write or sync from now, so also in the middle of a commit. From
//! then on every call fails and the machine's network is dead at the same moment. Each boot has a
//! generation: handles of an earlier one do nothing, so destructors that run when a member is
//! killed cannot write.
//!
//! A disk can also break: from some operation on all writes and syncs fail.
//!
//! A killed process loses nothing: what it wrote is in the machine's memory.

use super::image::Image;
use super::network::{Machine, Switch};
use crate::trace::Trace;
use madsim::rand::Rng;
use quorate::env::{Disk, File};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const SECTOR_BYTES: usize = 512;
/// What the file system says is free.
const AVAILABLE_BYTES: u64 = 1 << 40;

/// A change of a file that is not durable.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Length(u64),
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Change::Write { offset, data } => image.write(*offset, data),
            Change::Length(len) => image.set_len(*len),
        }
    }

    /// Applies what a power cut leaves of it when every sector has its own luck.
    fn apply_in_part(&self, image: &mut Image) {
        let mut random = madsim::rand::thread_rng();
        match self {
            Change::Length(len) if random.gen_bool(0.5) => image.set_len(*len),
            Change::Length(_) => {}
            Change::Write { offset, data } => {
                let mut at = *offset;
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let room = SECTOR_BYTES - at as usize % SECTOR_BYTES;
                    let (sector, others) = rest.split_at(room.min(rest.len()));
                    if random.gen_bool(0.5) {
                        image.write(at, sector);
                    }
                    at += sector.len() as u64;
                    rest = others;
                }
            }
        }
    }
}

/// A file, apart from its names.
#[derive(Clone, Default)]
struct Inode {
    seen: Image,
    durable: Image,
    /// From `durable` to `seen`.
    changes: Vec<Change>,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Directory,
    File(u64),
}

/// A change of names that is not durable.
#[derive(Clone, Debug)]
enum Renaming {
    Set(PathBuf, Entry),
    Remove(PathBuf),
    Move(PathBuf, PathBuf, Entry),
}

impl Renaming {
    fn concerns(&self, directory: &Path) -> bool {
        let within = |path: &Path| path.parent() == Some(directory);
        match self {
            Renaming::Set(path, _) | Renaming::Remove(path) => within(path),
            Renaming::Move(from, to, _) => within(from) || within(to),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Renaming::Set(path, entry) => {
                names.insert(path, entry);
            }
            Renaming::Remove(path) => {
                names.remove(&path);
            }
            Renaming::Move(from, to, entry) => {
                names.remove(&from);
                names.insert(to, entry);
            }
        }
    }
}

struct State {
    /// Of the running boot.
    generation: u64,
    power: bool,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, Entry>,
    durable_names: BTreeMap<PathBuf, Entry>,
    renamings: Vec<Renaming>,
    locks: BTreeSet<PathBuf>,
    /// Writes and syncs so far.
    operations: u64,
    /// The power goes when `operations` gets here.
    cut_at: Option<u64>,
    /// Every operation from here on fails, until the next boot.
    fail_at: Option<u64>,
    cost: Duration,
    speed: Speed,
    syncs: u64,
}

/// How long operations take.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    pub access: Duration,
    pub sync: Duration,
}

impl Speed {
    pub const NORMAL: Speed =
        Speed { access: Duration::from_micros(2), sync: Duration::from_micros(700) };
    pub const SLOW: Speed =
        Speed { access: Duration::from_micros(20), sync: Duration::from_millis(80) };
}

/// The disk of one machine, as those see it who break it.
#[derive(Clone)]
pub struct Host {
    machine: Machine,
    switch: Switch,
    trace: Trace,
    state: Arc<Mutex<State>>,
}

impl Host {
    pub fn new(machine: Machine, switch: Switch, trace: Trace) -> Host {
        let names = BTreeMap::from([(PathBuf::from("/"), Entry::Directory)]);
        let state = State {
            generation: 0,
            power: true,
            next_inode: 1,
            inodes: BTreeMap::new(),
            durable_names: names.clone(),
            names,
            renamings: Vec::new(),
            locks: BTreeSet::new(),
            operations: 0,
            cut_at: None,
            fail_at: None,
            cost: Duration::ZERO,
            speed: Speed::NORMAL,
            syncs: 0,
        };
        Host { machine, switch, trace, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// The disk for a new boot. Handles of earlier boots are dead from here on.
    pub fn mount(&self) -> SimDisk {
        let mut state = self.state();
        state.generation += 1;
        state.power = true;
        state.cut_at = None;
        state.fail_at = None;
        state.cost = Duration::ZERO;
        state.locks.clear();
        SimDisk { host: self.clone(), generation: state.generation }
    }

    /// Makes handles dead without loss, as when a process is killed.
    pub fn fence(&self) {
        self.state().generation += 1;
    }

    /// The power goes now; what was not synced is lost at random.
    pub fn cut_power(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.power = false;
        let mode = madsim::rand::thread_rng().gen_range(0..4);
        state.forget(mode);
        drop(state);
        self.switch.power_off(self.machine);
        self.trace.event(format_args!("{} has lost power, mode {mode}", self.machine));
    }

    /// The power will go at the n-th write or sync from now.
    pub fn cut_power_after(&self, operations: u64) {
        let mut state = self.state();
        state.cut_at = Some(state.operations + operations);
    }

    pub fn has_power(&self) -> bool {
        self.state().power
    }

    /// Writes and syncs will fail from the n-th from now on, until the next boot.
    pub fn fail_after(&self, operations: u64) {
        let mut state = self.state();
        state.fail_at = Some(state.operations + operations);
    }

    /// Whether an operation has failed since the last boot.
    pub fn has_failed(&self) -> bool {
        let state = self.state();
        state.fail_at.is_some_and(|fail_at| state.operations >= fail_at)
    }

    pub fn set_speed(&self, speed: Speed) {
        self.state().speed = speed;
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }
}

impl State {
    /// Goes back to what is durable and what luck adds: nothing, everything, or parts.
    fn forget(&mut self, mode: u32) {
        for inode in self.inodes.values_mut() {
            let changes = std::mem::take(&mut inode.changes);
            for change in changes {
                match mode {
                    0 => {}
                    1 => change.apply(&mut inode.durable),
                    _ => change.apply_in_part(&mut inode.durable),
                }
            }
            inode.seen = inode.durable.clone();
        }
        let renamings = std::mem::take(&mut self.renamings);
        let kept = match mode {
            0 => 0,
            1 => renamings.len(),
            _ => madsim::rand::thread_rng().gen_range(0..=renamings.len()),
        };
        for renaming in renamings.into_iter().take(kept) {
            renaming.apply(&mut self.durable_names);
        }
        // What is in a directory that is gone is gone.
        let names = self.durable_names.clone();
        self.durable_names
            .retain(|path, _| path.ancestors().all(|above| names.contains_key(above)));
        self.names = self.durable_names.clone();
        let used: BTreeSet<u64> = self.names.values().filter_map(|entry| file(*entry)).collect();
        self.inodes.retain(|inode, _| used.contains(inode));
    }

    fn rename(&mut self, renaming: Renaming) {
        renaming.clone().apply(&mut self.names);
        self.renamings.push(renaming);
    }

    fn require_directory(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Entry::Directory) => Ok(()),
            Some(Entry::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn require_parent(&self, path: &Path) -> io::Result<()> {
        self.require_directory(path.parent().ok_or(ErrorKind::InvalidInput)?)
    }

    fn create(&mut self, path: &Path) -> io::Result<u64> {
        self.require_parent(path)?;
        match self.names.get(path) {
            Some(Entry::Directory) => Err(ErrorKind::IsADirectory.into()),
            // What was there is cut to nothing, under the same name.
            Some(&Entry::File(inode)) => {
                self.change(inode, Change::Length(0))?;
                Ok(inode)
            }
            None => {
                let inode = self.next_inode;
                self.next_inode += 1;
                self.inodes.insert(inode, Inode::default());
                self.rename(Renaming::Set(path.into(), Entry::File(inode)));
                Ok(inode)
            }
        }
    }

    fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(gone)
    }

    fn change(&mut self, inode: u64, change: Change) -> io::Result<()> {
        let inode = self.inode(inode)?;
        change.apply(&mut inode.seen);
        inode.changes.push(change);
        Ok(())
    }
}

fn file(entry: Entry) -> Option<u64> {
    match entry {
        Entry::File(inode) => Some(inode),
        Entry::Directory => None,
    }
}

fn gone() -> io::Error {
    io::Error::other("the machine is off")
}

/// A disk, as one boot sees it.
#[derive(Clone)]
pub struct SimDisk {
    host: Host,
    generation: u64,
}

impl SimDisk {
    /// Simulated time of the operations since the last call.
    pub fn take_cost(&self) -> Duration {
        std::mem::take(&mut self.host.state().cost)
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
        let access = state.speed.access;
        state.cost += access;
        act(&mut state)
    }

    /// An operation at which the power may go: then it is done but not synced, which leaves it to
    /// luck, or, if it is a sync, not done.
    fn alter<T>(&self, sync: bool, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let outcome = self.look(|state| {
            state.operations += 1;
            if state.fail_at.is_some_and(|fail_at| state.operations >= fail_at) {
                return Err(io::Error::other("the disk is broken"));
            }
            let cut = state.cut_at.is_some_and(|cut_at| state.operations >= cut_at);
            if sync {
                state.cost += state.speed.sync;
                state.syncs += 1;
            }
            if sync && cut { Ok((None, true)) } else { act(state).map(|done| (Some(done), cut)) }
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
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let inode = self.look(|state| match state.names.get(path) {
            Some(&Entry::File(inode)) => Ok(inode),
            Some(Entry::Directory) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        })?;
        Ok(SimFile { disk: self.clone(), inode })
    }

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let inode = self.alter(false, |state| state.create(path))?;
        Ok(SimFile { disk: self.clone(), inode })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.look(|state| Ok(state.names.contains_key(path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alter(false, |state| {
            state.require_parent(to)?;
            let entry = *state.names.get(from).ok_or(ErrorKind::NotFound)?;
            state.rename(Renaming::Move(from.into(), to.into(), entry));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.alter(false, |state| match state.names.get(path) {
            Some(Entry::File(_)) => {
                state.rename(Renaming::Remove(path.into()));
                Ok(())
            }
            Some(Entry::Directory) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        })
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.look(|state| {
            state.require_directory(directory)?;
            let within = state.names.keys().filter(|path| path.parent() == Some(directory));
            let names = within.filter_map(|path| path.file_name());
            Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
        })
    }

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        self.alter(false, |state| {
            let mut missing: Vec<&Path> =
                directory.ancestors().filter(|path| !state.names.contains_key(*path)).collect();
            missing.reverse();
            for path in missing {
                state.require_parent(path)?;
                state.rename(Renaming::Set(path.into(), Entry::Directory));
            }
            state.require_directory(directory)
        })
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.alter(true, |state| {
            state.require_directory(directory)?;
            for renaming in std::mem::take(&mut state.renamings) {
                match renaming.concerns(directory) {
                    true => renaming.apply(&mut state.durable_names),
                    false => state.renamings.push(renaming),
                }
            }
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<SimLock> {
        self.alter(false, |state| {
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
        self.look(|_| Ok(AVAILABLE_BYTES))
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
    inode: u64,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({})", self.inode)
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.disk.look(|state| Ok(state.inode(self.inode)?.seen.len()))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.look(|state| match state.inode(self.inode)?.seen.read(offset, out) {
            true => Ok(()),
            false => Err(ErrorKind::UnexpectedEof.into()),
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let change = Change::Write { offset, data: data.into() };
        self.disk.alter(false, |state| state.change(self.inode, change))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.alter(false, |state| state.change(self.inode, Change::Length(len)))
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        match self.len()? < len {
            true => self.set_len(len),
            false => Ok(()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.host.trace.bytes(self.inode, b"sync");
        self.disk.alter(true, |state| {
            let inode = state.inode(self.inode)?;
            for change in std::mem::take(&mut inode.changes) {
                change.apply(&mut inode.durable);
            }
            Ok(())
        })
    }
}
