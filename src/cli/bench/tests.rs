//! The command line, and whole runs against the server that does nothing.
