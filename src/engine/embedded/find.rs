//! The questions: listings, counts and feeds, as SQL over one read connection.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::row;
use super::store::{HOUR, Trouble, Work, load, of_journal, of_row, readable};
use super::types;
use super::unreadable::UnreadableTasks;
use crate::agent::Incarnation;
use crate::balance::Balance;
use crate::engine::Document;
use crate::event::Event;
use crate::journal::{Spending, Step};
use crate::query::{Cursor, Death, Depth, FailureRate, Filter, Page, PageAsk};
use crate::record::{Record, State};
use crate::task::{AgentName, TaskId};
use crate::time::Timestamp;

pub(super) fn record(db: &Connection, unreadable: &UnreadableTasks, id: TaskId) -> Work<Option<Record>> {
    let mut found = db.prepare_cached("SELECT seq FROM task WHERE id = ?1")?;
    let seq: Option<i64> = found.query_row([id.to_string()], |row| row.get(0)).optional()?;
    seq.map(|seq| load(db, unreadable, unreadable.seq(seq)?)).transpose()
}

pub(super) fn lapsed(
    db: &Connection,
    unreadable: &UnreadableTasks,
    now: Timestamp,
    epoch: u64,
    limit: u32,
) -> Work<Vec<Record>> {
    let over = "SELECT seq FROM task WHERE state = 'running' AND (lease_until <= ?1 OR lease_epoch <> ?2)
                ORDER BY lease_until, seq";
    all(db, unreadable, over, params![now.millis(), epoch], limit as usize)
}

pub(super) fn held_by(
    db: &Connection,
    unreadable: &UnreadableTasks,
    agent: &AgentName,
    incarnation: Option<Incarnation>,
) -> Work<Vec<Record>> {
    let held = "SELECT seq FROM task WHERE state = 'running' AND lease_agent = ?1
                AND (?2 IS NULL OR lease_incarnation = ?2) ORDER BY lease_until, seq";
    all(db, unreadable, held, params![agent.as_str(), incarnation.map(|incarnation| incarnation.0)], usize::MAX)
}

/// So many of these as can be read: those that cannot be take nobody's place.
fn all(
    db: &Connection,
    unreadable: &UnreadableTasks,
    sql: &str,
    params: impl rusqlite::Params,
    limit: usize,
) -> Work<Vec<Record>> {
    let mut found = db.prepare_cached(sql)?;
    let seqs = found.query_map(params, |row| row.get(0))?;
    let read = |seq: rusqlite::Result<i64>| load(db, unreadable, unreadable.seq(seq?)?);
    readable(seqs.map(read), limit)
}

/// Conditions joined by `AND`, with their values.
#[derive(Default)]
struct Where {
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl Where {
    fn also(&mut self, condition: &str, value: impl Into<Value>) {
        self.conditions.push(condition.to_owned());
        self.values.push(value.into());
    }

    fn word(&mut self, column: &str, word: Option<&str>) {
        if let Some(word) = word {
            self.also(&format!("{column} = ?"), word.to_owned());
        }
    }

    fn among(&mut self, column: &str, words: Vec<String>) {
        if !words.is_empty() {
            self.conditions.push(format!("{column} IN ({})", vec!["?"; words.len()].join(", ")));
            self.values.extend(words.into_iter().map(Value::from));
        }
    }

    /// What tasks and dead letters have in common; `at` is the column of the time asked for. Of
    /// `found_by`, the choosiest first, only the first that is asked for may be looked up by its index (a `+` before the
    /// others says so to SQLite, which knows no figures and might walk through every open letter for the one agent);
    /// without it SQLite chooses.
    fn filter(&mut self, filter: &Filter, at: &str, found_by: Option<&[&str]>) {
        let status = filter.status.first().filter(|_| filter.status.len() == 1).map(ToString::to_string);
        let indexed = [
            ("kind", filter.kind.map(|word| word.as_str())),
            ("type", filter.task_type.as_ref().map(|name| name.as_str())),
            ("agent", filter.agent.as_ref().map(AgentName::as_str)),
            ("class", filter.class.map(|word| word.as_str())),
            ("status", status.as_deref()),
        ];
        let first = |by: &[&str]| indexed.iter().find(|(column, word)| word.is_some() && by.contains(column));
        let first = found_by.map(|by| first(by).map(|(column, _)| *column));
        for (column, word) in indexed {
            let looked_up = first.is_none_or(|first| first == Some(column));
            let plus = if looked_up { "" } else { "+" };
            self.word(&format!("{plus}{column}"), word);
        }
        self.word("integration", filter.integration.as_ref().map(|name| name.as_str()));
        self.word("effect", filter.effect.map(|word| word.as_str()));
        self.word("priority", filter.priority.map(|word| word.as_str()));
        self.among("state", filter.states.iter().map(ToString::to_string).collect());
        if filter.status.len() > 1 {
            self.among("+status", filter.status.iter().map(ToString::to_string).collect());
        }
        self.among("id", filter.ids.iter().map(ToString::to_string).collect());
        if let Some(since) = filter.since {
            self.also(&format!("{at} >= ?"), since.millis());
        }
        if let Some(until) = filter.until {
            self.also(&format!("{at} < ?"), until.millis());
        }
        if let Some(text) = filter.folded_text() {
            self.also("instr(folded, ?) > 0", text);
        }
    }

    /// Says in the words of a partial index what follows from the filter, so that SQLite may use it: what waits, runs,
    /// is over or has failed is rare among all tasks. The dispatcher asks for what waits at every turn. By what to sort:
    /// what runs is few, and sorted after it is found.
    fn rare(&mut self, filter: &Filter) -> &'static str {
        let all =
            |states: &[State]| !filter.states.is_empty() && filter.states.iter().all(|state| states.contains(state));
        let mut said = |condition: &str| self.conditions.push(condition.to_owned());
        if all(&[State::Ready, State::Scheduled, State::Parked]) {
            said("state IN ('ready', 'scheduled', 'parked')");
        } else if all(&[State::Running]) {
            said("state = 'running'");
            return "+seq";
        } else if all(&[State::Dead, State::WaitingHuman, State::Cancelled]) {
            said("state IN ('dead', 'waiting-human', 'cancelled')");
        } else if asks_for_failure(filter) {
            said("kind IS NOT NULL");
        }
        "seq"
    }

