//! How a fault of each kind is drawn, and faults that fall together.
//!
//! A recipe turns dice into steps whose times count from the moment it is chosen. Most give one
//! step. The last ones are bursts: what brings systems down is seldom one fault but a second one
//! while they recover from the first, and faults drawn apart from each other seldom meet. A burst
//! often begins by handing leadership to a member, so that it knows whom it will hit.
//!
//! To add a kind of fault: a variant of [`Fault`], what the nemesis does for it, and a line in
//! [`RECIPES`].

use super::{flags, logarithmic, narrow};
use crate::plan::{
    DiskErrorKind, FIRST_CLIENT, FIRST_WATCHER, FOLLOWER, Fault, LEADER, Plan, Step,
};
use quorate::workload::Dice;

/// What a recipe knows of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: u8,
    pub clients: u8,
    pub watchers: u8,
}

impl Shape {
    pub fn of(plan: &Plan) -> Shape {
        Shape { nodes: plan.nodes, clients: plan.clients, watchers: plan.watchers }
    }
}

/// How faults of a kind are drawn.
pub struct Recipe {
    pub name: &'static str,
    /// How often it comes, compared with others.
    pub weight: u64,
    /// Members without which it makes no sense.
    nodes_min: u8,
    /// Steps with times from the moment of the recipe.
    pub draw: fn(&mut Dice, &Shape) -> Vec<Step>,
}

impl Recipe {
    pub fn suits(&self, shape: &Shape) -> bool {
        shape.nodes >= self.nodes_min
    }
}

/// All of them.
pub fn recipes() -> &'static [Recipe] {
    &RECIPES
}

/// The recipe of a name, which must be one: scenarios are written by hand.
pub fn recipe(name: &str) -> &'static Recipe {
    let found = RECIPES.iter().find(|recipe| recipe.name == name);
    found.unwrap_or_else(|| panic!("no recipe is called {name:?}"))
}

const fn one(
    name: &'static str,
    weight: u64,
    nodes_min: u8,
    draw: fn(&mut Dice, &Shape) -> Vec<Step>,
) -> Recipe {
    Recipe { name, weight, nodes_min, draw }
}

