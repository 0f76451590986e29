//! Range: which keys, at which revision, in which order, how many.
//!
//! What can be decided from the index is: a filter, an order and a limit need no values (but for
//! an order by value), so only the records that will be in the answer are fetched. The index is
//! read in chunks, the lock released in between, all at one revision; if a compaction passes that
//! revision on the way, the answer is `Compacted`.
//!
//! The rules are etcd's, with their oddities:
//! - `count` ignores limit and filters.
//! - A limit with `sort_order` NONE takes the first keys *by key*, and only then is the order of
//!   `sort_target` made.
//! - `keys_only` answers lease 0, except when ordered by value, which reads the records.
//! - A negative revision means the latest.

use super::engine::View;
use super::error::{ReadError, StoreError};
use super::index::{KeyState, Point};
use super::record::{Place, Record};
use super::shared::{Found, Shared, Source};
use crate::types::{Error, KeyRange, Revision, limits};
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

/// In which direction an answer is ordered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SortOrder {
    /// As the target says, ascending; a limit cuts by key first.
    #[default]
    None,
    Ascend,
    Descend,
}

/// By what an answer is ordered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// A question for keys; field by field a `RangeRequest`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeQuery {
    pub keys: KeyRange,
    /// Most pairs in the answer; 0 or less = all.
    pub limit: i64,
    /// Revision to read at; 0 or less = latest.
    pub revision: i64,
    pub order: SortOrder,
    pub target: SortTarget,
    pub keys_only: bool,
    pub count_only: bool,
    /// Bounds of the mod revision, both included; 0 = none.
    pub min_mod: i64,
    pub max_mod: i64,
    /// Bounds of the create revision, both included; 0 = none.
    pub min_create: i64,
    pub max_create: i64,
}

impl RangeQuery {
    /// Everything about the latest state of `keys`.
    pub fn new(keys: KeyRange) -> RangeQuery {
        RangeQuery {
            keys,
            limit: 0,
            revision: 0,
            order: SortOrder::None,
            target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            min_mod: 0,
            max_mod: 0,
            min_create: 0,
            max_create: 0,
        }
    }

    fn is_filtered(&self) -> bool {
        [self.min_mod, self.max_mod, self.min_create, self.max_create].iter().any(|&b| b != 0)
    }

    fn admits(&self, point: &Point) -> bool {
        let within = |x, min, max| (min == 0 || min <= x) && (max == 0 || x <= max);
        within(point.main, self.min_mod, self.max_mod)
            && within(point.create, self.min_create, self.max_create)
    }

    /// Refuses what cannot be answered in pieces.
    pub(super) fn check_stream(&self) -> Result<(), Error> {
        if self.target != SortTarget::Key || self.order == SortOrder::Descend {
            return Err(Error::RangeStreamSort);
        }
        if self.is_filtered() {
            return Err(Error::RangeStreamFilter);
        }
        Ok(())
    }

    /// Whether the answer's first keys by key are all that is needed.
    fn cuts_by_key(&self) -> bool {
        match self.order {
            // A filter makes etcd fetch everything first, so that the order comes before the cut.
            SortOrder::None => self.target == SortTarget::Key || !self.is_filtered(),
            SortOrder::Ascend => self.target == SortTarget::Key,
            SortOrder::Descend => false,
        }
    }

    /// Whether the records are needed, not only the index.
    fn wants_records(&self) -> bool {
        !self.keys_only || self.target == SortTarget::Value
    }
}

/// The answer to a [`RangeQuery`].
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RangeResult {
    /// Encoded `mvccpb.KeyValue`s.
    pub kvs: Vec<Bytes>,
    /// Whether the limit cut some off.
    pub more: bool,
    /// Keys in the range at that revision, whatever limit and filters say.
    pub count: i64,
    /// The store's revision when the answer was made.
    pub revision: Revision,
}

/// The revision a query reads at.
pub(super) fn resolve(revision: i64, latest: i64) -> Result<i64, Error> {
    match revision {
        ..=0 => Ok(latest),
        r if r > latest => Err(Error::FutureRevision),
        r => Ok(r),
    }
}

