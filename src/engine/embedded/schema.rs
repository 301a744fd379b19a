//! The file: found, created, migrated, opened, and kept from a second process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::engine::Error;

/// `BSTP`: what `file` and SQLite's header tell of whose file this is.
pub(super) const APPLICATION_ID: i64 = 0x4253_5450;

/// What leads from each format to the next; the first creates. Never edited once released, only added to.
pub(super) const MIGRATIONS: &[&str] =
    &[include_str!("1.sql"), include_str!("2.sql"), include_str!("3.sql"), include_str!("4.sql")];

const FILE: &str = "backstop.db";
const FILE_IN_CREATION: &str = "backstop.db.new";
const LOCK: &str = "lock";

/// What failed, as the seam tells it: a full disk is told apart, for it passes by itself.
pub(super) fn io(path: &Path, doing: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    let (path, full) = (path.display().to_string(), is_full(&source));
    let source = Box::new(source);
    if full { Error::Full { path, source } } else { Error::Io { path, doing, source } }
}

fn is_full(source: &(dyn std::error::Error + 'static)) -> bool {
    let of_sqlite = |error: &rusqlite::Error| error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
    source.downcast_ref().is_some_and(of_sqlite)
        || source.downcast_ref().is_some_and(|shared: &Arc<rusqlite::Error>| of_sqlite(shared))
        || source.downcast_ref().is_some_and(|error: &std::io::Error| error.kind() == ErrorKind::StorageFull)
}

/// The right to a directory, for as long as it is held; the system takes it back when the process ends, however.
#[derive(Debug)]
pub(super) struct DirLock {
    file: File,
}

impl Drop for DirLock {
    /// Closing the file is not enough: a child that is just being started holds a copy of it until it runs its own
    /// program, and the lock with it.
    fn drop(&mut self) {
        // Whatever fails here, the system takes it back with the last copy.
        let _taken_back_later = self.file.unlock();
    }
}

impl DirLock {
    pub(super) fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(LOCK);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|source| io(&path, "open its lock", source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Who it is, is a courtesy: the lock stands without it.
                let _unknown = file.read_to_string(&mut pid);
                return Err(Error::InUse { dir: dir.display().to_string(), pid: pid.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(io(&path, "take its lock", source)),
        }
        let write_pid = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write_pid(&mut file).map_err(|source| io(&path, "write into its lock", source))?;
        Ok(Self { file })
    }
}

/// Creates the directory and the file if there is none, and brings the file to our format.
pub(super) fn prepare(dir: &Path) -> Result<PathBuf, Error> {
    let path = dir.join(FILE);
    if !path.try_exists().map_err(|source| io(&path, "look for the store", source))? {
        create(dir, &path)?;
    }
    migrate(&path)?;
    Ok(path)
}

/// Aside, synced, then renamed: whoever dies here leaves either no store or a whole one.
fn create(dir: &Path, path: &Path) -> Result<(), Error> {
    let aside = dir.join(FILE_IN_CREATION);
    for leftover in ["", "-journal", "-wal", "-shm"] {
        let mut name = aside.clone().into_os_string();
        name.push(leftover);
        match fs::remove_file(&name) {
            Ok(()) => {}
            Err(gone) if gone.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(io(&aside, "clear away an unfinished creation", source)),
        }
    }
    let made = || -> rusqlite::Result<()> {
        let mut file = Connection::open(&aside)?;
        file.pragma_update(None, "application_id", APPLICATION_ID)?;
        upgrade(&mut file, 0)?;
        file.close().map_err(|(_, source)| source)
    };
    made().map_err(|source| io(&aside, "create the store", source))?;
    let synced = || {
        File::open(&aside)?.sync_all()?;
        fs::rename(&aside, path)?;
        File::open(dir)?.sync_all()
    };
    synced().map_err(|source| io(path, "put the new store in place", source))
}

/// Each step in a transaction with its number: a crash in between goes on where it stopped.
pub(super) fn upgrade(file: &mut Connection, from: usize) -> rusqlite::Result<()> {
    for (index, step) in MIGRATIONS.iter().enumerate().skip(from) {
        let change = file.transaction()?;
        change.execute_batch(step)?;
        change.pragma_update(None, "user_version", index + 1)?;
        change.commit()?;
    }
    Ok(())
}

fn migrate(path: &Path) -> Result<(), Error> {
    let not_a_store = |why: String| Error::NotAStore { path: path.display().to_string(), why };
    let found = || -> rusqlite::Result<(Connection, i64, i64)> {
        let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let number = |pragma| file.pragma_query_value(None, pragma, |row| row.get(0));
        let (owner, format) = (number("application_id")?, number("user_version")?);
        Ok((file, owner, format))
    };
    let (mut file, owner, format) = found().map_err(|source| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            not_a_store(source.to_string())
        }
        _ => io(path, "open the store", source),
    })?;
    if owner != APPLICATION_ID {
        return Err(not_a_store("it is a database of another program".to_owned()));
    }
    let known = MIGRATIONS.len();
    match usize::try_from(format) {
        Ok(format) if format > known => {
            let known = i64::try_from(known).unwrap_or(i64::MAX);
            let found = i64::try_from(format).unwrap_or(i64::MAX);
            Err(Error::NewerFormat { path: path.display().to_string(), found, known })
        }
        Ok(0) | Err(_) => Err(not_a_store(format!("it has no format (user_version {format})"))),
        Ok(format) => {
            upgrade(&mut file, format).map_err(|source| io(path, "bring the store to the new format", source))
        }
    }
}

