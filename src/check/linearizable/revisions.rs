//! Linearizability by revisions: the order is told, it need only be believed or refuted.
//!
//! Every response of etcd carries the store's revision, and every write that changed something is
//! a revision of its own. So a history names its own order, and checking it takes one walk along
//! the revisions instead of a search among all orders:
//!
//! 1. *Time*: a write's revision is above, and an answer's not below, what had been told before
//!    the call (`clock`). No two writes share a revision.
//! 2. *Content*: revision by revision, the write of that revision is carried out on a model of
//!    the store (`store`) and its answer compared; then so are all reads at that revision.
//!
//! Because reads are placed at the revision they name, an order that passes is a linearization
//! (of the serializable reads: a placement at some state), and a contradiction refutes them all.
//!
//! The one search is for *gaps*: revisions that no answered write claims. A write of unknown
//! outcome, or the end of a lease, must have made them. Which one is decided by what was seen:
//!
//! - what reads, previous values and watch events show with that revision as `mod_revision` must
//!   be what the candidate changes; a watcher that covers the revision and saw nothing excludes it;
//! - a read that shows a key unchanged across the revision excludes changes of that key;
//! - a candidate is called before the revision is told, and is used once.
//!
//! Where several remain, the walk tries one after the other and, on a contradiction, goes back
//! to the latest gap that could have touched the keys in question (conflict-directed
//! backjumping). What a frame leaves to its elders is the set of keys that its candidates could
//! read or change, so nothing is skipped that could help. After a limit of steps the answer is
//! "unknown", never a guess.
//!
//! What is not needed: which order operations without effect on each other had.

use crate::check::clock::{Teller, Told};
use crate::check::data::Data;
use crate::check::history::History;
use crate::check::leases::Leases;
use crate::check::op::{
    EventKind, KeyValue, Operation, Outcome, RangeRequest, Request, Response, keys,
};
use crate::check::store::{Changes, Store};
use crate::check::violation::{Rule, Violation, difference, kv_text};
use crate::types::{KeyRange, LeaseId, Revision};
use std::collections::{BTreeMap, BTreeSet};

/// What was found.
#[derive(Debug)]
pub enum Answer {
    /// The store with all its revisions, and who made each.
    Lawful(Timeline),
    Unlawful(Box<Violation>),
    /// The search was given up; why.
    Unknown(String),
}

/// The history of the store, resolved.
#[derive(Debug)]
pub struct Timeline {
    pub store: Store,
    /// The operation that made a revision; those made by the end of a lease have none.
    pub makers: BTreeMap<Revision, usize>,
    /// Whether some revision could have been made by another operation than the one named, so
    /// that what contradicts this resolution need not contradict all.
    pub is_ambiguous: bool,
}

/// Checks the operations of a history by their revisions.
pub fn check(history: &History, steps_max: u64) -> Answer {
    let told = Told::new(history);
    let claims = match compaction(history).and_then(|()| claims(history, &told)) {
        Ok(claims) => claims,
        Err(violation) => return Answer::Unlawful(Box::new(violation)),
    };
    Search::new(history, &told, claims, steps_max).run()
}

/// What answers say about revisions.
struct Claims {
    /// The answered write of each revision.
    writes: BTreeMap<Revision, usize>,
    /// The other answers, by the revision of their header.
    reads: BTreeMap<Revision, Vec<usize>>,
    last: Revision,
}

/// Puts every answer at its revision, if time allows that.
fn claims(history: &History, told: &Told) -> Result<Claims, Violation> {
    let first = history.start.revision;
    let mut claims =
        Claims { writes: BTreeMap::new(), reads: BTreeMap::new(), last: told.last().max(first) };
    for (place, operation) in history.operations.iter().enumerate() {
        let Some(response) = operation.response() else { continue };
        if matches!(response, Response::LeaseKeepAlive(_)) {
            continue;
        }
        let revision = response.revision();
        if revision < first {
            let text = format!(
                "{} answered with revision {revision}, before {first}, where the history starts.",
                name(history, place)
            );
            return Err(Violation::new(Rule::StaleAnswer, text)
                .between(format!("at least {first}"), revision.to_string())
                .of([place])
                .at(revision));
        }
        on_time(history, told, place, revision)?;
        if !response.changed() {
            claims.reads.entry(revision).or_default().push(place);
        } else if revision == first {
            let text = format!(
                "{} changed something and was given revision {revision}, that of the state before \
                 all operations.",
                name(history, place)
            );
            return Err(Violation::new(Rule::WriteOrder, text).of([place]).at(revision));
        } else if let Some(other) = claims.writes.insert(revision, place) {
            let text = format!(
                "{} and {} both changed something and both were given revision {revision}. Each \
                 write has a revision of its own.",
                name(history, other),
                name(history, place)
            );
            return Err(Violation::new(Rule::RevisionUnique, text)
                .between("different revisions".into(), format!("{revision} twice"))
                .of([place, other])
                .at(revision));
        }
    }
    Ok(claims)
}

