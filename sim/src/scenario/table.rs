//! Scenarios: plans of a fixed shape that a seed varies.
//!
//! The swarm finds what nobody thought of; a scenario asks one question again and again. To write
//! one takes ten minutes: add an entry to [`SCENARIOS`] with a name, a line for people, the
//! [recipes](crate::swarm::recipes) of its faults with their weights, how far apart they fall on
//! average, and, in `shape`, whatever else shall hold in every run (flags, clients, knobs). All
//! that is not said is drawn from the seed as in the swarm. Then:
//!
//! ```text
//! cargo sim -- run --scenario NAME --seeds 1..50
//! ```

use crate::plan::{Overrides, Plan};
use crate::swarm::{self, Shape};

struct Scenario {
    name: &'static str,
    /// One line for people.
    what: &'static str,
    /// Members, unless the caller says otherwise.
    nodes: u8,
    /// The kind of work; none: the seed draws.
    profile: Option<&'static str>,
    /// Average pause between two faults.
    gap_ms: u64,
    /// Recipes and their weights.
    faults: &'static [(u64, &'static str)],
    /// What else holds in every run.
    shape: fn(&mut Plan),
}

/// The one that is the swarm itself.
const NIGHTLY: (&str, &str) = ("nightly", "the swarm: everything, a subset at a time");