static RECIPES: [Recipe; 46] = [
    // Machines.
    one("kill", 4, 1, |dice, shape| {
        now(Fault::Kill { machine: member(dice, shape), down_ms: down(dice) })
    }),
    one("kill all", 1, 1, |dice, _| now(Fault::KillAll { down_ms: down(dice) })),
    one("power cut", 3, 1, |dice, shape| {
        now(Fault::PowerCut { machine: member(dice, shape), down_ms: down(dice) })
    }),
    one("power cut of all", 1, 1, |dice, _| now(Fault::PowerCutAll { down_ms: down(dice) })),
    one("power cut in an operation", 5, 1, |dice, shape| {
        let operations = logarithmic(dice, 1, 150);
        now(Fault::PowerCutAt { machine: member(dice, shape), operations, down_ms: down(dice) })
    }),
    one("stop", 2, 1, |dice, shape| {
        now(Fault::Stop { machine: member(dice, shape), down_ms: down(dice) })
    }),
    one("rolling restart", 1, 1, |dice, _| {
        now(Fault::RollingRestart { flags: flags(dice), pause_ms: span(dice) })
    }),
    one("pause", 3, 1, |dice, shape| {
        now(Fault::Pause { machine: member(dice, shape), for_ms: span(dice) })
    }),
    // Network.
    one("isolation", 3, 3, |dice, shape| {
        let machine = member(dice, shape);
        now(cut([out_of(machine, shape), into(machine, shape)].concat(), span(dice)))
    }),
    one("deaf", 2, 3, |dice, shape| now(cut(into(member(dice, shape), shape), span(dice)))),
    one("dumb", 2, 3, |dice, shape| now(cut(out_of(member(dice, shape), shape), span(dice)))),
    one("split", 2, 3, |dice, shape| {
        let mut links = Vec::new();
        let sides: Vec<bool> = (0..shape.nodes).map(|_| dice.one_in(2)).collect();
        for (one, other) in pairs(shape) {
            if sides[usize::from(one) - 1] != sides[usize::from(other) - 1] {
                links.push((one, other));
            }
        }
        now(cut(links, span(dice)))
    }),
    one("partial partition", 2, 3, |dice, shape| {
        // One pair, both ways: the others still see both.
        let (one, other) = two(dice, shape);
        now(cut(vec![(one, other), (other, one)], span(dice)))
    }),
    one("random links", 1, 3, |dice, shape| {
        let links = pairs(shape).into_iter().filter(|_| dice.one_in(3)).collect();
        now(cut(links, span(dice)))
    }),
    one("client cut off", 2, 1, |dice, shape| {
        let (client, machine) = (client(dice, shape), member(dice, shape));
        let links = match dice.below(3) {
            0 => vec![(client, machine)],
            1 => vec![(machine, client)],
            _ => vec![(client, machine), (machine, client)],
        };
        now(cut(links, span(dice)))
    }),
    one("member without clients", 1, 1, |dice, shape| {
        let machine = member(dice, shape);
        let clients = clients(shape);
        let links = clients.into_iter().flat_map(|client| [(client, machine), (machine, client)]);
        now(cut(links.collect(), span(dice)))
    }),
    one("packet loss", 2, 1, |dice, shape| {
        let links = some_links(dice, shape);
        now(Fault::Lose { links, percent: narrow(dice.between(1, 60)), for_ms: span(dice) })
    }),
    one("slow links", 2, 1, |dice, shape| {
        let links = some_links(dice, shape);
        now(Fault::Delay { links, delay_ms: logarithmic(dice, 5, 800), for_ms: span(dice) })
    }),
    one("narrow links", 2, 1, |dice, shape| {
        let links = some_links(dice, shape);
        let bytes_per_second = logarithmic(dice, 2_000, 500_000);
        now(Fault::Throttle { links, bytes_per_second, for_ms: span(dice) })
    }),
    one("connection reset", 2, 1, |dice, shape| {
        let one = member(dice, shape);
        let other = match dice.one_in(2) && shape.nodes > 1 {
            true => plain(dice, shape),
            false => client(dice, shape),
        };
        now(Fault::Reset { one, other })
    }),
    // Disks.
    one("read error", 1, 1, |dice, shape| now(disk_error(dice, shape, DiskErrorKind::Read))),
    one("write error", 2, 1, |dice, shape| now(disk_error(dice, shape, DiskErrorKind::Write))),
    one("sync error", 2, 1, |dice, shape| now(disk_error(dice, shape, DiskErrorKind::Sync))),
    one("short read", 1, 1, |dice, shape| now(disk_error(dice, shape, DiskErrorKind::ShortRead))),
    one("full disk", 1, 1, |dice, shape| {
        let left_bytes = match dice.below(3) {
            0 => 0,
            1 => logarithmic(dice, 1, 1 << 20),
            _ => logarithmic(dice, 1 << 20, 32 << 20),
        };
        now(Fault::DiskFull { machine: member(dice, shape), left_bytes, for_ms: span(dice) })
    }),
    one("slow disk", 2, 1, |dice, shape| {
        let (access_us, sync_us) = (logarithmic(dice, 2, 200), logarithmic(dice, 5_000, 500_000));
        let machine = member(dice, shape);
        now(Fault::DiskSlow { machine, access_us, sync_us, for_ms: span(dice) })
    }),
    one("bit flip", 2, 3, |dice, shape| {
        let place = dice.next();
        now(Fault::BitFlip { machine: plain(dice, shape), place, down_ms: down(dice) })
    }),
    one("misdirected write", 2, 3, |dice, shape| {
        let (operations, place) = (logarithmic(dice, 1, 150), dice.next());
        let machine = plain(dice, shape);
        now(Fault::MisdirectedWrite { machine, operations, place, down_ms: down(dice) })
    }),
    // Clocks.
    one("clock jump", 1, 1, |dice, shape| {
        let size = i64::try_from(logarithmic(dice, 10, 100_000_000)).expect("small");
        let by_ms = if dice.one_in(2) { size } else { -size };
        now(Fault::ClockJump { machine: member(dice, shape), by_ms })
    }),
    one("clock drift", 1, 1, |dice, shape| {
        let size = i32::try_from(logarithmic(dice, 1, 500)).expect("small");
        let ppm = if dice.one_in(2) { size } else { -size };
        now(Fault::ClockDrift { machine: member(dice, shape), ppm })
    }),
    // What operators do.
    one("leader transfer", 3, 3, |dice, shape| now(Fault::MoveLeader { to: plain(dice, shape) })),
    one("compaction", 3, 1, |dice, _| now(compact(dice))),
    one("defragmentation", 2, 1, |dice, shape| {
        now(Fault::Defragment { machine: member(dice, shape) })
    }),
    one("alarms cleared", 1, 1, |_, _| now(Fault::ClearAlarms)),
    one("snapshot to a client", 1, 1, |dice, shape| {
        now(Fault::Snapshot { machine: member(dice, shape) })
    }),
    // Faults that fall together.
    one("leader cut off, then fought over", 2, 3, leader_cut_off),
    one("leader asleep", 2, 3, leader_asleep),
    one("leaders fall one by one", 1, 3, leaders_fall),
    one("crash in a compaction", 2, 1, crash_in_compaction),
    one("crash in a defragmentation", 2, 1, crash_in_defragmentation),
    one("laggard gets a snapshot", 3, 3, laggard),
    one("quorum lost and found", 2, 3, quorum_lost),
    one("power flickers", 2, 1, power_flickers),
    one("leadership goes round", 2, 3, leadership_goes_round),
    one("slow watchers", 2, 1, slow_watchers),
    one("slow and shaken", 1, 3, slow_and_shaken),
];

