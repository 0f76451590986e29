//! Recognises files that a real etcd wrote, so that nobody's etcd data is ever taken for ours.
//!
//! | file | how it is known |
//! |---|---|
//! | `member/snap/db` | bbolt's magic number 0xED0CDAED behind the header of page 0 or 1 |
//! | `member/wal/<16 hex>-<16 hex>.wal` | the name, and a first record of type CRC |
//! | `member/snap/<16 hex>-<16 hex>.snap` | the name |
//!
//! Page 1 is looked at because a crash may have torn page 0; where it lies depends on the page
//! size of the machine that wrote it.

use crate::env::{Disk, File};
use std::io;
use std::path::{Path, PathBuf};

const BBOLT_MAGIC: u32 = 0xed0c_daed;
/// A page begins with 16 bytes of header; a meta page goes on with the magic number.
const MAGIC_OFFSET: u64 = 16;
const PAGE_SIZES: [u64; 6] = [1_024, 4_096, 8_192, 16_384, 32_768, 65_536];
/// A log record: length and padding in 8 bytes little endian, then a protobuf message whose
/// field 1 is the record's type; 4 is the CRC record every segment begins with.
const FIRST_RECORD_TYPE: [u8; 2] = [0x08, 0x04];

/// The first file found in these directories that etcd wrote. Directories may be absent.
pub(super) fn find(
    disk: &impl Disk,
    snapshots: &Path,
    logs: &[PathBuf],
) -> io::Result<Option<PathBuf>> {
    let database = snapshots.join("db");
    if disk.exists(&database)? && is_bbolt(&disk.open(&database)?)? {
        return Ok(Some(database));
    }
    for name in list_if_there(disk, snapshots)? {
        if name.strip_suffix(".snap").is_some_and(is_hex_pair) {
            return Ok(Some(snapshots.join(name)));
        }
    }
    for directory in logs {
        for name in list_if_there(disk, directory)? {
            let path = directory.join(&name);
            if name.strip_suffix(".wal").is_some_and(is_hex_pair) && is_log(&disk.open(&path)?)? {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// The names in a directory; none if there is no such directory.
pub(super) fn list_if_there(disk: &impl Disk, directory: &Path) -> io::Result<Vec<String>> {
    if disk.exists(directory)? { disk.list(directory) } else { Ok(Vec::new()) }
}

fn is_bbolt(file: &impl File) -> io::Result<bool> {
    let len = file.len()?;
    for page in [0].into_iter().chain(PAGE_SIZES) {
        let mut magic = [0; 4];
        if page + MAGIC_OFFSET + 4 > len {
            break;
        }
        file.read_at(page + MAGIC_OFFSET, &mut magic)?;
        // In the byte order of the machine that wrote it.
        if u32::from_le_bytes(magic) == BBOLT_MAGIC || u32::from_be_bytes(magic) == BBOLT_MAGIC {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_log(file: &impl File) -> io::Result<bool> {
    let mut start = [0; 10];
    if file.len()? < start.len() as u64 {
        return Ok(false);
    }
    file.read_at(0, &mut start)?;
    Ok(start[8..] == FIRST_RECORD_TYPE)
}

/// `0000000000000000-0000000000000000`, the form of etcd's file names.
fn is_hex_pair(stem: &str) -> bool {
    let is_hex = |part: &str| part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit());
    stem.split_once('-').is_some_and(|(first, second)| is_hex(first) && is_hex(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_file_names() {
        for (stem, is) in [
            ("0000000000000000-0000000000000000", true),
            ("0000000000000002-00000000000186a1", true),
            ("0000000000000000", false),
            ("0000000000000000-000000000000000", false),
            ("000000000000000g-0000000000000000", false),
        ] {
            assert_eq!(is_hex_pair(stem), is, "{stem}");
        }
    }
}
