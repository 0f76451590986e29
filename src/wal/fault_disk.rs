//! A disk in memory that does to unsynced writes whatever a real one may do.
//!
//! Each file has the bytes a process sees and the bytes that would survive a power cut, and the
//! changes that lead from the latter to the former. A power cut makes the survivors out of any
//! part of those changes, each sector of 512 B by itself and in the order the changes were made
//! to it (that is what a page cache over a disk with atomic sectors can do), or of whole changes.
//! Names behave alike: the changes since the last sync of the directory may survive in part.
//!
//! A failed sync drops the changes and lets the process go on seeing them, as Linux does.

use crate::env::{Disk, File};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;

#[derive(Clone, Default, Debug)]
pub struct FaultDisk(Arc<Mutex<State>>);

/// Faults to come, counted in steps: calls that change the disk or sync it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Plan {
    /// At this step the power goes; the step itself may be done in part.
    pub power_cut_at: Option<u64>,
    /// The first sync of a file or directory from this step on fails.
    pub sync_error_after: Option<u64>,
    /// The first write to a file from this step on fails half way: the disk is full.
    pub full_write_after: Option<u64>,
    /// The first write to a file from this step on fails half way: the disk is broken.
    pub write_error_after: Option<u64>,
    /// Files may not grow beyond this many bytes together.
    pub space: Option<u64>,
}

#[derive(Default, Debug)]
struct State {
    inodes: Vec<Inode>,
    directories: Vec<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    name_changes: Vec<NameChange>,
    plan: Plan,
    steps: u64,
    off: bool,
}

#[derive(Default, Debug)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(PathBuf, usize),
    /// From, to, and the file: a file system writes down which file it renames, so that a name
    /// lost before does not make it another one.
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

pub struct FaultFile {
    disk: FaultDisk,
    inode: usize,
}

