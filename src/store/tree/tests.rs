//! The tree against the standard library's, invariants checked after each change.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A value that says itself whether it is live.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Toy(bool, u16);

impl Live for Toy {
    fn is_live(&self) -> bool {
        self.0
    }
}

impl<const N: usize> Tree<Toy, N> {
    /// Checks the invariants of the module's first page.
    fn check(&self) {
        let mut leaves = Vec::new();
        let (len, live) = self.check_node(self.root, self.height, None, None, &mut leaves);
        assert_eq!((len, live), (self.len, self.live));
        assert_eq!(leaves[0], self.first_leaf);
        for pair in leaves.windows(2) {
            assert_eq!(self.leaves[pair[0] as usize].next, pair[1]);
        }
        assert_eq!(self.leaves[*leaves.last().unwrap() as usize].next, NONE);
        assert_eq!(*leaves.last().unwrap(), self.last_leaf);
        assert_eq!(leaves.len() + self.free_leaves.len(), self.leaves.len());
    }

    fn check_node(
        &self,
        node: u32,
        height: usize,
        low: Option<&[u8]>,
        high: Option<&[u8]>,
        leaves: &mut Vec<u32>,
    ) -> (usize, u64) {
        if height == 0 {
            leaves.push(node);
            let entries = &self.leaves[node as usize].entries;
            assert!(entries.len() <= N);
            assert!(!entries.is_empty() || self.height == 0);
            assert!(entries.windows(2).all(|w| w[0].key.bytes() < w[1].key.bytes()));
            for entry in entries {
                assert!(low.is_none_or(|low| low <= entry.key.bytes()));
                assert!(high.is_none_or(|high| entry.key.bytes() < high));
            }
            let live = entries.iter().filter(|entry| entry.value.0).count() as u64;
            return (entries.len(), live);
        }
        let branch = &self.branches[node as usize];
        assert!(branch.children.len() >= 2 && branch.children.len() <= Self::BRANCH);
        assert_eq!(branch.keys.len() + 1, branch.children.len());
        assert_eq!(branch.live.len(), branch.children.len());
        let (mut len, mut live) = (0, 0);
        for (child, &number) in branch.children.iter().enumerate() {
            let low = if child == 0 { low } else { Some(branch.keys[child - 1].bytes()) };
            let high = branch.keys.get(child).map(Key::bytes).or(high);
            let (l, c) = self.check_node(number, height - 1, low, high, leaves);
            assert_eq!(c, branch.live[child]);
            len += l;
            live += c;
        }
        (len, live)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(Vec<u8>, bool, u16),
    Update(Vec<u8>, bool),
    Remove(Vec<u8>),
    RemoveRun(Vec<u8>, usize),
    Ascending(u8, usize),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(0u8..6, 0..5),
        1 => prop::collection::vec(0u8..3, 20..26),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (key(), any::<bool>(), any::<u16>()).prop_map(|(k, l, v)| Op::Put(k, l, v)),
        3 => (key(), any::<bool>()).prop_map(|(k, l)| Op::Update(k, l)),
        4 => key().prop_map(Op::Remove),
        1 => (key(), 1usize..60).prop_map(|(k, n)| Op::RemoveRun(k, n)),
        1 => (any::<u8>(), 1usize..40).prop_map(|(p, n)| Op::Ascending(p, n)),
    ]
}

fn put<const N: usize>(tree: &mut Tree<Toy, N>, key: &[u8], value: Toy) {
    tree.upsert(key, |old| *old = value, || (value, ()));
}

fn compare<const N: usize>(tree: &Tree<Toy, N>, model: &BTreeMap<Vec<u8>, Toy>, probe: &[u8]) {
    tree.check();
    assert_eq!(tree.get(probe), model.get(probe));
    let below = model.range(..probe.to_vec()).filter(|(_, v)| v.0).count() as u64;
    assert_eq!(tree.count_below(probe), below);
    let from: Vec<_> = tree.iter_from(tree.seek(probe)).map(|(k, v)| (k.to_vec(), *v)).collect();
    let want: Vec<_> = model.range(probe.to_vec()..).map(|(k, v)| (k.clone(), *v)).collect();
    assert_eq!(from, want);
    let all: Vec<_> = tree.iter().map(|(k, v)| (k.to_vec(), *v)).collect();
    assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
    for (rank, (key, _)) in model.iter().filter(|(_, v)| v.0).enumerate() {
        assert_eq!(tree.key_at(tree.select(rank as u64)), Some(key.as_slice()));
    }
    assert_eq!(tree.key_at(tree.select(tree.live())), None);
}

proptest! {
    /// Any mix of changes leaves the tree equal to the standard library's, counts included.
    #[test]
    fn behaves_like_a_btree_map(ops in prop::collection::vec(op(), 1..250)) {
        let mut tree = Tree::<Toy, 4>::new();
        let mut model = BTreeMap::new();
        for op in ops {
            let probe = match op {
                Op::Put(key, live, value) => {
                    put(&mut tree, &key, Toy(live, value));
                    model.insert(key.clone(), Toy(live, value));
                    key
                }
                Op::Update(key, live) => {
                    let done = tree.update(&key, |value| value.0 = live).is_some();
                    prop_assert_eq!(done, model.contains_key(&key));
                    if let Some(value) = model.get_mut(&key) {
                        value.0 = live;
                    }
                    key
                }
                Op::Remove(key) => {
                    prop_assert_eq!(tree.remove(&key), model.remove(&key));
                    key
                }
                Op::RemoveRun(key, n) => {
                    let run: Vec<_> =
                        model.range(key.clone()..).take(n).map(|(k, _)| k.clone()).collect();
                    for key in run {
                        prop_assert_eq!(tree.remove(&key), model.remove(&key));
                    }
                    key
                }
                Op::Ascending(prefix, n) => {
                    for i in 0..n {
                        let key = vec![prefix, i as u8];
                        put(&mut tree, &key, Toy(true, 0));
                        model.insert(key, Toy(true, 0));
                    }
                    vec![prefix, 7]
                }
            };
            compare(&tree, &model, &probe);
        }
    }
}

#[test]
fn keys_in_order_fill_their_leaves() {
    let mut tree = Tree::<Toy>::new();
    for i in 0u32..10_000 {
        put(&mut tree, &i.to_be_bytes(), Toy(true, 0));
    }
    tree.check();
    assert!(tree.leaf_slots() <= 10_000 / 32 + 1);
}

#[test]
fn a_walk_stops_where_it_is_told_and_goes_on_there() {
    let mut tree = Tree::<Toy, 4>::new();
    for i in 0u8..100 {
        put(&mut tree, &[i], Toy(true, u16::from(i)));
    }
    let mut seen = Vec::new();
    let mut from = tree.seek(&[]);
    loop {
        let mut budget = 7;
        let stop = tree.walk_mut(from, |key, value| {
            if budget == 0 {
                return false;
            }
            budget -= 1;
            value.1 += 1;
            seen.push(key[0]);
            true
        });
        match stop {
            Some(cursor) => from = cursor,
            None => break,
        }
    }
    assert_eq!(seen, (0..100).collect::<Vec<u8>>());
    assert!(tree.iter().all(|(key, value)| value.1 == u16::from(key[0]) + 1));
}
