//! A version of a key as bytes: etcd's `mvccpb.KeyValue`, and etcd's key of the revision.
//!
//! Records are encoded once, when written, and travel as they are: into the file, the cache, a
//! range's answer and a watch event. The bytes are exactly etcd's, fields in order and zeros left
//! out, because HashKV is a checksum over them and members must agree with it.
//!
//! | bytes of a row's key | |
//! |---|---|
//! | 0-7 | main revision, big endian |
//! | 8 | `_` |
//! | 9-16 | sub revision, big endian |
//! | 17 | `t`, only for a tombstone |

use bytes::Bytes;
use std::fmt;

/// Where a version stands in the order of all changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) main: i64,
    pub(super) sub: u32,
}

impl Place {
    /// Before all changes.
    pub(super) const FIRST: Place = Place { main: 0, sub: 0 };
}

/// The key of a row: its place, and whether it records a deletion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct RowKey {
    pub(super) place: Place,
    pub(super) tombstone: bool,
}

/// A row's key as bytes.
pub(super) struct RowKeyBytes([u8; 18], usize);

impl RowKeyBytes {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

impl RowKey {
    pub(super) fn bytes(self) -> RowKeyBytes {
        let mut bytes = [0; 18];
        bytes[..8].copy_from_slice(&self.place.main.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..17].copy_from_slice(&i64::from(self.place.sub).to_be_bytes());
        bytes[17] = b't';
        RowKeyBytes(bytes, if self.tombstone { 18 } else { 17 })
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<RowKey> {
        let tombstone = match bytes.len() {
            17 => false,
            18 if bytes[17] == b't' => true,
            _ => return None,
        };
        if bytes[8] != b'_' {
            return None;
        }
        let main = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(bytes[9..17].try_into().ok()?);
        Some(RowKey { place: Place { main, sub: u32::try_from(sub).ok()? }, tombstone })
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.tombstone { " (tombstone)" } else { "" };
        write!(f, "revision {}.{}{mark}", self.place.main, self.place.sub)
    }
}

/// A decoded `mvccpb.KeyValue`. A zero or empty field is one that was left out.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: i64,
}

impl<'a> Record<'a> {
    /// The bytes etcd would write, in a buffer of just that size.
    pub fn encode(&self) -> Bytes {
        let mut len = bytes_len(self.key) + bytes_len(self.value);
        for number in [self.create_revision, self.mod_revision, self.version, self.lease] {
            len += number_len(number);
        }
        let mut out = Vec::with_capacity(len);
        put_bytes(&mut out, 1, self.key);
        put_number(&mut out, 2, self.create_revision);
        put_number(&mut out, 3, self.mod_revision);
        put_number(&mut out, 4, self.version);
        put_bytes(&mut out, 5, self.value);
        put_number(&mut out, 6, self.lease);
        debug_assert_eq!(out.len(), len);
        Bytes::from(out)
    }

    /// Reads the bytes back; `None` if they are no `KeyValue`. Unknown fields are skipped.
    pub fn decode(mut bytes: &'a [u8]) -> Option<Record<'a>> {
        let mut record = Record::default();
        while !bytes.is_empty() {
            match get_varint(&mut bytes)? {
                0x0a => record.key = get_bytes(&mut bytes)?,
                0x10 => record.create_revision = get_varint(&mut bytes)? as i64,
                0x18 => record.mod_revision = get_varint(&mut bytes)? as i64,
                0x20 => record.version = get_varint(&mut bytes)? as i64,
                0x2a => record.value = get_bytes(&mut bytes)?,
                0x30 => record.lease = get_varint(&mut bytes)? as i64,
                tag => skip(&mut bytes, tag)?,
            }
        }
        Some(record)
    }

    /// The key of an encoded record, sharing its memory.
    pub fn key_of(record: &Bytes) -> Bytes {
        let key = Record::decode(record).expect("a record that was encoded here").key;
        record.slice_ref(key)
    }
}

/// What a tombstone's row holds.
pub(super) fn tombstone(key: &[u8]) -> Bytes {
    Record { key, ..Record::default() }.encode()
}

/// What the event of a deletion carries.
pub(super) fn deletion(key: &[u8], mod_revision: i64) -> Bytes {
    Record { key, mod_revision, ..Record::default() }.encode()
}

fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

fn number_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value as u64) }
}

fn bytes_len(value: &[u8]) -> usize {
    if value.is_empty() { 0 } else { 1 + varint_len(value.len() as u64) + value.len() }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(out: &mut Vec<u8>, field: u8, value: i64) {
    if value != 0 {
        out.push(field << 3);
        put_varint(out, value as u64);
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    if !value.is_empty() {
        out.push(field << 3 | 2);
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

fn get_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn get_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(get_varint(bytes)?).ok()?;
    let (value, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(value)
}

fn skip(bytes: &mut &[u8], tag: u64) -> Option<()> {
    match tag & 7 {
        0 => drop(get_varint(bytes)?),
        1 => *bytes = bytes.get(8..)?,
        2 => drop(get_bytes(bytes)?),
        5 => *bytes = bytes.get(4..)?,
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb::KeyValue;
    use proptest::prelude::*;
    use prost::Message;

    proptest! {
        /// The hand-written encoding is prost's, byte for byte, and reads back.
        #[test]
        fn encodes_what_protobuf_says(
            key in prop::collection::vec(any::<u8>(), 0..300),
            value in prop::collection::vec(any::<u8>(), 0..300),
            numbers in prop::array::uniform4(prop_oneof![Just(0i64), any::<i64>(), 0..300i64]),
        ) {
            let [create_revision, mod_revision, version, lease] = numbers;
            let record =
                Record { key: &key, create_revision, mod_revision, version, value: &value, lease };
            let prost = KeyValue {
                key: key.clone().into(),
                create_revision,
                mod_revision,
                version,
                value: value.clone().into(),
                lease,
            };
            let bytes = record.encode();
            prop_assert_eq!(&bytes[..], &prost.encode_to_vec()[..]);
            prop_assert_eq!(Record::decode(&bytes), Some(record));
        }

        /// Any bytes are either refused or read; nothing panics.
        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let ours = Record::decode(&bytes).is_some();
            if KeyValue::decode(&bytes[..]).is_ok() && !bytes.iter().any(|b| b & 7 == 3) {
                prop_assert!(ours);
            }
        }
    }

    #[test]
    fn row_keys_are_etcds_and_sort_by_place() {
        let row = RowKey { place: Place { main: 258, sub: 1 }, tombstone: true };
        let bytes = row.bytes();
        assert_eq!(bytes.as_slice(), b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x01t");
        assert_eq!(RowKey::parse(bytes.as_slice()), Some(row));
        assert_eq!(RowKey::parse(b"short"), None);
        let next = RowKey { place: Place { main: 258, sub: 2 }, tombstone: false };
        assert!(bytes.as_slice() < next.bytes().as_slice());
    }
}
