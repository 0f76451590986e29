//! The command line as it is typed.

use super::arguments::Work;
use super::*;
use crate::plan::Plan;
use clap::CommandFactory;

/// A plan without faults.
pub fn plan() -> Plan {
    source::plan(source::DEFAULT, 7, &crate::plan::Overrides::default()).expect("it is a scenario")
}

fn parse(line: &str) -> Result<Work, String> {
    let words = ["cargo sim --"].into_iter().chain(line.split_whitespace());
    match CommandLine::try_parse_from(words) {
        Ok(CommandLine { command: Command::Run(arguments) }) => arguments.work(),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

fn problem(line: &str) -> String {
    parse(line).err().unwrap_or_else(|| panic!("{line} is no mistake"))
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    CommandLine::command().debug_assert();
}

#[test]
fn seeds_are_one_or_a_range() {
    for (line, seeds) in [
        ("run --seed 7", vec![7]),
        ("run --seeds 3..6", vec![3, 4, 5]),
        ("run --seed 18446744073709551615", vec![u64::MAX]),
    ] {
        let work = parse(line).unwrap();
        assert_eq!(work.count, seeds.len() as u64);
        assert_eq!(work.tasks.map(|task| task.plan.seed).collect::<Vec<_>>(), seeds);
    }
}

#[test]
fn what_cannot_be_done_is_told_in_words() {
    for (line, told) in [
        ("run", "--seed <N>"),
        ("run --seed x", "invalid value 'x' for '--seed <N>'"),
        ("run --seed -1", "unexpected argument"),
        ("run --seeds 5..1", "there is no seed in it; a range of seeds is A..B"),
        ("run --seeds 5..5", "there is no seed in it"),
        ("run --seeds a..b", "`a` is no seed"),
        ("run --seeds 5", "a range of seeds is A..B"),
        ("run --seed 1 --seeds 1..2", "cannot be used with"),
        ("run --seed 1 --nodes 0", "0 is not in 1..=9"),
        ("run --seed 1 --time 0", "0 is not in 1..="),
        ("run --seed 1 --jobs 0", "0 is not in 1..="),
        ("run --seed 1 --max-failures 0", "0 is not in 1.."),
        ("run --seed 1 --keep-going --max-failures 3", "cannot be used with"),
        ("run --seed 1 --json --trace", "cannot be used with"),
        ("run --plan no/such/file", "no/such/file: No such file or directory"),
        ("run --plan Cargo.toml", "Cargo.toml: no plan: "),
        ("run --plan Cargo.toml --nodes 3", "cannot be used with"),
        ("walk --seed 1", "unrecognized subcommand 'walk'"),
    ] {
        let problem = problem(line);
        assert!(problem.contains(told), "{line}: {problem}");
    }
}

#[test]
fn a_misspelt_name_is_answered_with_the_nearest_and_the_list() {
    for (line, nearest) in [
        ("run --seed 1 --scenario nihgtly", "a similar value exists: 'nightly'"),
        ("run --seed 1 --profile mixd", "a similar value exists: 'mixed'"),
    ] {
        let problem = problem(line);
        assert!(problem.contains(nearest), "{problem}");
        assert!(problem.contains("possible values: "), "{problem}");
    }
}

#[test]
fn a_replay_says_what_was_said() {
    let replay = |line: &str| {
        let tasks: Vec<_> = parse(line).unwrap().tasks.collect();
        tasks.last().map(campaign::replay).unwrap()
    };
    assert_eq!(replay("run --seeds 3..9"), "cargo sim -- run --seed 8");
    assert_eq!(
        replay("run --seed 3 --time 20 --nodes 5 --profile mixed --twice --jobs 9 --keep-going"),
        "cargo sim -- run --seed 3 --profile mixed --nodes 5 --time 20"
    );
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file of the test's own")]
fn a_plan_from_a_file_is_run_as_it_is_or_with_other_seeds() {
    let name = format!("quorate-sim-plan-{}.json", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, serde_json::to_string(&plan()).unwrap()).unwrap();
    let place = file.display();
    let own: Vec<_> = parse(&format!("run --plan {place}")).unwrap().tasks.collect();
    let other: Vec<_> =
        parse(&format!("run --plan {place} --seeds 8..10")).unwrap().tasks.collect();
    std::fs::remove_file(&file).unwrap();
    let [own] = &own[..] else { panic!("{own:?}") };
    assert_eq!(own.plan, plan());
    assert_eq!(campaign::replay(own), format!("cargo sim -- run --plan {place}"));
    let [_, other] = &other[..] else { panic!("{other:?}") };
    assert_eq!(other.plan, Plan { seed: 9, ..plan() });
    assert_eq!(campaign::replay(other), format!("cargo sim -- run --plan {place} --seed 9"));
}

#[test]
fn a_plan_with_a_field_that_nobody_knows_is_none() {
    let mut json = serde_json::to_value(plan()).unwrap();
    json["stepps"] = serde_json::json!([]);
    let error = source::parse(&json.to_string()).unwrap_err();
    assert!(error.contains("unknown field `stepps`"), "{error}");
}
