//! Random requests, flushes, compactions, crashes and copies: the store must answer like the
//! model after each.

use super::memory_file::MemoryFile;
use super::model::Model;
use super::*;
use crate::types::{Error, Index, Revision, Term};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Part {
    Put { key: Vec<u8>, value: Vec<u8>, lease: i64 },
    Delete { range: KeyRange, want_previous: bool },
    Range(RangeQuery),
}

#[derive(Clone, Debug)]
enum Op {
    Request(Vec<Part>),
    Side(u8, Option<Vec<u8>>),
    /// A revision, as a part of 256 of the span in question.
    Compact(u8),
    CompactStep(usize),
    BeginFlush,
    RunFlush,
    FinishFlush,
    Flush,
    /// Which of the unsynced writes survive.
    Crash(u64),
    Reopen,
    Defragment,
    CopyBySnapshot(usize),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(b'a'..b'd', 1..4)
}

fn bytes(bytes: Vec<u8>) -> Bytes {
    Bytes::from(bytes)
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key().prop_map(|key| KeyRange::single(bytes(key))),
        (key(), key()).prop_map(|(key, end)| KeyRange::new(bytes(key), bytes(end))),
        key().prop_map(|key| KeyRange::new(bytes(key), Bytes::from_static(b"\0"))),
        Just(KeyRange::all()),
    ]
}

fn query() -> impl Strategy<Value = RangeQuery> {
    let order =
        prop_oneof![Just(SortOrder::None), Just(SortOrder::Ascend), Just(SortOrder::Descend)];
    let target = prop_oneof![
        3 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value),
    ];
    let bound = || prop_oneof![4 => Just(0i64), 1 => 1..20i64];
    let revision = prop_oneof![2 => Just(0i64), 1 => -2..40i64];
    (
        (key_range(), -1..6i64, revision, order, target),
        (any::<bool>(), prop::bool::weighted(0.2)),
        (bound(), bound(), bound(), bound()),
    )
        .prop_map(
            |((keys, limit, revision, order, target), (keys_only, count_only), bounds)| {
                let (min_mod, max_mod, min_create, max_create) = bounds;
                RangeQuery {
                    keys,
                    limit,
                    revision,
                    order,
                    target,
                    keys_only,
                    count_only,
                    min_mod,
                    max_mod,
                    min_create,
                    max_create,
                }
            },
        )
}

fn part() -> impl Strategy<Value = Part> {
    let value = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..12),
        1 => prop::collection::vec(any::<u8>(), 500..700),
    ];
    prop_oneof![
        5 => (key(), value, prop_oneof![3 => Just(0i64), 1 => -1..4i64])
            .prop_map(|(key, value, lease)| Part::Put { key, value, lease }),
        2 => (key_range(), any::<bool>())
            .prop_map(|(range, want_previous)| Part::Delete { range, want_previous }),
        1 => query().prop_map(Part::Range),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => prop::collection::vec(part(), 1..4).prop_map(Op::Request),
        1 => (0u8..4, prop::option::of(prop::collection::vec(any::<u8>(), 0..5)))
            .prop_map(|(key, value)| Op::Side(key, value)),
        2 => any::<u8>().prop_map(Op::Compact),
        3 => (1usize..9).prop_map(Op::CompactStep),
        2 => Just(Op::BeginFlush),
        2 => Just(Op::RunFlush),
        2 => Just(Op::FinishFlush),
        2 => Just(Op::Flush),
        1 => any::<u64>().prop_map(Op::Crash),
        1 => Just(Op::Reopen),
        1 => Just(Op::Defragment),
        1 => (1usize..3000).prop_map(Op::CopyBySnapshot),
    ]
}

/// A store, its model, and what the model was at each flush.
struct Pair {
    store: Store,
    file: MemoryFile,
    model: Model,
    /// What the file holds, and what it will hold after the flush in flight.
    flushed: Model,
    flushing: Option<Model>,
    job: Option<FlushJob>,
    outcome: Option<FlushOutcome>,
}

