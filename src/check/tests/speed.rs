//! How long checking takes. Run: `cargo test --release --lib check::tests::speed -- --ignored
//! --nocapture`.

// A test that measures has to look at a clock.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use super::execution::{Shape, execution};
use crate::check::history::History;
use crate::check::{Limits, Verdict, check};
use std::time::Instant;

#[test]
#[ignore = "measures"]
fn a_hundred_thousand_operations_take_seconds() {
    for (unknown_one_in, watches, keys) in [
        (0, 0, 100),
        (0, 16, 100),
        (100, 16, 100),
        (100, 0, 10),
        (20, 4, 100),
        (20, 0, 100),
        (20, 0, 10),
        (5, 4, 100),
        (5, 0, 100),
        (5, 0, 10),
    ] {
        let shape = Shape { operations: 100_000, clients: 16, keys, unknown_one_in, watches };
        let history = execution(1, &shape);
        let mut file = Vec::new();
        history.write(&mut file).unwrap();
        let start = Instant::now();
        let read = History::read(&file[..]).unwrap();
        let reading = start.elapsed();
        let start = Instant::now();
        let report = check(&read, Limits::default());
        println!(
            "unknown 1/{unknown_one_in}, {watches} watchers, {keys} keys: {} MB read in \
             {reading:.2?}, checked in {:.2?}: {}",
            file.len() / 1_000_000,
            start.elapsed(),
            report.summary()
        );
        assert_eq!(report.verdict, Verdict::Lawful, "{:?}", report.unknown);
    }
}
