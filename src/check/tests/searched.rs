//! The search without revisions: textbook histories of registers, sets and lists.

use crate::check::linearizable::model::{
    AppendList, CollectionInput, CollectionOutput, GrowingSet, Register, RegisterInput,
    RegisterOutput,
};
use crate::check::linearizable::{Answer, Call, Model, check};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const STEPS: u64 = 1_000_000;

/// A register's history: (call, answer, words); the answer 0 is unknown.
fn register(lines: &[(u64, u64, &str)]) -> Vec<Call<RegisterInput, RegisterOutput>> {
    let number = |word: &str| word.parse::<i64>().ok();
    lines
        .iter()
        .map(|(invoke, returned, words)| {
            let words: Vec<&str> = words.split(' ').collect();
            let (input, output) = match words[0] {
                "r" => (RegisterInput::Read, RegisterOutput::Value(number(words[1]))),
                "w" => (RegisterInput::Write(number(words[1]).unwrap()), RegisterOutput::Done),
                _ => (
                    RegisterInput::CompareAndSet(
                        number(words[1]).unwrap(),
                        number(words[2]).unwrap(),
                    ),
                    RegisterOutput::Swapped(words[3] == "yes"),
                ),
            };
            let output = (*returned > 0).then_some(output);
            Call { input, output, invoke: *invoke, returned: *returned }
        })
        .collect()
}

#[test]
fn textbook_registers() {
    for (lawful, lines) in [
        (true, &[(1, 2, "w 1"), (3, 4, "r 1")][..]),
        (false, &[(1, 2, "w 1"), (3, 4, "r nil")]),
        (true, &[(1, 4, "w 1"), (2, 3, "r nil")]),
        // Stale after new: the first read fixes the write before it.
        (false, &[(1, 9, "w 1"), (2, 3, "r 1"), (4, 5, "r nil")]),
        // Concurrent writes, seen in different orders.
        (false, &[(1, 2, "w 1"), (1, 2, "w 2"), (3, 4, "r 1"), (5, 6, "r 2")]),
        // Two winners of one comparison.
        (false, &[(1, 2, "w 0"), (3, 6, "cas 0 1 yes"), (4, 5, "cas 0 2 yes")]),
        (true, &[(1, 2, "w 0"), (3, 6, "cas 0 1 yes"), (4, 5, "cas 0 2 no")]),
        // An unknown write may show late, or never, but not before its call.
        (true, &[(1, 0, "w 1"), (2, 3, "r nil"), (4, 5, "r 1")]),
        (true, &[(1, 0, "w 1"), (2, 3, "r nil")]),
        (false, &[(1, 2, "r 1"), (3, 0, "w 1")]),
        // It happens once: it cannot come back.
        (false, &[(1, 0, "w 1"), (2, 3, "r 1"), (4, 5, "w 2"), (6, 7, "r 2"), (8, 9, "r 1")]),
        // Written by nobody.
        (false, &[(1, 2, "w 1"), (3, 4, "r 7")]),
    ] {
        let answer = check(&Register, &register(lines), STEPS);
        let found = matches!(answer, Answer::Linearizable(_));
        assert_eq!(found, lawful, "{lines:?}: {answer:?}");
    }
}

#[test]
fn sets_and_lists_lose_nothing_and_keep_their_order() {
    let add = |element, invoke, returned| Call {
        input: CollectionInput::Add(element),
        output: Some(CollectionOutput::Added),
        invoke,
        returned,
    };
    let read = |elements: &[i64], invoke, returned| Call {
        input: CollectionInput::Read,
        output: Some(CollectionOutput::Elements(elements.to_vec())),
        invoke,
        returned,
    };
    let history = |elements| vec![add(1, 1, 4), add(2, 2, 3), read(elements, 5, 6)];
    for (elements, set, list) in [
        (&[1, 2][..], true, true),
        (&[2, 1], true, true),
        (&[1], false, false),
        (&[1, 2, 3], false, false),
        (&[1, 1, 2], false, false),
    ] {
        let found = |answer| matches!(answer, Answer::Linearizable(_));
        assert_eq!(found(check(&GrowingSet, &history(elements), STEPS)), set, "{elements:?}");
        assert_eq!(found(check(&AppendList, &history(elements), STEPS)), list, "{elements:?}");
    }
    let two_orders = vec![add(1, 1, 4), add(2, 2, 3), read(&[1, 2], 5, 6), read(&[2, 1], 7, 8)];
    assert!(matches!(check(&AppendList, &two_orders, STEPS), Answer::Impossible { .. }));
    assert!(matches!(check(&GrowingSet, &two_orders, STEPS), Answer::Linearizable(_)));
}

#[test]
fn at_its_limit_the_search_says_so() {
    let lines: Vec<(u64, u64, String)> =
        (0..30).map(|value| (1, 100, format!("w {value}"))).collect();
    let mut lines: Vec<(u64, u64, &str)> =
        lines.iter().map(|(invoke, returned, text)| (*invoke, *returned, &text[..])).collect();
    lines.push((101, 102, "r 99"));
    assert_eq!(check(&Register, &register(&lines), 1000), Answer::Unknown);
}

/// All orders, tried one by one: slow and plain.
fn by_hand(
    calls: &[Call<RegisterInput, RegisterOutput>],
    left: &mut Vec<usize>,
    state: Option<i64>,
) -> bool {
    if left.iter().all(|place| calls[*place].output.is_none()) {
        return true;
    }
    for index in 0..left.len() {
        let place = left[index];
        let first = left.iter().all(|other| {
            calls[*other].output.is_none() || calls[*other].returned >= calls[place].invoke
        });
        let next = Register.step(&state, &calls[place].input, calls[place].output.as_ref());
        if let (true, Some(next)) = (first, next) {
            left.remove(index);
            let found = by_hand(calls, left, next);
            left.insert(index, place);
            if found {
                return true;
            }
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_search_agrees_with_trying_all_orders(seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let calls: Vec<_> = (0..random.random_range(1..8)).map(|_| {
            let invoke = random.random_range(1..20);
            let value = random.random_range(0..3);
            let (input, output) = match random.random_range(0..3) {
                0 => (RegisterInput::Read, RegisterOutput::Value(Some(value).filter(|v| *v > 0))),
                1 => (RegisterInput::Write(value), RegisterOutput::Done),
                _ => {
                    let new = random.random_range(0..3);
                    let swapped = random.random_bool(0.5);
                    (RegisterInput::CompareAndSet(value, new), RegisterOutput::Swapped(swapped))
                }
            };
            let output = random.random_bool(0.85).then_some(output);
            Call { input, output, invoke, returned: invoke + random.random_range(1..12) }
        }).collect();
        let expected = by_hand(&calls, &mut (0..calls.len()).collect(), None);
        let answer = check(&Register, &calls, STEPS);
        prop_assert_eq!(matches!(answer, Answer::Linearizable(_)), expected, "{:?}", calls);
    }
}
