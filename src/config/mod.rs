//! The server's settings: read from flags and variables in etcd's spelling, checked, typed.
//!
//! ```text
//! arguments, ETCD_* ──▶ arguments::read ──▶ Values ──▶ Config ──▶ Config::check ──▶ the server
//!                        flags (the table)   text by    typed     rules between
//!                        value (the forms)   flag                 settings
//! ```
//!
//! - `flags` is the one table of all flags; `arguments` reads Go's syntax; `value` and `url` know
//!   what a value may look like; `help` prints the table.
//! - Everything here is pure: the environment is passed in, no file is opened, no name resolved.
//! - A [`Config`] made by [`Config::read`] has passed [`Config::check`]. One put together by hand
//!   (a test, the simulator) starts from [`Config::default`] and should be checked, too.
//! - What `--initial-cluster` means is worked out in `server::bootstrap`, because a member that
//!   already has data ignores it.
//!
//! Where we differ from etcd, each time to say more or to refuse what cannot be kept:
//!
//! | etcd 3.7 | here |
//! |---|---|
//! | `experimental-` spellings are gone | those of 3.6 still work, with a warning |
//! | `--initial-cluster` follows `--name` only | follows `--initial-advertise-peer-urls`, too |
//! | a retention of `10m` in mode revision is 600,000,000,000 revisions | an error |
//! | any size of `--max-request-bytes` | at most [`crate::types::limits::REQUEST_BYTES_CEILING`] |
//! | a default host is detected when listening on 0.0.0.0 | advertise what shall be advertised |

mod arguments;
mod error;
mod flags;
mod help;
mod settings;
mod url;
mod value;

pub use arguments::Notice;
pub use error::{ConfigError, ErrorKind};
pub use help::help;
pub(crate) use settings::check_scheme;
pub use settings::{AutoCompaction, ClusterState, Config, Request};
pub use url::{Scheme, Url};
pub use value::urls;