    fn sql(&self) -> String {
        if self.conditions.is_empty() { "true".to_owned() } else { self.conditions.join(" AND ") }
    }
}

fn asks_for_failure(filter: &Filter) -> bool {
    filter.kind.is_some() || filter.class.is_some() || filter.folded_text().is_some()
}

pub(super) fn records(
    db: &Connection,
    unreadable: &UnreadableTasks,
    filter: &Filter,
    page: &PageAsk,
) -> Work<Page<Record>> {
    let mut wanted = Where::default();
    // What failed is looked through in an index that holds all that is asked of it.
    let among_failed = filter.states.is_empty() && asks_for_failure(filter);
    wanted.filter(filter, "created_at", among_failed.then_some(&[]));
    let by = wanted.rare(filter);
    if let Some(by) = filter.due_by {
        wanted.also("due <= ?", by.millis());
    }
    let after = match page.cursor()? {
        None => None,
        Some(Cursor::Task(seq)) => Some(seq),
        Some(Cursor::Letter(..)) => return Err(page.bad_cursor().into()),
    };
    let (mut from, mut to) = (None, None);
    if let Some(task_type) = &filter.task_type {
        let Some((first, last)) = types::between(db, task_type)? else {
            return Ok(Page { items: Vec::new(), next: None, unreadable: Vec::new() });
        };
        // Where an index leads to what is asked, it leads there sooner.
        if filter.states.is_empty() && filter.agent.is_none() && filter.ids.is_empty() && !among_failed {
            (from, to) = (Some(first), Some(last));
        }
    }
    // One bound at each end: of two SQLite looks up one, and walks to the other.
    match after {
        None => {}
        Some(seq) if page.oldest_first => from = from.max(Some(seq.saturating_add(1))),
        Some(seq) => to = Some(to.unwrap_or(u64::MAX).min(seq.saturating_sub(1))),
    }
    if let Some(from) = from {
        wanted.also("seq >= ?", seq_value(from));
    }
    if let Some(to) = to {
        wanted.also("seq <= ?", seq_value(to));
    }
    let (_, order) = direction(page);
    let sql = format!("SELECT 0, seq FROM task WHERE {} ORDER BY {by} {order} LIMIT ?", wanted.sql());
    listing(db, unreadable, &sql, wanted, page, |(_, seq)| Cursor::Task(seq))
}