/// Whether a read of the past was answered although a compaction of it was known to be done.
fn compaction(history: &History) -> Result<(), Violation> {
    // When each compaction was answered, with the highest revision compacted by then.
    let mut done: Vec<(u64, Revision, usize)> = Vec::new();
    for (place, operation) in history.operations.iter().enumerate() {
        if let (Request::Compact(compact), Some(_), Some(returned)) =
            (&operation.request, operation.response(), operation.returned)
        {
            done.push((returned, compact.revision, place));
        }
    }
    done.sort();
    for place in 1..done.len() {
        if done[place - 1].1 > done[place].1 {
            (done[place].1, done[place].2) = (done[place - 1].1, done[place - 1].2);
        }
    }
    for (place, operation) in history.operations.iter().enumerate() {
        let (Request::Range(range), Some(_)) = (&operation.request, operation.response()) else {
            continue;
        };
        let known = done.partition_point(|(returned, _, _)| *returned < operation.invoke);
        let Some((_, compacted, by)) = done[..known].last() else { continue };
        if range.revision.0 > 0 && range.revision < *compacted && !range.serializable {
            let text = format!(
                "{} read revision {}, though {} had been answered before: what lies below \
                 revision {compacted} was compacted away.",
                name(history, place),
                range.revision,
                name(history, *by)
            );
            return Err(Violation::new(Rule::Compaction, text)
                .between("an error: compacted".into(), "an answer".into())
                .of([place, *by])
                .at(range.revision));
        }
    }
    Ok(())
}

/// Whether an answer respects what had been told before its call.
fn on_time(
    history: &History,
    told: &Told,
    place: usize,
    revision: Revision,
) -> Result<(), Violation> {
    let operation = &history.operations[place];
    let Some((floor, teller)) = told.before(operation.invoke) else { return Ok(()) };
    let changed = operation.response().is_some_and(Response::changed);
    let (rule, lowest) = match changed {
        true => (Rule::WriteOrder, Revision(floor.0 + 1)),
        false if operation.is_serializable() => return Ok(()),
        false => (Rule::StaleAnswer, floor),
    };
    if revision >= lowest {
        return Ok(());
    }
    let (who, operations, watch) = match teller {
        Teller::Operation(other) => (name(history, other), vec![place, other], None),
        Teller::Watch(watch) => (format!("watcher {watch}"), vec![place], Some(watch)),
    };
    let text = format!(
        "{} answered with revision {revision}, but before it was called, {who} had been told of \
         revision {floor}.",
        name(history, place)
    );
    let mut violation = Violation::new(rule, text)
        .between(format!("revision {lowest} or later"), format!("revision {revision}"))
        .of(operations)
        .at(revision);
    violation.watches.extend(watch);
    Err(violation)
}

/// An operation in a sentence: its place, what it is and who asked for it.
pub(in crate::check) fn name(history: &History, place: usize) -> String {
    let Operation { process, request, member, .. } = &history.operations[place];
    let mut ranges = Vec::new();
    request.footprint(&mut ranges);
    let key = match ranges.first() {
        Some(range) if !matches!(request, Request::LeaseRevoke(_)) => {
            format!(" of {}", Data(range.start.clone()))
        }
        _ => String::new(),
    };
    let at = if member.is_empty() { String::new() } else { format!(" at {member}") };
    format!("operation {place} ({}{key} by process {process}{at})", request.name())
}

/// A change as someone saw it.
#[derive(Clone, Debug)]
struct Sight {
    /// None: a deletion.
    kv: Option<KeyValue>,
    by: Teller,
}

/// What can have made a gap.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Maker {
    Operation(usize),
    LeaseEnd(LeaseId),
}

