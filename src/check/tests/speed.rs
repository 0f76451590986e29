//! How long checking takes. Run: `cargo test --release --lib check::tests::speed -- --ignored
//! --nocapture`.

// A test that measures has to look at a clock.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use super::execution::{Shape, execution};
use crate::check::history::History;
use crate::check::{Limits, Verdict, check};
use std::time::Instant;

/// Makes a lawful history, checks it and prints figures.
fn measure(shape: &Shape) {
    let history = execution(1, shape);
    let mut file = Vec::new();
    history.write(&mut file).unwrap();
    let start = Instant::now();
    let read = History::read(&file[..]).unwrap();
    let reading = start.elapsed();
    let start = Instant::now();
    let report = check(&read, Limits::default());
    let Shape { unknown_one_in, keys, .. } = shape;
    println!(
        "unknown 1/{unknown_one_in}, {keys} keys: {} MB read in {reading:.2?}, checked in \
         {:.2?}: {}",
        file.len() / 1_000_000,
        start.elapsed(),
        report.summary()
    );
    assert_eq!(report.verdict, Verdict::Lawful, "{:?}", report.unknown);
}

/// (operations, one unknown in so many, watchers, keys)
fn measure_all(shapes: &[(usize, u32, usize, u32)]) {
    for &(operations, unknown_one_in, watches, keys) in shapes {
        let clients = 16;
        let shape =
            Shape { operations, clients, keys, unknown_one_in, watches, ..Shape::default() };
        measure(&shape);
    }
}

#[test]
#[ignore = "measures"]
fn a_simulated_run_takes_a_tenth_of_a_second() {
    measure_all(&[(5_000, 20, 8, 30), (5_000, 10, 8, 30), (5_000, 10, 0, 30), (5_000, 5, 2, 30)]);
}

#[test]
#[ignore = "measures"]
fn a_hundred_thousand_operations_take_seconds() {
    measure_all(&[(100_000, 0, 0, 100), (100_000, 0, 16, 100), (100_000, 100, 16, 100)]);
}

#[test]
#[ignore = "measures"]
fn many_unknown_outcomes_take_seconds() {
    measure_all(&[(100_000, 20, 4, 100), (100_000, 20, 0, 100), (100_000, 20, 0, 10)]);
}

#[test]
#[ignore = "measures"]
fn faults_all_the_time_take_seconds() {
    measure_all(&[(100_000, 5, 4, 100), (100_000, 5, 0, 100), (100_000, 5, 0, 10)]);
}
