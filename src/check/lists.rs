//! Transactions that append to lists and read them: whether they are strictly serializable.
//!
//! Lists tell their own history: a list that was read is the order of the appends to it. So there
//! is no search; what the reads show gives dependencies between transactions, and a cycle of
//! dependencies refutes every order (Adya's phenomena; Elle's inference).
//!
//! | edge | from | to | because |
//! |---|---|---|---|
//! | ww | who appended an element | who appended the next one | versions follow each other |
//! | wr | who appended the last element read | the reader | it read that version |
//! | rw | the reader | who appended the next element | it read the version before |
//! | rt | a transaction | one that was called after it was answered | real time |
//!
//! Before that, what needs no graph: elements read twice in one list, that nobody appended, that
//! were appended by a failed transaction, or in the middle of one; lists that are no beginnings of
//! each other; a transaction that does not see its own appends; and appends that are missing in a
//! list read after they were answered.
//!
//! - An unknown outcome counts as done if an element of it was read.
//! - Real time needs no edge for each pair: a chain of moments, one for each answer, has the same
//!   paths.
//! - An element is appended to a list once, by one transaction; a history where one is appended
//!   twice says nothing about who did it, and that is reported.

use super::data::Data;
use super::violation::{Rule, Violation};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One micro-operation of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListStep {
    /// Key and element.
    Append(Data, Data),
    /// The elements are none if no answer told them.
    Read(Data, Option<Vec<Data>>),
}

/// A transaction on lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListTransaction {
    pub process: u64,
    /// In nanoseconds.
    pub invoke: u64,
    /// In nanoseconds; for an unknown outcome when waiting ended, if noted.
    pub returned: Option<u64>,
    /// Whether it happened; none: that is not known.
    pub outcome: Option<bool>,
    pub steps: Vec<ListStep>,
}

/// Finds what is not strictly serializable; the plainest first.
pub fn check(transactions: &[ListTransaction]) -> Vec<Violation> {
    let lists = match Lists::new(transactions) {
        Ok(lists) => lists,
        Err(violation) => return vec![*violation],
    };
    let mut found: Vec<Violation> = Vec::new();
    found.extend(lists.internal());
    found.extend(lists.elements());
    found.extend(lists.lost());
    // With doubtful orders there are no dependencies to speak of.
    if found.is_empty() {
        found.extend(lists.cycle());
    }
    found
}

/// A read of a list, by place of the transaction.
struct Read<'a> {
    reader: usize,
    elements: &'a [Data],
}

/// One key: who appended what, and in which order.
#[derive(Default)]
struct List<'a> {
    /// Transaction and place among its appends to this key, and how many those are.
    appended: BTreeMap<&'a Data, (usize, usize)>,
    reads: Vec<Read<'a>>,
    /// The longest list that was read.
    order: &'a [Data],
}

struct Lists<'a> {
    transactions: &'a [ListTransaction],
    lists: BTreeMap<&'a Data, List<'a>>,
}

fn name(place: usize, transaction: &ListTransaction) -> String {
    format!("operation {place} (transaction by process {})", transaction.process)
}

fn text(elements: &[Data]) -> String {
    let plain = |data: &Data| String::from_utf8_lossy(&data.0).into_owned();
    let shown: Vec<String> = elements.iter().map(plain).collect();
    format!("[{}]", shown.join(" "))
}

