//! Who is meant by "the leader" and "a follower" in a step whose time has come.

use super::Nemesis;
use crate::env::network::Machine;
use crate::plan::{FOLLOWER, Fault, LEADER};
use quorate::workload::Dice;

impl Nemesis {
    /// The fault with members in place of symbols.
    pub(super) fn resolve(&self, mut fault: Fault, mut dice: Dice) -> Fault {
        let mut is_symbolic = false;
        each_machine(&mut fault, |machine| {
            is_symbolic |= matches!(*machine, LEADER | FOLLOWER);
        });
        if !is_symbolic {
            return fault;
        }
        let machines: Vec<u8> = (1..=self.plan.nodes).collect();
        let chosen = *dice.pick(&machines);
        let leader = self.cluster.leader().map_or(chosen, |Machine(leader)| leader);
        let others: Vec<u8> =
            machines.iter().copied().filter(|&machine| machine != leader).collect();
        // The one member of a single cluster is all there is.
        let follower = if others.is_empty() { leader } else { *dice.pick(&others) };
        each_machine(&mut fault, |machine| match *machine {
            LEADER => *machine = leader,
            FOLLOWER => *machine = follower,
            _ => {}
        });
        fault
    }
}

/// Shows every machine of a fault.
fn each_machine(fault: &mut Fault, mut show: impl FnMut(&mut u8)) {
    match fault {
        Fault::Kill { machine, .. }
        | Fault::PowerCut { machine, .. }
        | Fault::PowerCutAt { machine, .. }
        | Fault::Stop { machine, .. }
        | Fault::Pause { machine, .. }
        | Fault::DiskError { machine, .. }
        | Fault::DiskFull { machine, .. }
        | Fault::DiskSlow { machine, .. }
        | Fault::BitFlip { machine, .. }
        | Fault::MisdirectedWrite { machine, .. }
        | Fault::ClockJump { machine, .. }
        | Fault::ClockDrift { machine, .. }
        | Fault::Defragment { machine }
        | Fault::Snapshot { machine }
        | Fault::MoveLeader { to: machine } => show(machine),
        Fault::Cut { links, .. }
        | Fault::Lose { links, .. }
        | Fault::Delay { links, .. }
        | Fault::Throttle { links, .. } => {
            for (from, to) in links {
                show(from);
                show(to);
            }
        }
        Fault::Reset { one, other } => {
            show(one);
            show(other);
        }
        Fault::KillAll { .. }
        | Fault::PowerCutAll { .. }
        | Fault::RollingRestart { .. }
        | Fault::Compact { .. }
        | Fault::ClearAlarms => {}
    }
}
