//! Entropy that does not come through libc's `getrandom`.
//!
//! madsim replaces the C function `getrandom` with one that draws from the seed. The raft library
//! still uses getrandom 0.2, which asks the kernel through `syscall` and so gets past that. Here
//! `syscall` itself is replaced: requests for randomness go to `getrandom`, all others to libc.

#![expect(unsafe_code, reason = "a C symbol is replaced")]

use std::ffi::{c_long, c_uint, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

unsafe extern "C" {
    fn getrandom(buffer: *mut u8, len: usize, flags: c_uint) -> isize;
    fn dlsym(handle: *mut c_void, name: *const std::ffi::c_char) -> *mut c_void;
}

const SYS_GETRANDOM: c_long = if cfg!(target_arch = "x86_64") { 318 } else { 278 };
/// `RTLD_NEXT`: the symbol after ours, which is libc's.
const NEXT: *mut c_void = -1isize as *mut c_void;

type Syscall = extern "C" fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long;

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    static LIBC: AtomicUsize = AtomicUsize::new(0);
    if number == SYS_GETRANDOM {
        // SAFETY: the arguments are those of getrandom, as the caller promises.
        let got = unsafe { getrandom(a as *mut u8, b as usize, c as c_uint) };
        return got as c_long;
    }
    let mut libc = LIBC.load(Ordering::Relaxed);
    if libc == 0 {
        // SAFETY: a constant handle and a constant, terminated name.
        libc = unsafe { dlsym(NEXT, c"syscall".as_ptr()) } as usize;
        LIBC.store(libc, Ordering::Relaxed);
    }
    assert_ne!(libc, 0, "libc has `syscall`");
    // SAFETY: libc's `syscall` takes up to seven words on every platform we build for.
    let libc: Syscall = unsafe { std::mem::transmute(libc) };
    libc(number, a, b, c, d, e, f)
}