impl<'a> Lists<'a> {
    /// Gathers appends and reads, and orders the appends.
    fn new(transactions: &'a [ListTransaction]) -> Result<Lists<'a>, Box<Violation>> {
        let mut lists: BTreeMap<&Data, List<'_>> = BTreeMap::new();
        for (place, transaction) in transactions.iter().enumerate() {
            let mut counts: BTreeMap<&Data, usize> = BTreeMap::new();
            for step in &transaction.steps {
                match step {
                    ListStep::Append(key, element) => {
                        let count = counts.entry(key).or_default();
                        let list = lists.entry(key).or_default();
                        if let Some((other, _)) = list.appended.insert(element, (place, *count)) {
                            let text = format!(
                                "{element} is appended to {key} by {} and by {}: elements must be \
                                 unique, or nobody can tell whose was read.",
                                name(other, &transactions[other]),
                                name(place, transaction)
                            );
                            return Err(Box::new(
                                Violation::new(Rule::ListElement, text).of([other, place]),
                            ));
                        }
                        *count += 1;
                    }
                    ListStep::Read(key, Some(elements)) if transaction.outcome == Some(true) => {
                        let list = lists.entry(key).or_default();
                        list.reads.push(Read { reader: place, elements });
                        if elements.len() > list.order.len() {
                            list.order = elements;
                        }
                    }
                    ListStep::Read(_, _) => {}
                }
            }
        }
        Ok(Lists { transactions, lists })
    }

    fn name(&self, place: usize) -> String {
        name(place, &self.transactions[place])
    }

    /// Whether transactions see their own appends, and nothing new twice.
    fn internal(&self) -> Option<Violation> {
        for (place, transaction) in self.transactions.iter().enumerate() {
            if transaction.outcome != Some(true) {
                continue;
            }
            // By key: the list as last read, if it was, and the appends since.
            let mut known: BTreeMap<&Data, (Option<&[Data]>, Vec<&Data>)> = BTreeMap::new();
            for step in &transaction.steps {
                match step {
                    ListStep::Append(key, element) => known.entry(key).or_default().1.push(element),
                    ListStep::Read(key, Some(elements)) => {
                        let (before, own) = known.entry(key).or_default();
                        let ends = elements.len() >= own.len()
                            && elements[elements.len() - own.len()..]
                                .iter()
                                .eq(own.iter().copied());
                        let begins = before.is_none_or(|before| {
                            elements.len() == before.len() + own.len()
                                && elements.starts_with(before)
                        });
                        if !ends || !begins {
                            let before = before.map_or("some list".into(), text);
                            let own: Vec<Data> = own.iter().map(|own| (*own).clone()).collect();
                            let expected = format!("{before} with {} behind it", text(&own));
                            let told = format!(
                                "{} read {} of {key}, where what it had read and appended before \
                                 in the same transaction gives {expected}.",
                                self.name(place),
                                text(elements)
                            );
                            let violation = Violation::new(Rule::ListInternal, told);
                            return Some(violation.between(expected, text(elements)).of([place]));
                        }
                        (*before, *own) = (Some(elements.as_slice()), Vec::new());
                    }
                    ListStep::Read(_, None) => {}
                }
            }
        }
        None
    }

    /// What reads show that cannot be, key by key.
    fn elements(&self) -> Option<Violation> {
        self.lists
            .iter()
            .find_map(|(key, list)| list.reads.iter().find_map(|read| self.read(key, list, read)))
    }

    fn read(&self, key: &Data, list: &List<'_>, read: &Read<'_>) -> Option<Violation> {
        let Read { reader, elements } = *read;
        let shown = text(elements);
        let told = |rule, text: String, other: Option<usize>| {
            let other = other.filter(|other| *other != reader);
            Some(Violation::new(rule, text).of([reader]).of(other))
        };
        let mut seen = BTreeSet::new();
        for (at, element) in elements.iter().enumerate() {
            let reader_name = self.name(reader);
            if !seen.insert(element) {
                let text = format!("{reader_name} read {element} twice in {key}: {shown}.");
                return told(Rule::ListElement, text, None);
            }
            let Some((writer, place)) = list.appended.get(element).copied() else {
                let text = format!(
                    "{reader_name} read {element} in {key}, which nobody appended: {shown}."
                );
                return told(Rule::ListElement, text, None);
            };
            if self.transactions[writer].outcome == Some(false) {
                let text = format!(
                    "{reader_name} read {element} in {key}, appended by {}, which failed: {shown}.",
                    self.name(writer)
                );
                return told(Rule::ListAborted, text, Some(writer));
            }
            let last = at + 1 == elements.len();
            let more =
                list.appended.values().any(|(other, next)| *other == writer && *next > place);
            if last && more && writer != reader {
                let text = format!(
                    "{reader_name} read {key} as {shown}, which ends in the middle of the appends of \
                     {}.",
                    self.name(writer)
                );
                return told(Rule::ListAborted, text, Some(writer));
            }
        }
        if !list.order.starts_with(elements) {
            let longest = list.reads.iter().find(|other| other.elements == list.order);
            let longest = longest.map(|other| other.reader);
            let by = longest.map_or(String::new(), |place| self.name(place));
            let text = format!(
                "{} read {key} as {shown}, and {by} read it as {}: neither is the beginning of the \
                 other.",
                self.name(reader),
                text(list.order)
            );
            return told(Rule::ListOrder, text, longest);
        }
        None
    }

    /// An append that is missing in a list read after the append was answered.
    fn lost(&self) -> Option<Violation> {
        for (key, list) in &self.lists {
            let places: BTreeMap<&Data, usize> =
                list.order.iter().enumerate().map(|(place, element)| (element, place)).collect();
            // By the time of the answer: the furthest element that was appended by then.
            let mut done: Vec<(u64, usize, usize, &Data)> = Vec::new();
            for (element, (writer, _)) in &list.appended {
                let transaction = &self.transactions[*writer];
                if let (Some(true), Some(returned)) = (transaction.outcome, transaction.returned) {
                    let place = places.get(element).copied().unwrap_or(usize::MAX);
                    done.push((returned, place, *writer, element));
                }
            }
            done.sort();
            let mut furthest: Vec<(u64, usize, usize, &Data)> = Vec::new();
            for one in done {
                if furthest.last().is_none_or(|last| one.1 > last.1) {
                    furthest.push(one);
                }
            }
            for read in &list.reads {
                let invoke = self.transactions[read.reader].invoke;
                let known = furthest.partition_point(|(returned, _, _, _)| *returned < invoke);
                let Some((_, place, writer, element)) = furthest[..known].last() else { continue };
                if *place < read.elements.len() {
                    continue;
                }
                let lost = *place == usize::MAX;
                let text = format!(
                    "{} had appended {element} to {key} and been answered before {} was called, \
                     which read {}{}.",
                    self.name(*writer),
                    self.name(read.reader),
                    text(read.elements),
                    if lost { "; nobody ever read that element" } else { "" }
                );
                let rule = if lost { Rule::ListLost } else { Rule::StaleAnswer };
                let expected = format!("a list with {element}");
                return Some(
                    Violation::new(rule, text)
                        .between(expected, self::text(read.elements))
                        .of([read.reader, *writer]),
                );
            }
        }
        None
    }

    /// A cycle of dependencies: the plainest kind that there is.
    fn cycle(&self) -> Option<Violation> {
        let graph = Graph::new(self);
        let suspects = graph.knots();
        if suspects.is_empty() {
            return None;
        }
        use Kind::{ReadWrite, RealTime, WriteRead, WriteWrite};
        // The plainest first; each with and without real time.
        let tries: [(&str, &[Kind], bool); 7] = [
            ("G0, a cycle of writes", &[WriteWrite], false),
            ("G0 with real time", &[WriteWrite, RealTime], false),
            ("G1c, a circle of information", &[WriteWrite, WriteRead], false),
            ("G1c with real time", &[WriteWrite, WriteRead, RealTime], false),
            ("G-single, a read that misses what it should know", &[WriteWrite, WriteRead], true),
            ("G-single with real time", &[WriteWrite, WriteRead, RealTime], true),
            (
                "G2, reads that miss each other",
                &[WriteWrite, WriteRead, ReadWrite, RealTime],
                false,
            ),
        ];
        tries.into_iter().find_map(|(title, kinds, single)| {
            let cycle = graph.shortest(&suspects, kinds, single)?;
            Some(self.told(title, &cycle))
        })
    }

    fn told(&self, title: &str, cycle: &[(usize, Kind)]) -> Violation {
        let mut text = format!("{title}: ");
        for (place, kind) in cycle {
            text.push_str(&format!("{} {} ", self.name(*place), kind.text()));
        }
        let (first, _) = cycle[0];
        text.push_str(&format!("{}. No order puts each before itself.", self.name(first)));
        Violation::new(Rule::ListCycle, text).of(cycle.iter().map(|(place, _)| *place))
    }
}

/// Why one transaction is before another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    WriteWrite,
    WriteRead,
    ReadWrite,
    RealTime,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Kind::WriteWrite => "appended before",
            Kind::WriteRead => "was read by",
            Kind::ReadWrite => "did not see what was appended by",
            Kind::RealTime => "was answered before the call of",
        }
    }
}

