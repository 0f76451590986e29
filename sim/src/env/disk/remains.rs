//! What a power cut leaves of what was written to a file and not synced.
//!
//! The system writes back pages whenever it likes, so of each 512-byte sector any version between
//! the durable one and the last may be on the disk, each sector with its own luck: later writes
//! may be there and earlier ones not, and one write in part. Within a sector the order holds, for
//! what is written back is the whole sector as it was at some moment.
//!
//! Lengths are metadata, which a file system journals in order: the first so many changes of it
//! survive. A cut (and with it all that was there before behind the new end) takes effect or not;
//! what was written after a cut that did not survive is lost with it. The file may have grown
//! without the bytes it grew by, which are zero then.

use super::super::image::Image;
use super::super::random::Random;
use std::collections::BTreeMap;

/// The unit a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// A change of a file that is not durable.
#[derive(Clone, Debug)]
pub enum Change {
    Write { offset: u64, data: Vec<u8> },
    Length(u64),
}

impl Change {
    pub fn apply(&self, image: &mut Image) {
        match self {
            Change::Write { offset, data } => image.write(*offset, data),
            Change::Length(len) => image.set_len(*len),
        }
    }
}

/// How much survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Luck {
    None,
    All,
    /// Each sector and each length as it happens.
    Parts,
}

impl Luck {
    pub fn draw(random: &mut Random) -> Luck {
        [Luck::None, Luck::All, Luck::Parts, Luck::Parts][random.number(4) as usize]
    }
}

/// Brings an image from what is durable to what a power cut leaves of the changes.
pub fn apply(changes: &[Change], luck: Luck, image: &mut Image, random: &mut Random) {
    match luck {
        Luck::None => {}
        Luck::All => changes.iter().for_each(|change| change.apply(image)),
        Luck::Parts => apply_parts(changes, image, random),
    }
}

/// Part of a write that lies in one sector.
struct Piece<'a> {
    offset: u64,
    data: &'a [u8],
}

fn apply_parts(changes: &[Change], image: &mut Image, random: &mut Random) {
    let survivors = surviving_cuts(changes, image.len(), random);
    let mut sectors: BTreeMap<u64, Vec<Piece>> = BTreeMap::new();
    // Lengths the file had, beginning with that after the last surviving cut.
    let mut lengths = vec![image.len()];
    let (mut len, mut cuts) = (image.len(), 0);
    for change in changes {
        match change {
            Change::Write { offset, data } => {
                for piece in pieces(*offset, data) {
                    sectors.entry(piece.offset / SECTOR_BYTES).or_default().push(piece);
                }
                len = len.max(offset + data.len() as u64);
                lengths.push(len);
            }
            Change::Length(new) if *new < len => {
                if cuts == survivors {
                    break;
                }
                cuts += 1;
                image.set_len(*new);
                forget_behind(&mut sectors, *new);
                len = *new;
                lengths = vec![len];
            }
            Change::Length(new) => {
                len = *new;
                lengths.push(len);
            }
        }
    }
    for versions in sectors.values() {
        let kept = random.number(versions.len() as u64 + 1) as usize;
        for piece in &versions[..kept] {
            image.write(piece.offset, piece.data);
        }
    }
    image.set_len(lengths[random.number(lengths.len() as u64) as usize]);
}

/// How many of the changes that make the file shorter survive.
fn surviving_cuts(changes: &[Change], len: u64, random: &mut Random) -> u64 {
    let (mut len, mut cuts) = (len, 0);
    for change in changes {
        match change {
            Change::Write { offset, data } => len = len.max(offset + data.len() as u64),
            Change::Length(new) => {
                cuts += u64::from(*new < len);
                len = *new;
            }
        }
    }
    random.number(cuts + 1)
}

/// Drops what lies behind a new end.
fn forget_behind(sectors: &mut BTreeMap<u64, Vec<Piece>>, len: u64) {
    sectors.split_off(&len.div_ceil(SECTOR_BYTES));
    if let Some(pieces) = sectors.get_mut(&(len / SECTOR_BYTES)) {
        for piece in pieces {
            let left = len.saturating_sub(piece.offset).min(piece.data.len() as u64);
            piece.data = &piece.data[..left as usize];
        }
    }
}

/// Cuts a write at the borders of sectors.
fn pieces(offset: u64, data: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    let (mut offset, mut rest) = (offset, data);
    std::iter::from_fn(move || {
        let room = (SECTOR_BYTES - offset % SECTOR_BYTES) as usize;
        let (data, others) = rest.split_at(room.min(rest.len()));
        let piece = Piece { offset, data };
        offset += data.len() as u64;
        rest = others;
        (!data.is_empty()).then_some(piece)
    })
}
