//! What is on a disk: files apart from their names, and names apart from what is durable.

use super::errors::{Errors, full, input_output};
use super::remains::{self, Change, Luck, SECTOR_BYTES};
use crate::env::image::{BLOCK_BYTES, Image};
use crate::env::random::Random;
use crate::plan::{DiskErrorKind, DiskKnobs};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file, apart from its names.
#[derive(Default)]
pub struct Inode {
    /// What reads give.
    seen: Image,
    durable: Image,
    /// What can still become durable, in order. Leads from `durable` to `seen`, unless a sync has
    /// failed or a write went astray.
    changes: Vec<Change>,
    /// Names it has now.
    links: u32,
    /// How often it is open in this boot.
    handles: u32,
    /// The boot in which a sync of it failed, if it was not emptied since.
    sync_failed: Option<u64>,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    Directory,
    File(u64),
}

/// A change of names that is not durable.
#[derive(Clone, Debug)]
pub enum Renaming {
    Set(PathBuf, Entry),
    Remove(PathBuf),
    Move(PathBuf, PathBuf, Entry),
}

type Names = BTreeMap<PathBuf, Entry>;

impl Renaming {
    fn concerns(&self, directory: &Path) -> bool {
        let within = |path: &Path| path.parent() == Some(directory);
        match self {
            Renaming::Set(path, _) | Renaming::Remove(path) => within(path),
            Renaming::Move(from, to, _) => within(from) || within(to),
        }
    }

    /// Carries it out; returns what had the name that it took or gave up.
    fn apply(self, names: &mut Names) -> Option<Entry> {
        match self {
            Renaming::Set(path, entry) => names.insert(path, entry),
            Renaming::Remove(path) => names.remove(&path),
            Renaming::Move(from, to, entry) => {
                names.remove(&from);
                names.insert(to, entry)
            }
        }
    }
}

pub struct State {
    /// Of the running boot.
    pub generation: u64,
    pub power: bool,
    pub random: Random,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    pub names: Names,
    durable_names: Names,
    renamings: Vec<Renaming>,
    pub locks: BTreeSet<PathBuf>,
    /// Writes and syncs so far.
    pub operations: u64,
    /// The power goes when `operations` gets here.
    pub cut_at: Option<u64>,
    pub errors: Errors,
    /// Writes to go until one goes astray, and where to.
    astray: Option<(u64, u64)>,
    pub damaged: bool,
    knobs: DiskKnobs,
    /// At this use of space the disk is full, although it is larger.
    limit: Option<u64>,
    pub been_full: bool,
    pub cost: Duration,
    pub access: Duration,
    pub sync: Duration,
    pub syncs: u64,
}

impl State {
    pub fn new(random: Random, knobs: DiskKnobs) -> State {
        let names = Names::from([(PathBuf::from("/"), Entry::Directory)]);
        State {
            generation: 0,
            power: true,
            random,
            next_inode: 1,
            inodes: BTreeMap::new(),
            durable_names: names.clone(),
            names,
            renamings: Vec::new(),
            locks: BTreeSet::new(),
            operations: 0,
            cut_at: None,
            errors: Errors::default(),
            astray: None,
            damaged: false,
            knobs,
            limit: None,
            been_full: false,
            cost: Duration::ZERO,
            access: Duration::from_micros(knobs.access_us),
            sync: Duration::from_micros(knobs.sync_us),
            syncs: 0,
        }
    }

    /// Ends what the boot before had: open files, locks, what was planned for it.
    pub fn boot(&mut self) {
        self.generation += 1;
        self.power = true;
        self.cut_at = None;
        self.astray = None;
        self.errors.boot();
        self.been_full = false;
        self.cost = Duration::ZERO;
        self.close_all();
    }

    /// The process is gone; its files are closed.
    pub fn close_all(&mut self) {
        self.locks.clear();
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        self.drop_unreachable();
    }