/// Transactions, then moments, with their edges.
struct Graph {
    edges: Vec<Vec<(usize, Kind)>>,
    transactions: usize,
}

impl Graph {
    fn new(lists: &Lists<'_>) -> Graph {
        let transactions = lists.transactions.len();
        let mut graph = Graph { edges: vec![Vec::new(); transactions], transactions };
        let mut happened: BTreeSet<usize> = (0..transactions)
            .filter(|place| lists.transactions[*place].outcome == Some(true))
            .collect();
        for list in lists.lists.values() {
            let writer = |element: &Data| list.appended.get(element).map(|(writer, _)| *writer);
            let order: Vec<usize> = list.order.iter().filter_map(writer).collect();
            happened.extend(&order);
            for pair in order.windows(2) {
                graph.add(pair[0], pair[1], Kind::WriteWrite);
            }
            // What nobody read came behind all that was read.
            let read: BTreeSet<&Data> = list.order.iter().collect();
            let unread = list.appended.iter().filter(|(element, _)| !read.contains(*element));
            let unread: Vec<usize> = unread
                .map(|(_, (writer, _))| *writer)
                .filter(|writer| lists.transactions[*writer].outcome == Some(true))
                .collect();
            for writer in &unread {
                if let Some(last) = order.last() {
                    graph.add(*last, *writer, Kind::WriteWrite);
                }
            }
            for Read { reader, elements } in &list.reads {
                if let Some(writer) = elements.last().and_then(writer) {
                    graph.add(writer, *reader, Kind::WriteRead);
                }
                match order.get(elements.len()) {
                    Some(next) => graph.add(*reader, *next, Kind::ReadWrite),
                    None => {
                        for writer in &unread {
                            graph.add(*reader, *writer, Kind::ReadWrite);
                        }
                    }
                }
            }
        }
        graph.real_time(lists, &happened);
        graph
    }