fn at(at_ms: u64, fault: Fault) -> Step {
    Step { at_ms, fault }
}

fn now(fault: Fault) -> Vec<Step> {
    vec![at(0, fault)]
}

/// From a moment to four seconds, short ones as likely as long ones; now and then very long.
fn span(dice: &mut Dice) -> u64 {
    let most = if dice.one_in(12) { 12_000 } else { 4_000 };
    logarithmic(dice, 10, most)
}

/// How long a machine stays down.
fn down(dice: &mut Dice) -> u64 {
    let most = if dice.one_in(12) { 8_000 } else { 2_000 };
    logarithmic(dice, 5, most)
}

/// A member that is known now.
fn plain(dice: &mut Dice, shape: &Shape) -> u8 {
    narrow(dice.between(1, u64::from(shape.nodes)))
}

/// Two different ones.
fn two(dice: &mut Dice, shape: &Shape) -> (u8, u8) {
    let one = plain(dice, shape);
    let step = narrow(dice.between(1, u64::from(shape.nodes) - 1));
    (one, (one - 1 + step) % shape.nodes + 1)
}

/// A member: the leader, a follower, or any.
fn member(dice: &mut Dice, shape: &Shape) -> u8 {
    match dice.below(4) {
        0 => LEADER,
        1 if shape.nodes > 1 => FOLLOWER,
        _ => plain(dice, shape),
    }
}

fn clients(shape: &Shape) -> Vec<u8> {
    let clients = (0..shape.clients).map(|number| FIRST_CLIENT + number);
    clients.chain((0..shape.watchers).map(|number| FIRST_WATCHER + number)).collect()
}

/// A client or watcher.
fn client(dice: &mut Dice, shape: &Shape) -> u8 {
    *dice.pick(&clients(shape))
}

fn out_of(machine: u8, shape: &Shape) -> Vec<(u8, u8)> {
    (1..=shape.nodes).map(|other| (machine, other)).collect()
}

fn into(machine: u8, shape: &Shape) -> Vec<(u8, u8)> {
    (1..=shape.nodes).map(|other| (other, machine)).collect()
}

/// Both ways between a member and all others.
fn around(machine: u8, shape: &Shape) -> Vec<(u8, u8)> {
    [out_of(machine, shape), into(machine, shape)].concat()
}

fn pairs(shape: &Shape) -> Vec<(u8, u8)> {
    let of = |one| (1..=shape.nodes).filter(move |&other| other != one).map(move |it| (one, it));
    (1..=shape.nodes).flat_map(of).collect()
}

/// Of a member, of a client, or all between members.
fn some_links(dice: &mut Dice, shape: &Shape) -> Vec<(u8, u8)> {
    let machine = member(dice, shape);
    match dice.below(4) {
        0 => pairs(shape),
        1 => around(machine, shape),
        2 => out_of(machine, shape),
        _ => {
            let client = client(dice, shape);
            (1..=shape.nodes).flat_map(|member| [(client, member), (member, client)]).collect()
        }
    }
}

fn cut(links: Vec<(u8, u8)>, for_ms: u64) -> Fault {
    Fault::Cut { links, for_ms }
}

fn disk_error(dice: &mut Dice, shape: &Shape, kind: DiskErrorKind) -> Fault {
    let count = if dice.one_in(2) { 1 } else { logarithmic(dice, 2, 1_000_000) };
    Fault::DiskError {
        machine: member(dice, shape),
        kind,
        operations: logarithmic(dice, 1, 150),
        count,
        down_ms: down(dice),
    }
}

fn compact(dice: &mut Dice) -> Fault {
    Fault::Compact { keep: logarithmic(dice, 1, 1_000) - 1, physical: dice.one_in(3) }
}

