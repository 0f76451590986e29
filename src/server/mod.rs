//! The server: the loops that own all state, and the place where they are wired together.
//!
//! [`bootstrap`] is what happens before the loops run: who the member is, whom it starts with,
//! and whether the data directory may be used.

pub mod bootstrap;