    fn add(&mut self, from: usize, to: usize, kind: Kind) {
        if from != to {
            self.edges[from].push((to, kind));
        }
    }

    /// A chain of moments, one for each answer.
    fn real_time(&mut self, lists: &Lists<'_>, happened: &BTreeSet<usize>) {
        let mut answers: Vec<(u64, usize)> = happened
            .iter()
            .filter(|place| lists.transactions[**place].outcome == Some(true))
            .filter_map(|place| Some((lists.transactions[*place].returned?, *place)))
            .collect();
        answers.sort_unstable();
        for (moment, (_, place)) in answers.iter().enumerate() {
            let node = self.transactions + moment;
            self.edges.push(Vec::new());
            self.edges[*place].push((node, Kind::RealTime));
            if moment > 0 {
                self.edges[node - 1].push((node, Kind::RealTime));
            }
        }
        for place in happened {
            let invoke = lists.transactions[*place].invoke;
            let before = answers.partition_point(|(returned, _)| *returned < invoke);
            if before > 0 {
                self.edges[self.transactions + before - 1].push((*place, Kind::RealTime));
            }
        }
    }

    /// The strongly connected components with more than one node (Tarjan's, without recursion).
    fn knots(&self) -> Vec<BTreeSet<usize>> {
        let count = self.edges.len();
        let (mut index, mut low) = (vec![usize::MAX; count], vec![0; count]);
        let mut on_stack = vec![false; count];
        let (mut stack, mut next, mut knots) = (Vec::new(), 0, Vec::new());
        for root in 0..count {
            if index[root] != usize::MAX {
                continue;
            }
            let mut calls: Vec<(usize, usize)> = vec![(root, 0)];
            while let Some((node, edge)) = calls.pop() {
                if edge == 0 {
                    (index[node], low[node]) = (next, next);
                    next += 1;
                    stack.push(node);
                    on_stack[node] = true;
                }
                if let Some((to, _)) = self.edges[node].get(edge) {
                    calls.push((node, edge + 1));
                    if index[*to] == usize::MAX {
                        calls.push((*to, 0));
                    } else if on_stack[*to] {
                        low[node] = low[node].min(index[*to]);
                    }
                    continue;
                }
                if let Some((parent, _)) = calls.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
                if low[node] == index[node] {
                    let mut knot = BTreeSet::new();
                    while let Some(member) = stack.pop() {
                        on_stack[member] = false;
                        knot.insert(member);
                        if member == node {
                            break;
                        }
                    }
                    if knot.len() > 1 {
                        knots.push(knot);
                    }
                }
            }
        }
        knots
    }

