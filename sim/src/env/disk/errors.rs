//! Errors a disk makes when it is told to.

use crate::plan::DiskErrorKind;
use std::io;

/// Which operations of one kind fail.
#[derive(Clone, Copy, Debug, Default)]
struct Script {
    /// Operations of the kind so far.
    seen: u64,
    /// The first to fail, and the first after that not to; nothing fails if they are equal.
    from: u64,
    end: u64,
}

/// What is to fail.
#[derive(Debug, Default)]
pub struct Errors {
    scripts: [Script; 4],
    /// Whether something has failed since the last boot.
    struck: bool,
    /// The names of the files whose bytes were concerned.
    files: Vec<String>,
}

impl Errors {
    fn script(&mut self, kind: DiskErrorKind) -> &mut Script {
        let place = match kind {
            DiskErrorKind::Read => 0,
            DiskErrorKind::Write => 1,
            DiskErrorKind::Sync => 2,
            DiskErrorKind::ShortRead => 3,
        };
        &mut self.scripts[place]
    }

    /// From the n-th operation of this kind on (1 is the next), so many fail.
    pub fn plan(&mut self, kind: DiskErrorKind, operations: u64, count: u64) {
        let script = self.script(kind);
        script.from = script.seen + operations.max(1);
        script.end = script.from.saturating_add(count);
    }

    /// Nothing fails any more.
    pub fn stop(&mut self) {
        for script in &mut self.scripts {
            (script.from, script.end) = (0, 0);
        }
    }

    /// A new boot begins, on a disk that is as broken as before.
    pub fn boot(&mut self) {
        self.struck = false;
        self.files.clear();
    }

    /// What has failed was an operation on the bytes of this file.
    pub fn blame(&mut self, file: String) {
        self.files.push(file);
    }

    /// The files whose bytes could not be read, written or synced since the last boot.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    pub fn struck(&self) -> bool {
        self.struck
    }

    /// Counts an operation; whether it is to fail.
    pub fn strikes(&mut self, kind: DiskErrorKind) -> bool {
        let script = self.script(kind);
        script.seen += 1;
        let strikes = script.from <= script.seen && script.seen < script.end;
        self.struck |= strikes;
        strikes
    }
}

/// EIO.
pub fn input_output() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// ENOSPC.
pub fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}
