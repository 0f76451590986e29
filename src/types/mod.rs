//! The words every module shares: typed numbers, key ranges, limits and the error a client sees.
//!
//! Nothing here does anything. A number gets a type of its own when mixing it up with another
//! would compile and be wrong: a revision is never a log index, a member is never a lease.

mod error;
mod key_range;
pub mod limits;
pub mod version;

pub use error::{Error, Result};
pub use key_range::KeyRange;

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number!(
    /// The store's version: 1 when empty, one more for each request that changed a key.
    Revision(i64),
    "{}"
);
number!(
    /// Position in the Raft log; the first entry has index 1, 0 means "before all".
    Index(u64),
    "{}"
);
number!(
    /// Raft term; 0 means "none yet".
    Term(u64),
    "{}"
);
number!(
    /// A lease's id. 0 means "no lease"; negative ids are lawful when a client asks for them.
    LeaseId(i64),
    "{:x}"
);
number!(
    /// A member's id, also its Raft id. Printed as etcd prints it: hex without padding.
    MemberId(u64),
    "{:x}"
);
number!(
    /// The cluster's id, fixed at bootstrap.
    ClusterId(u64),
    "{:x}"
);
