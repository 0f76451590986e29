//! The data directory: its layout, its lock, and what else might lie there.
//!
//! ```text
//! <data-dir>/member/format               which format this is; written before anything else
//! <data-dir>/member/lock                 locked while a server runs
//! <data-dir>/member/store/quorate.redb   the applied state
//! <data-dir>/member/wal/                 the log, unless --wal-dir names another place
//! <wal-dir>/quorate.lock                 with --wal-dir: the same lock there
//! ```
//!
//! - What is not ours is not touched: [`inspect`] only reads, and [`DataDirectory::open`] creates
//!   nothing before it. In particular a directory of a real etcd is recognised and refused.
//! - One process at a time: the lock is held from before the first write until the value is
//!   dropped. The system releases it when the process dies, however it dies.
//! - A directory is ours once the format file is there under its name. It is written to the side,
//!   synced and renamed, and store and log come later; so a crash at any point leaves a directory
//!   that is either ours or as good as empty.
//! - A format newer than ours is refused: guessing at its content could destroy it.
//! - Every directory made here is durable in its parent before anything is stored in it.

use super::etcd_files::{self, list_if_there};
use crate::config::Config;
use crate::env::{Disk, File};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The format this code reads and writes.
const FORMAT: u32 = 1;
const FORMAT_PREFIX: &str = "quorate data directory, format ";
/// Longer than any line with that prefix and a number.
const FORMAT_BYTES_MAX: u64 = 128;

const FORMAT_FILE: &str = "format";
const FORMAT_FILE_NEW: &str = "format.new";
const LOCK_FILE: &str = "lock";
const WAL_LOCK_FILE: &str = "quorate.lock";
/// In the root of every ext file system, so also in a disk mounted for the log.
const LOST_AND_FOUND: &str = "lost+found";

/// Where things lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths {
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
}

impl Paths {
    /// The places a configuration names.
    pub fn new(config: &Config) -> Paths {
        Paths { data_dir: config.data_dir.clone(), wal_dir: config.wal_dir.clone() }
    }

    /// `--data-dir`.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where all that is ours lies, but perhaps the log.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// The applied state.
    pub fn store_file(&self) -> PathBuf {
        self.store_dir().join("quorate.redb")
    }

    /// The directory of the log's segments. Beside them there may be `quorate.lock`.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member_dir().join("wal"))
    }

    fn store_dir(&self) -> PathBuf {
        self.member_dir().join("store")
    }

    fn format_file(&self) -> PathBuf {
        self.member_dir().join(FORMAT_FILE)
    }
}

/// What a usable data directory holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Nothing yet.
    Nothing,
    /// Data of ours. Whether a first start got as far as writing any is for the log to say.
    Ours,
}

/// Why a data directory cannot be used. The display text names the place; [`Self::hint`] says
/// what to do.
#[derive(Debug)]
pub enum DataDirectoryError {
    /// Another process runs on it.
    InUse { directory: PathBuf },
    /// A real etcd wrote `file`.
    OfEtcd { directory: PathBuf, file: PathBuf },
    /// It holds `found`, which is not ours.
    Unrecognized { directory: PathBuf, found: String },
    /// A later version wrote it.
    Newer { directory: PathBuf, format: u32 },
    /// The format file is not as we write it.
    Damaged { file: PathBuf },
    /// The system failed at `path`.
    Io { doing: &'static str, path: PathBuf, error: io::Error },
}

impl DataDirectoryError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            DataDirectoryError::InUse { .. } => {
                "stop the other server, or give each a directory of its own with --data-dir"
            }
            DataDirectoryError::OfEtcd { .. } => {
                "nothing was touched; start with a new, empty --data-dir and copy the keys from \
                 the running etcd (etcdctl make-mirror does it), or keep running etcd on this one"
            }
            DataDirectoryError::Unrecognized { .. } => {
                "nothing was touched; choose another --data-dir, or empty this one if it is of no \
                 use"
            }
            DataDirectoryError::Newer { .. } => "start the version that wrote it, or a later one",
            DataDirectoryError::Damaged { .. } => {
                "restore the directory from a backup, or remove the member from the cluster and \
                 add it again with an empty directory"
            }
            DataDirectoryError::Io { .. } => "see to the file system and its permissions",
        }
    }
}

