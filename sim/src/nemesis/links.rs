//! Links with several faults at a time.
//!
//! Faults overlap: a link that two steps have cut is up again when both have ended. So what each
//! step does to a link is kept until that step ends, and after every change the link is set to
//! what all of them together make of it: down if any says so, as lossy as the worst, as late as
//! all together, as narrow as the narrowest.

use crate::env::network::{Machine, Switch};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a step does to a link.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    Down,
    Loss(u8),
    Delay(Duration),
    Rate(u64),
}

/// A link, from one machine to another.
type Link = (Machine, Machine);

/// What all steps do to all links. Clones are the same.
#[derive(Clone)]
pub struct Links {
    switch: Switch,
    troubles: Arc<Mutex<BTreeMap<Link, BTreeMap<usize, Trouble>>>>,
}

impl Links {
    pub fn new(switch: Switch) -> Links {
        Links { switch, troubles: Arc::default() }
    }

    /// A step, named by its number, makes trouble on links.
    pub fn trouble(&self, step: usize, links: &[Link], trouble: Trouble) {
        let mut troubles = self.troubles.lock().expect("no holder panics");
        for &link in links {
            let of_link = troubles.entry(link).or_default();
            of_link.insert(step, trouble);
            self.set(link, of_link, trouble);
        }
    }

    /// And ends it.
    pub fn mend(&self, step: usize, links: &[Link]) {
        let mut troubles = self.troubles.lock().expect("no holder panics");
        for &link in links {
            let Some(of_link) = troubles.get_mut(&link) else { continue };
            if let Some(trouble) = of_link.remove(&step) {
                self.set(link, of_link, trouble);
            }
        }
    }

    /// Sets a link's troubles of one kind to what is left of them.
    fn set(&self, (from, to): Link, of_link: &BTreeMap<usize, Trouble>, kind: Trouble) {
        let all = of_link.values();
        match kind {
            Trouble::Down => {
                let is_up = !all.into_iter().any(|trouble| matches!(trouble, Trouble::Down));
                self.switch.set_link(from, to, is_up);
            }
            Trouble::Loss(_) => {
                let percents = all.map(|trouble| match trouble {
                    Trouble::Loss(percent) => *percent,
                    Trouble::Down | Trouble::Delay(_) | Trouble::Rate(_) => 0,
                });
                self.switch.set_loss(from, to, percents.max().unwrap_or(0));
            }
            Trouble::Delay(_) => {
                let delays = all.map(|trouble| match trouble {
                    Trouble::Delay(delay) => *delay,
                    Trouble::Down | Trouble::Loss(_) | Trouble::Rate(_) => Duration::ZERO,
                });
                self.switch.set_delay(from, to, delays.sum());
            }
            Trouble::Rate(_) => {
                let rates = all.filter_map(|trouble| match trouble {
                    Trouble::Rate(bytes_per_second) => Some(*bytes_per_second),
                    Trouble::Down | Trouble::Loss(_) | Trouble::Delay(_) => None,
                });
                self.switch.set_rate(from, to, rates.min());
            }
        }
    }
}
