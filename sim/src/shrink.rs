//! A failing plan made small: the fewest faults, clients and knobs that still fail the same way.
//!
//! What is big about a plan is cut away piece by piece, and every piece is tried: the plan without
//! it runs, and only if it breaks the same rule does the piece stay away. So what remains is all
//! needed, and reads as an explanation. The order is that of gain: a shorter time first, since it
//! makes all trials after it cheaper, then faults by their kind, then one by one, then what little
//! things are left.
//!
//! - The result fails as the original did; it was seen to.
//! - Every step of the result is needed, if the budget lasted: without any one of them, the plan
//!   was not seen to fail.
//! - How plans are tried is the caller's matter: here is no process and no clock.
//!
//! Left out: making the parameters of a fault smaller. A power cut at the 17th write is what it
//! is, and at the first write it would be another bug.

use crate::plan::{ClockKnobs, DiskKnobs, NetworkKnobs, Plan, Step};
use crate::report::Report;
use serde_json::Value;
use std::collections::BTreeSet;

/// A plan that still fails.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its place among the candidates.
    pub place: usize,
    /// The candidate, perhaps with another seed.
    pub plan: Plan,
    pub report: Report,
}

/// Passes over the whole plan; a second one profits from what the first took away.
const ROUNDS_MAX: usize = 3;
/// No run is made shorter than this.
const TIME_MIN_MS: u64 = 500;
/// Machines from here on are clients'.
const CLIENTS: u64 = 100;

/// Makes a failing plan small. `first` tries plans, in this order, and gives the first that still
/// fails; it gives none once it is out of budget.
pub fn shrink(
    plan: Plan,
    report: Report,
    first: &mut dyn FnMut(&[Plan]) -> Option<Found>,
) -> Found {
    let best = Found { place: 0, plan, report };
    let mut shrinker = Shrinker { best, first };
    for _ in 0..ROUNDS_MAX {
        let before = shrinker.best.plan.clone();
        shrinker.shorten();
        shrinker.drop_kinds();
        shrinker.drop_steps();
        shrinker.close_gaps();
        shrinker.shorten();
        shrinker.drop_people();
        shrinker.drop_knobs();
        shrinker.drop_nodes();
        // A seed that was changed for nothing is no reason to go on.
        if (Plan { seed: before.seed, ..shrinker.best.plan.clone() }) == before {
            break;
        }
    }
    shrinker.best
}

/// The smallest part of `items` that removing any one item from does not make fail. `first` gets
/// candidates and gives the place of the first that fails. All of `items` is known to fail.
///
/// Delta debugging: halves are tried first, then quarters, and so on down to single items.
pub fn minimal<T: Clone>(
    mut items: Vec<T>,
    mut first: impl FnMut(&[Vec<T>]) -> Option<usize>,
) -> Vec<T> {
    if items.is_empty() || first(&[Vec::new()]).is_some() {
        return Vec::new();
    }
    let mut size = items.len();
    loop {
        // To leave nothing was tried already.
        size = size.div_ceil(2).min(items.len().div_ceil(2));
        let mut start = 0;
        let mut dropped = false;
        while start < items.len() && items.len() > size {
            let places: Vec<usize> = (start..items.len()).step_by(size).collect();
            let mut candidates: Vec<Vec<T>> =
                places.iter().map(|&place| without(&items, place, size)).collect();
            let Some(found) = first(&candidates) else { break };
            items = candidates.swap_remove(found);
            start = places[found];
            dropped = true;
        }
        if size <= 1 && !dropped {
            return items;
        }
    }
}

fn without<T: Clone>(items: &[T], place: usize, size: usize) -> Vec<T> {
    let end = items.len().min(place + size);
    [&items[..place], &items[end..]].concat()
}

struct Shrinker<'a> {
    best: Found,
    first: &'a mut dyn FnMut(&[Plan]) -> Option<Found>,
}