impl fmt::Display for DataDirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataDirectoryError::InUse { directory } => {
                write!(f, "data directory {directory:?} is in use by another process")
            }
            DataDirectoryError::OfEtcd { directory, file } => {
                write!(f, "data directory {directory:?} belongs to an etcd, which wrote {file:?}")
            }
            DataDirectoryError::Unrecognized { directory, found } => {
                write!(f, "data directory {directory:?} is not Quorate's: it holds {found}")
            }
            DataDirectoryError::Newer { directory, format } => write!(
                f,
                "data directory {directory:?} has format {format}, this version knows {FORMAT}; \
                 if no newer version has written it, its format file is damaged"
            ),
            DataDirectoryError::Damaged { file } => write!(f, "format file {file:?} is damaged"),
            DataDirectoryError::Io { doing, path, error } => {
                write!(f, "cannot {doing} {path:?}: {error}")
            }
        }
    }
}

impl std::error::Error for DataDirectoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DataDirectoryError::Io { error, .. } => Some(error),
            DataDirectoryError::InUse { .. }
            | DataDirectoryError::OfEtcd { .. }
            | DataDirectoryError::Unrecognized { .. }
            | DataDirectoryError::Newer { .. }
            | DataDirectoryError::Damaged { .. } => None,
        }
    }
}

/// Names what failed where.
fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirectoryError {
    move |error| DataDirectoryError::Io { doing, path: path.to_owned(), error }
}

/// Looks, without touching anything, at what lies in the places; an error if they cannot be used.
pub fn inspect(disk: &impl Disk, paths: &Paths) -> Result<Content, DataDirectoryError> {
    let directory = paths.data_dir.clone();
    let member = paths.member_dir();
    let reading = || io_error("read", &member);
    let logs = [member.join("wal"), paths.wal_dir()];
    if let Some(file) = etcd_files::find(disk, &member.join("snap"), &logs).map_err(reading())? {
        return Err(DataDirectoryError::OfEtcd { directory, file });
    }
    if disk.exists(&paths.format_file()).map_err(reading())? {
        return check_format(disk, paths).map(|()| Content::Ours);
    }
    // A first start may have been cut short behind each of these names.
    let stranger = list_if_there(disk, &member)
        .map_err(reading())?
        .into_iter()
        .find(|name| ![LOCK_FILE, FORMAT_FILE_NEW].contains(&name.as_str()));
    if let Some(name) = stranger {
        let found = format!("{:?}", member.join(name));
        return Err(DataDirectoryError::Unrecognized { directory, found });
    }
    // A log without its store cannot be continued, and must not be overwritten.
    let wal_dir = paths.wal_dir();
    let stray = list_if_there(disk, &wal_dir)
        .map_err(io_error("read", &wal_dir))?
        .into_iter()
        .find(|name| ![WAL_LOCK_FILE, LOST_AND_FOUND].contains(&name.as_str()));
    match stray {
        Some(name) => {
            let found = format!("no data, but the log directory holds {:?}", wal_dir.join(name));
            Err(DataDirectoryError::Unrecognized { directory, found })
        }
        None => Ok(Content::Nothing),
    }
}