/// A gap that was filled, and what else could be tried.
struct Frame {
    revision: Revision,
    /// What remains to be tried, best last.
    left: Vec<(Maker, Changes)>,
    chosen: Maker,
    /// The keys that any candidate can read or change.
    keys: Vec<KeyRange>,
    /// The keys of contradictions that led back here.
    conflict: Vec<KeyRange>,
}

/// A contradiction and the keys it hangs on.
struct Contradiction {
    /// Told only when it lies further than all before it: telling takes longer than finding.
    violation: Option<Box<Violation>>,
    keys: Vec<KeyRange>,
}

struct Search<'a> {
    history: &'a History,
    told: &'a Told,
    claims: Claims,
    leases: Leases,
    /// Writes of unknown outcome and revokes, by the lowest revision they can have made.
    unknown: Vec<(Revision, usize)>,
    /// Changes that were seen in revisions that no answered write claims.
    sights: BTreeMap<Revision, BTreeMap<Data, Sight>>,
    /// Revisions at which a put of an unknown write was seen, by key and value.
    promised: BTreeMap<(Data, Data), BTreeSet<Revision>>,
    /// Per key that an unknown write may change: spans (after, up to) in which it did not change.
    quiet: BTreeMap<Data, BTreeMap<Revision, Revision>>,
    /// First and last revision that each watcher must have been told of.
    spans: Vec<(Revision, Revision)>,
    store: Store,
    makers: BTreeMap<Revision, usize>,
    used: BTreeSet<usize>,
    frames: Vec<Frame>,
    /// How far contradictions were met; each of them is a reason to go back from there.
    deepest: Option<Revision>,
    steps_left: u64,
}

