//! Panics of the storage engine, as errors.
//!
//! redb relies on what a sound file guarantees, and asserts it. A file that a disk has damaged
//! breaks that in the middle of a call, with a panic: no way to tell an operator what to do. So
//! every call into redb runs guarded, and a panic in it is what it means: damage.
//!
//! After one nothing more is asked of that database; the node stops.

use super::error::StoreError;
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

std::thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Whether a panic on this thread becomes an error, for panic hooks: nobody need be alarmed.
pub fn is_guarded() -> bool {
    DEPTH.get() > 0
}

/// Runs a call into redb.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    DEPTH.set(DEPTH.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    DEPTH.set(DEPTH.get() - 1);
    outcome.unwrap_or_else(|panic| {
        Err(StoreError::Corrupt {
            what: format!("the storage engine cannot make sense of it: {}", text(&*panic)),
            place: "its pages".into(),
        })
    })
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_damage_and_its_text_is_told() {
        let error = guarded::<()>(|| panic!("page {} is odd", 7)).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }));
        assert!(error.to_string().contains("page 7 is odd"), "{error}");
        assert!(!is_guarded());
        assert!(guarded(|| Ok(is_guarded())).unwrap());
    }
}
