//! What a client does next.
//!
//! A generator is asked for the next step, and told what became of it before it is asked again: a
//! compare-and-swap is a read, whose answer says what to compare with, and then the swap. Each
//! step draws from a die of its own (seed, client, number of the step), so an answer that differs
//! between two runs changes what follows from it and no more.

use super::dice::Dice;
use super::names;
use super::profile::Profile;
use super::scripts::Script;
use crate::check::Data;
use crate::check::op::{Outcome, Request, Response};
use crate::types::{LeaseId, Revision};

/// One thing to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// A call that belongs into the history.
    Call(Request),
    /// Asks how long a lease has to live, which a history has no word for.
    TimeToLive(LeaseId),
}

/// Values of this many bytes and more are written now and then.
const LARGE_BYTES_MIN: u64 = 10 * 1024;
const LARGE_BYTES_MAX: u64 = 24 * 1024;
/// One value in so many is large.
const LARGE_ONE_IN: u64 = 300;

/// What a client does, step by step.
pub struct Generator {
    hand: Hand,
    seed: u64,
    step: u64,
    script: Box<dyn Script>,
}

/// What a script draws from and knows, whatever it does.
pub(super) struct Hand {
    /// The number of the client.
    pub client: u8,
    /// How many clients there are.
    pub clients: u8,
    pub dice: Dice,
    /// The highest revision the client was told.
    pub revision: Revision,
    /// Made so far of what must be different each time.
    serial: u64,
}

impl Hand {
    /// A number the client uses once.
    pub fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Text that nobody wrote before.
    pub fn mark(&mut self) -> String {
        let serial = self.serial();
        format!("{}-{serial}", self.client)
    }

    /// A value that nobody wrote before, now and then a large one.
    pub fn value(&mut self) -> Data {
        let mut value = self.mark();
        if self.dice.one_in(LARGE_ONE_IN) {
            let bytes = self.dice.between(LARGE_BYTES_MIN, LARGE_BYTES_MAX);
            value.push(' ');
            value.push_str(&"x".repeat(usize::try_from(bytes).expect("some KiB")));
        }
        value.into()
    }

    /// A lease's id that nobody used before.
    pub fn lease(&mut self) -> LeaseId {
        let serial = i64::try_from(self.serial()).expect("no client lives that long");
        LeaseId((i64::from(self.client) + 1) * 1_000_000 + serial)
    }

    /// A revision at most so many before the newest known; at least the first.
    pub fn past(&mut self, back_max: u64) -> Revision {
        let back = i64::try_from(self.dice.below(back_max + 1)).expect("a short way back");
        Revision((self.revision.0 - back).max(1))
    }
}

impl Generator {
    /// The generator of a client, one of `clients`.
    pub fn new(profile: &Profile, seed: u64, client: u8, clients: u8) -> Generator {
        let (dice, revision) = (Dice::new(&[seed]), Revision(1));
        let hand = Hand { client, clients: clients.max(1), dice, revision, serial: 0 };
        Generator { hand, seed, step: 0, script: (profile.script)() }
    }

    /// What to do now. [`Generator::told`] comes before the next.
    #[expect(clippy::should_implement_trait, reason = "what comes hangs on `told`; it never ends")]
    pub fn next(&mut self) -> Step {
        self.step += 1;
        let client = u64::from(self.hand.client);
        self.hand.dice = Dice::new(&[names::STEP, self.seed, client, self.step]);
        self.script.next(&mut self.hand)
    }

    /// What became of a call.
    pub fn told(&mut self, request: &Request, outcome: &Outcome) {
        if let Outcome::Ok(response) = outcome
            && !matches!(response, Response::LeaseKeepAlive(_))
        {
            self.hand.revision = self.hand.revision.max(response.revision());
        }
        self.script.told(request, outcome);
    }
}
