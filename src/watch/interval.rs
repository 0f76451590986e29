//! Which of many intervals contain a key: an interval tree.
//!
//! An AVL tree ordered by (start, end) in which each node also knows the node of its subtree whose
//! interval reaches furthest. A search for a key leaves out every subtree that ends before the key
//! and everything to the right of a start behind the key, so it costs a path through the tree for
//! each hit at worst, and close to one path plus the hits for the prefixes real clients watch.
//!
//! Invariants:
//! - no two nodes have the same (start, end);
//! - the heights of two siblings differ by one at most;
//! - `furthest` names a node of the own subtree with the greatest end.

use super::index::End;
use std::cmp::Ordering;
use std::sync::Arc;

const NONE: u32 = u32::MAX;

struct Node {
    start: Arc<[u8]>,
    end: End,
    value: u32,
    left: u32,
    right: u32,
    furthest: u32,
    height: u8,
}

/// Intervals `[start, end)` with a number each.
pub(super) struct IntervalTree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
}

impl IntervalTree {
    pub fn new() -> IntervalTree {
        IntervalTree { nodes: Vec::new(), free: Vec::new(), root: NONE }
    }

    /// The number of exactly this interval.
    pub fn get(&self, start: &[u8], end: &End) -> Option<u32> {
        let mut at = self.root;
        while at != NONE {
            let node = &self.nodes[at as usize];
            at = match compare(start, end, node) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(node.value),
            };
        }
        None
    }

    /// Adds an interval that is not there yet.
    pub fn insert(&mut self, start: Arc<[u8]>, end: End, value: u32) {
        let node = Node { start, end, value, left: NONE, right: NONE, furthest: NONE, height: 1 };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("limits keep trees below 2^32")
            }
        };
        self.nodes[at as usize].furthest = at;
        self.root = self.insert_below(self.root, at);
    }

    /// Removes an interval that is there.
    pub fn remove(&mut self, start: &[u8], end: &End) {
        let (root, removed) = self.remove_below(self.root, start, end);
        self.root = root;
        let node = &mut self.nodes[removed as usize];
        node.start = Arc::from([]);
        node.end = End::Open;
        self.free.push(removed);
    }

    /// Tells the number of each interval that contains `key`, in (start, end) order.
    pub fn containing(&self, key: &[u8], found: &mut impl FnMut(u32)) {
        self.containing_below(self.root, key, found);
    }

    fn containing_below(&self, at: u32, key: &[u8], found: &mut impl FnMut(u32)) {
        if at == NONE {
            return;
        }
        let node = &self.nodes[at as usize];
        if !self.nodes[node.furthest as usize].end.is_behind(key) {
            return;
        }
        self.containing_below(node.left, key, found);
        if *node.start > *key {
            return;
        }
        if node.end.is_behind(key) {
            found(node.value);
        }
        self.containing_below(node.right, key, found);
    }

    fn insert_below(&mut self, at: u32, new: u32) -> u32 {
        if at == NONE {
            return new;
        }
        let added = &self.nodes[new as usize];
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        match compare(&added.start, &added.end, &self.nodes[at as usize]) {
            Ordering::Less => {
                let child = self.insert_below(left, new);
                self.nodes[at as usize].left = child;
            }
            Ordering::Greater => {
                let child = self.insert_below(right, new);
                self.nodes[at as usize].right = child;
            }
            Ordering::Equal => panic!("an interval is inserted once"),
        }
        self.balance(at)
    }

    fn remove_below(&mut self, at: u32, start: &[u8], end: &End) -> (u32, u32) {
        assert_ne!(at, NONE, "an interval is removed once");
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        let removed = match compare(start, end, &self.nodes[at as usize]) {
            Ordering::Less => {
                let (child, removed) = self.remove_below(left, start, end);
                self.nodes[at as usize].left = child;
                removed
            }
            Ordering::Greater => {
                let (child, removed) = self.remove_below(right, start, end);
                self.nodes[at as usize].right = child;
                removed
            }
            Ordering::Equal if left == NONE => return (right, at),
            Ordering::Equal if right == NONE => return (left, at),
            Ordering::Equal => {
                let (rest, heir) = self.take_first(right);
                self.nodes[heir as usize].left = left;
                self.nodes[heir as usize].right = rest;
                return (self.balance(heir), at);
            }
        };
        (self.balance(at), removed)
    }

    /// Takes the leftmost node out of a subtree: what is left of it, and that node.
    fn take_first(&mut self, at: u32) -> (u32, u32) {
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        if left == NONE {
            return (right, at);
        }
        let (rest, first) = self.take_first(left);
        self.nodes[at as usize].left = rest;
        (self.balance(at), first)
    }

    fn height(&self, at: u32) -> i32 {
        if at == NONE { 0 } else { i32::from(self.nodes[at as usize].height) }
    }

    /// Left height minus right height.
    fn lean(&self, at: u32) -> i32 {
        let node = &self.nodes[at as usize];
        self.height(node.left) - self.height(node.right)
    }

    /// Recomputes what a node knows of its subtree.
    fn refresh(&mut self, at: u32) {
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        let mut furthest = at;
        for child in [left, right] {
            if child != NONE {
                let candidate = self.nodes[child as usize].furthest;
                if self.nodes[candidate as usize].end > self.nodes[furthest as usize].end {
                    furthest = candidate;
                }
            }
        }
        let height = 1 + self.height(left).max(self.height(right));
        let node = &mut self.nodes[at as usize];
        node.furthest = furthest;
        node.height = u8::try_from(height).expect("2^32 nodes are less than 50 high");
    }

    fn balance(&mut self, at: u32) -> u32 {
        self.refresh(at);
        let lean = self.lean(at);
        if lean > 1 {
            let left = self.nodes[at as usize].left;
            if self.lean(left) < 0 {
                let child = self.rotate_left(left);
                self.nodes[at as usize].left = child;
            }
            return self.rotate_right(at);
        }
        if lean < -1 {
            let right = self.nodes[at as usize].right;
            if self.lean(right) > 0 {
                let child = self.rotate_right(right);
                self.nodes[at as usize].right = child;
            }
            return self.rotate_left(at);
        }
        at
    }

    fn rotate_left(&mut self, at: u32) -> u32 {
        let top = self.nodes[at as usize].right;
        self.nodes[at as usize].right = self.nodes[top as usize].left;
        self.nodes[top as usize].left = at;
        self.refresh(at);
        self.refresh(top);
        top
    }

    fn rotate_right(&mut self, at: u32) -> u32 {
        let top = self.nodes[at as usize].left;
        self.nodes[at as usize].left = self.nodes[top as usize].right;
        self.nodes[top as usize].right = at;
        self.refresh(at);
        self.refresh(top);
        top
    }
}

