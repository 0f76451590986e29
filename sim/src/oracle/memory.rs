//! The memory of the process, counted where it is allocated.
//!
//! One process is one run: all members, their simulated disks, the network between them, clients,
//! and what the oracles and the record of the run keep. So the bound is one for all of that.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, and how many bytes of it are in use.
pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    if live > PEAK.load(Relaxed) {
        PEAK.fetch_max(live, Relaxed);
    }
}

fn take(bytes: usize) {
    LIVE.fetch_sub(bytes, Relaxed);
}

// SAFETY: everything is the system allocator's; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            add(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            add(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) };
        take(layout.size());
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let moved = unsafe { System.realloc(pointer, layout, size) };
        if !moved.is_null() {
            take(layout.size());
            add(size);
        }
        moved
    }
}

const MIB: usize = 1024 * 1024;
/// What a member may take, with its disk and its part of the network.
const MEMBER_BYTES_MAX: usize = 64 * MIB;
/// What the run may take whatever it does: clients, oracles, the runtime.
const RUN_BYTES_MAX: usize = 128 * MIB;
/// What each call of a client may leave behind, in its record and in members' histories: the
/// largest calls are pages and transactions of some hundred pairs.
const CALL_BYTES_MAX: usize = 16 * 1024;

/// The most bytes a run may take. Runs of 60 s took 5 to 105 MiB.
pub fn limit(members: u8, calls: u64) -> usize {
    let calls = usize::try_from(calls).unwrap_or(usize::MAX);
    let of_calls = calls.saturating_mul(CALL_BYTES_MAX);
    (usize::from(members) * MEMBER_BYTES_MAX + RUN_BYTES_MAX).saturating_add(of_calls)
}

/// Bytes in use now, and the most there ever were.
pub fn bytes() -> (usize, usize) {
    (LIVE.load(Relaxed), PEAK.load(Relaxed))
}