fn check_format(disk: &impl Disk, paths: &Paths) -> Result<(), DataDirectoryError> {
    let path = paths.format_file();
    let read = || -> io::Result<Vec<u8>> {
        let file = disk.open(&path)?;
        let len = file.len()?.min(FORMAT_BYTES_MAX);
        let mut content = vec![0; usize::try_from(len).expect("at most 128")];
        file.read_at(0, &mut content)?;
        Ok(content)
    };
    let content = read().map_err(io_error("read", &path))?;
    let format = std::str::from_utf8(&content)
        .ok()
        .and_then(|text| text.strip_prefix(FORMAT_PREFIX)?.strip_suffix('\n')?.parse().ok());
    match format {
        Some(FORMAT) => Ok(()),
        Some(format) if format > FORMAT => {
            Err(DataDirectoryError::Newer { directory: paths.data_dir.clone(), format })
        }
        Some(_) | None => Err(DataDirectoryError::Damaged { file: path }),
    }
}

/// A data directory that this process may write to. Keep it as long as the server runs.
pub struct DataDirectory<D: Disk> {
    paths: Paths,
    content: Content,
    /// Held for their drop.
    _locks: Vec<D::Lock>,
}

impl<D: Disk> DataDirectory<D> {
    /// Takes the directory, making it if it is not there.
    pub fn open(disk: &D, paths: Paths) -> Result<DataDirectory<D>, DataDirectoryError> {
        inspect(disk, &paths)?;
        let member = paths.member_dir();
        create_durably(disk, &member)?;
        let mut locks = vec![lock(disk, &paths.data_dir, &member.join(LOCK_FILE))?];
        // Between the first look and the lock another process may have come and gone.
        let content = inspect(disk, &paths)?;
        if content == Content::Nothing {
            write_format(disk, &paths)?;
        }
        create_durably(disk, &paths.store_dir())?;
        let wal_dir = paths.wal_dir();
        create_durably(disk, &wal_dir)?;
        if paths.wal_dir.is_some() {
            locks.push(lock(disk, &wal_dir, &wal_dir.join(WAL_LOCK_FILE))?);
        }
        Ok(DataDirectory { paths, content, _locks: locks })
    }

    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// What was there when it was opened.
    pub fn content(&self) -> Content {
        self.content
    }
}

fn lock<D: Disk>(disk: &D, directory: &Path, file: &Path) -> Result<D::Lock, DataDirectoryError> {
    disk.lock(file).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => DataDirectoryError::InUse { directory: directory.to_owned() },
        _ => io_error("lock", file)(error),
    })
}

fn write_format(disk: &impl Disk, paths: &Paths) -> Result<(), DataDirectoryError> {
    let member = paths.member_dir();
    let new = member.join(FORMAT_FILE_NEW);
    let write = || -> io::Result<()> {
        let file = disk.create(&new)?;
        file.write_at(0, format!("{FORMAT_PREFIX}{FORMAT}\n").as_bytes())?;
        file.sync_data()?;
        disk.rename(&new, &paths.format_file())?;
        disk.sync_directory(&member)
    };
    write().map_err(io_error("write", &paths.format_file()))
}

/// Creates a directory and makes each name on the way to it durable.
///
/// Parents are synced even if the directory is there already: it may be the work of a start that
/// died before it could sync. Only then may a parent be closed to us: an administrator made the
/// directory, and answers for it.
fn create_durably(disk: &impl Disk, directory: &Path) -> Result<(), DataDirectoryError> {
    let was_there = disk.exists(directory).map_err(io_error("look at", directory))?;
    let mut parents = vec![parent(directory)];
    while let Some(next) = parents.last().expect("never empty").clone() {
        if disk.exists(&next).map_err(io_error("look at", &next))? {
            break;
        }
        parents.push(parent(&next));
    }
    disk.create_directory(directory).map_err(io_error("create", directory))?;
    for parent in parents.into_iter().flatten() {
        match disk.sync_directory(&parent) {
            Err(error) if was_there && error.kind() == io::ErrorKind::PermissionDenied => {}
            result => result.map_err(io_error("sync", &parent))?,
        }
    }
    Ok(())
}