impl Pair {
    fn new() -> Pair {
        let (store, file) = new_store();
        let model = Model::new();
        let flushed = model.clone();
        Pair { store, file, model, flushed, flushing: None, job: None, outcome: None }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Request(parts) => self.request(parts),
            Op::Side(key, value) => {
                let key = vec![*key];
                match value {
                    Some(value) => {
                        self.store.side_put(Side::Lease, &key, value).unwrap();
                        self.model.side.insert(key, value.clone());
                    }
                    None => {
                        self.store.side_delete(Side::Lease, &key).unwrap();
                        self.model.side.remove(&key);
                    }
                }
                self.applied();
            }
            Op::Compact(part) => {
                let span = self.model.revision - self.model.compacted + 3;
                let revision = self.model.compacted - 1 + span * i64::from(*part) / 256;
                let ours = self.store.compact(Revision(revision)).unwrap();
                assert_eq!(ours, self.model.compact(revision));
                self.applied();
            }
            Op::CompactStep(most) => drop(self.store.compact_step(*most).unwrap()),
            Op::BeginFlush => {
                if let Some(job) = self.store.begin_flush().unwrap() {
                    self.job = Some(job);
                    self.flushing = Some(self.model.clone());
                }
            }
            Op::RunFlush => {
                if let Some(job) = self.job.take() {
                    self.outcome = Some(job.run());
                }
            }
            Op::FinishFlush => {
                if let Some(outcome) = self.outcome.take() {
                    self.store.finish_flush(outcome).unwrap();
                    self.flushed = self.flushing.take().unwrap();
                }
            }
            Op::Flush => self.flush(),
            Op::Crash(seed) => {
                let mut seed = *seed;
                let disk = self.file.crash(|_| {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    seed >> 63 == 1
                });
                self.reopen(disk);
            }
            Op::Reopen => {
                self.flush();
                let file = MemoryFile::from_bytes(self.file.bytes());
                self.reopen(file);
            }
            Op::Defragment => {
                let file = MemoryFile::default();
                if let Some(job) = self.store.begin_defragment(file.clone()).unwrap() {
                    let copy = job.run().unwrap();
                    self.store.finish_defragment(copy).unwrap();
                    self.file = file;
                }
            }
            Op::CopyBySnapshot(piece) => {
                let before = self.store.flushed().unwrap();
                let snapshot = dump(&self.store);
                let (store, restored, file) = load(&snapshot, *piece).unwrap();
                assert_eq!((restored.applied, restored.term), before);
                assert_eq!(dump(&store), snapshot);
                self.take_over(store, restored, file);
            }
        }
    }

    fn flush(&mut self) {
        self.run(&Op::RunFlush);
        self.run(&Op::FinishFlush);
        self.store.flush().unwrap();
        self.flushed = self.model.clone();
    }

    fn reopen(&mut self, file: MemoryFile) {
        let (store, restored) = Store::open(file.clone(), tight()).unwrap();
        self.take_over(store, restored, file);
    }

    fn take_over(&mut self, store: Store, restored: Restored, file: MemoryFile) {
        let flushed = [Some(self.flushed.clone()), self.flushing.take()];
        let model = flushed.into_iter().flatten().find(|m| m.applied == restored.applied.0);
        self.model = model.expect("the file holds the state of a flush");
        self.flushed = self.model.clone();
        (self.job, self.outcome) = (None, None);
        (self.store, self.file) = (store, file);
        let leased: Vec<_> = self
            .model
            .state(i64::MAX)
            .into_iter()
            .filter(|v| v.lease != 0)
            .map(|v| (Bytes::from(v.key.clone()), LeaseId(v.lease)))
            .collect();
        assert_eq!(restored.leased, leased);
        assert_eq!(restored.revision, Revision(self.model.revision));
        assert_eq!(restored.compacted, Revision(self.model.compacted));
    }

    fn applied(&mut self) {
        self.model.applied += 1;
        self.store.set_applied(Index(self.model.applied), Term(3));
    }

    fn request(&mut self, parts: &[Part]) {
        let model = &mut self.model;
        let logged = model.log.len();
        let mut write = self.store.write().unwrap();
        for part in parts {
            match part {
                Part::Put { key, value, lease } => {
                    let replaced = write.put(key, value, LeaseId(*lease)).unwrap();
                    let old = model.put(key, value, *lease);
                    assert_eq!(replaced.existed, old.is_some());
                    assert_eq!(replaced.lease.0, old.map_or(0, |old| old.lease));
                }
                Part::Delete { range, want_previous } => {
                    let deleted = write.delete_range(range, *want_previous).unwrap();
                    let gone = model.delete(range);
                    assert_eq!(deleted.len(), gone.len());
                    for (ours, old) in deleted.iter().zip(&gone) {
                        assert_eq!((&ours.key[..], ours.lease.0), (&old.key[..], old.lease));
                        let record = want_previous.then(|| old.record().encode());
                        assert_eq!(ours.previous, record);
                    }
                }
                Part::Range(query) => compare_range(&write, model, query),
            }
            for key in model.keys() {
                let theirs = model.at(key, i64::MAX);
                let ours = write.record(key).unwrap();
                assert_eq!(ours, theirs.map(|v| v.record().encode()));
                let numbers = write
                    .meta(key)
                    .unwrap()
                    .map(|m| (m.create_revision, m.mod_revision, m.version, m.lease.0));
                assert_eq!(numbers, theirs.map(|v| (v.create, v.main, v.version, v.lease)));
            }
        }
        let finished = write.finish();
        model.finish();
        assert_eq!(finished.revision, Revision(model.revision));
        let expected: Vec<Change> = model.log[logged..].iter().map(event).collect();
        assert_eq!(finished.changes, expected);
        self.applied();
    }

    /// Compares everything there is to ask.
    fn compare(&self, queries: &[RangeQuery]) {
        let reader = self.store.reader();
        let model = &self.model;
        assert_eq!(reader.revision().unwrap().0, model.revision);
        assert_eq!(reader.compacted().unwrap().0, model.compacted);
        let sizes = reader.sizes().unwrap();
        assert_eq!(sizes.keys, model.state(i64::MAX).len() as u64);
        assert!(sizes.cached_bytes <= tight().cache_bytes as u64);
        assert!(sizes.in_use_bytes <= sizes.file_bytes);
        if !self.store.is_compacting() {
            assert_eq!(sizes.retained_bytes, model.retained());
            assert_eq!(reader.finished().unwrap().0, model.compacted);
        }
        let read = reader.read();
        for query in queries {
            compare_range(&read, model, query);
            compare_stream(&reader, model, query);
        }
        let first = model.compacted.max(1) - 1;
        for revision in first..=model.revision + 1 {
            self.compare_at(&reader, revision);
        }
        let side: Vec<_> = self.store.side_scan(Side::Lease).unwrap().into_iter().collect();
        let theirs: Vec<_> =
            model.side.iter().map(|(k, v)| (bytes(k.clone()), bytes(v.clone()))).collect();
        assert_eq!(side, theirs);
    }

    fn compare_at(&self, reader: &Reader, revision: i64) {
        let model = &self.model;
        for key in model.keys() {
            let version = model.at(key, revision - 1).filter(|_| revision > model.compacted);
            let previous = reader.previous(key, Revision(revision)).unwrap();
            assert_eq!(previous, version.map(|v| v.record().encode()));
        }
        if revision < model.compacted {
            let refused = reader.changes(Revision(revision), Revision(99), 9, 99);
            assert!(matches!(refused, Err(ReadError::Refused(Error::Compacted))));
            return;
        }
        let through = revision + 5;
        let ours = reader.changes(Revision(revision), Revision(through), 3, 600).unwrap();
        assert_eq!(ours, model_changes(model, revision, through, 3, 600));
        if revision <= model.revision && revision > 0 {
            let hash = reader.hash_kv(Revision(revision)).unwrap();
            assert_eq!(hash.hash, model.hash_kv(revision), "at {revision}");
        }
    }
}