static SCENARIOS: [Scenario; 15] = [
    Scenario {
        name: "calm",
        what: "no faults: clients, watchers and the servers' own business",
        nodes: 3,
        profile: None,
        gap_ms: 1_000,
        faults: &[],
        shape: |_| {},
    },
    Scenario {
        name: "kills",
        what: "processes are killed, stopped and restarted, alone and together",
        nodes: 3,
        profile: None,
        gap_ms: 1_500,
        faults: &[
            (6, "kill"),
            (2, "kill all"),
            (2, "stop"),
            (1, "rolling restart"),
            (1, "leaders fall one by one"),
            (1, "quorum lost and found"),
        ],
        shape: |_| {},
    },
    Scenario {
        name: "power",
        what: "the power goes, also in the middle of writes and syncs",
        nodes: 3,
        profile: None,
        gap_ms: 1_500,
        faults: &[
            (3, "power cut"),
            (2, "power cut of all"),
            (6, "power cut in an operation"),
            (2, "power flickers"),
        ],
        shape: |_| {},
    },
    Scenario {
        name: "partitions",
        what: "links are cut, one-way and in part, lose packets, get slow and narrow",
        nodes: 3,
        profile: None,
        gap_ms: 1_500,
        faults: &[
            (3, "isolation"),
            (2, "deaf"),
            (2, "dumb"),
            (2, "split"),
            (2, "partial partition"),
            (1, "random links"),
            (1, "client cut off"),
            (1, "member without clients"),
            (1, "connection reset"),
            (1, "packet loss"),
            (1, "slow links"),
            (1, "narrow links"),
            (1, "leader transfer"),
            (3, "leader cut off, then fought over"),
        ],
        shape: |_| {},
    },
    Scenario {
        name: "slow-disk",
        what: "disks that take their time, and what falls meanwhile",
        nodes: 3,
        profile: None,
        gap_ms: 1_500,
        faults: &[
            (5, "slow disk"),
            (1, "pause"),
            (1, "kill"),
            (1, "power cut"),
            (2, "slow and shaken"),
        ],
        shape: |_| {},
    },
    Scenario {
        name: "full-disk",
        what: "disks fill up, at once or while there is still a little room, and get room again",
        nodes: 3,
        profile: None,
        gap_ms: 2_000,
        faults: &[(5, "full disk"), (1, "kill"), (1, "power cut"), (1, "compaction")],
        shape: |plan| cut_often(plan, 50, 5),
    },
    Scenario {
        name: "bad-disk",
        what: "operations of disks fail, bits flip, writes go to the wrong place",
        nodes: 3,
        profile: None,
        gap_ms: 2_000,
        faults: &[
            (1, "read error"),
            (2, "write error"),
            (2, "sync error"),
            (1, "short read"),
            (2, "bit flip"),
            (2, "misdirected write"),
            (2, "kill"),
            (1, "power cut"),
            (1, "defragmentation"),
        ],
        shape: |_| {},
    },
    Scenario {
        name: "clocks",
        what: "clocks drift by several percent, calendars jump, leases run",
        nodes: 3,
        profile: Some("lease"),
        gap_ms: 1_500,
        faults: &[
            (4, "clock jump"),
            (4, "clock drift"),
            (2, "pause"),
            (2, "leader transfer"),
            (1, "kill"),
        ],
        shape: |plan| {
            for (number, clock) in (0..).zip(&mut plan.clocks) {
                clock.drift_ppm = [50_000, -50_000, 0][(plan.seed as usize + number) % 3];
            }
        },
    },
    Scenario {
        name: "snapshots",
        what: "logs are cut so often that members live on snapshots, and fall while they take one",
        nodes: 3,
        profile: None,
        gap_ms: 2_500,
        faults: &[
            (5, "laggard gets a snapshot"),
            (2, "kill"),
            (1, "power cut in an operation"),
            (1, "isolation"),
            (1, "narrow links"),
            (1, "connection reset"),
            (1, "defragmentation"),
        ],
        shape: |plan| cut_often(plan, 5, 1),
    },
    Scenario {
        name: "compaction",
        what: "history is forgotten in small steps, with readers, watchers and crashes in between",
        nodes: 3,
        profile: Some("pages"),
        gap_ms: 1_200,
        faults: &[
            (6, "compaction"),
            (3, "crash in a compaction"),
            (2, "defragmentation"),
            (2, "crash in a defragmentation"),
            (1, "kill"),
            (1, "slow watchers"),
        ],
        shape: |plan| {
            plan.flags.push("--compaction-batch-limit=5".into());
            plan.flags.push("--compaction-sleep-interval=20ms".into());
        },
    },
    Scenario {
        name: "single",
        what: "a member without others: what it acknowledged is on its disk",
        nodes: 1,
        profile: None,
        gap_ms: 1_500,
        faults: &[
            (3, "kill"),
            (2, "power cut"),
            (5, "power cut in an operation"),
            (1, "stop"),
            (1, "pause"),
            (1, "read error"),
            (1, "write error"),
            (1, "sync error"),
            (1, "slow disk"),
            (1, "full disk"),
            (1, "clock jump"),
            (2, "compaction"),
            (2, "crash in a compaction"),
            (1, "defragmentation"),
            (2, "crash in a defragmentation"),
            (1, "connection reset"),
        ],
        shape: |_| {},
    },
    Scenario {
        name: "five",
        what: "five members, two of which may be lost",
        nodes: 5,
        profile: None,
        gap_ms: 900,
        faults: &[
            (4, "kill"),
            (2, "power cut"),
            (3, "power cut in an operation"),
            (2, "pause"),
            (2, "isolation"),
            (3, "split"),
            (2, "random links"),
            (1, "slow disk"),
            (1, "bit flip"),
            (1, "sync error"),
            (2, "laggard gets a snapshot"),
            (2, "leaders fall one by one"),
            (2, "quorum lost and found"),
            (2, "leader cut off, then fought over"),
        ],
        shape: |_| {},
    },
    Scenario {
        name: "leases",
        what: "leases run while leadership changes hands and leaders sleep",
        nodes: 3,
        profile: Some("lease"),
        gap_ms: 2_000,
        faults: &[
            (3, "leader asleep"),
            (3, "leadership goes round"),
            (2, "leader cut off, then fought over"),
            (2, "kill"),
            (1, "power cut of all"),
            (1, "clock drift"),
            (1, "clock jump"),
        ],
        shape: |_| {},
    },
    Scenario {
        name: "watch",
        what: "watchers that are slow, cut off, compacted away under, and come back",
        nodes: 3,
        profile: Some("watch"),
        gap_ms: 1_200,
        faults: &[
            (4, "slow watchers"),
            (2, "client cut off"),
            (1, "member without clients"),
            (2, "connection reset"),
            (2, "compaction"),
            (1, "crash in a compaction"),
            (1, "narrow links"),
            (1, "kill"),
            (1, "pause"),
            (1, "isolation"),
            (1, "leader transfer"),
        ],
        shape: |plan| plan.watchers = plan.watchers.max(3),
    },
    Scenario {
        name: "kubernetes",
        what: "what an apiserver does to its store, in a week that went badly",
        nodes: 3,
        profile: Some("kubernetes"),
        gap_ms: 2_000,
        faults: &[
            (3, "kill"),
            (1, "power cut of all"),
            (2, "power cut in an operation"),
            (2, "isolation"),
            (1, "pause"),
            (1, "slow disk"),
            (1, "full disk"),
            (1, "rolling restart"),
            (2, "leader transfer"),
            (2, "compaction"),
            (1, "defragmentation"),
            (1, "connection reset"),
            (1, "slow watchers"),
        ],
        shape: |_| {},
    },
];