    /// The shortest cycle of edges of some kinds within a knot; with `single`, of exactly one
    /// edge from a read to a write beside them.
    fn shortest(
        &self,
        knots: &[BTreeSet<usize>],
        kinds: &[Kind],
        single: bool,
    ) -> Option<Vec<(usize, Kind)>> {
        let mut best: Option<Vec<(usize, Kind)>> = None;
        for knot in knots {
            for start in knot.iter().filter(|node| **node < self.transactions) {
                for (to, kind) in &self.edges[*start] {
                    let fits = match single {
                        true => *kind == Kind::ReadWrite,
                        false => kinds.contains(kind) && *kind != Kind::RealTime,
                    };
                    if !fits || !knot.contains(to) {
                        continue;
                    }
                    if let Some(path) = self.path(*to, *start, knot, kinds)
                        && best.as_ref().is_none_or(|best| path.len() + 1 < best.len())
                    {
                        let mut cycle = vec![(*start, *kind)];
                        cycle.extend(path);
                        best = Some(cycle);
                    }
                    if best.as_ref().is_some_and(|best| best.len() == 2) {
                        return best;
                    }
                }
            }
        }
        best
    }

    /// The shortest way between two nodes, moments left out.
    fn path(
        &self,
        from: usize,
        to: usize,
        knot: &BTreeSet<usize>,
        kinds: &[Kind],
    ) -> Option<Vec<(usize, Kind)>> {
        let mut came: BTreeMap<usize, (usize, Kind)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            if node == to {
                let mut path = Vec::new();
                let mut at = to;
                while at != from {
                    let (before, kind) = came[&at];
                    if before < self.transactions {
                        path.push((before, kind));
                    }
                    at = before;
                }
                path.reverse();
                return Some(path);
            }
            for (next, kind) in &self.edges[node] {
                if kinds.contains(kind)
                    && knot.contains(next)
                    && *next != from
                    && !came.contains_key(next)
                {
                    came.insert(*next, (node, *kind));
                    queue.push_back(*next);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `invoke-return outcome steps`: `1-2 ok a.x=1 r.x=1,2`, with `ok`, `fail` or `info`.
    fn transactions(script: &str) -> Vec<ListTransaction> {
        let parse = |(process, line): (usize, &str)| {
            let mut words = line.split_whitespace();
            let (invoke, returned) = words.next().unwrap().split_once('-').unwrap();
            let outcome = match words.next().unwrap() {
                "ok" => Some(true),
                "fail" => Some(false),
                _ => None,
            };
            let step = |word: &str| {
                let (f, rest) = word.split_once('.').unwrap();
                let (key, value) = rest.split_once('=').unwrap();
                let elements = value.split(',').filter(|one| !one.is_empty()).map(Data::from);
                match f {
                    "a" => ListStep::Append(key.into(), value.into()),
                    _ => ListStep::Read(key.into(), Some(elements.collect())),
                }
            };
            ListTransaction {
                process: process as u64,
                invoke: invoke.parse().unwrap(),
                returned: Some(returned.parse().unwrap()),
                outcome,
                steps: words.map(step).collect(),
            }
        };
        script.split(';').map(str::trim).enumerate().map(parse).collect()
    }

    #[test]
    fn textbook_anomalies_are_named() {
        for (script, expected) in [
            ("1-2 ok a.x=1; 3-4 ok r.x=1 a.x=2; 5-6 ok r.x=1,2 r.y=", None),
            ("1-9 ok a.x=1; 2-3 ok r.x=; 4-5 ok r.x=1", None),
            ("1-2 info a.x=1; 3-4 ok r.x=; 5-6 ok r.x=1", None),
            ("1-2 ok a.x=1; 3-4 ok r.x=1,1", Some(Rule::ListElement)),
            ("1-2 ok a.x=1; 3-4 ok r.x=1,7", Some(Rule::ListElement)),
            ("1-2 fail a.x=1; 3-4 ok r.x=1", Some(Rule::ListAborted)),
            ("1-9 ok a.x=1 a.x=2; 3-4 ok r.x=1", Some(Rule::ListAborted)),
            ("1-9 ok a.x=1; 1-9 ok a.x=2; 1-9 ok r.x=1,2; 1-9 ok r.x=2,1", Some(Rule::ListOrder)),
            ("1-2 ok a.x=1; 3-4 ok a.x=2 r.x=1", Some(Rule::ListInternal)),
            ("1-2 ok r.x= a.x=1 r.x=3,1; 1-9 ok a.x=3", Some(Rule::ListInternal)),
            ("1-2 ok a.x=1; 3-4 ok r.x=", Some(Rule::ListLost)),
            ("1-2 ok a.x=1; 3-4 ok r.x=; 5-6 ok r.x=1", Some(Rule::StaleAnswer)),
            // G0: x says first then second, y the other way round.
            (
                "1-9 ok a.x=1 a.y=1; 1-9 ok a.x=2 a.y=2; 1-9 ok r.x=1,2; 1-9 ok r.y=2,1",
                Some(Rule::ListCycle),
            ),
            // G1c: each reads the other's append.
            ("1-9 ok a.x=1 r.y=1; 1-9 ok a.y=1 r.x=1", Some(Rule::ListCycle)),
            // G-single: one of two appends of a transaction is seen.
            ("1-9 ok a.x=1 a.y=1; 1-9 ok r.x=1 r.y=", Some(Rule::ListCycle)),
            // Write skew: each misses the other's append.
            ("1-9 ok r.x= a.y=1; 1-9 ok r.y= a.x=1; 10-11 ok r.x=1 r.y=1", Some(Rule::ListCycle)),
            // Only real time tells: 2 is answered before 1 is called, yet stands behind it.
            ("5-6 ok a.x=1; 1-2 ok a.x=2; 7-8 ok r.x=1,2", Some(Rule::ListCycle)),
            ("1-2 ok a.x=1; 3-4 ok a.x=1", Some(Rule::ListElement)),
        ] {
            let found = check(&transactions(script));
            let rule = found.first().map(|violation| violation.rule);
            assert_eq!(rule, expected, "{script}: {found:?}");
        }
    }

    #[test]
    fn cycles_are_named_by_kind() {
        for (script, expected) in [
            ("1-9 ok a.x=1 a.y=1; 1-9 ok a.x=2 a.y=2; 1-9 ok r.x=1,2; 1-9 ok r.y=2,1", "G0,"),
            ("5-6 ok a.x=1; 1-2 ok a.x=2; 7-8 ok r.x=1,2", "G0 with real time"),
            ("1-9 ok a.x=1 r.y=1; 1-9 ok a.y=1 r.x=1", "G1c,"),
            ("1-9 ok a.x=1 a.y=1; 1-9 ok r.x=1 r.y=", "G-single,"),
            ("1-9 ok r.x= a.y=1; 1-9 ok r.y= a.x=1; 10-11 ok r.x=1 r.y=1", "G2"),
        ] {
            let found = check(&transactions(script));
            assert!(found[0].text.starts_with(expected), "{script}: {}", found[0].text);
        }
    }

    #[test]
    fn long_histories_take_no_search() {
        let mut all = Vec::new();
        for place in 0..5_000_u64 {
            let element = |number: u64| Data::from(number.to_string());
            let key = |place: u64| Data::from(format!("x{}", place % 500));
            let elements = (0..place / 500).map(|round| element(round * 500 + place % 500));
            let steps = vec![
                ListStep::Read(key(place), Some(elements.collect())),
                ListStep::Append(key(place), element(place)),
            ];
            let (invoke, returned) = (place * 10, Some(place * 10 + 55));
            let (process, outcome) = (place % 8, Some(true));
            all.push(ListTransaction { process, invoke, returned, outcome, steps });
        }
        assert_eq!(check(&all), Vec::new());
        // The last two transactions of a key change places.
        let (one, other) = (4_000, 4_500);
        let steps = all[one].steps.clone();
        all[one].steps = all[other].steps.clone();
        all[other].steps = steps;
        assert!(!check(&all).is_empty());
    }
}