/// Statements are prepared once. Without the planner's guarantee SQLite prepares one anew whenever a value is bound to it that
/// its plan could depend on, and that is nearly each at each use: 11 % of the processor's time in bench W4 (`perf`).
fn keep_statements(file: &Connection) -> rusqlite::Result<()> {
    file.set_prepared_statement_cache_capacity(64);
    file.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// The one connection that writes.
pub(super) fn connect_writer(path: &Path) -> rusqlite::Result<Connection> {
    let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    keep_statements(&file)?;
    // FULL: acknowledged means synced. With NORMAL half of the power cuts lost acknowledged commits.
    file.execute_batch(
        "PRAGMA busy_timeout=5000; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA fullfsync=ON;
         PRAGMA checkpoint_fullfsync=ON; PRAGMA cache_size=-65536; PRAGMA temp_store=MEMORY;
         PRAGMA wal_autocheckpoint=4000; PRAGMA journal_size_limit=67108864;",
    )?;
    Ok(file)
}

/// Writes the log into the file as far as nobody reads from it: how many pages it held when that began. What comes
/// meanwhile is not among them. None: somebody else is writing it.
pub(super) fn checkpoint(file: &Connection) -> rusqlite::Result<Option<u64>> {
    let (held_up, pages) = file.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok((row.get::<_, i64>(0)? != 0, row.get::<_, i64>(1)?))
    })?;
    Ok((!held_up).then(|| u64::try_from(pages).unwrap_or(0)))
}

/// Writes the file anew without its free pages.
pub(super) fn compact(path: &Path) -> rusqlite::Result<()> {
    let file = connect_writer(path)?;
    file.execute_batch("VACUUM")?;
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    file.close().map_err(|(_, source)| source)
}

/// A connection that only reads.
pub(super) fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    keep_statements(&file)?;
    file.execute_batch("PRAGMA busy_timeout=5000; PRAGMA query_only=ON; PRAGMA cache_size=-16384;")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_given_back_whoever_still_has_a_copy_of_its_lock() {
        let dir = std::env::temp_dir().join(format!("backstop-lock-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let lock = DirLock::take(&dir).expect("free");
        assert!(matches!(DirLock::take(&dir), Err(Error::InUse { .. })));
        let copy = lock.file.try_clone().expect("what a child has before it runs its own program");
        drop(lock);
        drop(DirLock::take(&dir).expect("free again"));
        drop(copy);
        fs::remove_dir_all(&dir).expect("cleared away");
    }
}