pub(super) fn dead_letters(
    db: &Connection,
    unreadable: &UnreadableTasks,
    filter: &Filter,
    page: &PageAsk,
) -> Work<Page<Record>> {
    let mut wanted = Where::default();
    wanted.filter(filter, "at", Some(&["kind", "type", "agent", "class", "status"]));
    let (before, order) = direction(page);
    match page.cursor()? {
        None => {}
        Some(Cursor::Letter(at, seq)) => {
            wanted.also(&format!("(at, seq) {before} (?, ?)"), at.millis());
            wanted.values.push(seq_value(seq));
        }
        Some(Cursor::Task(_)) => return Err(page.bad_cursor().into()),
    }
    let sql = format!("SELECT at, seq FROM letter WHERE {} ORDER BY at {order}, seq {order} LIMIT ?", wanted.sql());
    listing(db, unreadable, &sql, wanted, page, |(at, seq)| Cursor::Letter(Timestamp::from_millis(at), seq))
}

const fn direction(page: &PageAsk) -> (&'static str, &'static str) {
    if page.oldest_first { (">", "ASC") } else { ("<", "DESC") }
}

fn seq_value(seq: u64) -> Value {
    Value::from(i64::try_from(seq).unwrap_or(i64::MAX))
}

fn listing(
    db: &Connection,
    tasks: &UnreadableTasks,
    sql: &str,
    mut wanted: Where,
    page: &PageAsk,
    cursor: impl Fn((i64, u64)) -> Cursor,
) -> Work<Page<Record>> {
    // One more than asked for tells whether there is another page.
    wanted.values.push(Value::from(i64::try_from(page.size() + 1).unwrap_or(i64::MAX)));
    let mut keys: Vec<(i64, i64)> = db
        .prepare_cached(sql)?
        .query_map(params_from_iter(wanted.values), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let more = keys.len() > page.size();
    keys.truncate(page.size());
    let last = keys.iter().rev().find_map(|(at, seq)| Some((*at, u64::try_from(*seq).ok()?)));
    let next = last.filter(|_| more).map(|key| cursor(key).to_string());
    let (mut items, mut unreadable) = (Vec::with_capacity(keys.len()), Vec::new());
    for (_, seq) in keys {
        match tasks.seq(seq).and_then(|seq| load(db, tasks, seq)) {
            Ok(record) => items.push(record),
            Err(Trouble::Unreadable(one)) => unreadable.push(one),
            Err(failed) => return Err(failed),
        }
    }
    Ok(Page { items, next, unreadable })
}

pub(super) fn deaths(db: &Connection, unreadable: &UnreadableTasks, since: Timestamp) -> Work<Vec<Death>> {
    let sql = "SELECT n, at, task, generation, agent, type, class, kind, integration FROM death
               WHERE at > ?1 ORDER BY at, n";
    let death = |row: &Row<'_>| {
        Ok(Death {
            at: row::time(row, 1)?,
            task: row::word(row, 2)?,
            generation: row.get(3)?,
            agent: row::word(row, 4)?,
            task_type: row::word(row, 5)?,
            class: row::word(row, 6)?,
            kind: row::word(row, 7)?,
            integration: row::word_or_none(row, 8)?,
        })
    };
    unreadable.all_but(db, "death", (sql, [since.millis()]), |row| death(row).map_err(of_row))
}

/// Whole hours come from the roll-ups, the hour that `since` lies in from the failures themselves: exact, and fast
/// however wide the window.
pub(super) fn failure_rates(db: &Connection, unreadable: &UnreadableTasks, since: Timestamp) -> Work<Vec<FailureRate>> {
    let hour = since.millis().div_euclid(HOUR);
    let sql = "SELECT agent, type, class, CAST(total(failures) AS INTEGER) FROM (
                 SELECT agent, type, class, failures FROM failure_hour WHERE hour > ?1
                 UNION ALL
                 SELECT agent, type, class, count(*) FROM failure WHERE at > ?2 AND at < ?3 GROUP BY 1, 2, 3
               ) GROUP BY 1, 2, 3";
    let rate = |row: &Row<'_>| {
        Ok(FailureRate {
            agent: row::word(row, 0)?,
            task_type: row::word(row, 1)?,
            class: row::word(row, 2)?,
            failures: row.get(3)?,
        })
    };
    let end_of_hour = hour.saturating_add(1).saturating_mul(HOUR);
    let asked = (sql, [hour, since.millis(), end_of_hour]);
    let mut rates = unreadable.all_but(db, "failures of", asked, |row| rate(row).map_err(of_row))?;
    rates.sort_by(|a, b| (&a.agent, &a.task_type, a.class).cmp(&(&b.agent, &b.task_type, b.class)));
    Ok(rates)
}