/// The old leader is cut off with its clients around it, the others elect another, and at the
/// moment all see each other again the new one falls.
fn leader_cut_off(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let old = plain(dice, shape);
    let for_ms = dice.between(1_000, 8_000);
    let links = match dice.below(3) {
        0 => out_of(old, shape),
        1 => into(old, shape),
        _ => around(old, shape),
    };
    let mut steps = vec![at(0, Fault::MoveLeader { to: old }), at(700, cut(links, for_ms))];
    if dice.one_in(2) {
        let pause_ms = dice.between(200, for_ms);
        steps.push(at(900, Fault::Pause { machine: old, for_ms: pause_ms }));
    }
    let mended = 700 + for_ms;
    let hit = match dice.below(4) {
        0 => Fault::Kill { machine: LEADER, down_ms: down(dice) },
        1 => Fault::PowerCut { machine: LEADER, down_ms: down(dice) },
        2 => cut(around(LEADER, shape), span(dice)),
        _ => Fault::Pause { machine: LEADER, for_ms: span(dice) },
    };
    steps.push(at(mended - dice.below(300) + dice.below(300), hit));
    steps
}

/// A leader sleeps until it has been replaced and wakes up believing in itself, while its links
/// bring the news late.
fn leader_asleep(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let old = plain(dice, shape);
    let for_ms = dice.between(800, 9_000);
    let late = dice.one_in(2);
    let mut steps =
        vec![at(0, Fault::MoveLeader { to: old }), at(600, Fault::Pause { machine: old, for_ms })];
    if late {
        let links = into(old, shape);
        let delay_ms = dice.between(50, 2_000);
        steps.push(at(
            600 + for_ms / 2,
            Fault::Delay { links, delay_ms, for_ms: for_ms / 2 + dice.between(500, 3_000) },
        ));
    }
    if dice.one_in(3) {
        steps.push(at(600 + for_ms / 2, Fault::Pause { machine: LEADER, for_ms: span(dice) }));
    }
    steps
}

/// Whoever comes to lead falls.
fn leaders_fall(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let mut at_ms = 0;
    let count = dice.between(2, u64::from(shape.nodes) + 1);
    let fall = |_| {
        let step = match dice.below(3) {
            0 => Fault::Kill { machine: LEADER, down_ms: down(dice) },
            1 => Fault::PowerCut { machine: LEADER, down_ms: down(dice) },
            _ => Fault::Pause { machine: LEADER, for_ms: span(dice) },
        };
        let step = at(at_ms, step);
        at_ms += dice.between(300, 2_500);
        step
    };
    (0..count).map(fall).collect()
}

fn crash_in_compaction(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let machine = member(dice, shape);
    let crash = match dice.below(4) {
        0 => Fault::Kill { machine, down_ms: down(dice) },
        1 => Fault::KillAll { down_ms: down(dice) },
        2 => Fault::PowerCutAll { down_ms: down(dice) },
        _ => {
            let operations = logarithmic(dice, 1, 100);
            Fault::PowerCutAt { machine, operations, down_ms: down(dice) }
        }
    };
    vec![at(0, compact(dice)), at(logarithmic(dice, 1, 400), crash)]
}

fn crash_in_defragmentation(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let machine = plain(dice, shape);
    let mut steps = Vec::new();
    if dice.one_in(2) {
        steps.push(at(0, compact(dice)));
    }
    steps.push(at(100, Fault::Defragment { machine }));
    let crash = match dice.below(3) {
        0 => Fault::Kill { machine, down_ms: down(dice) },
        _ => {
            let operations = logarithmic(dice, 1, 100);
            Fault::PowerCutAt { machine, operations, down_ms: down(dice) }
        }
    };
    steps.push(at(100 + dice.below(20), crash));
    steps
}

/// A member that was away so long that the log it needs is gone; while it takes the snapshot, it
/// or the one who sends it falls.
fn laggard(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let machine = plain(dice, shape);
    let for_ms = dice.between(2_000, 10_000);
    let mut steps = vec![match dice.below(3) {
        0 => at(0, Fault::Kill { machine, down_ms: for_ms }),
        1 => at(0, Fault::PowerCut { machine, down_ms: for_ms }),
        _ => at(0, cut(around(machine, shape), for_ms)),
    }];
    if dice.one_in(2) {
        steps.push(at(for_ms / 2, compact(dice)));
    }
    let soon = for_ms + dice.below(400);
    let hit = match dice.below(6) {
        0 => return steps,
        1 => Fault::Kill { machine, down_ms: down(dice) },
        2 => Fault::Kill { machine: LEADER, down_ms: down(dice) },
        3 => Fault::Reset { one: machine, other: LEADER },
        4 => {
            let operations = logarithmic(dice, 1, 150);
            let kind = *dice.pick(&[DiskErrorKind::Write, DiskErrorKind::Sync]);
            Fault::DiskError { machine, kind, operations, count: 1, down_ms: down(dice) }
        }
        _ => {
            let operations = logarithmic(dice, 1, 150);
            Fault::PowerCutAt { machine, operations, down_ms: down(dice) }
        }
    };
    steps.push(at(soon, hit));
    steps
}