/// The plan of a scenario and a seed; none if there is no such scenario.
pub fn named(name: &str, seed: u64, overrides: &Overrides) -> Option<Plan> {
    if name == NIGHTLY.0 {
        return Some(Plan { scenario: name.to_owned(), ..swarm::draw(seed, overrides) });
    }
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name)?;
    let overrides = Overrides {
        nodes: Some(overrides.nodes.unwrap_or(scenario.nodes)),
        profile: overrides.profile.clone().or_else(|| scenario.profile.map(str::to_owned)),
        ..*overrides
    };
    let mut plan = swarm::calm(seed, name, &overrides);
    (scenario.shape)(&mut plan);
    let shape = Shape::of(&plan);
    let recipes = scenario.faults.iter().map(|&(weight, name)| (weight, swarm::recipe(name)));
    let recipes: Vec<_> = recipes.filter(|(_, recipe)| recipe.suits(&shape)).collect();
    plan.steps = swarm::schedule(seed, &shape, &recipes, (0, plan.time_ms), scenario.gap_ms);
    Some(plan)
}

/// Every scenario's name and what it is about.
pub fn names() -> &'static [(&'static str, &'static str)] {
    static NAMES: std::sync::LazyLock<Vec<(&str, &str)>> = std::sync::LazyLock::new(|| {
        let named = SCENARIOS.iter().map(|scenario| (scenario.name, scenario.what));
        named.chain([NIGHTLY]).collect()
    });
    &NAMES
}

/// Cuts the log so often, and keeps so little of it; on all members.
fn cut_often(plan: &mut Plan, count: u64, kept: u64) {
    plan.member_flags.clear();
    plan.flags.push(format!("--snapshot-count={count}"));
    plan.flags.push(format!("--snapshot-catchup-entries={kept}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_plan_of_its_own_name_and_its_faults() {
        for (name, _) in names() {
            let plan = named(name, 3, &Overrides::default()).expect("it is in the table");
            assert_eq!(plan.scenario, *name);
            assert_eq!(plan.steps.is_empty(), *name == "calm", "{name}");
            for machine in 1..=plan.nodes {
                crate::cluster::check_flags(&plan.flags, plan.member_flags.get(&machine));
            }
        }
        assert_eq!(named("nonsense", 3, &Overrides::default()), None);
    }

    #[test]
    fn what_the_caller_asks_for_outranks_the_scenario() {
        let overrides =
            Overrides { nodes: Some(5), time_ms: Some(7_000), profile: Some("bank".to_owned()) };
        for (name, _) in names() {
            let plan = named(name, 1, &overrides).expect("it is in the table");
            assert_eq!((plan.nodes, plan.time_ms, plan.profile.as_str()), (5, 7_000, "bank"));
        }
    }
}