/// A version that may be in the answer.
struct Item {
    point: Point,
    record: Found,
    /// Which of `Collector::views` has it, if it is in the file.
    view: usize,
}

/// Walks a range at one revision, chunk by chunk.
pub(super) struct Walk {
    keys: KeyRange,
    revision: i64,
    /// First key of the next chunk; none once the end is reached.
    next: Option<Bytes>,
}

impl Walk {
    pub(super) fn new(keys: KeyRange, revision: i64) -> Walk {
        let next = (!keys.is_empty()).then(|| keys.start.clone());
        Walk { keys, revision, next }
    }

    pub(super) fn is_done(&self) -> bool {
        self.next.is_none()
    }

    /// Visits what one hold of the lock may visit. `visit` ends the walk by breaking; a later
    /// chunk then begins with the key it broke at.
    pub(super) fn chunk(
        &mut self,
        shared: &Shared,
        mut visit: impl FnMut(&[u8], &KeyState, &Point) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        shared.check_revision(self.revision)?;
        let Some(from) = self.next.take() else { return Ok(()) };
        if self.keys.is_single() {
            if let Some(state) = shared.index.get(&from)
                && let Some(point) = state.at(self.revision)
                && visit(&from, state, point).is_break()
            {
                self.next = Some(from);
            }
            return Ok(());
        }
        let upper = self.keys.upper();
        for (visited, (key, state)) in shared.index.iter_from(&from).enumerate() {
            if upper.is_some_and(|upper| key >= upper) {
                return Ok(());
            }
            let full = visited == limits::RANGE_CHUNK_KEYS;
            let stop = full
                || state.at(self.revision).is_some_and(|point| visit(key, state, point).is_break());
            if stop {
                self.next = Some(Bytes::copy_from_slice(key));
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Gathers the items of an answer.
struct Collector<'q> {
    query: &'q RangeQuery,
    items: Vec<Item>,
    /// File states the items' places refer to.
    views: Vec<Arc<View>>,
    /// Items that are enough.
    most: usize,
    count: u64,
    /// The count is known without visiting every key.
    counted: bool,
}

impl Collector<'_> {
    fn chunk(&mut self, shared: &Shared, walk: &mut Walk) -> Result<(), Error> {
        let mut in_file = false;
        let known = self.views.last().is_some_and(|view| Arc::ptr_eq(view, &shared.view));
        let view = self.views.len() - usize::from(known);
        walk.chunk(shared, |key, state, point| {
            if self.items.len() < self.most {
                if self.query.admits(point) {
                    let record = if self.query.wants_records() {
                        shared.find(state, point)
                    } else {
                        Found::Here(bare(key, point))
                    };
                    in_file |= matches!(record, Found::InFile(_));
                    self.items.push(Item { point: *point, record, view });
                }
            } else if self.counted {
                return ControlFlow::Break(());
            }
            if !self.counted {
                self.count += 1;
            }
            ControlFlow::Continue(())
        })?;
        if in_file && !known {
            self.views.push(Arc::clone(&shared.view));
        }
        if self.counted && self.items.len() >= self.most {
            walk.next = None;
        }
        Ok(())
    }

    /// Fetches what is only in the file.
    fn fetch(&mut self, source: &impl Source) -> Result<(), StoreError> {
        for (number, view) in self.views.iter().enumerate() {
            let items = self.items.iter_mut().filter(|item| item.view == number);
            fetch_all(source, items.map(|item| &mut item.record), view)?;
        }
        Ok(())
    }
}

/// Fetches the records among `found` that are in the file, neighbours together.
pub(super) fn fetch_all<'f>(
    source: &impl Source,
    found: impl Iterator<Item = &'f mut Found>,
    view: &View,
) -> Result<(), StoreError> {
    let mut wanted: Vec<(Place, &mut Found)> = Vec::new();
    for found in found {
        if let Found::InFile(place) = *found {
            wanted.push((place, found));
        }
    }
    wanted.sort_unstable_by_key(|(place, _)| *place);
    let places: Vec<Place> = wanted.iter().map(|(place, _)| *place).collect();
    let mut fetched = Vec::with_capacity(places.len());
    view.get_many(&places, |number, record| {
        *wanted[number].1 = Found::Here(record.clone());
        fetched.push((places[number], record));
    })?;
    source.keep(&fetched);
    Ok(())
}

/// A record with the key and its numbers alone.
pub(super) fn bare(key: &[u8], point: &Point) -> Bytes {
    let Point { main, create, version, .. } = *point;
    Record { key, create_revision: create, mod_revision: main, version, value: &[], lease: 0 }
        .encode()
}

fn value_of(item: &Item) -> &[u8] {
    let Found::Here(record) = &item.record else {
        unreachable!("records are fetched before they are looked at")
    };
    Record::decode(record).expect("records are checked when written and read").value
}

fn compare(target: SortTarget, a: &Item, b: &Item) -> Ordering {
    match target {
        // Items come in key order, and sorting keeps the order of equals.
        SortTarget::Key => Ordering::Equal,
        SortTarget::Version => a.point.version.cmp(&b.point.version),
        SortTarget::Create => a.point.create.cmp(&b.point.create),
        SortTarget::Mod => a.point.main.cmp(&b.point.main),
        SortTarget::Value => value_of(a).cmp(value_of(b)),
    }
}

/// Answers a query.
pub(super) fn range(source: &impl Source, query: &RangeQuery) -> Result<RangeResult, ReadError> {
    let limit = usize::try_from(query.limit).unwrap_or(0);
    let mut most = usize::MAX;
    if limit > 0 && query.cuts_by_key() {
        // One more, to know whether there are more.
        most = limit.saturating_add(1);
    }
    if query.count_only {
        most = 0;
    }
    let mut collector =
        Collector { query, items: Vec::new(), views: Vec::new(), most, count: 0, counted: false };
    // The last keys by key are found by rank.
    let last = limit > 0
        && query.order == SortOrder::Descend
        && query.target == SortTarget::Key
        && !query.is_filtered()
        && !query.count_only;
    let (latest, mut walk) = source.with(|shared| {
        let latest = source.latest(shared);
        let revision = resolve(query.revision, latest)?;
        let mut walk = Walk::new(query.keys.clone(), revision);
        if revision == source.newest(shared) {
            collector.count = shared.index.count(&query.keys);
            collector.counted = true;
            if last && !query.keys.is_single() && !walk.is_done() {
                walk.next = shared.index.start_of_last(&query.keys, limit as u64);
            }
        }
        collector.chunk(shared, &mut walk)?;
        Ok::<_, Error>((latest, walk))
    })??;
    while !walk.is_done() {
        source.with(|shared| collector.chunk(shared, &mut walk))??;
    }
    let count = collector.count as i64;
    let mut more = false;
    if last && collector.counted {
        more = collector.count > limit as u64;
    }
    if query.target == SortTarget::Value {
        collector.fetch(source)?;
    }
    let items = &mut collector.items;
    match (query.order, query.target) {
        (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => {}
        (SortOrder::Descend, SortTarget::Key) => items.reverse(),
        (SortOrder::None | SortOrder::Ascend, target) => {
            items.sort_by(|a, b| compare(target, a, b));
        }
        (SortOrder::Descend, target) => items.sort_by(|a, b| compare(target, b, a)),
    }
    if limit > 0 && items.len() > limit {
        items.truncate(limit);
        more = true;
    }
    if query.target != SortTarget::Value {
        collector.fetch(source)?;
    }
    let strip = query.keys_only && query.wants_records();
    let records = collector.items.into_iter().map(|item| item.record.fetched());
    let kvs = records.map(|kv| if strip { without_value(&kv) } else { kv }).collect();
    Ok(RangeResult { kvs, more, count, revision: Revision(latest) })
}

fn without_value(record: &Bytes) -> Bytes {
    let full = Record::decode(record).expect("records are checked when written and read");
    Record { value: &[], ..full }.encode()
}
