//! Things whose histories can be searched: a register, a set, a list, a key of etcd's.
//!
//! A model says what states there are and whether an operation with a given result can be next.
//! States are compared and hashed for the cache, so equal states must be equal values.

use crate::check::data::Data;
use crate::check::op::{KeyValue, Request, Response, Start};
use crate::check::store::Store;
use crate::check::violation::difference;
use crate::types::Revision;
use std::collections::BTreeSet;
use std::hash::Hash;

/// A sequential specification.
pub trait Model {
    /// Where it is between operations.
    type State: Clone + Eq + Hash;
    /// What is asked.
    type Input;
    /// What is answered.
    type Output;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after an operation, or none if that operation cannot give that output here.
    /// Without an output (its outcome is not known) any is right.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;
}

/// A cell that holds a number, or nothing at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

#[derive(Clone, PartialEq, Debug)]
pub enum RegisterInput {
    Read,
    Write(i64),
    /// Writes the second if the first is there.
    CompareAndSet(i64, i64),
}

#[derive(Clone, PartialEq, Debug)]
pub enum RegisterOutput {
    /// Of a read.
    Value(Option<i64>),
    /// Of a write.
    Done,
    /// Of a compare-and-set: whether it was as compared.
    Swapped(bool),
}

impl Model for Register {
    type State = Option<i64>;
    type Input = RegisterInput;
    type Output = RegisterOutput;

    fn initial(&self) -> Option<i64> {
        None
    }

    fn step(
        &self,
        state: &Option<i64>,
        input: &RegisterInput,
        output: Option<&RegisterOutput>,
    ) -> Option<Option<i64>> {
        let (next, told) = match input {
            RegisterInput::Read => (*state, RegisterOutput::Value(*state)),
            RegisterInput::Write(value) => (Some(*value), RegisterOutput::Done),
            RegisterInput::CompareAndSet(old, new) if *state == Some(*old) => {
                (Some(*new), RegisterOutput::Swapped(true))
            }
            RegisterInput::CompareAndSet(_, _) => (*state, RegisterOutput::Swapped(false)),
        };
        output.is_none_or(|output| *output == told).then_some(next)
    }
}

/// A set of numbers to which elements are added.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrowingSet;

#[derive(Clone, PartialEq, Debug)]
pub enum CollectionInput {
    Add(i64),
    Read,
}

#[derive(Clone, PartialEq, Debug)]
pub enum CollectionOutput {
    Added,
    /// In the list's order; of a set in any.
    Elements(Vec<i64>),
}

impl Model for GrowingSet {
    type State = BTreeSet<i64>;
    type Input = CollectionInput;
    type Output = CollectionOutput;

    fn initial(&self) -> BTreeSet<i64> {
        BTreeSet::new()
    }

    fn step(
        &self,
        state: &BTreeSet<i64>,
        input: &CollectionInput,
        output: Option<&CollectionOutput>,
    ) -> Option<BTreeSet<i64>> {
        match (input, output) {
            (CollectionInput::Add(element), None | Some(CollectionOutput::Added)) => {
                let mut next = state.clone();
                next.insert(*element);
                Some(next)
            }
            (CollectionInput::Read, None) => Some(state.clone()),
            (CollectionInput::Read, Some(CollectionOutput::Elements(elements))) => {
                let distinct: BTreeSet<i64> = elements.iter().copied().collect();
                let same = distinct.len() == elements.len() && distinct == *state;
                same.then_some(distinct)
            }
            (CollectionInput::Add(_), Some(CollectionOutput::Elements(_)))
            | (CollectionInput::Read, Some(CollectionOutput::Added)) => None,
        }
    }
}

/// A list of numbers to whose end elements are added.
#[derive(Clone, Copy, Debug, Default)]
pub struct AppendList;

impl Model for AppendList {
    type State = Vec<i64>;
    type Input = CollectionInput;
    type Output = CollectionOutput;

    fn initial(&self) -> Vec<i64> {
        Vec::new()
    }

    fn step(
        &self,
        state: &Vec<i64>,
        input: &CollectionInput,
        output: Option<&CollectionOutput>,
    ) -> Option<Vec<i64>> {
        match (input, output) {
            (CollectionInput::Add(element), None | Some(CollectionOutput::Added)) => {
                let mut next = state.clone();
                next.push(*element);
                Some(next)
            }
            (CollectionInput::Read, None) => Some(state.clone()),
            (CollectionInput::Read, Some(CollectionOutput::Elements(elements))) => {
                (elements == state).then(|| state.clone())
            }
            (CollectionInput::Add(_), Some(CollectionOutput::Elements(_)))
            | (CollectionInput::Read, Some(CollectionOutput::Added)) => None,
        }
    }
}

/// One key of a store whose answers tell no revisions: only value and version count.
#[derive(Clone, Debug, Default)]
pub struct Key {
    /// The key before the first operation.
    pub start: Option<KeyValue>,
    /// Whether answers tell versions; else all are taken to be 1.
    pub has_versions: bool,
}

impl Model for Key {
    type State = Option<(Data, i64)>;
    type Input = Request;
    type Output = Response;

    fn initial(&self) -> Self::State {
        let version = |kv: &KeyValue| if self.has_versions { kv.version } else { 1 };
        self.start.as_ref().map(|kv| (kv.value.clone(), version(kv)))
    }

    fn step(
        &self,
        state: &Self::State,
        request: &Request,
        response: Option<&Response>,
    ) -> Option<Self::State> {
        let mut ranges = Vec::new();
        request.footprint(&mut ranges);
        let key = ranges.first().map(|range| Data(range.start.clone()))?;
        let plain = |value: &Data, version: i64| KeyValue {
            key: key.clone(),
            value: value.clone(),
            version,
            ..KeyValue::default()
        };
        let kvs = state.iter().map(|(value, version)| plain(value, *version)).collect();
        let store = Store::new(&Start { kvs, ..Start::default() });
        let (expected, changes) = store.evaluate(request).ok()?;
        let mut got = response.cloned();
        got.iter_mut().for_each(|got| self.without_revisions(got));
        let mut expected = expected;
        self.without_revisions(&mut expected);
        if let Some(Response::DeleteRange(told)) = &got
            && told.deleted < 0
        {
            got = None; // it does not tell whether there was something
        }
        if got.is_some_and(|got| difference(request, &expected, &got).is_some()) {
            return None;
        }
        match changes.get(&key) {
            Some(kv) => Some(
                kv.as_ref()
                    .map(|kv| (kv.value.clone(), if self.has_versions { kv.version } else { 1 })),
            ),
            None => Some(state.clone()),
        }
    }
}

impl Key {
    /// Takes out what hangs on revisions, and versions if nobody tells them.
    fn without_revisions(&self, response: &mut Response) {
        let plain = |kv: &mut KeyValue| {
            (kv.create_revision, kv.mod_revision) = (Revision(0), Revision(0));
            kv.lease = Default::default();
            kv.version = if self.has_versions { kv.version } else { 0 };
        };
        match response {
            Response::Range(response) => response.kvs.iter_mut().for_each(plain),
            Response::Put(response) => response.prev_kv.iter_mut().for_each(plain),
            Response::DeleteRange(response) => response.prev_kvs.iter_mut().for_each(plain),
            Response::Txn(response) => {
                response.responses.iter_mut().for_each(|part| self.without_revisions(part));
            }
            Response::Compact(_)
            | Response::LeaseGrant(_)
            | Response::LeaseRevoke(_)
            | Response::LeaseKeepAlive(_) => {}
        }
    }
}