impl Shrinker<'_> {
    /// Tries plans; the first that fails is the best from then on.
    fn attempt(&mut self, candidates: Vec<Plan>) -> Option<usize> {
        if candidates.is_empty() {
            return None;
        }
        let found = (self.first)(&candidates)?;
        assert!(found.place < candidates.len(), "one of the candidates was found");
        let place = found.place;
        self.best = found;
        Some(place)
    }

    /// Tries the best plan with changes, each by itself.
    fn attempt_each<C>(
        &mut self,
        choices: impl IntoIterator<Item = C>,
        change: impl Fn(&mut Plan, C),
    ) -> Option<usize> {
        let candidates = choices.into_iter().map(|choice| {
            let mut plan = self.best.plan.clone();
            change(&mut plan, choice);
            plan
        });
        let candidates = candidates.collect();
        self.attempt(candidates)
    }

    /// Ends the run earlier.
    fn shorten(&mut self) {
        loop {
            let time = self.best.plan.time_ms;
            let last = self.best.plan.steps.last().map_or(0, |step| step.at_ms);
            let after_last = [500, 2_000, 5_000].map(|more| last + more);
            let parts = [time / 16, time / 8, time / 4, time / 2, time / 4 * 3];
            let mut times: Vec<u64> = parts.into_iter().chain(after_last).collect();
            // What saves little costs as much to try as what saves much.
            times.retain(|&shorter| shorter >= TIME_MIN_MS && shorter <= time - time / 8);
            times.sort_unstable();
            times.dedup();
            let found = self.attempt_each(times, |plan, time_ms| {
                plan.time_ms = time_ms;
                plan.steps.retain(|step| step.at_ms < time_ms);
            });
            if found.is_none() {
                return;
            }
        }
    }

    /// Takes away all faults of a kind at once: most kinds have nothing to do with it.
    fn drop_kinds(&mut self) {
        let steps = &self.best.plan.steps;
        let kinds: BTreeSet<&'static str> = steps.iter().map(|step| step.fault.name()).collect();
        // Of one kind there is nothing to choose from; its faults are tried by themselves.
        if kinds.len() < 2 {
            return;
        }
        minimal(kinds.into_iter().collect(), |candidates: &[Vec<&str>]| {
            self.attempt_each(candidates, |plan, kinds| {
                plan.steps.retain(|step| kinds.contains(&step.fault.name()));
            })
        });
    }

    fn drop_steps(&mut self) {
        let steps = self.best.plan.steps.clone();
        minimal(steps, |candidates: &[Vec<Step>]| {
            self.attempt_each(candidates, |plan, steps| plan.steps.clone_from(steps))
        });
    }

    /// Moves steps to earlier times, so that nothing is waited for that does not come.
    fn close_gaps(&mut self) {
        let gap_max = |plan: &Plan| {
            let starts = std::iter::once(0).chain(plan.steps.iter().map(|step| step.at_ms));
            let gaps = starts.zip(&plan.steps).map(|(before, step)| step.at_ms - before);
            gaps.max().unwrap_or(0)
        };
        let widest = gap_max(&self.best.plan);
        let gaps = [500, 1_500, 4_000].into_iter().filter(|gap| *gap < widest);
        self.attempt_each(gaps.collect::<Vec<_>>(), |plan, gap| {
            let (mut before, mut moved) = (0, 0);
            for step in &mut plan.steps {
                let at = step.at_ms;
                moved += (at - before).saturating_sub(gap);
                before = at;
                step.at_ms = at - moved;
            }
            plan.time_ms = plan.time_ms.saturating_sub(moved).max(TIME_MIN_MS);
        });
    }

    /// Fewer clients, watchers and calls.
    fn drop_people(&mut self) {
        loop {
            let clients = smaller(self.best.plan.clients.into(), 1);
            let found = self.attempt_each(clients, |plan, clients| {
                plan.clients = u8::try_from(clients).expect("smaller than it was");
            });
            if found.is_none() {
                break;
            }
        }
        loop {
            let watchers = smaller(self.best.plan.watchers.into(), 0);
            let found = self.attempt_each(watchers, |plan, watchers| {
                plan.watchers = u8::try_from(watchers).expect("smaller than it was");
            });
            if found.is_none() {
                break;
            }
        }
        loop {
            let plan = &self.best.plan;
            let each = self.best.report.calls.div_ceil(u64::from(plan.clients).max(1));
            let calls = plan.calls_max.map_or(each, |calls| calls.min(each));
            let found = self.attempt_each(smaller(calls, 1), |plan, calls| {
                plan.calls_max = Some(calls);
            });
            if found.is_none() {
                return;
            }
        }
    }

    /// Plain machines and no flags; all at once, or else each by itself.
    fn drop_knobs(&mut self) {
        let plan = &self.best.plan;
        let network = plan.network != CALM_NETWORK;
        let disk = plan.disk != plain_disk(plan.disk);
        let clocks = plan.clocks.iter().any(|clock| *clock != ClockKnobs::default());
        if network || disk || clocks {
            let all = (network, disk, clocks);
            let each = [(network, false, false), (false, disk, false), (false, false, clocks)];
            let reset = |plan: &mut Plan, (network, disk, clocks): (bool, bool, bool)| {
                if network {
                    plan.network = CALM_NETWORK;
                }
                if disk {
                    plan.disk = plain_disk(plan.disk);
                }
                if clocks {
                    plan.clocks.fill(ClockKnobs::default());
                }
            };
            if self.attempt_each([all], reset).is_none() {
                for one in each.into_iter().filter(|one| *one != all && one.0 | one.1 | one.2) {
                    self.attempt_each([one], reset);
                }
            }
        }
        let flags = self.best.plan.flags.clone();
        minimal(flags, |candidates: &[Vec<String>]| {
            self.attempt_each(candidates, |plan, flags| plan.flags.clone_from(flags))
        });
        let of_members: Vec<(u8, Vec<String>)> =
            self.best.plan.member_flags.clone().into_iter().collect();
        minimal(of_members, |candidates| {
            self.attempt_each(candidates, |plan, flags| {
                plan.member_flags = flags.iter().cloned().collect();
            })
        });
    }

    /// A smaller cluster; what was done to members that are gone is gone, too.
    fn drop_nodes(&mut self) {
        let sizes = [1, 3, 5].into_iter().filter(|nodes| *nodes < self.best.plan.nodes);
        self.attempt_each(sizes.collect::<Vec<u8>>(), |plan, nodes| {
            plan.nodes = nodes;
            plan.clocks.truncate(nodes.into());
            let steps = plan.steps.iter().filter_map(|step| within(step, nodes.into()));
            plan.steps = steps.collect();
        });
    }
}