fn compare(start: &[u8], end: &End, node: &Node) -> Ordering {
    start.cmp(&node.start).then_with(|| end.cmp(&node.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl IntervalTree {
        /// Checks the invariants below `at` and returns its height.
        fn check(&self, at: u32) -> i32 {
            if at == NONE {
                return 0;
            }
            let node = &self.nodes[at as usize];
            let (left, right) = (self.check(node.left), self.check(node.right));
            assert!((left - right).abs() <= 1);
            assert_eq!(i32::from(node.height), 1 + left.max(right));
            let furthest = &self.nodes[node.furthest as usize].end;
            assert!(*furthest >= node.end);
            for child in [node.left, node.right].into_iter().filter(|child| *child != NONE) {
                let below = &self.nodes[child as usize];
                assert!(*furthest >= self.nodes[below.furthest as usize].end);
                let order = compare(&below.start, &below.end, node);
                assert_eq!(order == Ordering::Less, child == node.left);
            }
            1 + left.max(right)
        }
    }

    fn interval() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>)> {
        let key = proptest::collection::vec(0u8..4, 1..4);
        (key.clone(), proptest::option::weighted(0.9, key))
    }

    proptest! {
        /// Shown by comparing with a plain map of intervals after every step.
        #[test]
        fn finds_what_a_list_finds(steps in proptest::collection::vec((interval(), any::<bool>()), 1..120)) {
            let mut tree = IntervalTree::new();
            let mut model: BTreeMap<(Vec<u8>, End), u32> = BTreeMap::new();
            for (number, ((start, end), add)) in steps.into_iter().enumerate() {
                let end = end.map_or(End::Open, |end| End::Before(Arc::from(end)));
                let known = model.get(&(start.clone(), end.clone())).copied();
                prop_assert_eq!(tree.get(&start, &end), known);
                if known.is_some() && !add {
                    tree.remove(&start, &end);
                    model.remove(&(start.clone(), end));
                } else if known.is_none() {
                    tree.insert(Arc::from(&start[..]), end.clone(), number as u32);
                    model.insert((start.clone(), end), number as u32);
                }
                tree.check(tree.root);
                let mut found = Vec::new();
                tree.containing(&start, &mut |value| found.push(value));
                let expected: Vec<u32> = model
                    .iter()
                    .filter(|((from, end), _)| *from <= start && end.is_behind(&start))
                    .map(|(_, value)| *value)
                    .collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
