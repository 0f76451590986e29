//! A client: the loop that makes calls, one after the other, and records them.

use super::Settings;
use super::dice::Dice;
use super::generator::{Generator, Step};
use super::names;
use super::recorder::Recorder;
use super::seat::Seat;
use crate::env::{Clock, Env};
use std::time::Duration;

/// A client goes to another member once in so many steps.
const MOVE_ONE_IN: u64 = 40;
/// A client goes on without a pause once in so many steps.
const NO_PAUSE_ONE_IN: u64 = 6;

/// Works until the recorder says stop or the client has made its calls. `number` is the client's,
/// its process in the history, and decides with the settings what it does.
///
/// # Panics
/// If there are no endpoints, or one is no `host:port`.
pub async fn client<E: Env>(
    env: E,
    mut endpoints: Vec<String>,
    number: u8,
    settings: Settings,
    recorder: Recorder,
) {
    let name = [names::CLIENT, settings.seed, u64::from(number)];
    let deadline = settings.deadline(&mut Dice::new(&name));
    // Not all flock to one.
    let first = usize::from(number) % endpoints.len();
    endpoints.rotate_left(first);
    let clock = env.clock().clone();
    let mut seat = Seat::new(env, endpoints, u64::from(number), deadline, recorder.clone());
    let mut generator = Generator::new(settings.profile, settings.seed, number, settings.clients);
    let pause_max = u64::try_from(settings.pause_max.as_nanos()).unwrap_or(u64::MAX);
    let mut calls = 0;
    while !recorder.is_stopped() && settings.calls_max.is_none_or(|max| calls < max) {
        let mut dice = Dice::new(&[name[0], name[1], name[2], calls]);
        let pause = if dice.one_in(NO_PAUSE_ONE_IN) { 0 } else { dice.between(0, pause_max) };
        clock.sleep(Duration::from_nanos(pause)).await;
        if dice.one_in(MOVE_ONE_IN) {
            let by = dice.below(seat.places().try_into().expect("a count fits"));
            seat.move_on(usize::try_from(by).expect("below a count"));
        }
        calls += 1;
        match generator.next() {
            Step::Call(request) => {
                let outcome = seat.call(&request).await;
                generator.told(&request, &outcome);
            }
            Step::TimeToLive(id) => seat.time_to_live(id).await,
        }
    }
}
