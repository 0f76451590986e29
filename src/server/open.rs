//! What a member finds on its disk when it starts, or makes for its first start.
//!
//! Order matters, since a crash may come between any two steps:
//!
//! | step | why then |
//! |---|---|
//! | 1 store file, under a side name, with the members, flushed, renamed | a store that is there is whole |
//! | 2 log | from the first vote on it must be there; a log without a store cannot be |
//!
//! So no log means no past: whatever store lies there was made by a first start that did not get
//! far, and is made again. With a log, the store tells which entry it is at, and the log replays
//! what follows. A store that is ahead of its log (a leader's snapshot was put in place just
//! before a crash) makes the log start anew behind it; a log that begins behind the store's entry
//! has lost entries, which is damage.

use super::apply_loop::defragment_path;
use super::bootstrap::{DataDirectory, DataDirectoryError, InitialCluster, Paths};
use super::observed;
use super::spare::Spare;
use crate::apply::{Member, State};
use crate::config::{Config, ConfigError, Url};
use crate::env::{Disk, Env};
use crate::raft::{ConfState, Entry, EntryType, Log};
use crate::store::{Options, Store, StoreError};
use crate::types::{Index, Term};
use crate::wal::{Identity, Recovered, Wal, WalError, WalOptions};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Entries in front of the store's that are kept in memory, so that followers that were a little
/// behind when we stopped need no snapshot.
const KEPT_ENTRIES: u64 = 1_000;

/// Why a member cannot start, in words for the operator.
#[derive(Debug)]
pub enum StartError {
    Directory(DataDirectoryError),
    Config(ConfigError),
    Log(WalError),
    Store {
        file: PathBuf,
        error: StoreError,
    },
    /// Store and log do not fit together.
    Torn(String),
    Listen {
        url: String,
        error: String,
    },
    Io(io::Error),
}

impl StartError {
    pub(crate) fn listen(url: &Url, error: &io::Error) -> StartError {
        StartError::Listen { url: url.to_string(), error: error.to_string() }
    }

