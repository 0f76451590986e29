//! Linearizability: every operation seems to happen at one moment between its call and its
//! answer.
//!
//! Two ways to find out, for two kinds of history:
//!
//! - `revisions`: the answers name the store's revision. The order is told and need only be
//!   checked; transactions and ranges over many keys cost no more than puts. This is how etcd's
//!   histories are checked. `walk` is the way along the revisions, `facts` and `unknown` say where
//!   writes of unknown outcome can stand, `explain` puts contradictions into words.
//! - `search`: the answers name no order, and one must be found: Wing and Gong's search with
//!   Lowe's cache of (state, set of operations placed), over a `Model`. It is exponential at
//!   worst, so histories are split by key where operations touch one key each (a history is
//!   linearizable when each object's part is: Herlihy and Wing's locality), and a limit of steps
//!   ends it with "unknown".

mod explain;
mod facts;
pub mod model;
pub mod revisions;
pub mod search;
mod unknown;
mod walk;

pub use model::Model;
pub use search::{Answer, Call, check, partition};
