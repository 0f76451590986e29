//! A store that keeps every version in a list and answers by looking at all of them.
//!
//! Written from the specification alone and as plainly as can be: no index, no cleverness.

use crate::store::{RangeQuery, Record, SortOrder, SortTarget};
use crate::types::{Error, KeyRange, limits};
use std::collections::{BTreeMap, BTreeSet};

/// A version of a key; `version` 0 for a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Version {
    pub(super) main: i64,
    pub(super) sub: i64,
    pub(super) key: Vec<u8>,
    pub(super) create: i64,
    pub(super) version: i64,
    pub(super) value: Vec<u8>,
    pub(super) lease: i64,
}

impl Version {
    fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    pub(super) fn record(&self) -> Record<'_> {
        if self.is_tombstone() {
            return Record { key: &self.key, ..Record::default() };
        }
        Record {
            key: &self.key,
            create_revision: self.create,
            mod_revision: self.main,
            version: self.version,
            value: &self.value,
            lease: self.lease,
        }
    }

    fn row_key(&self) -> Vec<u8> {
        let mut bytes = self.main.to_be_bytes().to_vec();
        bytes.push(b'_');
        bytes.extend_from_slice(&self.sub.to_be_bytes());
        if self.is_tombstone() {
            bytes.push(b't');
        }
        bytes
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Model {
    /// Every version there ever was, in order.
    pub(super) log: Vec<Version>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) side: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) applied: u64,
    /// Changes made by the request being applied.
    open: i64,
}

impl Model {
    pub(super) fn new() -> Model {
        Model {
            log: Vec::new(),
            revision: 1,
            compacted: -1,
            side: BTreeMap::new(),
            applied: 0,
            open: 0,
        }
    }

    /// The revision a read sees, inside a request or outside.
    pub(super) fn latest(&self) -> i64 {
        self.revision + i64::from(self.open > 0)
    }

    pub(super) fn finish(&mut self) {
        self.revision = self.latest();
        self.open = 0;
    }

    fn newest(&self, key: &[u8], revision: i64) -> Option<&Version> {
        self.log.iter().rfind(|v| v.key == key && v.main <= revision)
    }

    pub(super) fn at(&self, key: &[u8], revision: i64) -> Option<&Version> {
        self.newest(key, revision).filter(|v| !v.is_tombstone())
    }

    pub(super) fn keys(&self) -> BTreeSet<&[u8]> {
        self.log.iter().map(|v| &v.key[..]).collect()
    }

    pub(super) fn state(&self, revision: i64) -> Vec<&Version> {
        self.keys().into_iter().filter_map(|key| self.at(key, revision)).collect()
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> Option<Version> {
        let old = self.at(key, i64::MAX).cloned();
        let main = self.revision + 1;
        self.log.push(Version {
            main,
            sub: self.open,
            key: key.to_vec(),
            create: old.as_ref().map_or(main, |old| old.create),
            version: old.as_ref().map_or(1, |old| old.version + 1),
            value: value.to_vec(),
            lease,
        });
        self.open += 1;
        old
    }

    pub(super) fn delete(&mut self, range: &KeyRange) -> Vec<Version> {
        let gone: Vec<Version> =
            self.state(i64::MAX).into_iter().filter(|v| range.contains(&v.key)).cloned().collect();
        for old in &gone {
            self.log.push(Version {
                main: self.revision + 1,
                sub: self.open,
                key: old.key.clone(),
                create: 0,
                version: 0,
                value: Vec::new(),
                lease: 0,
            });
            self.open += 1;
        }
        gone
    }

    pub(super) fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        self.compacted = revision;
        Ok(())
    }

    /// Section 4 of the specification, word for word: pairs, more, count.
    pub(super) fn range(&self, q: &RangeQuery) -> Result<(Vec<Vec<u8>>, bool, i64), Error> {
        let revision = if q.revision <= 0 { self.latest() } else { q.revision };
        if revision > self.latest() {
            return Err(Error::FutureRevision);
        }
        if revision < self.compacted {
            return Err(Error::Compacted);
        }
        let mut found: Vec<&Version> =
            self.state(revision).into_iter().filter(|v| q.keys.contains(&v.key)).collect();
        let count = found.len() as i64;
        if q.count_only {
            return Ok((Vec::new(), false, count));
        }
        found.retain(|v| {
            (q.min_mod == 0 || v.main >= q.min_mod)
                && (q.max_mod == 0 || v.main <= q.max_mod)
                && (q.min_create == 0 || v.create >= q.min_create)
                && (q.max_create == 0 || v.create <= q.max_create)
        });
        let limit = if q.limit > 0 { q.limit as usize } else { usize::MAX };
        let filtered = [q.min_mod, q.max_mod, q.min_create, q.max_create] != [0; 4];
        if q.order == SortOrder::None && !filtered {
            // One more than the limit is fetched by key, and those are sorted.
            found.truncate(limit.saturating_add(1));
        }
        let descend = q.order == SortOrder::Descend;
        let compare = |a: &&Version, b: &&Version| match q.target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create.cmp(&b.create),
            SortTarget::Mod => a.main.cmp(&b.main),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        found.sort_by(|a, b| if descend { compare(b, a) } else { compare(a, b) });
        let more = found.len() > limit;
        found.truncate(limit);
        let kvs = found.iter().map(|v| {
            let mut record = v.record();
            if q.keys_only {
                record.value = &[];
                if q.target != SortTarget::Value {
                    record.lease = 0;
                }
            }
            record.encode().to_vec()
        });
        Ok((kvs.collect(), more, count))
    }

    /// Versions a compaction keeps.
    pub(super) fn kept(&self) -> Vec<&Version> {
        let kept = |v: &&Version| {
            if v.main >= self.compacted {
                return true;
            }
            let newest = self.newest(&v.key, self.compacted).expect("this one at least");
            newest == *v && !v.is_tombstone()
        };
        self.log.iter().filter(kept).collect()
    }

    pub(super) fn retained(&self) -> u64 {
        let weight = |v: &&Version| v.record().encode().len() + limits::STORE_RECORD_OVERHEAD_BYTES;
        self.kept().iter().map(weight).sum::<usize>() as u64
    }

    /// Section 13 of the specification.
    pub(super) fn hash_kv(&self, revision: i64) -> u32 {
        let alive: Vec<&Version> = self.state(revision);
        let mut bytes = b"key".to_vec();
        for v in self.kept() {
            let compacted_away = v.main <= self.compacted
                && !alive.is_empty()
                && !alive.iter().any(|a| (a.main, a.sub) == (v.main, v.sub));
            let tombstone = v.main == self.compacted && v.is_tombstone();
            let replaced = v.main <= self.compacted
                && self.newest(&v.key, self.compacted).is_some_and(|newest| newest != v);
            if v.main > revision || compacted_away || tombstone || replaced {
                continue;
            }
            bytes.extend_from_slice(&v.row_key());
            bytes.extend_from_slice(&v.record().encode());
        }
        crc32c::crc32c(&bytes)
    }
}