impl<'a> Search<'a> {
    fn new(history: &'a History, told: &'a Told, claims: Claims, steps_max: u64) -> Search<'a> {
        let writes = history.operations.iter().enumerate().filter(|(_, operation)| {
            let revoke = matches!(operation.request, Request::LeaseRevoke(_));
            match operation.outcome {
                Outcome::Unknown(_) => operation.request.may_write(),
                Outcome::Ok(_) => revoke,
                Outcome::Failed(_) => false,
            }
        });
        let mut unknown: Vec<(Revision, usize)> = writes
            .map(|(place, operation)| (Revision(told.floor(operation.invoke).0 + 1), place))
            .collect();
        unknown.sort();
        let mut search = Search {
            history,
            told,
            leases: Leases::new(history),
            unknown,
            sights: BTreeMap::new(),
            promised: BTreeMap::new(),
            quiet: BTreeMap::new(),
            spans: history.watches.iter().map(crate::check::watch::span).collect(),
            store: Store::new(&history.start),
            makers: BTreeMap::new(),
            used: BTreeSet::new(),
            frames: Vec::new(),
            deepest: None,
            steps_left: steps_max,
            claims,
        };
        // With every revision claimed, nothing need be guessed, and nothing gathered for that.
        let span = search.claims.last.0 - history.start.revision.0;
        if search.claims.writes.len() as i64 != span {
            search.gather();
        }
        search
    }

    /// Gathers what was seen of revisions that nobody claims.
    fn gather(&mut self) {
        let mut sights = Sights { claims: &self.claims, seen: BTreeMap::new() };
        for (place, operation) in self.history.operations.iter().enumerate() {
            if let Some(response) = operation.response() {
                sights.response(&operation.request, response, Teller::Operation(place));
            }
        }
        for (place, watch) in self.history.watches.iter().enumerate() {
            for event in watch.responses.iter().flat_map(|message| &message.events) {
                sights.event(event, Teller::Watch(place));
            }
        }
        self.sights = sights.seen;
        for (revision, seen) in &self.sights {
            for kv in seen.values().filter_map(|sight| sight.kv.as_ref()) {
                let place = (kv.key.clone(), kv.value.clone());
                self.promised.entry(place).or_default().insert(*revision);
            }
        }
        for operation in &self.history.operations {
            if let (Request::Range(range), Some(Response::Range(response))) =
                (&operation.request, operation.response())
            {
                let at = if range.revision.0 > 0 { range.revision } else { response.revision };
                for kv in &response.kvs {
                    let spans = self.quiet.entry(kv.key.clone()).or_default();
                    let end = spans.entry(kv.mod_revision).or_default();
                    *end = at.max(*end);
                }
            }
        }
    }

    fn run(mut self) -> Answer {
        let mut deepest: Option<Box<Violation>> = None;
        let mut found = self.reads(self.store.revision());
        loop {
            if let Err(contradiction) = found {
                if let Some(violation) = contradiction.violation {
                    self.deepest = violation.revision;
                    deepest = Some(violation);
                }
                if !self.back(contradiction.keys) {
                    let violation = deepest.expect("the first contradiction is the furthest");
                    return Answer::Unlawful(violation);
                }
                found = self.reads(self.store.revision());
                continue;
            }
            if self.store.revision() == self.claims.last {
                let is_ambiguous = self.frames.iter().any(|frame| !frame.left.is_empty());
                let (store, makers) = (self.store, self.makers);
                return Answer::Lawful(Timeline { store, makers, is_ambiguous });
            }
            if self.steps_left == 0 {
                let suspect = deepest.map_or(String::new(), |violation| {
                    format!(" The furthest contradiction met: {}", violation.text)
                });
                return Answer::Unknown(format!(
                    "too many ways to place the writes of unknown outcome; given up at revision \
                     {}.{suspect}",
                    self.store.revision()
                ));
            }
            found = self.step();
        }
    }

    /// Makes the next revision and checks all that was answered at it.
    fn step(&mut self) -> Result<(), Contradiction> {
        let revision = Revision(self.store.revision().0 + 1);
        self.count_step();
        match self.claims.writes.get(&revision) {
            Some(place) => self.write(*place, revision)?,
            None => self.gap(revision)?,
        }
        self.reads(revision)
    }

    /// Carries out an answered write.
    fn write(&mut self, place: usize, revision: Revision) -> Result<(), Contradiction> {
        let changes = self.compare(place, revision)?;
        assert!(!changes.is_empty(), "an answer that tells of changes differs from one without");
        self.store.push(changes);
        self.makers.insert(revision, place);
        Ok(())
    }

    /// Checks the answers that were given at the current revision and changed nothing.
    fn reads(&self, revision: Revision) -> Result<(), Contradiction> {
        let places = self.claims.reads.get(&revision);
        for place in places.into_iter().flatten() {
            let changes = self.compare(*place, revision)?;
            let revoke = matches!(self.history.operations[*place].request, Request::LeaseRevoke(_));
            if revoke && !changes.is_empty() {
                let kept = changes.keys().next().expect("not empty");
                let text = format!(
                    "{} was answered at revision {revision}, where {kept} is still attached to \
                     the lease.",
                    name(self.history, *place)
                );
                let violation = Violation::new(Rule::Answer, text)
                    .between(format!("{kept} deleted"), format!("{kept} alive"))
                    .of([*place])
                    .at(revision);
                let violation = self.is_deepest(revision).then(|| Box::new(violation));
                return Err(Contradiction { violation, keys: vec![KeyRange::all()] });
            }
        }
        Ok(())
    }

    /// Compares an answer with that of the model at its current state.
    fn compare(&self, place: usize, revision: Revision) -> Result<Changes, Contradiction> {
        let operation = &self.history.operations[place];
        let got = operation.response().expect("only answered operations are placed");
        let keys_only =
            matches!(&operation.request, Request::Range(RangeRequest { keys_only: true, .. }));
        let (expected, got) = match self.store.evaluate(&operation.request) {
            Ok((expected, changes)) => match difference(&expected, got, keys_only) {
                None => return Ok(changes),
                Some(difference) => difference,
            },
            Err(refusal) => (format!("an error: {}", refusal.text()), "an answer".into()),
        };
        Err(self.contradiction(place, revision, expected, got))
    }

    fn contradiction(
        &self,
        place: usize,
        revision: Revision,
        expected: String,
        got: String,
    ) -> Contradiction {
        let operation = &self.history.operations[place];
        let mut keys = Vec::new();
        operation.request.footprint(&mut keys);
        if !self.is_deepest(revision) {
            return Contradiction { violation: None, keys };
        }
        let latest = |(made, changes): (&Revision, &Changes)| {
            changes
                .keys()
                .any(|key| keys.iter().any(|range| range.contains(&key.0)))
                .then(|| self.makers.get(made).copied())
        };
        // The last writes of the keys concerned are what the answer should show.
        let writers: Vec<usize> = (0..2_000)
            .map(|back| Revision(self.store.revision().0 - back))
            .filter_map(|made| self.store.changes(made).map(|changes| (made, changes)))
            .filter_map(|(made, changes)| latest((&made, changes)).flatten())
            .take(2)
            .collect();
        let because = match writers.first() {
            Some(writer) => {
                format!(
                    " The last write of these keys before that is {}.",
                    name(self.history, *writer)
                )
            }
            None => " No write of these keys came before that.".into(),
        };
        let rule = match operation.is_serializable() {
            true => Rule::SerializableAnswer,
            false => Rule::Answer,
        };
        let text = format!(
            "{} answered at revision {revision} with {got}; the writes up to there give {expected}.\
             {because}",
            name(self.history, place)
        );
        let violation = Violation::new(rule, text)
            .between(expected, got)
            .of([place])
            .of(writers.into_iter().filter(|writer| *writer != place))
            .at(revision);
        Contradiction { violation: Some(Box::new(violation)), keys }
    }

    /// Fills a revision that no answered write claims.
    fn gap(&mut self, revision: Revision) -> Result<(), Contradiction> {
        let (mut left, keys) = self.candidates(revision);
        let Some((chosen, changes)) = left.pop() else {
            let violation = self.is_deepest(revision).then(|| Box::new(self.phantom(revision)));
            return Err(Contradiction { violation, keys });
        };
        let conflict = Vec::new();
        self.frames.push(Frame { revision, left, chosen, keys, conflict });
        self.fill(revision, chosen, changes);
        Ok(())
    }

    fn fill(&mut self, revision: Revision, maker: Maker, changes: Changes) {
        self.store.push(changes);
        if let Maker::Operation(place) = maker {
            self.used.insert(place);
            self.makers.insert(revision, place);
        }
    }

    /// Whether a contradiction at a revision is the furthest so far.
    fn is_deepest(&self, revision: Revision) -> bool {
        self.deepest.is_none_or(|deepest| deepest < revision)
    }

    /// The straight way costs nothing; what is limited is what follows a contradiction.
    fn count_step(&mut self) {
        self.steps_left = self.steps_left.saturating_sub(u64::from(self.deepest.is_some()));
    }

    /// What can have made a revision, best last, and the keys that this hangs on.
    fn candidates(&mut self, revision: Revision) -> (Vec<(Maker, Changes)>, Vec<KeyRange>) {
        let nothing = BTreeMap::new();
        let seen = self.sights.get(&revision).unwrap_or(&nothing);
        let mut keys: Vec<KeyRange> = Vec::new();
        let mut found: Vec<(u8, Maker, Changes)> = Vec::new();
        let callable = self.unknown.partition_point(|(lowest, _)| *lowest <= revision);
        let tried = u64::try_from(callable).expect("a count fits");
        self.steps_left =
            self.steps_left.saturating_sub(if self.deepest.is_some() { tried / 8 } else { 0 });
        for (_, place) in &self.unknown[..callable] {
            let operation = &self.history.operations[*place];
            let request = &operation.request;
            // A revoke that was answered had its effect by then.
            if operation.response().is_some_and(|response| response.revision() < revision) {
                continue;
            }
            let mut footprint = Vec::new();
            request.footprint(&mut footprint);
            let covers = |key: &Data| footprint.iter().any(|range| range.contains(&key.0));
            if !seen.keys().all(covers) || self.is_excluded(request, seen, revision) {
                continue;
            }
            merge(&mut keys, footprint);
            if self.used.contains(place) {
                continue;
            }
            if let Ok((_, changes)) = self.store.evaluate(request)
                && self.agrees(&changes, seen, revision)
                && let Some(rank) = self.rank(&changes, revision)
            {
                found.push((rank, Maker::Operation(*place), changes));
            }
        }
        let told_at = self.told.first_at(revision).unwrap_or(u64::MAX);
        if !self.leases.is_empty() {
            for lease in self.leases.ended_by(told_at) {
                merge(&mut keys, vec![KeyRange::all()]);
                let changes = self.store.attached(lease);
                if !changes.is_empty()
                    && self.agrees(&changes, seen, revision)
                    && let Some(rank) = self.rank(&changes, revision)
                {
                    found.push((rank, Maker::LeaseEnd(lease), changes));
                }
            }
        }
        // Stable, so that among equals the one called first comes last, and is tried first.
        found.reverse();
        found.sort_by_key(|(rank, _, _)| *rank);
        (found.into_iter().map(|(_, maker, changes)| (maker, changes)).collect(), keys)
    }

    /// Whether a request cannot have made a revision whatever the state was.
    fn is_excluded(
        &self,
        request: &Request,
        seen: &BTreeMap<Data, Sight>,
        revision: Revision,
    ) -> bool {
        let Request::Put(put) = request else { return false };
        let other_value = match seen.get(&put.key).map(|sight| &sight.kv) {
            Some(Some(kv)) => !put.ignore_value && kv.value != put.value,
            Some(None) => true,
            None => false,
        };
        let others = seen.keys().any(|key| *key != put.key);
        other_value || others || self.is_quiet(&put.key, revision)
    }

    /// Whether a read shows that the key did not change in a revision.
    fn is_quiet(&self, key: &Data, revision: Revision) -> bool {
        self.quiet
            .get(key)
            .and_then(|spans| spans.range(..revision).next_back())
            .is_some_and(|(_, end)| *end >= revision)
    }

    /// Whether changes fit what was seen of a revision.
    fn agrees(&self, changes: &Changes, seen: &BTreeMap<Data, Sight>, revision: Revision) -> bool {
        !changes.is_empty()
            && seen.iter().all(|(key, sight)| changes.get(key) == Some(&sight.kv))
            && !changes.keys().any(|key| self.is_quiet(key, revision))
    }

    /// How well changes fit: 1 well, 0 if one of them was seen in another revision instead, and
    /// none if a watcher that should have been told of them was not.
    fn rank(&self, changes: &Changes, revision: Revision) -> Option<u8> {
        let mut rank = 1;
        let seen = self.sights.get(&revision);
        for (key, kv) in changes {
            if seen.is_some_and(|seen| seen.contains_key(key)) {
                continue;
            }
            let missed = self.history.watches.iter().zip(&self.spans).any(|(watch, span)| {
                let (from, to) = *span;
                let hidden = if kv.is_some() { watch.no_put } else { watch.no_delete };
                from <= revision
                    && revision <= to
                    && !hidden
                    && keys(&watch.key, &watch.range_end).contains(&key.0)
            });
            if missed {
                return None;
            }
            if let Some(kv) = kv
                && self.promised.contains_key(&(kv.key.clone(), kv.value.clone()))
            {
                rank = 0;
            }
        }
        Some(rank)
    }

    /// Goes back to the latest gap that can have to do with the keys, and tries what is next
    /// there. False if there is none: then nothing helps.
    fn back(&mut self, mut keys: Vec<KeyRange>) -> bool {
        while let Some(mut frame) = self.frames.pop() {
            while self.store.revision() >= frame.revision {
                self.makers.remove(&self.store.revision());
                self.store.pop();
            }
            if let Maker::Operation(place) = frame.chosen {
                self.used.remove(&place);
            }
            if !touch(&frame.keys, &keys) {
                continue;
            }
            merge(&mut frame.conflict, keys);
            if let Some((chosen, changes)) = frame.left.pop() {
                let revision = frame.revision;
                frame.chosen = chosen;
                self.frames.push(frame);
                self.fill(revision, chosen, changes);
                return true;
            }
            keys = frame.conflict;
            merge(&mut keys, frame.keys);
        }
        false
    }

    /// A revision that nothing in the history explains.
    fn phantom(&self, revision: Revision) -> Violation {
        let seen = self.sights.get(&revision);
        let mut sights = Vec::new();
        let (mut operations, mut watches) = (Vec::new(), Vec::new());
        for (key, sight) in seen.into_iter().flatten() {
            let by = match sight.by {
                Teller::Operation(place) => {
                    operations.push(place);
                    name(self.history, place)
                }
                Teller::Watch(watch) => {
                    watches.push(watch);
                    format!("watcher {watch}")
                }
            };
            sights.push(match &sight.kv {
                Some(kv) => format!("{} (by {by})", kv_text(Some(kv))),
                None => format!("{key} deleted (by {by})"),
            });
        }
        if sights.is_empty() {
            let teller = self.told.first_at(revision).and_then(|at| self.told.before(at + 1));
            match teller {
                Some((_, Teller::Operation(place))) => operations.push(place),
                Some((_, Teller::Watch(watch))) => watches.push(watch),
                None => {}
            }
        }
        operations.dedup();
        watches.dedup();
        let shown = match sights.is_empty() {
            true => "nobody saw what it changed".into(),
            false => format!("it was seen as {}", sights.join(", ")),
        };
        let failed = self.failed_writer(seen);
        let blame = failed.map_or(String::new(), |place| {
            format!(" It looks like {}, which was answered as failed.", name(self.history, place))
        });
        let text = format!(
            "Revision {revision} exists, since it or a later one was told, but no write that was \
             answered claims it and none of unknown outcome can have made it; {shown}.{blame}"
        );
        let mut violation = Violation::new(Rule::PhantomRevision, text)
            .between("a write of the history".into(), shown)
            .of(operations)
            .of(failed)
            .at(revision);
        violation.watches = watches;
        violation
    }

    /// A write said to have failed whose value was seen.
    fn failed_writer(&self, seen: Option<&BTreeMap<Data, Sight>>) -> Option<usize> {
        let seen = seen?;
        self.history.operations.iter().position(|operation| {
            matches!(operation.outcome, Outcome::Failed(_))
                && operation.request.may_write()
                && self.store.evaluate(&operation.request).is_ok_and(|(_, changes)| {
                    !changes.is_empty()
                        && seen.iter().all(|(key, sight)| changes.get(key) == Some(&sight.kv))
                })
        })
    }
}