pub(super) fn depths(db: &Connection, unreadable: &UnreadableTasks) -> Work<Vec<Depth>> {
    let depth =
        |row: &Row<'_>| Ok(Depth { agent: row::word(row, 0)?, state: row::word::<State>(row, 1)?, tasks: row.get(2)? });
    let sql = "SELECT agent, state, tasks FROM depth WHERE tasks > 0";
    let mut depths = unreadable.all_but(db, "count of", (sql, []), |row| depth(row).map_err(of_row))?;
    depths.sort_by(|a, b| (&a.agent, a.state).cmp(&(&b.agent, b.state)));
    Ok(depths)
}

pub(super) fn balance(db: &Connection, unreadable: &UnreadableTasks) -> Work<Balance> {
    let mut balance = Balance::default();
    for depth in depths(db, unreadable)? {
        balance.add_many(depth.state, depth.tasks);
    }
    let mut pruned = db.prepare_cached("SELECT max(CAST(total(tasks) AS INTEGER), 0) FROM pruned")?;
    balance.add_pruned(pruned.query_row([], |row| row.get(0))?);
    Ok(balance)
}

/// How many bytes of the file hold something; freed pages are used again.
pub(super) fn bytes(db: &Connection) -> Work<u64> {
    let number = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, u64>(0));
    Ok((number("page_count")?.saturating_sub(number("freelist_count")?)).saturating_mul(number("page_size")?))
}

pub(super) fn events(db: &Connection, unreadable: &UnreadableTasks, after: u64, limit: u32) -> Work<Vec<Event>> {
    let sql = "SELECT event.seq, event.at, task.id, event.what FROM event LEFT JOIN task ON task.seq = event.task
               WHERE event.seq > ?1 ORDER BY event.seq";
    feed(db, unreadable, (sql, [i64::try_from(after).unwrap_or(i64::MAX)]), limit as usize)
}

pub(super) fn history(db: &Connection, unreadable: &UnreadableTasks, id: TaskId) -> Work<Vec<Event>> {
    let sql = "SELECT event.seq, event.at, task.id, event.what FROM task JOIN event ON event.task = task.seq
               WHERE task.id = ?1 ORDER BY event.seq";
    feed(db, unreadable, (sql, params![id.to_string()]), usize::MAX)
}

fn feed(
    db: &Connection,
    unreadable: &UnreadableTasks,
    asked: (&str, impl rusqlite::Params),
    limit: usize,
) -> Work<Vec<Event>> {
    unreadable.some_but(db, "event", asked, limit, |row| {
        let (seq, at) = (row.get(0).map_err(of_row)?, row::time(row, 1).map_err(of_row)?);
        let task = row::word_or_none(row, 2).map_err(of_row)?;
        Ok(Event { seq, at, task, what: row::json(row, 3)? })
    })
}

pub(super) fn steps(db: &Connection, unreadable: &UnreadableTasks, id: TaskId) -> Work<Vec<Step>> {
    let mut found = db.prepare_cached(
        "SELECT step.step FROM task JOIN step ON step.task = task.seq WHERE task.id = ?1 ORDER BY step.number",
    )?;
    let mut rows = found.query([id.to_string()])?;
    let mut steps = Vec::new();
    while let Some(row) = rows.next()? {
        match row::json(row, 0) {
            Err(Trouble::Damaged(why)) => {
                return Err(Trouble::Unreadable(unreadable.note(&id.to_string(), &of_journal(&why))));
            }
            read => steps.push(read?),
        }
    }
    Ok(steps)
}

pub(super) fn spendings(db: &Connection, unreadable: &UnreadableTasks, since: Timestamp) -> Work<Vec<Spending>> {
    let sql = "SELECT task.id, step.at, step.agent, step.counted FROM step JOIN task ON task.seq = step.task
               WHERE step.counted > 0 AND step.at > ?1 ORDER BY step.at, task.id";
    let spending = |row: &Row<'_>| {
        Ok(Spending {
            task: row::word(row, 0)?,
            at: row::time(row, 1)?,
            agent: row::word(row, 2)?,
            micro_usd: row.get(3)?,
        })
    };
    unreadable.all_but(db, "spending of", (sql, [since.millis()]), |row| spending(row).map_err(of_row))
}

pub(super) fn documents(db: &Connection, unreadable: &UnreadableTasks, kind: &str) -> Work<Vec<Document>> {
    let sql = "SELECT key, version, body FROM document WHERE kind = ?1 ORDER BY key";
    unreadable.all_but(db, kind, (sql, [kind]), |row| {
        let (key, version) = (row.get(0).map_err(of_row)?, row.get(1).map_err(of_row)?);
        Ok(Document { kind: kind.to_owned(), key, version, body: row::json(row, 2)? })
    })
}