/// The directory that holds a name; `None` above the root.
fn parent(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests prepare real directories")]

    use super::*;
    use crate::env::real::RealDisk;
    use std::collections::BTreeMap;
    use std::fs;
    use tempfile::TempDir;

    /// An empty temporary directory, and paths with the data directory inside, not made yet.
    fn places() -> (TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths { data_dir: root.path().join("a/b.etcd"), wal_dir: None };
        (root, paths)
    }

    fn put(path: &Path, content: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Every file and directory below, with its content.
    fn tree(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(tree(&path));
                found.insert(path, Vec::new());
            } else {
                let content = fs::read(&path).unwrap();
                found.insert(path, content);
            }
        }
        found
    }

    /// The error of opening; asserts that it touched nothing.
    fn refused(root: &TempDir, paths: &Paths) -> DataDirectoryError {
        let before = tree(root.path());
        let error = DataDirectory::open(&RealDisk, paths.clone()).err().expect("refused");
        assert_eq!(tree(root.path()), before);
        error
    }

    /// The first page of a bbolt file.
    fn bbolt() -> Vec<u8> {
        let mut page = vec![0; 4_096];
        page[16..20].copy_from_slice(&0xed0c_daed_u32.to_le_bytes());
        page
    }

    /// The first bytes of the log of an etcd 3.5.1.
    const ETCD_LOG: &[u8] = &[4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 0x10, 0, 0, 0, 0, 0];
    const SEGMENT: &str = "0000000000000000-0000000000000000.wal";

    #[test]
    fn a_new_directory_is_made_and_known_again() {
        use std::os::unix::fs::PermissionsExt;
        let (_root, paths) = places();
        assert_eq!(inspect(&RealDisk, &paths).unwrap(), Content::Nothing);
        let directory = DataDirectory::open(&RealDisk, paths.clone()).unwrap();
        assert_eq!(directory.content(), Content::Nothing);
        drop(directory);
        assert_eq!(inspect(&RealDisk, &paths).unwrap(), Content::Ours);
        let directory = DataDirectory::open(&RealDisk, paths.clone()).unwrap();
        assert_eq!(directory.content(), Content::Ours);
        let format = fs::read_to_string(paths.member_dir().join("format")).unwrap();
        assert_eq!(format, "quorate data directory, format 1\n");
        for made in [paths.data_dir().to_owned(), paths.member_dir(), paths.wal_dir()] {
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert!(paths.store_file().parent().unwrap().is_dir());
    }

    #[test]
    fn a_second_process_is_told_which_directory_is_taken() {
        let (_root, paths) = places();
        let first = DataDirectory::open(&RealDisk, paths.clone()).unwrap();
        let error = DataDirectory::open(&RealDisk, paths.clone()).err().unwrap();
        assert!(matches!(error, DataDirectoryError::InUse { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!("data directory {:?} is in use by another process", paths.data_dir())
        );
        assert!(error.hint().contains("--data-dir"));
        drop(first);
        DataDirectory::open(&RealDisk, paths).unwrap();
    }

    #[test]
    fn a_log_directory_is_not_shared_either() {
        let (root, paths) = places();
        let wal_dir = Some(root.path().join("logs"));
        let first = Paths { wal_dir: wal_dir.clone(), ..paths };
        let second = Paths { wal_dir, data_dir: root.path().join("other") };
        let _first = DataDirectory::open(&RealDisk, first).unwrap();
        let error = DataDirectory::open(&RealDisk, second).err().unwrap();
        assert!(matches!(error, DataDirectoryError::InUse { .. }), "{error}");
    }

    #[test]
    fn directories_of_etcd_are_refused_untouched() {
        let torn_first_page = [vec![0; 4_096], bbolt()].concat();
        let cases: [(&str, &[u8]); 5] = [
            ("snap/db", &bbolt()),
            ("snap/db", &torn_first_page),
            ("snap/0000000000000002-00000000000186a1.snap", b"anything"),
            (&format!("wal/{SEGMENT}"), ETCD_LOG),
            // Even if our format file is there: somebody mixed two directories up.
            ("format", b"quorate data directory, format 1\n"),
        ];
        for (name, content) in cases {
            let (root, paths) = places();
            let file = paths.member_dir().join(name);
            put(&file, content);
            if name == "format" {
                put(&paths.member_dir().join("snap/db"), &bbolt());
            }
            let error = refused(&root, &paths);
            assert!(matches!(error, DataDirectoryError::OfEtcd { .. }), "{name}: {error}");
            assert!(error.hint().contains("nothing was touched"));
        }
    }

    #[test]
    fn an_etcd_log_in_a_directory_of_its_own_is_refused_untouched() {
        let (root, paths) = places();
        let wal_dir = root.path().join("logs");
        put(&wal_dir.join(SEGMENT), ETCD_LOG);
        let error = refused(&root, &Paths { wal_dir: Some(wal_dir), ..paths });
        assert!(matches!(error, DataDirectoryError::OfEtcd { .. }), "{error}");
    }

    #[test]
    fn strange_content_is_refused_untouched() {
        for name in ["notes.txt", "snap/db", "wal/segment-1", "store/quorate.redb"] {
            let (root, paths) = places();
            put(&paths.member_dir().join(name), b"not of ours");
            let error = refused(&root, &paths);
            assert!(matches!(error, DataDirectoryError::Unrecognized { .. }), "{name}: {error}");
        }
        let (root, paths) = places();
        let wal_dir = root.path().join("logs");
        put(&wal_dir.join("segment-1"), b"a log without its store");
        let error = refused(&root, &Paths { wal_dir: Some(wal_dir), ..paths });
        assert!(matches!(error, DataDirectoryError::Unrecognized { .. }), "{error}");
        assert!(error.to_string().contains("segment-1"), "{error}");
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_named() {
        let (root, paths) = places();
        put(paths.data_dir(), b"a file");
        let error = refused(&root, &paths);
        assert!(matches!(error, DataDirectoryError::Io { .. }), "{error}");
        assert!(error.to_string().contains("b.etcd"), "{error}");
    }

    #[test]
    fn unknown_formats_are_refused_untouched() {
        let cases = [
            ("quorate data directory, format 2\n", true),
            ("quorate data directory, format 1", false),
            ("quorate data directory, format x\n", false),
            ("", false),
        ];
        for (content, is_newer) in cases {
            let (root, paths) = places();
            put(&paths.format_file(), content.as_bytes());
            match refused(&root, &paths) {
                DataDirectoryError::Newer { format, .. } => assert!(is_newer && format == 2),
                DataDirectoryError::Damaged { .. } => assert!(!is_newer, "{content:?}"),
                error => panic!("{content:?}: {error}"),
            }
        }
    }

    #[test]
    fn a_first_start_that_was_cut_short_is_begun_again() {
        let (_root, paths) = places();
        put(&paths.member_dir().join("lock"), b"");
        put(&paths.member_dir().join("format.new"), b"quorate da");
        let directory = DataDirectory::open(&RealDisk, paths.clone()).unwrap();
        assert_eq!(directory.content(), Content::Nothing);
        assert_eq!(inspect(&RealDisk, &paths).unwrap(), Content::Ours);
    }

    #[test]
    fn other_names_beside_the_members_do_not_matter() {
        let (root, paths) = places();
        put(&paths.data_dir().join("lost+found/x"), b"");
        let wal_dir = root.path().join("logs");
        put(&wal_dir.join("lost+found/x"), b"");
        DataDirectory::open(&RealDisk, Paths { wal_dir: Some(wal_dir), ..paths }).unwrap();
    }

    #[test]
    fn parents_end_at_the_root() {
        assert_eq!(parent(Path::new("default.etcd")), Some(PathBuf::from(".")));
        assert_eq!(parent(Path::new("/a/b")), Some(PathBuf::from("/a")));
        assert_eq!(parent(Path::new("/")), None);
    }
}