    /// Back to normal, as far as the hardware goes.
    pub fn heal(&mut self) {
        self.errors.stop();
        self.astray = None;
        self.limit = None;
        self.access = Duration::from_micros(self.knobs.access_us);
        self.sync = Duration::from_micros(self.knobs.sync_us);
    }

    /// An empty disk in its place.
    pub fn wipe(&mut self) {
        self.inodes.clear();
        self.names = Names::from([(PathBuf::from("/"), Entry::Directory)]);
        self.durable_names = self.names.clone();
        self.renamings.clear();
        self.locks.clear();
        self.damaged = false;
        self.heal();
    }

    /// Goes back to what is durable and what luck adds.
    pub fn forget(&mut self, luck: Luck) {
        for inode in self.inodes.values_mut() {
            let changes = std::mem::take(&mut inode.changes);
            let reserved = inode.seen.reserved_len();
            remains::apply(&changes, luck, &mut inode.durable, &mut self.random);
            // Blocks are reserved in the transaction that makes the file longer.
            inode.durable.reserve(reserved.min(inode.durable.len()));
            inode.seen = inode.durable.clone();
            inode.sync_failed = None;
        }
        let renamings = std::mem::take(&mut self.renamings);
        let kept = match luck {
            Luck::None => 0,
            Luck::All => renamings.len(),
            Luck::Parts => self.random.number(renamings.len() as u64 + 1) as usize,
        };
        for renaming in renamings.into_iter().take(kept) {
            renaming.apply(&mut self.durable_names);
        }
        // What is in a directory that is gone is gone.
        let names = self.durable_names.clone();
        self.durable_names
            .retain(|path, _| path.ancestors().all(|above| names.contains_key(above)));
        self.names = self.durable_names.clone();
        for inode in self.inodes.values_mut() {
            inode.links = 0;
        }
        for inode in self.names.values().filter_map(file) {
            self.inodes.get_mut(&inode).expect("a file with a name is there").links += 1;
        }
        self.close_all();
    }

    /// Forgets files that neither have a name, nor are open, nor could get a name back.
    fn drop_unreachable(&mut self) {
        let mut used: BTreeSet<u64> = self.durable_names.values().filter_map(file).collect();
        used.extend(self.renamings.iter().filter_map(|renaming| match renaming {
            Renaming::Set(_, entry) | Renaming::Move(_, _, entry) => file(entry),
            Renaming::Remove(_) => None,
        }));
        self.inodes
            .retain(|number, inode| inode.links > 0 || inode.handles > 0 || used.contains(number));
    }