fn event(version: &super::model::Version) -> Change {
    let key = bytes(version.key.clone());
    let put = version.version > 0;
    let mut record = version.record();
    record.mod_revision = version.main;
    Change {
        key,
        kind: if put { ChangeKind::Put } else { ChangeKind::Delete },
        record: record.encode(),
        create: put && version.version == 1,
    }
}

fn model_changes(
    model: &Model,
    from: i64,
    through: i64,
    revisions: usize,
    most_bytes: usize,
) -> Vec<RevisionChanges> {
    let mut found: Vec<RevisionChanges> = Vec::new();
    let mut taken = 0;
    for revision in from..=through {
        let versions: Vec<_> = model.kept().into_iter().filter(|v| v.main == revision).collect();
        if versions.is_empty() {
            continue;
        }
        if !found.is_empty() && (found.len() >= revisions || taken > most_bytes) {
            break;
        }
        taken += versions.iter().map(|v| v.record().encode().len()).sum::<usize>();
        let changes = versions.into_iter().map(event).collect();
        found.push(RevisionChanges { revision: Revision(revision), changes });
    }
    found
}

fn compare_range(ours: &impl KeyValueRead, model: &Model, query: &RangeQuery) {
    match (ours.range(query), model.range(query)) {
        (Ok(ours), Ok((kvs, more, count))) => {
            let got: Vec<Vec<u8>> = ours.kvs.iter().map(|kv| kv.to_vec()).collect();
            assert_eq!(got, kvs, "{query:?}");
            assert_eq!((ours.more, ours.count), (more, count), "{query:?}");
            assert_eq!(ours.revision, Revision(model.latest()));
        }
        (Err(ReadError::Refused(ours)), Err(theirs)) => assert_eq!(ours, theirs),
        (ours, theirs) => panic!("{query:?}: {ours:?} instead of {theirs:?}"),
    }
}