impl fmt::Debug for FaultFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.inode)
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let end = offset + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset..end].copy_from_slice(data);
        }
        Change::Length(length) => bytes.resize(*length, 0),
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    match change {
        NameChange::Set(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameChange::Rename(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.changes.push(change);
    }

    /// What of the changes survives a power cut.
    fn survivors(&self, random: &mut StdRng) -> Vec<u8> {
        let mut kept = self.durable.clone();
        match random.random_range(0..5) {
            0 => {}
            1 => self.changes.iter().for_each(|change| apply(&mut kept, change)),
            2 => {
                let count = random.random_range(0..=self.changes.len());
                self.changes[..count].iter().for_each(|change| apply(&mut kept, change));
            }
            3 => {
                // Whole writes, in spite of shared sectors.
                let chosen = self.changes.iter().filter(|_| random.random_bool(0.5));
                chosen.for_each(|change| apply(&mut kept, change));
            }
            _ => kept = self.surviving_sectors(random),
        }
        kept
    }

    fn surviving_sectors(&self, random: &mut StdRng) -> Vec<u8> {
        // states[n] is the file after n changes.
        let mut states = vec![self.durable.clone()];
        for change in &self.changes {
            let mut state = states.last().unwrap().clone();
            apply(&mut state, change);
            states.push(state);
        }
        let mut kept = vec![0; states[random.random_range(0..states.len())].len()];
        for (sector, out) in kept.chunks_mut(SECTOR).enumerate() {
            let state = &states[random.random_range(0..states.len())];
            let from = (sector * SECTOR).min(state.len());
            let to = (from + out.len()).min(state.len());
            out[..to - from].copy_from_slice(&state[from..to]);
        }
        kept
    }
}

impl State {
    /// Counts a step; fails if the power is off.
    fn step(&mut self) -> io::Result<bool> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        self.steps += 1;
        self.off = self.plan.power_cut_at == Some(self.steps);
        Ok(self.off)
    }

    /// The outcome of a step that is not a file's write or sync.
    fn done(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn due(steps: u64, after: &mut Option<u64>) -> bool {
        let due = after.is_some_and(|step| steps >= step);
        if due {
            *after = None;
        }
        due
    }

    fn name_change(&mut self, change: NameChange) {
        apply_name(&mut self.names, &change);
        self.name_changes.push(change);
    }

    fn grow(&mut self, inode: usize, len: usize) -> io::Result<()> {
        let used: usize = self.names.values().map(|inode| self.inodes[*inode].seen.len()).sum();
        let more = len.saturating_sub(self.inodes[inode].seen.len());
        match self.plan.space {
            Some(space) if more > 0 && (used + more) as u64 > space => {
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl FaultDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn set_plan(&self, plan: Plan) {
        self.state().plan = plan;
    }

    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Cuts the power, if the plan has not done so, and turns it on again.
    pub fn power_cycle(&self, random: &mut StdRng) {
        let state = &mut *self.state();
        let mut names = state.durable_names.clone();
        let changes = std::mem::take(&mut state.name_changes);
        let kind = random.random_range(0..3);
        for change in &changes {
            if kind == 1 || (kind == 2 && random.random_bool(0.5)) {
                apply_name(&mut names, change);
            }
        }
        state.durable_names = names.clone();
        state.names = names;
        for inode in &mut state.inodes {
            inode.durable = inode.survivors(random);
            inode.seen = inode.durable.clone();
            inode.changes.clear();
        }
        state.off = false;
        state.plan = Plan { space: state.plan.space, ..Plan::default() };
    }

    /// Cuts the power at a moment when nothing unsynced survives.
    pub fn lose_unsynced(&self) {
        let state = &mut *self.state();
        state.name_changes.clear();
        state.names = state.durable_names.clone();
        for inode in &mut state.inodes {
            inode.changes.clear();
            inode.seen = inode.durable.clone();
        }
        state.off = false;
    }

    /// All files as a process sees them.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        let files = state.names.iter();
        files.map(|(path, inode)| (path.clone(), state.inodes[*inode].seen.clone())).collect()
    }

    /// A disk on which just these files are, durably.
    pub fn with_files(files: &BTreeMap<PathBuf, Vec<u8>>) -> FaultDisk {
        let disk = FaultDisk::default();
        {
            let state = &mut *disk.state();
            for (path, bytes) in files {
                let inode = Inode { seen: bytes.clone(), durable: bytes.clone(), changes: vec![] };
                state.names.insert(path.clone(), state.inodes.len());
                state.inodes.push(inode);
            }
            state.durable_names = state.names.clone();
        }
        disk
    }

    /// Overwrites part of a file, for good and unseen.
    pub fn damage(&self, path: &Path, range: Range<usize>, with: impl Fn(u8) -> u8) {
        let state = &mut *self.state();
        let inode = &mut state.inodes[state.names[path]];
        assert!(inode.changes.is_empty(), "damage comes to what is durable");
        for at in range {
            inode.seen[at] = with(inode.seen[at]);
        }
        inode.durable = inode.seen.clone();
    }
}

impl Disk for FaultDisk {
    type File = FaultFile;
    type Lock = ();

    fn open(&self, path: &Path) -> io::Result<FaultFile> {
        let inode = *self.state().names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(FaultFile { disk: self.clone(), inode })
    }

    fn create(&self, path: &Path) -> io::Result<FaultFile> {
        let state = &mut *self.state();
        state.step()?;
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.name_change(NameChange::Set(path.to_owned(), inode));
        state.done()?;
        Ok(FaultFile { disk: self.clone(), inode })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state().names.contains_key(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.step()?;
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.name_change(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        state.done()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.step()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name_change(NameChange::Remove(path.to_owned()));
        state.done()
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let paths = state.names.keys().filter(|path| path.parent() == Some(directory));
        let names: Vec<String> =
            paths.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        if names.is_empty() && !state.directories.contains(&directory.to_owned()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(names)
    }

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.step()?;
        state.directories.push(directory.to_owned());
        state.done()
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        let cut = state.step()?;
        if cut || State::due(state.steps, &mut state.plan.sync_error_after) {
            return Err(io::Error::other("the sync failed"));
        }
        // All tests keep to one directory, so its changes are all there are.
        if state.directories.contains(&directory.to_owned())
            || state.names.keys().any(|path| path.parent() == Some(directory))
        {
            state.durable_names = state.names.clone();
            state.name_changes.clear();
        }
        Ok(())
    }

    fn available(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl File for FaultFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].seen.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        let bytes = &state.inodes[self.inode].seen;
        let end = offset as usize + out.len();
        let read = bytes.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(read);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let state = &mut *self.disk.state();
        let cut = state.step()?;
        let full = State::due(state.steps, &mut state.plan.full_write_after);
        let broken = State::due(state.steps, &mut state.plan.write_error_after);
        state.grow(self.inode, offset as usize + data.len())?;
        let written = if full || broken { &data[..data.len() / 2] } else { data };
        state.inodes[self.inode].change(Change::Write(offset as usize, written.to_vec()));
        if full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if cut || broken {
            return Err(io::Error::other("the write failed"));
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let state = &mut *self.disk.state();
        state.step()?;
        state.grow(self.inode, len as usize)?;
        state.inodes[self.inode].change(Change::Length(len as usize));
        state.done()
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let now = self.len()?;
        self.set_len(len.max(now))
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.disk.state();
        let cut = state.step()?;
        let broken = State::due(state.steps, &mut state.plan.sync_error_after);
        let inode = &mut state.inodes[self.inode];
        if cut {
            return Err(io::Error::other("the power is off"));
        }
        if broken {
            // The size is metadata and assumed to get there; the data is gone for the disk.
            inode.durable.resize(inode.seen.len(), 0);
            inode.changes.clear();
            return Err(io::Error::other("the sync failed"));
        }
        // Not simply all that is seen: what a failed sync dropped stays dropped.
        for change in std::mem::take(&mut inode.changes) {
            apply(&mut inode.durable, &change);
        }
        Ok(())
    }
}
