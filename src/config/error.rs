//! Why the server cannot start as asked.

use std::fmt;

/// A configuration that cannot be used. The text is etcd's where etcd has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

/// How the error is told and how the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The command line cannot be read: printed for the person who typed it.
    Usage,
    /// A variable and a flag both want to decide: which one, etcd does not guess either.
    Conflict,
    /// The settings can be read but not used: logged.
    Invalid,
}

impl ConfigError {
    /// An unreadable command line.
    pub fn usage(message: impl Into<String>) -> ConfigError {
        ConfigError { kind: ErrorKind::Usage, message: message.into(), hint: None }
    }

    /// Two sources for one setting.
    pub fn conflict(message: impl Into<String>) -> ConfigError {
        ConfigError { kind: ErrorKind::Conflict, message: message.into(), hint: None }
    }

    /// Unusable settings.
    pub fn invalid(message: impl Into<String>) -> ConfigError {
        ConfigError { kind: ErrorKind::Invalid, message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> ConfigError {
        ConfigError { hint: Some(hint.into()), ..self }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do about it, if there is something to say.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The status to end the process with, as etcd does.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::Usage => 2,
            ErrorKind::Conflict | ErrorKind::Invalid => 1,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