    fn rename(&mut self, renaming: Renaming) {
        if let Renaming::Set(_, Entry::File(inode)) = &renaming {
            self.inodes.get_mut(inode).expect("it was just created").links += 1;
        }
        let replaced = renaming.clone().apply(&mut self.names);
        if let Some(inode) = replaced.as_ref().and_then(file) {
            self.inodes.get_mut(&inode).expect("it had a name").links -= 1;
        }
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

    pub fn open(&mut self, path: &Path) -> io::Result<u64> {
        let number = match self.names.get(path) {
            Some(&Entry::File(number)) => number,
            Some(Entry::Directory) => return Err(ErrorKind::IsADirectory.into()),
            None => return Err(ErrorKind::NotFound.into()),
        };
        self.inode(number)?.handles += 1;
        Ok(number)
    }

    pub fn close(&mut self, number: u64) {
        if let Some(inode) = self.inodes.get_mut(&number) {
            inode.handles -= 1;
            if inode.handles == 0 && inode.links == 0 {
                self.drop_unreachable();
            }
        }
    }

    /// Creates a file or empties it.
    pub fn create(&mut self, path: &Path) -> io::Result<u64> {
        self.require_parent(path)?;
        match self.names.get(path) {
            Some(Entry::Directory) => Err(ErrorKind::IsADirectory.into()),
            // What was there is cut to nothing, under the same name.
            Some(&Entry::File(number)) => {
                self.set_len(number, 0)?;
                Ok(number)
            }
            None => {
                self.require_room(1)?;
                let number = self.next_inode;
                self.next_inode += 1;
                self.inodes.insert(number, Inode::default());
                self.rename(Renaming::Set(path.into(), Entry::File(number)));
                Ok(number)
            }
        }
    }

    pub fn move_to(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.require_parent(to)?;
        let entry = *self.names.get(from).ok_or(ErrorKind::NotFound)?;
        let target = self.names.get(to);
        if entry == Entry::Directory || target == Some(&Entry::Directory) {
            return Err(ErrorKind::Unsupported.into());
        }
        if target != Some(&entry) {
            self.rename(Renaming::Move(from.into(), to.into(), entry));
        }
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Entry::File(_)) => {
                self.rename(Renaming::Remove(path.into()));
                Ok(())
            }
            Some(Entry::Directory) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.require_directory(directory)?;
        let within = self.names.keys().filter(|path| path.parent() == Some(directory));
        let names = within.filter_map(|path| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    pub fn create_directory(&mut self, directory: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> =
            directory.ancestors().filter(|path| !self.names.contains_key(*path)).collect();
        missing.reverse();
        for path in missing {
            self.require_parent(path)?;
            self.require_room(1)?;
            self.rename(Renaming::Set(path.into(), Entry::Directory));
        }
        self.require_directory(directory)
    }

    pub fn sync_directory(&mut self, directory: &Path) -> io::Result<()> {
        self.require_directory(directory)?;
        for renaming in std::mem::take(&mut self.renamings) {
            match renaming.concerns(directory) {
                true => {
                    renaming.apply(&mut self.durable_names);
                }
                false => self.renamings.push(renaming),
            }
        }
        self.drop_unreachable();
        Ok(())
    }

    fn inode(&mut self, number: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&number).ok_or_else(gone)
    }

    pub fn len(&mut self, number: u64) -> io::Result<u64> {
        Ok(self.inode(number)?.seen.len())
    }

    pub fn read(&mut self, number: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.errors.strikes(DiskErrorKind::Read) {
            self.errors.blame(self.name_of(number));
            return Err(input_output());
        }
        let is_short = self.errors.strikes(DiskErrorKind::ShortRead);
        if is_short {
            self.errors.blame(self.name_of(number));
        }
        match self.inode(number)?.seen.read(offset, out) {
            true if !is_short => Ok(()),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Writes; of what does not fit, or fails, the beginning may be there.
    pub fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.errors.strikes(DiskErrorKind::Write) {
            self.errors.blame(self.name_of(number));
            let part = self.random.number(2 * data.len() as u64 + 1);
            let part = part.saturating_sub(data.len() as u64) as usize;
            self.change(number, offset, &data[..part])?;
            return Err(input_output());
        }
        let inode = self.inode(number)?;
        if inode.seen.bytes_that_fit(offset, data.len(), 0) < data.len() {
            let blocks = self.available() / BLOCK_BYTES;
            let fits = self.inode(number)?.seen.bytes_that_fit(offset, data.len(), blocks);
            if fits < data.len() {
                self.been_full = true;
                self.change(number, offset, &data[..fits])?;
                return Err(full());
            }
        }
        self.change(number, offset, data)
    }

    fn change(&mut self, number: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let place = self.due_astray();
        let inode = self.inode(number)?;
        inode.seen.write(offset, data);
        let target = place
            .map_or(offset, |place| astray(place, offset, data.len() as u64, inode.seen.len()));
        inode.changes.push(Change::Write { offset: target, data: data.into() });
        // A file may have no other place; then the next write is the one.
        if target != offset {
            self.astray = None;
            self.damaged = true;
        }
        Ok(())
    }

    /// Counts a write; where to, if its turn has come.
    fn due_astray(&mut self) -> Option<u64> {
        let (left, place) = self.astray.as_mut()?;
        *left = left.saturating_sub(1);
        (*left == 0).then_some(*place)
    }

    pub fn misdirect(&mut self, operations: u64, place: u64) {
        self.astray = Some((operations.max(1), place));
    }

    /// Takes it back; whether it was too late.
    pub fn stop_misdirecting(&mut self) -> bool {
        self.astray.take().is_none()
    }

    pub fn is_misdirecting(&self) -> bool {
        self.astray.is_some()
    }

    pub fn set_len(&mut self, number: u64, len: u64) -> io::Result<()> {
        if len > self.inode(number)?.seen.len() {
            // The bytes are merely promised, but the inode is written.
            self.require_room(1)?;
        }
        let inode = self.inode(number)?;
        if len == 0 {
            // All that will be in it is yet to be written.
            inode.sync_failed = None;
        }
        inode.seen.set_len(len);
        inode.changes.push(Change::Length(len));
        Ok(())
    }

    pub fn reserve(&mut self, number: u64, len: u64) -> io::Result<()> {
        let needed = self.inode(number)?.seen.blocks_to_reserve(len);
        let (room, now) = (self.available() / BLOCK_BYTES, self.inode(number)?.seen.len());
        if needed > room {
            self.been_full = true;
            // Some file systems keep what they found before they found too little.
            if self.random.one_in(2) && room > 0 && now < len {
                let part = self.part_of_reservation(number, len, room)?;
                let inode = self.inode(number)?;
                inode.seen.reserve(part);
                if part > now {
                    self.set_len(number, part)?;
                }
            }
            return Err(full());
        }
        self.inode(number)?.seen.reserve(len);
        match now < len {
            true => {
                let inode = self.inode(number)?;
                inode.seen.set_len(len);
                inode.changes.push(Change::Length(len));
                Ok(())
            }
            false => Ok(()),
        }
    }

    /// How far a reservation gets with so many blocks.
    fn part_of_reservation(&mut self, number: u64, len: u64, blocks: u64) -> io::Result<u64> {
        let image = &self.inode(number)?.seen;
        let (mut low, mut high) = (0, len / BLOCK_BYTES);
        while low < high {
            let middle = (low + high).div_ceil(2);
            match image.blocks_to_reserve(middle * BLOCK_BYTES) <= blocks {
                true => low = middle,
                false => high = middle - 1,
            }
        }
        Ok(low * BLOCK_BYTES)
    }

    /// Makes a file durable. Returns whether that came after a failure in the same boot, which
    /// must not happen: the caller was told to stop.
    pub fn sync_file(&mut self, number: u64) -> io::Result<bool> {
        if self.errors.strikes(DiskErrorKind::Sync) {
            self.errors.blame(self.name_of(number));
            self.fail_sync(number)?;
            return Err(input_output());
        }
        let generation = self.generation;
        let inode = self.inode(number)?;
        for change in inode.changes.drain(..) {
            change.apply(&mut inode.durable);
        }
        Ok(inode.sync_failed == Some(generation))
    }

    /// As Linux does: some pages got to the disk, none is dirty any more.
    fn fail_sync(&mut self, number: u64) -> io::Result<()> {
        let generation = self.generation;
        let inode = self.inodes.get_mut(&number).ok_or_else(gone)?;
        let changes = std::mem::take(&mut inode.changes);
        let luck = match self.random.one_in(2) {
            true => Luck::None,
            false => Luck::Parts,
        };
        remains::apply(&changes, luck, &mut inode.durable, &mut self.random);
        inode.sync_failed = Some(generation);
        Ok(())
    }

    /// Bytes that are taken.
    pub fn used(&self) -> u64 {
        let live = self.inodes.values().filter(|inode| inode.links > 0 || inode.handles > 0);
        live.map(|inode| inode.seen.blocks() * BLOCK_BYTES).sum()
    }

    /// Bytes that are not.
    pub fn available(&self) -> u64 {
        let size = self.limit.unwrap_or(u64::MAX).min(self.knobs.capacity_bytes);
        size.saturating_sub(self.used())
    }

    fn require_room(&mut self, blocks: u64) -> io::Result<()> {
        match self.available() / BLOCK_BYTES >= blocks {
            true => Ok(()),
            false => {
                self.been_full = true;
                Err(full())
            }
        }
    }

    pub fn set_left(&mut self, bytes: Option<u64>) {
        self.limit = bytes.map(|bytes| self.used().saturating_add(bytes));
    }

    /// Flips a durable bit of a file under this directory; tells which.
    pub fn flip(&mut self, directory: &Path, place: u64) -> Option<String> {
        let mut random = Random::new(place);
        let files: Vec<(&PathBuf, u64)> = self
            .durable_names
            .iter()
            .filter(|(path, _)| path.starts_with(directory))
            .filter_map(|(path, entry)| Some((path, file(entry)?)))
            .filter(|(_, number)| {
                self.inodes
                    .get(number)
                    .is_some_and(|inode| inode.durable.written().next().is_some())
            })
            .collect();
        if files.is_empty() {
            return None;
        }
        let (path, number) = files[random.number(files.len() as u64) as usize];
        let name = path.display().to_string();
        let inode = self.inodes.get_mut(&number).expect("a file with a name is there");
        let offset = pick_byte(&inode.durable, &mut random);
        let mask = 1 << random.number(8);
        let mut byte = [0];
        assert!(inode.durable.read(offset, &mut byte), "it was picked inside the file");
        inode.durable.write(offset, &[byte[0] ^ mask]);
        // What is cached would hide it.
        let mut cached = [0];
        if inode.seen.read(offset, &mut cached) && cached == byte {
            inode.seen.write(offset, &[byte[0] ^ mask]);
        }
        self.damaged = true;
        Some(format!("{name} offset {offset} from {:#04x} to {:#04x}", byte[0], byte[0] ^ mask))
    }

    /// A name of this file, for messages.
    pub fn name_of(&self, number: u64) -> String {
        let named = self.names.iter().find(|(_, entry)| **entry == Entry::File(number));
        named.map_or_else(|| "a file without a name".into(), |(path, _)| path.display().to_string())
    }
}

fn file(entry: &Entry) -> Option<u64> {
    match entry {
        Entry::File(inode) => Some(*inode),
        Entry::Directory => None,
    }
}

/// Another place in a file, a whole number of sectors away, where these bytes fit.
fn astray(place: u64, offset: u64, len: u64, file_len: u64) -> u64 {
    let within = offset % SECTOR_BYTES;
    let places = (file_len.saturating_sub(within + len)) / SECTOR_BYTES + 1;
    let target = (place % places) * SECTOR_BYTES + within;
    // Where it belongs would be no damage.
    match target == offset {
        true => (place.wrapping_add(1) % places) * SECTOR_BYTES + within,
        false => target,
    }
}

/// A byte of a file that was written to, mostly one that is not zero.
fn pick_byte(image: &Image, random: &mut Random) -> u64 {
    let pages: Vec<u64> = image.written().filter(|page| page * BLOCK_BYTES < image.len()).collect();
    assert!(!pages.is_empty(), "the file has something in it");
    let start = pages[random.number(pages.len() as u64) as usize] * BLOCK_BYTES;
    let count = (image.len() - start).min(BLOCK_BYTES);
    let any = start + random.number(count);
    if random.one_in(4) {
        return any;
    }
    let mut bytes = vec![0; count as usize];
    assert!(image.read(start, &mut bytes), "the page is within the file");
    let after = (any - start) as usize;
    let mut around = (after..bytes.len()).chain(0..after);
    around.find(|place| bytes[*place] != 0).map_or(any, |place| start + place as u64)
}

pub fn gone() -> io::Error {
    io::Error::other("the machine is off")
}