fn compare_stream(reader: &Reader, model: &Model, query: &RangeQuery) {
    let mut stream = match reader.stream(query.clone()) {
        Ok(stream) => stream,
        Err(ReadError::Refused(Error::RangeStreamSort | Error::RangeStreamFilter)) => return,
        Err(ReadError::Refused(error)) => {
            assert_eq!(Err(error), model.range(query));
            return;
        }
        Err(ReadError::Failed(error)) => panic!("{error}"),
    };
    let (kvs, more, count) = model.range(query).unwrap();
    let mut got = Vec::new();
    let mut end = None;
    while let Some(chunk) = stream.next(2).unwrap() {
        assert!(end.is_none() && chunk.kvs.len() <= 2);
        got.extend(chunk.kvs.iter().map(|kv| kv.to_vec()));
        end = chunk.end;
    }
    assert_eq!(got, kvs);
    assert_eq!(end, Some((more, count, Revision(model.revision))), "{query:?}");
}

/// Fewer cases than usual, each is long; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { u32::MAX } else { 96 };
    let default = ProptestConfig::default();
    ProptestConfig { cases: cases.min(default.cases), ..default }
}

proptest! {
    #![proptest_config(config())]

    /// Whatever happens to it, the store answers as the model does.
    #[test]
    fn answers_like_the_model(
        ops in prop::collection::vec(op(), 1..60),
        queries in prop::collection::vec(query(), 12),
    ) {
        let mut pair = Pair::new();
        for op in &ops {
            pair.run(op);
            pair.compare(&queries);
        }
        compact_fully(&mut pair.store);
        pair.compare(&queries);
    }

    /// Two members that applied the same and flushed and compacted at different moments agree in
    /// every hash, and in every byte of a snapshot once both are done.
    #[test]
    fn members_agree_whatever_they_flushed(
        ops in prop::collection::vec(op(), 1..60),
        lazy in any::<u64>(),
    ) {
        let shared = |op: &&Op| matches!(op, Op::Request(_) | Op::Side(..) | Op::Compact(_));
        let (mut busy, mut idle) = (Pair::new(), Pair::new());
        for (number, op) in ops.iter().enumerate() {
            if shared(&op) {
                busy.run(op);
                idle.run(op);
            } else if !matches!(op, Op::Crash(_) | Op::CopyBySnapshot(_)) {
                let which = if lazy >> (number % 64) & 1 == 1 { &mut idle } else { &mut busy };
                which.run(op);
            }
        }
        let readers = [busy.store.reader(), idle.store.reader()];
        prop_assert_eq!(readers[0].hash().unwrap(), readers[1].hash().unwrap());
        for pair in [&mut busy, &mut idle] {
            compact_fully(&mut pair.store);
            pair.flush();
        }
        prop_assert_eq!(dump(&busy.store), dump(&idle.store));
    }
}
