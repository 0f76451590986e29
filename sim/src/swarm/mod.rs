//! A plan from a seed.
//!
//! Every seed is a world of its own: a cluster size, a kind of work, knobs of network, disks,
//! clocks and servers, and a random subset of the kinds of faults with random weights. A run that
//! can meet everything meets nothing often; a run that meets little but that again and again
//! finds what only repetition finds ("swarm testing", Groce and others, 2012).
//!
//! | file | idea |
//! |---|---|
//! | `knobs` | the world without faults: network, disks, clocks, flags of servers |
//! | `recipes` | how a fault of each kind is drawn, and faults that fall together |
//! | this one | which recipes a seed takes, and when their faults fall |
//!
//! - Only the seed and the overrides have an influence: no clock, no global randomness.
//! - Each part of the plan is drawn from dice of its own, named by the seed and the part, so a
//!   recipe that draws once more changes the steps and nothing else.
//! - About one seed in six has faults of one kind only, one in ten none in its first half, one in
//!   forty none at all: bugs of calm weather exist.

mod knobs;
mod recipes;

pub use knobs::flags;
pub use recipes::{Recipe, Shape, recipe, recipes};

use crate::plan::{Fault, Overrides, Plan, Step};
use quorate::workload::{Dice, profiles};

/// The name of plans drawn here.
pub const NAME: &str = "swarm";
/// Simulated time of faults where nobody says how long, in milliseconds.
pub const TIME_MS: u64 = 60_000;

/// The parts of a plan that have dice of their own.
#[derive(Clone, Copy)]
pub enum Part {
    Shape = 1,
    Network,
    Disk,
    Clocks,
    Flags,
    Subset,
    Steps,
}

/// The dice of a part of a seed's plan.
pub fn dice(seed: u64, part: Part) -> Dice {
    Dice::new(&[seed, part as u64])
}

/// The plan of a seed.
pub fn draw(seed: u64, overrides: &Overrides) -> Plan {
    let mut plan = calm(seed, NAME, overrides);
    let mut dice = dice(seed, Part::Subset);
    let shape = Shape::of(&plan);
    let taken = subset(&mut dice, &shape);
    let quiet_ms = if dice.one_in(10) { plan.time_ms / 2 } else { 0 };
    let gap_ms = logarithmic(&mut dice, 500, 8_000);
    plan.steps = schedule(seed, &shape, &taken, (quiet_ms, plan.time_ms), gap_ms);
    if has_quota(&plan) {
        // Else the first alarm would end all writes.
        let times = (1..).map(|number| number * 7_000).take_while(|at_ms| *at_ms < plan.time_ms);
        plan.steps.extend(times.map(|at_ms| Step { at_ms, fault: Fault::ClearAlarms }));
        plan.steps.sort_by_key(|step| step.at_ms);
    }
    plan
}

/// Whether members have a quota at some time that a run may reach.
fn has_quota(plan: &Plan) -> bool {
    let restarts = plan.steps.iter().filter_map(|step| match &step.fault {
        Fault::RollingRestart { flags, .. } => Some(flags),
        _ => None,
    });
    restarts.chain([&plan.flags]).flatten().any(|flag| flag.starts_with("--quota-backend-bytes"))
}

/// A plan with everything but faults.
pub fn calm(seed: u64, scenario: &str, overrides: &Overrides) -> Plan {
    let mut shape = dice(seed, Part::Shape);
    let drawn_nodes = shape.weighted(&[(1, 1), (6, 3), (2, 5)]);
    let nodes = overrides.nodes.unwrap_or(drawn_nodes);
    // What mixes everything comes as often as three others.
    let names: Vec<(u64, &str)> = profiles()
        .iter()
        .map(|profile| (if profile.name == "mixed" { 3 } else { 1 }, profile.name))
        .collect();
    let drawn_profile = shape.weighted(&names);
    let clients = narrow(shape.between(2, 8));
    let watchers = narrow(shape.between(1, 4));
    let pause_max_ms = logarithmic(&mut shape, 30, 400);
    let flags = flags(&mut dice(seed, Part::Flags));
    Plan {
        seed,
        scenario: scenario.to_owned(),
        profile: overrides.profile.clone().unwrap_or_else(|| drawn_profile.to_owned()),
        nodes,
        time_ms: overrides.time_ms.unwrap_or(TIME_MS),
        clients,
        watchers,
        calls_max: None,
        pause_max_ms,
        network: knobs::network(&mut dice(seed, Part::Network), &flags),
        disk: knobs::disk(&mut dice(seed, Part::Disk)),
        clocks: knobs::clocks(&mut dice(seed, Part::Clocks), nodes),
        member_flags: knobs::member_flags(&mut dice(seed, Part::Flags), nodes),
        flags,
        steps: Vec::new(),
    }
}