/// Gathers changes that were seen in unclaimed revisions.
struct Sights<'a> {
    claims: &'a Claims,
    seen: BTreeMap<Revision, BTreeMap<Data, Sight>>,
}

impl Sights<'_> {
    fn add(&mut self, key: &Data, revision: Revision, kv: Option<&KeyValue>, by: Teller) {
        if !self.claims.writes.contains_key(&revision) {
            let seen = self.seen.entry(revision).or_default();
            seen.entry(key.clone()).or_insert_with(|| Sight { kv: kv.cloned(), by });
        }
    }

    fn response(&mut self, request: &Request, response: &Response, by: Teller) {
        let kvs = match (request, response) {
            // Without value and lease it is no picture of the change.
            (Request::Range(range), Response::Range(_)) if range.keys_only => return,
            (_, Response::Range(response)) => &response.kvs[..],
            (_, Response::Put(response)) => response.prev_kv.as_slice(),
            (_, Response::DeleteRange(response)) => &response.prev_kvs[..],
            (Request::Txn(txn), Response::Txn(told)) => {
                let branch = if told.succeeded { &txn.success } else { &txn.failure };
                let parts = branch.iter().zip(&told.responses);
                return parts.for_each(|(request, response)| self.response(request, response, by));
            }
            _ => return,
        };
        kvs.iter().for_each(|kv| self.add(&kv.key, kv.mod_revision, Some(kv), by));
    }

    fn event(&mut self, event: &crate::check::op::Event, by: Teller) {
        let kv = match event.kind {
            EventKind::Put => Some(&event.kv),
            EventKind::Delete => None,
        };
        self.add(&event.kv.key, event.kv.mod_revision, kv, by);
        if let Some(previous) = &event.prev_kv {
            self.add(&previous.key, previous.mod_revision, Some(previous), by);
        }
    }
}

/// More ranges than this are taken for the whole keyspace.
const RANGES_MAX: usize = 64;

/// Adds ranges to a set of them.
fn merge(ranges: &mut Vec<KeyRange>, more: Vec<KeyRange>) {
    for range in more {
        if ranges.len() >= RANGES_MAX {
            *ranges = vec![KeyRange::all()];
        }
        if !ranges.contains(&range) && ranges.first() != Some(&KeyRange::all()) {
            ranges.push(range);
        }
    }
}

/// Whether some key can be in both sets.
fn touch(ones: &[KeyRange], others: &[KeyRange]) -> bool {
    let meet = |one: &KeyRange, other: &KeyRange| match (one.is_single(), other.is_single()) {
        (true, _) => other.contains(&one.start),
        (_, true) => one.contains(&other.start),
        _ => {
            let below = |one: &KeyRange, other: &KeyRange| {
                one.upper().is_none_or(|upper| other.start.as_ref() < upper)
            };
            !one.is_empty() && !other.is_empty() && below(one, other) && below(other, one)
        }
    };
    ones.iter().any(|one| others.iter().any(|other| meet(one, other)))
}
