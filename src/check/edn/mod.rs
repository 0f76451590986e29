//! Jepsen's histories, in EDN: to be judged here, or there.
//!
//! | file | idea |
//! |---|---|
//! | `value` | EDN's own syntax |
//! | `read` | a history of Jepsen's as a history of ours, or as transactions on lists |
//! | `write` | a history of ours for Knossos and Elle |
//!
//! Two shapes of history are common there:
//!
//! - *register*: `{:type :invoke, :process 0, :f :write, :value [key 1], ...}` with `:read` and
//!   `:cas`, one operation per key (an "independent" history) or on one register;
//! - *list-append*: `{:type :ok, :process 0, :f :txn, :value [[:append 1 2] [:r 1 [2]]], ...}`.
//!
//! Both go both ways. A list-append history is checked by `lists`, a register by the search.

mod read;
mod value;
mod write;

pub use read::{read, register_history};
pub use write::{write, write_list_append, write_register};