    /// What to do about it, if that is not said by the error itself.
    pub fn hint(&self) -> Option<&str> {
        match self {
            StartError::Directory(error) => Some(error.hint()),
            StartError::Config(error) => error.hint(),
            StartError::Listen { .. } => Some(
                "stop the process that uses the address, or choose another with --listen-client-urls or --listen-peer-urls",
            ),
            StartError::Torn(_) => Some(
                "rebuild this member: remove it from the cluster, empty its data directory, add it again; \
                 a single node is restored from a snapshot",
            ),
            StartError::Log(_) | StartError::Store { .. } | StartError::Io(_) => None,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Directory(error) => error.fmt(f),
            StartError::Config(error) => error.fmt(f),
            StartError::Log(error) => error.fmt(f),
            StartError::Store { file, error } => write!(f, "{}: {error}", file.display()),
            StartError::Torn(what) => f.write_str(what),
            StartError::Listen { url, error } => write!(f, "cannot listen on {url}: {error}"),
            StartError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<DataDirectoryError> for StartError {
    fn from(error: DataDirectoryError) -> StartError {
        StartError::Directory(error)
    }
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> StartError {
        StartError::Config(error)
    }
}

impl From<WalError> for StartError {
    fn from(error: WalError) -> StartError {
        StartError::Log(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::Io(error)
    }
}

/// Where the server's files lie.
#[derive(Clone)]
pub(super) struct Files {
    pub store: PathBuf,
    /// A snapshot being received.
    pub incoming: PathBuf,
    pub wal: PathBuf,
}

impl Files {
    /// What grows, on one file system or two.
    pub(super) fn on_disk(&self) -> Vec<PathBuf> {
        vec![self.store.clone(), self.wal.clone()]
    }
}

/// Everything [`super::Server::start`] wires together.
pub(super) struct Opened<E: Env> {
    pub identity: Identity,
    pub state: State,
    pub wal: Wal<E::Disk>,
    pub log: Log,
    /// Keeps other processes out while it lives.
    pub lock: DataDirectory<E::Disk>,
    pub files: Files,
    pub spare: Arc<Spare<E::Disk>>,
    pub store_options: Options,
}

/// Opens or makes a member's files.
pub(super) async fn open<E: Env>(env: &E, config: &Config) -> Result<Opened<E>, StartError> {
    let (own, config) = (env.clone(), config.clone());
    let opened = env.blocking(move || open_blocking(&own, &config)).await;
    if let Err(error) = &opened {
        env.mark(match error {
            StartError::Log(WalError::Corrupt { .. }) => "open: a damaged log refused",
            StartError::Store { error: StoreError::Corrupt { .. }, .. } => {
                "open: a damaged store refused"
            }
            StartError::Torn(_) => "open: a log with entries missing refused",
            StartError::Directory(_)
            | StartError::Config(_)
            | StartError::Log(_)
            | StartError::Store { .. }
            | StartError::Listen { .. }
            | StartError::Io(_) => "open: failed",
        });
    }
    opened
}

fn open_blocking<E: Env>(env: &E, config: &Config) -> Result<Opened<E>, StartError> {
    let disk = env.disk().clone();
    let lock = DataDirectory::open(&disk, Paths::new(config))?;
    let store = lock.paths().store_file();
    let incoming = store.with_extension("incoming");
    let files = Files { store, incoming, wal: lock.paths().wal_dir() };
    let store_options = Options::default();
    for unfinished in [&files.incoming, &defragment_path(&files.store)] {
        if disk.exists(unfinished)? {
            env.mark("open: an unfinished file removed");
            disk.remove(unfinished)?;
        }
    }
    if !Wal::exists(&disk, &files.wal)? {
        let initial = InitialCluster::from_config(config)?;
        make_store(&disk, &files, store_options, &initial)?;
        let identity = Identity { cluster: initial.cluster_id, member: initial.local };
        Wal::create(disk.clone(), &files.wal, identity, WalOptions::default())?;
    }
    let at_store = |error| StartError::Store { file: files.store.clone(), error };
    let spare = Spare::beside(disk.clone(), &files.store);
    let (store, restored) =
        Store::open(spare.open(&files.store)?, store_options).map_err(at_store)?;
    let state = State::restore(store, &restored).map_err(at_store)?;
    let applied = restored.applied;
    let keep_after = Index(applied.0.saturating_sub(KEPT_ENTRIES));
    let (mut wal, recovered) = Wal::open(disk, &files.wal, keep_after, WalOptions::default())?;
    if let Some(cut) = &recovered.cut {
        env.mark("open: a torn tail of the log cut");
        tracing::warn!(
            file = %cut.file.display(), offset = cut.offset, bytes = cut.bytes,
            "the log ended in writes that a crash interrupted; nothing acknowledged was in them; cut off"
        );
    }
    let identity = recovered.identity;
    let conf_state = ConfState {
        voters: state.members.voters(),
        learners: state.members.learners(),
        ..ConfState::default()
    };
    let log = join(recovered, &mut wal, (applied, restored.term), conf_state)?;
    if log.before() == (applied, restored.term) && applied > Index(0) {
        env.mark("open: a log that begins at the store's entry");
    }
    if state.store.is_compacting() {
        env.mark("open: a compaction goes on");
    }
    if log.last_index() > applied {
        env.mark("open: entries to be replayed");
    }
    observed::opened(env, identity.member, &log, &state, &restored);
    Ok(Opened { identity, state, wal, log, lock, files, spare, store_options })
}

/// The store of a new cluster: empty but for the members.
fn make_store<D: Disk>(
    disk: &D,
    files: &Files,
    options: Options,
    initial: &InitialCluster,
) -> Result<(), StartError> {
    let at_store = |error| StartError::Store { file: files.store.clone(), error };
    let mut store = Store::create(disk.create(&files.incoming)?, options).map_err(at_store)?;
    let members = initial.members.iter().map(|member| Member {
        id: member.id,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        is_learner: member.is_learner,
    });
    crate::apply::Members::default()
        .bootstrap(members.collect(), &mut store)
        .and_then(|()| store.flush())
        .map_err(at_store)?;
    drop(store);
    disk.rename(&files.incoming, &files.store)?;
    if let Some(directory) = files.store.parent() {
        disk.sync_directory(directory)?;
    }
    Ok(())
}

/// The term of an entry of the log, if the log still has it.
fn term_at(recovered: &Recovered, index: Index) -> Option<Term> {
    let (start, term) = recovered.start;
    if index == start {
        return Some(term);
    }
    let entry = recovered.entries.iter().find(|entry| entry.index == index)?;
    Some(entry.term)
}

/// Makes one log of what the disk holds and what the store is at.
fn join<D: Disk>(
    recovered: Recovered,
    wal: &mut Wal<D>,
    (applied, term): (Index, Term),
    conf_state: ConfState,
) -> Result<Log, StartError> {
    let mut hard_state = raft::eraftpb::HardState {
        term: recovered.hard_state.term.0,
        vote: recovered.hard_state.vote.0,
        // The store may be ahead of the last commit index written, never of what is committed.
        commit: recovered.hard_state.commit.0.max(applied.0),
        ..Default::default()
    };
    hard_state.term = hard_state.term.max(term.0);
    let last = recovered.entries.last().map_or(recovered.start.0, |entry| entry.index);
    if recovered.start.0 > applied {
        return Err(StartError::Torn(format!(
            "the log begins at entry {}, but the store holds only entries up to {applied}: entries are missing",
            recovered.start.0.0 + 1
        )));
    }
    // A log that has another entry where the store is was on a branch that lost: the leader's
    // snapshot that replaced the store was on its way to replace the log, too.
    let lost_branch = term_at(&recovered, applied).is_some_and(|at| at != term);
    if last < applied || lost_branch {
        tracing::info!(
            applied = applied.0,
            "last-log-index" = last.0,
            lost_branch,
            "the store is ahead of the log; the log starts anew"
        );
        wal.reset(applied, term)?;
        return Ok(Log::new((applied, term), Vec::new(), hard_state, conf_state));
    }
    hard_state.commit = hard_state.commit.min(last.0);
    let entries = recovered.entries.into_iter().map(|entry| Entry {
        index: entry.index.0,
        term: entry.term.0,
        entry_type: match entry.kind {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            _ => EntryType::EntryConfChangeV2,
        },
        data: entry.data,
        ..Entry::default()
    });
    Ok(Log::new(recovered.start, entries.collect(), hard_state, conf_state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::RealDisk;
    use crate::types::{ClusterId, MemberId};
    use crate::wal::{Batch, LogEntry};

    /// What `join` makes of a log of so many entries, all of term 1, and a store that is at
    /// `applied`; and what the log on disk then begins with.
    fn joined(entries: u64, applied: (Index, Term)) -> (Log, (Index, Term)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wal");
        let identity = Identity { cluster: ClusterId(1), member: MemberId(1) };
        let mut wal = Wal::create(RealDisk, &path, identity, WalOptions::default()).unwrap();
        let entries = (1..=entries).map(|index| LogEntry {
            index: Index(index),
            term: Term(1),
            kind: 0,
            data: Vec::from(&b"data"[..]).into(),
        });
        let batch = Batch { entries: entries.collect(), hard_state: None, sync: true };
        wal.append(&batch).unwrap();
        drop(wal);
        let (mut wal, recovered) =
            Wal::open(RealDisk, &path, Index(0), WalOptions::default()).unwrap();
        let log = join(recovered, &mut wal, applied, ConfState::default()).unwrap();
        drop(wal);
        let (_, recovered) = Wal::open(RealDisk, &path, Index(0), WalOptions::default()).unwrap();
        let last = recovered.entries.last().map(|entry| (entry.index, entry.term));
        (log, last.unwrap_or(recovered.start))
    }

    #[test]
    fn a_log_that_agrees_with_the_store_is_kept() {
        let (_, last) = joined(5, (Index(3), Term(1)));
        assert_eq!(last, (Index(5), Term(1)));
    }

    #[test]
    fn a_log_behind_the_store_starts_anew() {
        let (_, last) = joined(2, (Index(3), Term(1)));
        assert_eq!(last, (Index(3), Term(1)));
    }

    /// A crash between putting a leader's snapshot in place and resetting the log.
    #[test]
    fn a_log_of_another_branch_than_the_store_starts_anew() {
        let (_, last) = joined(5, (Index(3), Term(2)));
        assert_eq!(last, (Index(3), Term(2)));
    }
}
