//! An ordered map from key bytes to values that can count.
//!
//! A B+tree in two arenas: leaves hold the entries and know the next leaf, branches hold
//! separators and, for each child, how many *live* entries lie below it. With these counts the
//! number of live keys in an interval, and the place of the n-th live key, cost one walk from the
//! root. The standard library's tree cannot do that, and etcd's walks the interval.
//!
//! Whether an entry is live is the value's own word ([`Live`]): a deleted key stays in the map as
//! long as its history does, but a count of the current keys must not see it.
//!
//! Nodes are numbered, not pointed at: a cursor is a leaf's number and a place in it, a sweep over
//! all leaves is a counter, and no `unsafe` is needed. Short keys stand in the entry itself.
//!
//! Invariants:
//! - Keys ascend strictly through a leaf and from a leaf to the next.
//! - `keys[i]` of a branch is at most the first key below `children[i + 1]` and above every key
//!   below `children[i]`.
//! - `live[i]` of a branch is the number of live entries below `children[i]`.
//! - Only a root leaf may be empty; a branch has at least two children, unless its last sibling
//!   has just gone, and then it is the root and is replaced by that child.
//! - All leaves are at the same depth, `height`.
//! - `first_leaf` and `last_leaf` are the ends of the chain of leaves.
//!
//! It leaves out walking backwards: a descending range finds its first key by rank instead.

use std::fmt;

/// Whether an entry counts as present.
pub(super) trait Live {
    fn is_live(&self) -> bool;
}

/// Key bytes up to this length stand in the entry; longer ones are on the heap.
const INLINE_KEY_BYTES: usize = 22;

/// Key bytes, 24 bytes in size.
#[derive(Clone)]
pub(super) enum Key {
    Inline(u8, [u8; INLINE_KEY_BYTES]),
    Heap(Box<[u8]>),
}

const _: () = assert!(size_of::<Key>() == 24);

impl Key {
    pub(super) fn new(bytes: &[u8]) -> Key {
        if bytes.len() <= INLINE_KEY_BYTES {
            let mut inline = [0; INLINE_KEY_BYTES];
            inline[..bytes.len()].copy_from_slice(bytes);
            Key::Inline(bytes.len() as u8, inline)
        } else {
            Key::Heap(bytes.into())
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Key::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Key::Heap(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes().escape_ascii())
    }
}

/// "No leaf": the end of the chain.
const NONE: u32 = u32::MAX;
/// Entries by which a leaf's memory grows, so that a leaf wastes little when it is not full.
const LEAF_GROWTH: usize = 8;

#[derive(Debug)]
struct Entry<V> {
    key: Key,
    value: V,
}

#[derive(Debug)]
struct Leaf<V> {
    entries: Vec<Entry<V>>,
    /// The leaf behind this one, or `NONE`.
    next: u32,
}

#[derive(Debug, Default)]
struct Branch {
    /// `children.len() - 1` separators.
    keys: Vec<Key>,
    /// Numbers of leaves on the lowest branch level, of branches above.
    children: Vec<u32>,
    live: Vec<u64>,
}

/// A place between two keys: in front of the entry it names, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cursor {
    leaf: u32,
    place: usize,
}

/// The map. `N` is the most entries a leaf holds; a branch holds twice as many children.
#[derive(Debug)]
pub(super) struct Tree<V, const N: usize = 32> {
    leaves: Vec<Leaf<V>>,
    branches: Vec<Branch>,
    free_leaves: Vec<u32>,
    free_branches: Vec<u32>,
    /// A leaf if `height` is 0, else a branch.
    root: u32,
    /// Levels of branches above the leaves.
    height: usize,
    first_leaf: u32,
    last_leaf: u32,
    len: usize,
    live: u64,
    /// The way from the root to a leaf: branch and child taken. Kept to spare an allocation.
    path: Vec<(u32, usize)>,
}

impl<V: Live, const N: usize> Tree<V, N> {
    const BRANCH: usize = 2 * N;

