//! Histories with a known verdict, random executions of a correct store, and mutations of those.

mod anomalies;
mod execution;
mod feed;
mod jepsen;
mod random;
mod searched;
mod speed;
