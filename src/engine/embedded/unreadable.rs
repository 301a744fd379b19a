//! Rows that do not hold what was written, most of them of tasks. Each is told once for each run of the process, and is kept
//! for whoever calls a person; what is done for all others goes on without it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::store::{Trouble, Work};
use crate::query::Unreadable;
use crate::redact::{one_line, redact};

/// How many tasks are kept by name, and other rows. Where more are damaged nobody reads such a list.
const KEPT_MAX: usize = 1_000;
/// The most characters of a reason: it quotes what stands in the row.
const WHY_MAX: usize = 300;

/// Those this run of the process has come across, in that order.
#[derive(Debug, Default)]
pub(super) struct UnreadableTasks {
    noted: Mutex<Vec<Unreadable>>,
    /// Tasks on a page that is no such thing: to look at it again would fail others again.
    lost: Mutex<BTreeMap<u64, Unreadable>>,
}

impl UnreadableTasks {
    /// The task in this row cannot be read.
    pub(super) fn note_row(&self, db: &Connection, seq: u64, why: &dyn Display) -> rusqlite::Result<Unreadable> {
        let mut found = db.prepare_cached("SELECT id FROM task WHERE seq = ?1")?;
        let written = |row: &rusqlite::Row<'_>| Ok(row.get_ref(0)?.as_str().ok().map(str::to_owned));
        // It may not be readable either.
        let id = found.query_row([seq], written).optional()?.flatten();
        Ok(self.note(&id.unwrap_or_else(|| format!("(row {seq})")), why))
    }

    /// The number of a task, from where it stands in a row.
    pub(super) fn seq(&self, stored: i64) -> Work<u64> {
        u64::try_from(stored).map_err(|_| {
            Trouble::Unreadable(self.note(&format!("(row {stored})"), &"it has no number that a task can have"))
        })
    }

    /// Is the page of this row known to be lost?
    pub(super) fn lost(&self, seq: u64) -> Option<Unreadable> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).get(&seq).cloned()
    }

    /// The page of this row is lost.
    pub(super) fn lose(&self, seq: u64, why: &dyn Display) -> Unreadable {
        let one = self.note(&format!("(row {seq})"), why);
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(seq, one.clone());
        one
    }

    /// All that can be read of these rows. Of the others it is noted what they are of, and what stands in their first column.
    pub(super) fn all_but<T>(
        &self,
        db: &Connection,
        what: &str,
        asked: (&str, impl Params),
        read: impl Fn(&Row<'_>) -> Work<T>,
    ) -> Work<Vec<T>> {
        self.some_but(db, what, asked, usize::MAX, read)
    }

    /// So many of them: those that cannot be read take nobody's place.
    pub(super) fn some_but<T>(
        &self,
        db: &Connection,
        what: &str,
        (sql, params): (&str, impl Params),
        limit: usize,
        read: impl Fn(&Row<'_>) -> Work<T>,
    ) -> Work<Vec<T>> {
        let mut found = db.prepare_cached(sql)?;
        let mut rows = found.query(params)?;
        let mut all = Vec::new();
        while all.len() < limit
            && let Some(row) = rows.next()?
        {
            match read(row) {
                Err(Trouble::Damaged(why)) => {
                    let which = match row.get_ref(0)? {
                        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                        ValueRef::Integer(number) => number.to_string(),
                        ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_) => "of no name".to_owned(),
                    };
                    self.note(&format!("({what} {which})"), &why);
                }
                read => all.push(read?),
            }
        }
        Ok(all)
    }

    /// What is named so, a task by its id, cannot be read.
    pub(super) fn note(&self, id: &str, why: &dyn Display) -> Unreadable {
        let one = Unreadable { id: one_line(id, 80), why: one_line(&redact(&why.to_string()), WHY_MAX) };
        let mut kept = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        // Tasks and other rows apart, so that neither takes the place of the other.
        let like = kept.iter().filter(|known| known.id.starts_with('(') == one.id.starts_with('('));
        if like.count() < KEPT_MAX && !kept.iter().any(|known| known.id == one.id) {
            tracing::error!(what = one.id, why = one.why, "a row cannot be read");
            kept.push(one.clone());
        }
        one
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Unreadable> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
