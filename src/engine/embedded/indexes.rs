//! Indexes that do not fit their tables: doubted by whoever met one, made anew once by the only one who can write.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::schema::connect_writer;

/// Whether a failure says that an index does not fit its table, or a page of the file is no such thing.
pub(super) fn is_corrupt(failed: &rusqlite::Error) -> bool {
    failed.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt)
}

/// What is known of the indexes in this run of the process.
#[derive(Debug, Default)]
pub(super) struct Indexes(Mutex<Known>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    /// Nothing that speaks against them.
    #[default]
    Sound,
    /// Somebody met one that may not fit.
    Doubted,
    /// They could not be made anew: no room, perhaps.
    NotYet,
    /// What fails now is a page of a table: that helps nobody a second time, and only who touches it fails.
    MadeAnew,
}

impl Indexes {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A question failed. It is asked again at any time, so it is no reason to try again what could not be done before.
    pub(super) fn failed_a_reader(&self, failed: &rusqlite::Error) {
        let mut known = self.known();
        if is_corrupt(failed) && *known == Known::Sound {
            tracing::error!(error = %failed, "the store failed who read it");
            *known = Known::Doubted;
        }
    }

    /// The store failed under the writer.
    pub(super) fn failed_the_writer(&self, failed: &rusqlite::Error) {
        let mut known = self.known();
        if is_corrupt(failed) && *known != Known::MadeAnew {
            *known = Known::Doubted;
        }
    }

    /// Would it help to [`Indexes::mend`] them?
    pub(super) fn doubted(&self) -> bool {
        *self.known() == Known::Doubted
    }

    /// Is it no index that fails whoever is failed now?
    pub(super) fn made_anew(&self) -> bool {
        *self.known() == Known::MadeAnew
    }

    /// Makes them anew if they are doubted, and tells whether it did. Nobody may be in the middle of writing.
    ///
    /// # Errors
    /// When there is no room, or another process writes.
    pub(super) fn mend(&self, path: &Path) -> rusqlite::Result<bool> {
        if !self.doubted() {
            return Ok(false);
        }
        let made = make_anew(path);
        *self.known() = if made.is_ok() { Known::MadeAnew } else { Known::NotYet };
        made.map(|()| true)
    }
}

/// Makes the indexes anew from their tables, one by one: where those are sound, all is well again. Through a connection of its
/// own, which sorts in files: those of a million tasks need not have room in memory.
fn make_anew(path: &Path) -> rusqlite::Result<()> {
    tracing::error!(path = %path.display(), "the store is damaged; its indexes are made anew");
    let file = connect_writer(path)?;
    file.execute_batch("PRAGMA temp_store=FILE")?;
    let mut named = file.prepare("SELECT name FROM sqlite_schema WHERE type = 'index' ORDER BY name")?;
    let names = named.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    for name in names {
        match file.execute_batch(&format!("REINDEX \"{name}\"")) {
            Err(failed) if is_corrupt(&failed) || is_constraint(&failed) => {
                tracing::error!(index = name, error = %failed, "its table is damaged, too, and what lies there lost");
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

fn is_constraint(failed: &rusqlite::Error) -> bool {
    failed.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corrupt() -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None)
    }

    #[test]
    fn what_could_not_be_done_is_tried_again_for_the_writer_and_for_no_question() {
        let indexes = Indexes::default();
        indexes.failed_a_reader(&rusqlite::Error::QueryReturnedNoRows);
        indexes.failed_the_writer(&rusqlite::Error::QueryReturnedNoRows);
        assert!(!indexes.doubted());
        assert!(!indexes.mend(Path::new("/nowhere")).expect("nothing to mend"));
        indexes.failed_a_reader(&corrupt());
        assert!(indexes.doubted());
        indexes.mend(Path::new("/nowhere")).expect_err("there is no such file");
        indexes.failed_a_reader(&corrupt());
        assert!(!indexes.doubted(), "each question would make them anew");
        indexes.failed_the_writer(&corrupt());
        assert!(indexes.doubted());
        *indexes.known() = Known::MadeAnew;
        indexes.failed_the_writer(&corrupt());
        indexes.failed_a_reader(&corrupt());
        assert!(!indexes.doubted(), "once is all that helps");
    }
}