/// Which recipes a seed takes, with their weights.
fn subset(dice: &mut Dice, shape: &Shape) -> Vec<(u64, &'static Recipe)> {
    let possible: Vec<&Recipe> = recipes().iter().filter(|recipe| recipe.suits(shape)).collect();
    if dice.one_in(40) {
        return Vec::new();
    }
    if dice.one_in(6) {
        return vec![(1, *dice.pick(&possible))];
    }
    let percent = *dice.pick(&[15, 30, 60, 90]);
    let taken = possible.into_iter().filter_map(|recipe| {
        let is_in = dice.below(100) < percent;
        let weight = recipe.weight * dice.between(1, 10);
        is_in.then_some((weight, recipe))
    });
    taken.collect()
}

/// Draws faults between two times, on average `gap_ms` apart.
pub fn schedule(
    seed: u64,
    shape: &Shape,
    taken: &[(u64, &'static Recipe)],
    (from_ms, to_ms): (u64, u64),
    gap_ms: u64,
) -> Vec<Step> {
    let mut steps = Vec::new();
    if taken.is_empty() {
        return steps;
    }
    let mut times = dice(seed, Part::Steps);
    let mut at_ms = from_ms;
    for number in 0.. {
        at_ms += times.below(2 * gap_ms) + 1;
        if at_ms >= to_ms {
            break;
        }
        let recipe = times.weighted(taken);
        // Dice of its own: a recipe that draws more does not move those after it.
        let drawn = (recipe.draw)(&mut Dice::new(&[seed, Part::Steps as u64, number]), shape);
        let placed = drawn.into_iter().map(|step| Step { at_ms: at_ms + step.at_ms, ..step });
        steps.extend(placed.filter(|step| step.at_ms < to_ms));
    }
    steps.sort_by_key(|step| step.at_ms);
    steps
}

/// A number between two, small ones as likely as large ones.
fn logarithmic(dice: &mut Dice, from: u64, to: u64) -> u64 {
    assert!(0 < from && from <= to, "from {from} to {to}");
    let doublings = u64::from((to / from).ilog2());
    let low = from << dice.between(0, doublings);
    dice.between(low, (low * 2).min(to))
}

fn narrow(number: u64) -> u8 {
    u8::try_from(number).expect("drawn below 256")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster;

    #[test]
    fn a_seed_gives_one_plan_and_json_gives_it_back() {
        for seed in 0..50 {
            let plan = draw(seed, &Overrides::default());
            assert_eq!(plan, draw(seed, &Overrides::default()));
            let json = serde_json::to_string(&plan).expect("plans are data");
            assert_eq!(serde_json::from_str::<Plan>(&json).expect("just written"), plan);
        }
    }

    #[test]
    fn overrides_hold_and_all_steps_lie_within_the_time() {
        for seed in 0..200 {
            let overrides = Overrides {
                nodes: Some(*[1, 3, 5].get(seed as usize % 3).expect("below 3")),
                time_ms: Some(10_000),
                profile: Some("bank".into()),
            };
            let plan = draw(seed, &overrides);
            assert_eq!((Some(plan.nodes), plan.time_ms), (overrides.nodes, 10_000));
            assert_eq!(plan.profile, "bank");
            assert!(plan.steps.is_sorted_by_key(|step| step.at_ms));
            assert!(plan.steps.iter().all(|step| step.at_ms < plan.time_ms));
        }
    }

    #[test]
    fn servers_take_the_flags_that_are_drawn() {
        for seed in 0..300 {
            let plan = draw(seed, &Overrides::default());
            for machine in 1..=plan.nodes {
                cluster::check_flags(&plan.flags, plan.member_flags.get(&machine));
            }
            for step in &plan.steps {
                if let crate::plan::Fault::RollingRestart { flags, .. } = &step.fault {
                    cluster::check_flags(flags, None);
                }
            }
        }
    }

    #[test]
    fn many_seeds_together_draw_every_recipe() {
        let mut names = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let plan = draw(seed, &Overrides::default());
            names.extend(plan.steps.iter().map(|step| step.fault.name()));
        }
        assert_eq!(names.len(), 28, "{names:?}");
    }
}