/// A network where little happens by itself.
const CALM_NETWORK: NetworkKnobs = NetworkKnobs {
    latency_us: 1_000,
    tail_one_in: 0,
    tail_us: 0,
    write_bytes_max: 0,
    pipe_bytes_max: 1 << 16,
};

/// A fast disk of the same size.
fn plain_disk(disk: DiskKnobs) -> DiskKnobs {
    DiskKnobs { access_us: 10, sync_us: 200, capacity_bytes: disk.capacity_bytes }
}

/// Numbers below another, the smallest first.
fn smaller(number: u64, least: u64) -> Vec<u64> {
    let parts = [least, number / 16, number / 8, number / 4, number / 2, number * 3 / 4];
    // Of a small number one less is worth a trial.
    let less = if number <= 16 { number.saturating_sub(1) } else { least };
    let mut numbers: Vec<u64> =
        parts.into_iter().chain([less]).filter(|part| (least..number).contains(part)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// A step in a cluster of so many members; none: it is about others only.
fn within(step: &Step, nodes: u64) -> Option<Step> {
    let gone = |machine: &Value| {
        machine.as_u64().is_some_and(|machine| machine > nodes && machine < CLIENTS)
    };
    let mut json = serde_json::to_value(step).expect("steps are plain data");
    let variant = json["fault"].as_object_mut().and_then(|fault| fault.values_mut().next());
    let Some(fault) = variant.and_then(Value::as_object_mut) else {
        // Without parameters it is about nobody.
        return Some(step.clone());
    };
    if ["machine", "one", "other", "to"].iter().any(|name| fault.get(*name).is_some_and(gone)) {
        return None;
    }
    if let Some(links) = fault.get_mut("links").and_then(Value::as_array_mut) {
        links.retain(|link| !link.as_array().is_some_and(|ends| ends.iter().any(gone)));
        if links.is_empty() {
            return None;
        }
    }
    serde_json::from_value(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Fault;

    /// Minimal, with a predicate on one candidate; counts the trials.
    fn smallest(count: u32, fails: impl Fn(&[u32]) -> bool) -> (Vec<u32>, usize) {
        let mut trials = 0;
        let found = minimal((0..count).collect(), |candidates: &[Vec<u32>]| {
            candidates.iter().position(|candidate| {
                trials += 1;
                fails(candidate)
            })
        });
        (found, trials)
    }

    #[test]
    fn what_is_needed_stays_and_nothing_else() {
        for needed in [vec![0], vec![99], vec![3, 4], vec![0, 50, 99], vec![7, 20, 21, 60, 95]] {
            let fails = |items: &[u32]| needed.iter().all(|item| items.binary_search(item).is_ok());
            let (found, trials) = smallest(100, fails);
            assert_eq!(found, needed);
            assert!(trials < 150, "{trials} trials for {needed:?}");
        }
    }

    #[test]
    fn nothing_stays_if_nothing_is_needed() {
        assert_eq!(smallest(1_000, |_| true), (vec![], 1));
        assert_eq!(smallest(0, |_| true), (vec![], 0));
    }

    #[test]
    fn all_stays_if_all_is_needed() {
        for count in [1, 2, 3, 10] {
            let all = usize::try_from(count).unwrap();
            assert_eq!(smallest(count, |items| items.len() == all).0.len(), all);
        }
    }

    #[test]
    fn the_result_cannot_lose_any_one_item() {
        // Any three items fail, and an odd number of the first ten does.
        let fails = |items: &[u32]| {
            items.len() >= 3 || items.iter().filter(|item| **item < 10).count() % 2 == 1
        };
        let (found, _) = smallest(40, fails);
        for place in 0..found.len() {
            assert!(!fails(&without(&found, place, 1)), "{found:?} without {place}");
        }
    }

    #[test]
    fn a_search_out_of_budget_keeps_what_it_has() {
        let mut left = 5;
        let found = minimal((0..64).collect::<Vec<u32>>(), |candidates: &[Vec<u32>]| {
            candidates.iter().position(|candidate| {
                left = i32::max(left - 1, 0);
                left > 0 && candidate.contains(&63)
            })
        });
        assert!(found.contains(&63) && found.len() < 64, "{found:?}");
    }

    fn kill(at_ms: u64, machine: u8) -> Step {
        Step { at_ms, fault: Fault::Kill { machine, down_ms: 100 } }
    }

    fn plan() -> Plan {
        let mut steps: Vec<Step> =
            (0..100).map(|number| kill(number * 500, (number % 5) as u8 + 1)).collect();
        let links = vec![(1, 2), (2, 1), (4, 1)];
        steps.insert(60, Step { at_ms: 30_000, fault: Fault::Cut { links, for_ms: 800 } });
        Plan {
            seed: 7,
            scenario: "swarm".into(),
            profile: "register".into(),
            nodes: 5,
            time_ms: 60_000,
            clients: 6,
            watchers: 2,
            calls_max: None,
            pause_max_ms: 200,
            flags: vec!["--a".into(), "--b".into(), "--c".into()],
            member_flags: [(2, vec!["--d".into()])].into(),
            network: NetworkKnobs { latency_us: 9_000, ..CALM_NETWORK },
            disk: DiskKnobs { access_us: 5, sync_us: 9_000, capacity_bytes: 1 << 30 },
            clocks: vec![ClockKnobs { drift_ppm: 50, wall_offset_ms: 0 }; 5],
            steps,
        }
    }

    /// Fails if 1 and 2 are cut off, with the flag `--b`, two clients and ten calls each; by the
    /// tenth run, only with another seed.
    fn fails(plan: &Plan) -> bool {
        let cut = |step: &Step| match &step.fault {
            Fault::Cut { links, .. } => links.contains(&(1, 2)) && step.at_ms < plan.time_ms,
            _ => false,
        };
        plan.steps.iter().any(cut)
            && plan.flags.contains(&"--b".into())
            && plan.clients >= 2
            && plan.calls_max.is_none_or(|calls| calls >= 10)
    }

    #[test]
    fn a_plan_is_cut_down_to_what_matters() {
        let mut trials = 0;
        let report = Report { calls: 6_000, ..Report::default() };
        let found = shrink(plan(), report.clone(), &mut |candidates| {
            let place = candidates.iter().position(|candidate| {
                trials += 1;
                fails(candidate)
            })?;
            let plan = Plan { seed: 99, ..candidates[place].clone() };
            Some(Found { place, plan, report: report.clone() })
        });
        let small = found.plan;
        assert!(fails(&small));
        assert_eq!(small.seed, 99);
        assert_eq!((small.nodes, small.clients, small.watchers), (3, 2, 0));
        assert_eq!(small.calls_max, Some(10));
        assert_eq!(small.flags, ["--b"]);
        assert!(small.member_flags.is_empty());
        assert_eq!(small.network, CALM_NETWORK);
        assert_eq!(small.clocks, [ClockKnobs::default(); 3]);
        let [Step { at_ms, fault: Fault::Cut { links, .. } }] = &small.steps[..] else {
            panic!("{:?}", small.steps)
        };
        assert_eq!(*links, [(1, 2), (2, 1)]);
        assert!(*at_ms <= 1_500 && small.time_ms <= 4_000, "{small:?}");
        assert!(trials < 200, "{trials} trials");
    }

    #[test]
    fn a_plan_that_needs_all_stays_as_it_is() {
        let found = shrink(plan(), Report::default(), &mut |_| None);
        assert_eq!(found.plan, plan());
    }

    #[test]
    fn steps_about_members_that_are_gone_go_too() {
        assert_eq!(within(&kill(5, 3), 3), Some(kill(5, 3)));
        assert_eq!(within(&kill(5, 4), 3), None);
        let cut = |links| Step { at_ms: 1, fault: Fault::Cut { links, for_ms: 9 } };
        assert_eq!(within(&cut(vec![(4, 1), (1, 100)]), 3), Some(cut(vec![(1, 100)])));
        assert_eq!(within(&cut(vec![(4, 1)]), 3), None);
        for fault in [Fault::KillAll { down_ms: 3 }, Fault::ClearAlarms] {
            let all = Step { at_ms: 1, fault };
            assert_eq!(within(&all, 1), Some(all.clone()));
        }
    }
}
