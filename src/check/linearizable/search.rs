//! Wing and Gong's search for a linearization, with Lowe's cache.
//!
//! Calls and answers stand in one list by time. Any operation whose call comes before the first
//! answer left can be next: if the model takes it, its two entries are lifted out and the search
//! goes on from the start; at an answer that nothing can come before, the last choice is taken
//! back. A pair of state and set of placed operations is visited once, since what can follow
//! depends on nothing else.
//!
//! - An operation of unknown outcome has no answer, so it never blocks; when only such are left,
//!   the history is linearizable (they did not happen).
//! - At the same time, calls stand before answers: that is concurrent.
//! - The set of visited pairs is asked, never iterated, so the search is the same each time.

use super::model::Model;
use std::collections::{BTreeMap, HashSet};

/// An operation as the search sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct Call<I, O> {
    pub input: I,
    /// None: the outcome is not known.
    pub output: Option<O>,
    /// In nanoseconds.
    pub invoke: u64,
    /// In nanoseconds; ignored without an output.
    pub returned: u64,
}

/// What the search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An order in which the operations can have happened, by their places.
    Linearizable(Vec<usize>),
    /// There is none. The longest start of one, and the operation whose answer nothing explained.
    Impossible { longest: Vec<usize>, stuck: usize },
    /// The limit of steps was reached.
    Unknown,
}

/// Splits operations by something that each touches one of, keeping their places.
pub fn partition<T, K: Ord>(items: &[T], key: impl Fn(&T) -> K) -> BTreeMap<K, Vec<usize>> {
    let mut parts: BTreeMap<K, Vec<usize>> = BTreeMap::new();
    for (place, item) in items.iter().enumerate() {
        parts.entry(key(item)).or_default().push(place);
    }
    parts
}

/// Looks for a linearization, trying at most so many steps of the model.
pub fn check<M: Model>(
    model: &M,
    calls: &[Call<M::Input, M::Output>],
    mut steps_left: u64,
) -> Answer {
    let mut list = List::new(calls);
    let mut state = model.initial();
    let mut placed = vec![0_u64; calls.len().div_ceil(64)];
    let mut order: Vec<(usize, M::State)> = Vec::new();
    let mut longest: Vec<usize> = Vec::new();
    let mut stuck = 0;
    let mut visited: HashSet<(Vec<u64>, M::State)> = HashSet::new();
    let mut at = list.first();
    while list.answers_left > 0 {
        let entry = list.entry(at).expect("an answer is left, and blocks before the end");
        if !entry.is_answer {
            if steps_left == 0 {
                return Answer::Unknown;
            }
            steps_left -= 1;
            let call = &calls[entry.call];
            if let Some(next) = model.step(&state, &call.input, call.output.as_ref()) {
                placed[entry.call / 64] ^= 1 << (entry.call % 64);
                if visited.insert((placed.clone(), next.clone())) {
                    order.push((entry.call, std::mem::replace(&mut state, next)));
                    list.lift(entry.call);
                    at = list.first();
                    continue;
                }
                placed[entry.call / 64] ^= 1 << (entry.call % 64);
            }
            at = list.after(at);
            continue;
        }
        if order.len() >= longest.len() {
            longest = order.iter().map(|(call, _)| *call).collect();
            stuck = entry.call;
        }
        let Some((call, before)) = order.pop() else {
            return Answer::Impossible { longest, stuck };
        };
        state = before;
        placed[call / 64] ^= 1 << (call % 64);
        list.unlift(call);
        at = list.after(list.call_entry(call));
    }
    Answer::Linearizable(order.into_iter().map(|(call, _)| call).collect())
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    call: usize,
    is_answer: bool,
}

/// Calls and answers by time, linked both ways so that entries can leave and come back.
struct List {
    entries: Vec<Entry>,
    /// Of entry i at i + 1; 0 is the head, `entries.len() + 1` the end.
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where the call and the answer of an operation stand in `next`.
    places: Vec<(usize, Option<usize>)>,
    answers_left: usize,
}

impl List {
    fn new<I, O>(calls: &[Call<I, O>]) -> List {
        let mut times: Vec<(u64, Entry)> = Vec::new();
        for (place, call) in calls.iter().enumerate() {
            times.push((call.invoke, Entry { call: place, is_answer: false }));
            if call.output.is_some() {
                times.push((call.returned, Entry { call: place, is_answer: true }));
            }
        }
        times.sort_by_key(|(at, entry)| (*at, entry.is_answer));
        let entries: Vec<Entry> = times.into_iter().map(|(_, entry)| entry).collect();
        let mut places = vec![(0, None); calls.len()];
        for (place, entry) in entries.iter().enumerate() {
            match entry.is_answer {
                true => places[entry.call].1 = Some(place + 1),
                false => places[entry.call].0 = place + 1,
            }
        }
        List {
            next: (1..entries.len() + 3).collect(),
            previous: (0..entries.len() + 2).map(|place| place.saturating_sub(1)).collect(),
            places,
            answers_left: entries.iter().filter(|entry| entry.is_answer).count(),
            entries,
        }
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn after(&self, at: usize) -> usize {
        self.next[at]
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        self.entries.get(at.checked_sub(1)?).copied()
    }

    fn call_entry(&self, call: usize) -> usize {
        self.places[call].0
    }

    /// Takes an operation out.
    fn lift(&mut self, call: usize) {
        let (invoke, answer) = self.places[call];
        for place in [Some(invoke), answer].into_iter().flatten() {
            let (before, after) = (self.previous[place], self.next[place]);
            self.next[before] = after;
            self.previous[after] = before;
        }
        self.answers_left -= usize::from(answer.is_some());
    }

    /// Puts the operation that was taken out last back in.
    fn unlift(&mut self, call: usize) {
        let (invoke, answer) = self.places[call];
        for place in [answer, Some(invoke)].into_iter().flatten() {
            let (before, after) = (self.previous[place], self.next[place]);
            self.next[before] = place;
            self.previous[after] = place;
        }
        self.answers_left += usize::from(answer.is_some());
    }
}