    pub(super) fn new() -> Tree<V, N> {
        const { assert!(N >= 4) };
        Tree {
            leaves: vec![Leaf { entries: Vec::new(), next: NONE }],
            branches: Vec::new(),
            free_leaves: Vec::new(),
            free_branches: Vec::new(),
            root: 0,
            height: 0,
            first_leaf: 0,
            last_leaf: 0,
            len: 0,
            live: 0,
            path: Vec::new(),
        }
    }

    /// Live entries.
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&V> {
        let leaf = &self.leaves[self.leaf_of(key) as usize];
        find(&leaf.entries, key).ok().map(|place| &leaf.entries[place].value)
    }

    /// Changes an entry through `f`, which may change whether it is live.
    pub(super) fn update<R>(&mut self, key: &[u8], f: impl FnOnce(&mut V) -> R) -> Option<R> {
        self.descend(key);
        let leaf = self.path_leaf();
        let place = find(&self.leaves[leaf as usize].entries, key).ok()?;
        Some(self.change(leaf, place, f))
    }

    /// Changes the entry through `change` if it is there, else puts what `make` gives.
    pub(super) fn upsert<R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut V) -> R,
        make: impl FnOnce() -> (V, R),
    ) -> R {
        self.descend(key);
        let leaf = self.path_leaf();
        match find(&self.leaves[leaf as usize].entries, key) {
            Ok(place) => self.change(leaf, place, change),
            Err(place) => {
                let (value, result) = make();
                self.insert_at(leaf, place, Entry { key: Key::new(key), value });
                result
            }
        }
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<V> {
        self.descend(key);
        let leaf = self.path_leaf();
        let entries = &mut self.leaves[leaf as usize].entries;
        let place = find(entries, key).ok()?;
        let entry = entries.remove(place);
        self.len -= 1;
        if entry.value.is_live() {
            self.add_live(-1);
        }
        self.mend();
        Some(entry.value)
    }

    /// How many live entries have a key below `key`.
    pub(super) fn count_below(&self, key: &[u8]) -> u64 {
        let (mut node, mut count) = (self.root, 0);
        for _ in 0..self.height {
            let branch = &self.branches[node as usize];
            let child = branch.keys.partition_point(|separator| separator.bytes() <= key);
            count += branch.live[..child].iter().sum::<u64>();
            node = branch.children[child];
        }
        let entries = &self.leaves[node as usize].entries;
        let place = find(entries, key).unwrap_or_else(|place| place);
        count + entries[..place].iter().filter(|entry| entry.value.is_live()).count() as u64
    }

    /// The place of the first entry whose key is not below `key`.
    pub(super) fn seek(&self, key: &[u8]) -> Cursor {
        let leaf = self.leaf_of(key);
        let place = find(&self.leaves[leaf as usize].entries, key).unwrap_or_else(|place| place);
        self.normal(leaf, place)
    }

    /// The place of the live entry that has `rank` live entries before it; the end if there are
    /// not that many.
    pub(super) fn select(&self, mut rank: u64) -> Cursor {
        if rank >= self.live {
            return Cursor { leaf: NONE, place: 0 };
        }
        let mut node = self.root;
        for _ in 0..self.height {
            let branch = &self.branches[node as usize];
            let mut child = 0;
            while rank >= branch.live[child] {
                rank -= branch.live[child];
                child += 1;
            }
            node = branch.children[child];
        }
        for (place, entry) in self.leaves[node as usize].entries.iter().enumerate() {
            if entry.value.is_live() {
                if rank == 0 {
                    return Cursor { leaf: node, place };
                }
                rank -= 1;
            }
        }
        unreachable!("the live counts of the branches add up to those of the leaves")
    }

    /// The entries from a place on, in key order.
    pub(super) fn iter_from(&self, cursor: Cursor) -> Iter<'_, V, N> {
        Iter { tree: self, cursor }
    }

    /// Every entry in key order.
    pub(super) fn iter(&self) -> Iter<'_, V, N> {
        self.iter_from(self.normal(self.first_leaf, 0))
    }

    /// Shows `f` the entries from a place on until it says stop. It may change a value, but not
    /// whether it is live. Returns the place of the entry it stopped at, `None` at the end.
    pub(super) fn walk_mut(
        &mut self,
        from: Cursor,
        mut f: impl FnMut(&[u8], &mut V) -> bool,
    ) -> Option<Cursor> {
        let Cursor { mut leaf, mut place } = from;
        while leaf != NONE {
            let node = &mut self.leaves[leaf as usize];
            while let Some(entry) = node.entries.get_mut(place) {
                let live = entry.value.is_live();
                let goes_on = f(entry.key.bytes(), &mut entry.value);
                assert_eq!(live, entry.value.is_live(), "a walk leaves the live counts alone");
                if !goes_on {
                    return Some(Cursor { leaf, place });
                }
                place += 1;
            }
            (leaf, place) = (node.next, 0);
        }
        None
    }

    /// The key at a place.
    pub(super) fn key_at(&self, cursor: Cursor) -> Option<&[u8]> {
        let leaf = self.leaves.get(cursor.leaf as usize)?;
        leaf.entries.get(cursor.place).map(|entry| entry.key.bytes())
    }

    /// Leaves ever made: the numbers [`Tree::leaf_values`] takes.
    pub(super) fn leaf_slots(&self) -> usize {
        self.leaves.len()
    }

    /// The values of one leaf by its number, to be changed without changing whether they are
    /// live. No order among leaves is promised.
    pub(super) fn leaf_values(&mut self, leaf: usize) -> impl Iterator<Item = &mut V> {
        self.leaves[leaf].entries.iter_mut().map(|entry| &mut entry.value)
    }

    /// About how many bytes the nodes take, without what keys and values hold on the heap.
    pub(super) fn node_bytes(&self) -> usize {
        let slack = LEAF_GROWTH / 2 * size_of::<Entry<V>>();
        let child = size_of::<Key>() + size_of::<(u32, u64)>();
        self.len * size_of::<Entry<V>>()
            + self.leaves.len() * (size_of::<Leaf<V>>() + slack + child)
    }

    fn leaf_of(&self, key: &[u8]) -> u32 {
        let mut node = self.root;
        for _ in 0..self.height {
            let branch = &self.branches[node as usize];
            let child = branch.keys.partition_point(|separator| separator.bytes() <= key);
            node = branch.children[child];
        }
        node
    }

    /// Fills `path` with the way to the leaf where `key` belongs.
    fn descend(&mut self, key: &[u8]) {
        self.path.clear();
        let mut node = self.root;
        // Keys often come in order; one behind the last key needs no search.
        let last = self.leaves[self.last_leaf as usize].entries.last();
        let appends = last.is_some_and(|last| last.key.bytes() < key);
        for _ in 0..self.height {
            let branch = &self.branches[node as usize];
            let child = if appends {
                branch.keys.len()
            } else {
                branch.keys.partition_point(|separator| separator.bytes() <= key)
            };
            self.path.push((node, child));
            node = branch.children[child];
        }
    }

    fn path_leaf(&self) -> u32 {
        match self.path.last() {
            Some(&(branch, child)) => self.branches[branch as usize].children[child],
            None => self.root,
        }
    }

    fn normal(&self, mut leaf: u32, mut place: usize) -> Cursor {
        while leaf != NONE && place >= self.leaves[leaf as usize].entries.len() {
            (leaf, place) = (self.leaves[leaf as usize].next, 0);
        }
        Cursor { leaf, place }
    }

    fn change<R>(&mut self, leaf: u32, place: usize, f: impl FnOnce(&mut V) -> R) -> R {
        let value = &mut self.leaves[leaf as usize].entries[place].value;
        let before = value.is_live();
        let result = f(value);
        match (before, value.is_live()) {
            (true, false) => self.add_live(-1),
            (false, true) => self.add_live(1),
            (true, true) | (false, false) => {}
        }
        result
    }

    /// Adds to the live counts along `path`.
    fn add_live(&mut self, change: i64) {
        self.live = self.live.checked_add_signed(change).expect("a count is not negative");
        for &(branch, child) in &self.path {
            let count = &mut self.branches[branch as usize].live[child];
            *count = count.checked_add_signed(change).expect("a count is not negative");
        }
    }

    fn insert_at(&mut self, leaf: u32, place: usize, entry: Entry<V>) {
        let live = entry.value.is_live();
        self.len += 1;
        if live {
            self.add_live(1);
        }
        let entries = &mut self.leaves[leaf as usize].entries;
        if entries.len() < N {
            grow(entries, N);
            entries.insert(place, entry);
            return;
        }
        // Keys that arrive in order leave full leaves behind; others split in the middle.
        let middle = if place == N { N } else { N / 2 };
        let mut right = entries.split_off(middle);
        if place > middle || place == N {
            grow(&mut right, N);
            right.insert(place - middle, entry);
        } else {
            entries.insert(place, entry);
        }
        entries.shrink_to(entries.len().next_multiple_of(LEAF_GROWTH));
        let separator = right[0].key.clone();
        let right_live = right.iter().filter(|entry| entry.value.is_live()).count() as u64;
        let next = self.leaves[leaf as usize].next;
        let new = self.new_leaf(Leaf { entries: right, next });
        self.leaves[leaf as usize].next = new;
        if next == NONE {
            self.last_leaf = new;
        }
        self.hang_in(separator, new, right_live);
    }

    /// Hangs a new node in behind the one `path` leads to, splitting branches as needed.
    fn hang_in(&mut self, mut separator: Key, mut new: u32, mut new_live: u64) {
        while let Some((number, child)) = self.path.pop() {
            let branch = &mut self.branches[number as usize];
            branch.keys.insert(child, separator);
            branch.children.insert(child + 1, new);
            branch.live.insert(child + 1, new_live);
            branch.live[child] -= new_live;
            if branch.children.len() <= Self::BRANCH {
                return;
            }
            let size = branch.children.len();
            let middle = if child + 2 == size { size - 2 } else { size / 2 };
            let right = Branch {
                keys: branch.keys.split_off(middle),
                children: branch.children.split_off(middle),
                live: branch.live.split_off(middle),
            };
            separator = branch.keys.pop().expect("a split branch keeps two children");
            new_live = right.live.iter().sum();
            new = self.new_branch(right);
        }
        let root_live = self.live - new_live;
        let root = Branch {
            keys: vec![separator],
            children: vec![self.root, new],
            live: vec![root_live, new_live],
        };
        self.root = self.new_branch(root);
        self.height += 1;
    }

    /// After a removal: joins nodes that became too small along `path`, lowest first.
    fn mend(&mut self) {
        let mut above_leaves = true;
        while let Some((number, child)) = self.path.pop() {
            let branch = &self.branches[number as usize];
            let node = branch.children[child];
            let size = if above_leaves {
                self.leaves[node as usize].entries.len()
            } else {
                self.branches[node as usize].children.len()
            };
            let small = if above_leaves { N / 4 } else { Self::BRANCH / 4 };
            if size >= small.max(if above_leaves { 1 } else { 2 }) {
                return;
            }
            // Every branch has two children here, so there is a neighbour.
            let left = child.saturating_sub(1);
            if above_leaves {
                self.join_leaves(number, left);
            } else {
                self.join_branches(number, left);
            }
            above_leaves = false;
        }
        if self.height > 0 && self.branches[self.root as usize].children.len() == 1 {
            let old = self.root;
            self.root = self.branches[old as usize].children[0];
            self.height -= 1;
            self.free_branch(old);
        }
    }

    /// Joins the leaves at `left` and `left + 1` of a branch, or shares their entries out.
    fn join_leaves(&mut self, parent: u32, left: usize) {
        let branch = &self.branches[parent as usize];
        let (first, second) = (branch.children[left], branch.children[left + 1]);
        let mut right = std::mem::take(&mut self.leaves[second as usize].entries);
        let entries = &mut self.leaves[first as usize].entries;
        entries.append(&mut right);
        if entries.len() <= N {
            self.leaves[first as usize].next = self.leaves[second as usize].next;
            self.drop_child(parent, left + 1);
            self.leaves[second as usize].next = NONE;
            if self.last_leaf == second {
                self.last_leaf = first;
            }
            self.free_leaves.push(second);
            return;
        }
        let right = entries.split_off(entries.len() / 2);
        entries.shrink_to(entries.len().next_multiple_of(LEAF_GROWTH));
        let live = right.iter().filter(|entry| entry.value.is_live()).count() as u64;
        let separator = right[0].key.clone();
        self.leaves[second as usize].entries = right;
        self.set_border(parent, left, separator, live);
    }

    /// The same for two branches.
    fn join_branches(&mut self, parent: u32, left: usize) {
        let branch = &self.branches[parent as usize];
        let (first, second) = (branch.children[left], branch.children[left + 1]);
        let separator = branch.keys[left].clone();
        let mut right = std::mem::take(&mut self.branches[second as usize]);
        let joined = &mut self.branches[first as usize];
        joined.keys.push(separator);
        joined.keys.append(&mut right.keys);
        joined.children.append(&mut right.children);
        joined.live.append(&mut right.live);
        if joined.children.len() <= Self::BRANCH {
            self.drop_child(parent, left + 1);
            self.free_branches.push(second);
            return;
        }
        let middle = joined.children.len() / 2;
        right.keys = joined.keys.split_off(middle);
        right.children = joined.children.split_off(middle);
        right.live = joined.live.split_off(middle);
        let separator = joined.keys.pop().expect("both halves have children");
        let live = right.live.iter().sum();
        self.branches[second as usize] = right;
        self.set_border(parent, left, separator, live);
    }

    /// Takes a child out of a branch, its live entries counting for the one before it.
    fn drop_child(&mut self, branch: u32, child: usize) {
        let branch = &mut self.branches[branch as usize];
        branch.keys.remove(child - 1);
        branch.children.remove(child);
        let live = branch.live.remove(child);
        branch.live[child - 1] += live;
    }

    /// Sets what separates `left` from its right neighbour, which now has `right_live` entries.
    fn set_border(&mut self, branch: u32, left: usize, separator: Key, right_live: u64) {
        let branch = &mut self.branches[branch as usize];
        branch.keys[left] = separator;
        let both = branch.live[left] + branch.live[left + 1];
        branch.live[left] = both - right_live;
        branch.live[left + 1] = right_live;
    }

    fn new_leaf(&mut self, leaf: Leaf<V>) -> u32 {
        if let Some(number) = self.free_leaves.pop() {
            self.leaves[number as usize] = leaf;
            return number;
        }
        self.leaves.push(leaf);
        u32::try_from(self.leaves.len() - 1).expect("fewer leaves than memory could hold")
    }

    fn new_branch(&mut self, branch: Branch) -> u32 {
        if let Some(number) = self.free_branches.pop() {
            self.branches[number as usize] = branch;
            return number;
        }
        self.branches.push(branch);
        u32::try_from(self.branches.len() - 1).expect("fewer branches than leaves")
    }

    fn free_branch(&mut self, number: u32) {
        self.branches[number as usize] = Branch::default();
        self.free_branches.push(number);
    }
}

/// Entries in key order from a place on.
pub(super) struct Iter<'a, V, const N: usize> {
    tree: &'a Tree<V, N>,
    cursor: Cursor,
}

impl<'a, V: Live, const N: usize> Iterator for Iter<'a, V, N> {
    type Item = (&'a [u8], &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mut leaf = self.tree.leaves.get(self.cursor.leaf as usize)?;
        if self.cursor.place >= leaf.entries.len() {
            self.cursor = self.tree.normal(self.cursor.leaf, self.cursor.place);
            leaf = self.tree.leaves.get(self.cursor.leaf as usize)?;
        }
        let entry = &leaf.entries[self.cursor.place];
        self.cursor.place += 1;
        Some((entry.key.bytes(), &entry.value))
    }
}

fn find<V>(entries: &[Entry<V>], key: &[u8]) -> Result<usize, usize> {
    entries.binary_search_by(|entry| entry.key.bytes().cmp(key))
}

fn grow<V>(entries: &mut Vec<Entry<V>>, most: usize) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact(LEAF_GROWTH.min(most - entries.len()));
    }
}

#[cfg(test)]
mod tests;
