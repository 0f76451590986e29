//! A bit of everything: one script after the other, each for a few steps.
//!
//! A script is left only between two things, never within one: what it read must not be old by
//! design when it swaps.

use super::{Append, Bank, Kubernetes, Lease, Pages, Register, Script, Set, Watch};
use crate::check::op::{Outcome, Request};
use crate::workload::generator::{Hand, Step};

/// The longest stay with a script.
const STEPS_MAX: u64 = 12;

/// The state of such a client.
pub struct Mixed {
    scripts: Vec<(u64, Box<dyn Script>)>,
    current: usize,
    steps_left: u64,
}

impl Default for Mixed {
    fn default() -> Mixed {
        let scripts: Vec<(u64, Box<dyn Script>)> = vec![
            (5, Box::new(Register::default())),
            (2, Box::new(Append::default())),
            (2, Box::new(Bank::default())),
            (2, Box::new(Set::default())),
            (3, Box::new(Pages::default())),
            (2, Box::new(Watch)),
            (3, Box::new(Lease::default())),
            (3, Box::new(Kubernetes::default())),
        ];
        Mixed { scripts, current: 0, steps_left: 0 }
    }
}

impl Script for Mixed {
    fn next(&mut self, hand: &mut Hand) -> Step {
        if self.steps_left == 0 && self.is_idle() {
            let weights: Vec<(u64, usize)> =
                self.scripts.iter().enumerate().map(|(i, (weight, _))| (*weight, i)).collect();
            self.current = hand.dice.weighted(&weights);
            self.steps_left = hand.dice.between(1, STEPS_MAX);
        }
        self.steps_left = self.steps_left.saturating_sub(1);
        self.scripts[self.current].1.next(hand)
    }

    fn told(&mut self, request: &Request, outcome: &Outcome) {
        self.scripts[self.current].1.told(request, outcome);
    }

    fn is_idle(&self) -> bool {
        self.scripts[self.current].1.is_idle()
    }
}