/// A majority falls, member by member, and comes back in another order.
fn quorum_lost(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let first = plain(dice, shape);
    let fall = |number| {
        let machine = (first - 1 + number) % shape.nodes + 1;
        let (at_ms, down_ms) = (dice.below(1_500), dice.between(500, 6_000));
        at(
            at_ms,
            match dice.one_in(2) {
                true => Fault::Kill { machine, down_ms },
                false => Fault::PowerCut { machine, down_ms },
            },
        )
    };
    (0..=shape.nodes / 2).map(fall).collect()
}

/// Every machine loses power within moments, each in the middle of something else, and some again
/// while they start.
fn power_flickers(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let mut steps = Vec::new();
    for machine in 1..=shape.nodes {
        let down_ms = logarithmic(dice, 1, 500);
        let operations = logarithmic(dice, 1, 60);
        steps.push(at(0, Fault::PowerCutAt { machine, operations, down_ms }));
        if dice.one_in(2) {
            let operations = logarithmic(dice, 1, 60);
            let at_ms = dice.between(100, 1_500);
            let down_ms = down(dice);
            steps.push(at(at_ms, Fault::PowerCutAt { machine, operations, down_ms }));
        }
    }
    steps
}

/// Leadership changes hands again and again, as leases run out and reads go on.
fn leadership_goes_round(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let gap_ms = logarithmic(dice, 100, 2_000);
    let count = dice.between(3, 10);
    let mut steps: Vec<Step> = (0..count)
        .map(|number| at(number * gap_ms, Fault::MoveLeader { to: plain(dice, shape) }))
        .collect();
    if dice.one_in(2) {
        let at_ms = dice.below(count * gap_ms);
        steps.push(at(at_ms, Fault::Pause { machine: LEADER, for_ms: span(dice) }));
    }
    steps
}

/// Watchers read slowly while much is written, then lose the connection, or the history behind
/// them.
fn slow_watchers(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let watchers: Vec<u8> = (0..shape.watchers).map(|number| FIRST_WATCHER + number).collect();
    let links: Vec<(u8, u8)> = watchers
        .iter()
        .flat_map(|&watcher| (1..=shape.nodes).map(move |member| (member, watcher)))
        .collect();
    let for_ms = dice.between(1_000, 10_000);
    let bytes_per_second = logarithmic(dice, 500, 20_000);
    let mut steps = vec![at(0, Fault::Throttle { links: links.clone(), bytes_per_second, for_ms })];
    if dice.one_in(2) {
        steps.push(at(dice.below(for_ms), compact(dice)));
    }
    if dice.one_in(2) {
        let (one, other) = (member(dice, shape), *dice.pick(&watchers));
        steps.push(at(dice.below(for_ms), Fault::Reset { one, other }));
    }
    if dice.one_in(2) {
        steps.push(at(dice.below(for_ms), cut(links, span(dice))));
    }
    steps
}

/// A cluster whose leader's disk crawls and whose links lose packets gets a few more blows.
fn slow_and_shaken(dice: &mut Dice, shape: &Shape) -> Vec<Step> {
    let for_ms = dice.between(2_000, 12_000);
    let (access_us, sync_us) = (logarithmic(dice, 2, 100), logarithmic(dice, 20_000, 300_000));
    let percent = narrow(dice.between(5, 40));
    let mut steps = vec![
        at(0, Fault::DiskSlow { machine: LEADER, access_us, sync_us, for_ms }),
        at(0, Fault::Lose { links: pairs(shape), percent, for_ms }),
    ];
    for _ in 0..dice.between(1, 3) {
        let machine = member(dice, shape);
        let blow = match dice.below(3) {
            0 => Fault::Kill { machine, down_ms: down(dice) },
            1 => Fault::PowerCut { machine, down_ms: down(dice) },
            _ => Fault::Reset { one: LEADER, other: FOLLOWER },
        };
        steps.push(at(dice.below(for_ms), blow));
    }
    steps
}
