//! Sending dead letters round again: selected, slowly, oldest first, and stopped by itself when it does not help.

//!
//! A [`Plan`] is the dry run: made of the same function that the replay itself uses, so what it says is what happens.
//! A [`Replay`] is a document; [`step`] looks at it, releases at most one letter and says when to look again. It is
//! stored *before* its letter is sent round, with the round the letter will be in: whoever finds it after a crash sees
//! by the record's round whether that was done (see [`fate`]), and releases nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::{Happening, NewEvent};
use crate::ledger::REPLAYS_MAX;
use crate::query::{Filter, NotOfLetters, Unreadable};
use crate::record::{Letter, LetterStatus, Record, State};
use crate::task::{AgentName, Effect, TaskId, words};
use crate::time::Timestamp;

/// What somebody wants replayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayAsk {
    /// Which dead letters. An empty filter is refused without `all`.
    #[serde(default)]
    pub filter: Filter,
    /// Every open dead letter is meant.
    #[serde(default)]
    pub all: bool,
    /// How many a second (seed A: 10).
    #[serde(default = "ten")]
    pub rate: f64,
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Payments named one by one by `by`, a person; others are left for a person.
    #[serde(default)]
    pub payments: Vec<TaskId>,
    /// Words added to every prompt.
    #[serde(default)]
    pub amendment: Option<String>,
    /// The payload's field that names a business key, such as `order_id`: letters with the same value are replayed in
    /// the order they were submitted, the next only after the one before has ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// The share of failures at which it stops by itself, above 0 and at most 1.
    #[serde(default = "a_fifth")]
    pub abort_rate: f64,
    /// Of how many first results that share is taken, besides any [`ABORT_WINDOW`] in a row. Turned up: a replay that
    /// does not help burns more before it stops.
    #[serde(default = "twenty")]
    pub abort_min: u32,
}

impl ReplayAsk {
    /// Everything that is open and matches, with the defaults.
    #[must_use]
    pub fn new(filter: Filter, by: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            filter,
            all: false,
            rate: ten(),
            by: by.into(),
            reason: reason.into(),
            payments: Vec::new(),
            amendment: None,
            ordering_key: None,
            abort_rate: a_fifth(),
            abort_min: twenty(),
        }
    }
}

const fn ten() -> f64 {
    10.0
}

const fn a_fifth() -> f64 {
    0.2
}

const fn twenty() -> u32 {
    20
}

/// The sliding count of results the abort rule looks at once there are more than the first few.
pub const ABORT_WINDOW: usize = 100;
/// The most letters released in a second, whatever is asked.
pub const RATE_MAX: f64 = 1_000.0;
/// The fewest: a little less than one a day. A slower replay is one that was forgotten.
pub const RATE_MIN: f64 = 0.000_01;

/// Can a replay keep this many letters a second?
#[must_use]
pub fn is_rate(rate: f64) -> bool {
    (RATE_MIN..=RATE_MAX).contains(&rate)
}

words! {
    /// What would become of one dead letter in a replay.
    Verdict, "verdict", "replay, needs-person, answer-first, no-agent, resolved, replays-used-up, already-replaying, after-failed" {
        /// It would be sent again.
        Replay = "replay",
        /// A payment: a person must name it.
        NeedsPerson = "needs-person",
        /// Nobody knows whether a call of it happened: a person says so first (`backstop task outcome`), and it goes on
        /// by itself.
        AnswerFirst = "answer-first",
        /// No agent can do it any more.
        NoAgent = "no-agent",
        /// It is resolved, discarded or running again already.
        Resolved = "resolved",
        /// Replayed as often as it may be.
        ReplaysUsedUp = "replays-used-up",
        /// Another replay has it.
        AlreadyReplaying = "already-replaying",
        /// Left where it is: an earlier one of the same business key failed again.
        AfterFailed = "after-failed",
    }
}

/// What a replay would do, letter by letter, oldest first. Making one changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Each letter and its fate.
    pub entries: Vec<(TaskId, Verdict)>,
    /// The business keys of letters that share one with another.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<TaskId, String>,
    /// Letters that are chosen and cannot be read: nothing becomes of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<Unreadable>,
}

impl Plan {
    /// How many have this fate.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.entries.iter().filter(|(_, fate)| *fate == verdict).count()
    }

    /// Those that would be sent again, in order.
    pub fn chosen(&self) -> impl Iterator<Item = TaskId> {
        self.entries.iter().filter(|(_, fate)| *fate == Verdict::Replay).map(|(id, _)| *id)
    }
}

/// Why a replay is not begun.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayRefused {
    /// Nothing was selected, which selects everything.
    #[error("an empty filter means every dead letter; say so with `all`")]
    EmptyFilter,
    /// It asks what no dead letter answers.
    #[error(transparent)]
    Filter(#[from] NotOfLetters),
    /// Not a rate.
    #[error("rate {0} is not a rate; write letters per second, from 0.00001 (one a day) to 1000")]
    BadRate(f64),
    /// Not a share.
    #[error("abort_rate {0} is not a share; write a number above 0 and at most 1")]
    BadAbortRate(f64),
    /// Nobody to name.
    #[error("`{0}` must not be empty: a replay is remembered with who asked for it and why")]
    Missing(&'static str),
    /// It has ended, or is already so.
    #[error("{replay} is {state}")]
    WrongState {
        /// Which replay.
        replay: String,
        /// Where it stands.
        state: ReplayState,
    },
}

/// Is this something that can be done?
///
/// # Errors
/// Says what is wrong with it.
pub fn check(ask: &ReplayAsk) -> Result<(), ReplayRefused> {
    if ask.by.trim().is_empty() {
        return Err(ReplayRefused::Missing("by"));
    }
    if ask.reason.trim().is_empty() {
        return Err(ReplayRefused::Missing("reason"));
    }
    ask.filter.asks_letters()?;
    if !ask.filter.chooses_letters() && !ask.all {
        return Err(ReplayRefused::EmptyFilter);
    }
    if !is_rate(ask.rate) {
        return Err(ReplayRefused::BadRate(ask.rate));
    }
    if !(ask.abort_rate > 0.0 && ask.abort_rate <= 1.0) {
        return Err(ReplayRefused::BadAbortRate(ask.abort_rate));
    }
    Ok(())
}

/// What would become of each of these dead letters: changes nothing. Records the filter does not select are left out.
/// `capable` says whether any agent could do it now; `taken` are the letters that are not free for it.
#[must_use]
pub fn plan(ask: &ReplayAsk, records: &[Record], capable: &dyn Fn(&Record) -> bool, taken: &Taken) -> Plan {
    let mut chosen: Vec<&Record> = records.iter().filter(|record| ask.filter.matches_letter(record)).collect();
    chosen.sort_by_key(|record| (record.letter.as_ref().map(|letter| letter.first_at), record.task.id));
    let keys = shared_keys(ask, &chosen);
    in_key_order(&mut chosen, &keys);
    let entries = chosen.iter().map(|record| (record.task.id, verdict(ask, record, capable(record), taken))).collect();
    Plan { entries, keys, unreadable: Vec::new() }
}

/// The dead letters that are not free for a replay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken {
    /// Those other replays have.
    pub busy: BTreeSet<TaskId>,
    /// Those with a call of which nobody knows whether it happened.
    pub in_doubt: BTreeSet<TaskId>,
}

/// What would become of this dead letter now. Looked at in the plan and once more when its turn comes.
#[must_use]
pub fn verdict(ask: &ReplayAsk, record: &Record, capable: bool, taken: &Taken) -> Verdict {
    let status = record.letter.as_ref().map(|letter| letter.status);
    if taken.busy.contains(&record.task.id) {
        return Verdict::AlreadyReplaying;
    }
    match (record.state, status) {
        (State::Dead | State::WaitingHuman, Some(LetterStatus::Open | LetterStatus::WithHuman)) => {}
        _ => return Verdict::Resolved,
    }
    // Naming it does not help: whether it is done again hangs on what happened.
    if taken.in_doubt.contains(&record.task.id) {
        return Verdict::AnswerFirst;
    }
    if record.task.effect == Effect::Payment && !ask.payments.contains(&record.task.id) {
        return Verdict::NeedsPerson;
    }
    if record.replays >= REPLAYS_MAX {
        return Verdict::ReplaysUsedUp;
    }
    if capable { Verdict::Replay } else { Verdict::NoAgent }
}

fn shared_keys(ask: &ReplayAsk, records: &[&Record]) -> BTreeMap<TaskId, String> {
    let Some(field) = &ask.ordering_key else { return BTreeMap::new() };
    let mut by_key: BTreeMap<String, Vec<TaskId>> = BTreeMap::new();
    for record in records {
        match record.task.payload.get(field) {
            None | Some(serde_json::Value::Null) => {}
            Some(value) => by_key.entry(value.to_string()).or_default().push(record.task.id),
        }
    }
    let shared = by_key.into_iter().filter(|(_, ids)| ids.len() > 1);
    shared.flat_map(|(key, ids)| ids.into_iter().map(move |id| (id, key.clone()))).collect()
}

/// Letters of one key keep their places in the queue, but stand there in the order they were submitted.
fn in_key_order(records: &mut [&Record], keys: &BTreeMap<TaskId, String>) {
    let mut places: BTreeMap<&String, Vec<usize>> = BTreeMap::new();
    for (place, record) in records.iter().enumerate() {
        if let Some(key) = keys.get(&record.task.id) {
            places.entry(key).or_default().push(place);
        }
    }
    for places in places.into_values() {
        let mut sorted: Vec<&Record> = places.iter().map(|place| records[*place]).collect();
        sorted.sort_by_key(|record| (record.task.created_at, record.task.id));
        for (place, record) in places.into_iter().zip(sorted) {
            records[place] = record;
        }
    }
}

/// Begins a replay: the first letter may go at once.
///
/// # Errors
/// When the ask is not sound.
pub fn start(id: String, ask: ReplayAsk, plan: Plan, now: Timestamp) -> Result<(Replay, Vec<NewEvent>), ReplayRefused> {
    check(&ask)?;
    let mut replay = Replay {
        id,
        state: ReplayState::Running,
        ask,
        started_at: now,
        ended_at: None,
        next_at: now,
        pending: plan.chosen().collect(),
        released: Vec::new(),
        succeeded: Vec::new(),
        failed: Vec::new(),
        left_out: plan.entries.iter().filter(|(_, fate)| *fate != Verdict::Replay).copied().collect(),
        results: Vec::new(),
        note: String::new(),
        anchor: now,
        since_anchor: 0,
        held: None,
        keys: plan.keys,
    };
    if replay.pending.is_empty() {
        replay.end(ReplayState::Finished, "nothing to replay", now);
    }
    let event = replay.changed();
    Ok((replay, vec![event]))
}

words! {
    /// What became of a letter that was released.
    Fate, "fate", "unsent, underway, succeeded, failed, dropped" {
        /// Written down as released, but not sent round yet (a crash lies between): send it now.
        Unsent = "unsent",
        /// Waiting or running.
        Underway = "underway",
        /// Ended well.
        Succeeded = "succeeded",
        /// Back in the dead letter queue, a round later.
        Failed = "failed",
        /// A person cancelled it meanwhile, or somebody else sent it on.
        Dropped = "dropped",
    }
}

/// What became of a letter released into `generation`, as its record tells it.
#[must_use]
pub fn fate(record: &Record, generation: u32) -> Fate {
    match record.state {
        State::Done => Fate::Succeeded,
        State::Cancelled => Fate::Dropped,
        State::Dead | State::WaitingHuman if record.generation >= generation => Fate::Failed,
        // Discarded or resolved before it was sent: it is no dead letter any more.
        State::Dead | State::WaitingHuman if !record.letter.as_ref().is_some_and(Letter::is_open) => Fate::Dropped,
        State::Dead | State::WaitingHuman => Fate::Unsent,
        // Sent round once more by a decision after it failed: that it failed is what counts here. One that was moved while
        // it waited is in a later round, too, and has not failed.
        State::Ready | State::Scheduled | State::Parked | State::Running
            if record.letter.as_ref().is_some_and(|letter| letter.generation >= generation) =>
        {
            Fate::Failed
        }
        State::Ready | State::Scheduled | State::Parked | State::Running => Fate::Underway,
    }
}

/// The letter whose turn it is, as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Which: what [`Replay::turn`] said.
    pub task: TaskId,
    /// The round it is in.
    pub generation: u32,
    /// What would become of it now: see [`verdict`]; [`Verdict::Resolved`] when it is gone.
    pub verdict: Verdict,
    /// Why it must wait: its integration's breaker is open, its gate closed, its agent [`crowded`]. Costs nothing.
    pub held: Option<String>,
}

/// How many letters of a replay wait for one agent at most. New work goes before four in five of them ([`crate::queue`]), but
/// they stand in one line with its retries, which wait behind them. Turned up: an agent with many slots never runs dry.
pub const WAITING_MAX: usize = 20;

/// Why a replay puts no more in line for this agent, if it must not: so many of its letters wait there.
#[must_use]
pub fn crowded(agent: &AgentName, waiting: usize) -> Option<String> {
    (waiting >= WAITING_MAX).then(|| format!("{WAITING_MAX} of its letters wait for {agent}"))
}

/// A letter to be sent round, by `Command::Replay`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Which.
    pub task: TaskId,
    /// Into which round.
    pub generation: u32,
    /// Did the person who asked name this very task? Payments need that.
    pub named_by_person: bool,
}

/// A replay after a look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stepped {
    /// As it is to be stored, before anything is released.
    pub replay: Replay,
    /// What to release then.
    pub release: Option<Release>,
    /// For the feed.
    pub events: Vec<NewEvent>,
    /// When to look again if no result comes in before; never, when absent.
    pub look_at: Option<Timestamp>,
}

/// How soon a held letter is looked at again when nothing else wakes the replay.
const HELD_LOOK: Duration = Duration::from_secs(1);

/// Looks at a replay: takes in what became of released letters ([`Fate::Unsent`] and [`Fate::Underway`] change
/// nothing), stops it when it does not help, releases the letter whose turn it is when it is time. Harmless to call
/// too often.
#[must_use]
pub fn step(replay: &Replay, fates: &[(TaskId, Fate)], turn: Option<Turn>, now: Timestamp) -> Stepped {
    let mut next = replay.clone();
    for (task, fate) in fates {
        next.take_in(*task, *fate);
    }
    let mut release = None;
    if next.state == ReplayState::Running {
        if let Some(why) = next.does_not_help() {
            next.end(ReplayState::Aborted, &why, now);
        } else {
            release = turn.and_then(|turn| next.release(turn, now));
            if next.pending.is_empty() && next.released.is_empty() {
                next.end(ReplayState::Finished, "", now);
            }
        }
    }
    let events = if next.state != replay.state || release.is_some() { vec![next.changed()] } else { Vec::new() };
    let look_at = match (next.state, next.turn()) {
        (ReplayState::Running, Some(_)) if next.held.is_some() => Some(now + HELD_LOOK),
        (ReplayState::Running, Some(_)) => Some(next.next_at.max(now)),
        (ReplayState::Running, None)
        | (ReplayState::Paused | ReplayState::Finished | ReplayState::Cancelled | ReplayState::Aborted, _) => None,
    };
    Stepped { replay: next, release, events, look_at }
}

/// What a person may do to a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayCommand {
    /// Hold it.
    Pause,
    /// Let it go on.
    Resume,
    /// End it; what was not released stays in the queue.
    Cancel,
}

/// Does what a person asks.
///
/// # Errors
/// When it has ended, or is paused or running already.
pub fn command(
    replay: &Replay,
    command: ReplayCommand,
    by: &str,
    now: Timestamp,
) -> Result<(Replay, Vec<NewEvent>), ReplayRefused> {
    let mut next = replay.clone();
    match (command, replay.state) {
        (ReplayCommand::Pause, ReplayState::Running) => {
            next.state = ReplayState::Paused;
            next.note = format!("paused by {by}");
        }
        (ReplayCommand::Resume, ReplayState::Paused) => {
            next.state = ReplayState::Running;
            next.note = String::new();
            next.anchor_at(next.next_at.max(now));
        }
        (ReplayCommand::Cancel, ReplayState::Running | ReplayState::Paused) => {
            next.end(ReplayState::Cancelled, &format!("cancelled by {by}"), now);
        }
        (ReplayCommand::Pause | ReplayCommand::Resume | ReplayCommand::Cancel, state) => {
            return Err(ReplayRefused::WrongState { replay: replay.id.clone(), state });
        }
    }
    let event = next.changed();
    Ok((next, vec![event]))
}

impl Replay {
    /// The letter whose turn it is: the oldest whose business key is not underway.
    #[must_use]
    pub fn turn(&self) -> Option<TaskId> {
        if self.keys.is_empty() {
            return self.pending.first().copied();
        }
        let underway: BTreeSet<&String> = self.released.iter().filter_map(|(task, _)| self.keys.get(task)).collect();
        self.pending.iter().find(|task| self.keys.get(task).is_none_or(|key| !underway.contains(key))).copied()
    }

    /// How many letters it was begun with.
    #[must_use]
    pub fn total(&self) -> usize {
        self.pending.len() + self.sent()
    }

    /// How many were released so far.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.released.len() + self.succeeded.len() + self.failed.len()
    }

    /// Has it ended? Results of what it released may still come in.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, ReplayState::Finished | ReplayState::Cancelled | ReplayState::Aborted)
    }

    fn take_in(&mut self, task: TaskId, fate: Fate) {
        let Some(place) = self.released.iter().position(|(released, _)| *released == task) else { return };
        let failed = match fate {
            Fate::Unsent | Fate::Underway => return,
            Fate::Succeeded => Some(false),
            Fate::Failed => Some(true),
            Fate::Dropped => None,
        };
        self.released.remove(place);
        self.results.extend(failed);
        match failed {
            Some(false) => self.succeeded.push(task),
            Some(true) => {
                self.failed.push(task);
                self.leave_followers(task);
            }
            None => self.left_out.push((task, Verdict::Resolved)),
        }
    }

    /// What comes after a failed one of the same business key would run in the wrong order: it stays.
    fn leave_followers(&mut self, failed: TaskId) {
        let Some(key) = self.keys.get(&failed) else { return };
        let follows = |task: &TaskId| self.keys.get(task) == Some(key);
        let (followers, pending) = self.pending.iter().partition(|task| follows(task));
        let followers: Vec<TaskId> = followers;
        self.pending = pending;
        self.left_out.extend(followers.into_iter().map(|task| (task, Verdict::AfterFailed)));
    }

    /// The abort rule: the share among the first results, or among any hundred in a row. Reached is reached, also
    /// before the last of them is in.
    fn does_not_help(&self) -> Option<String> {
        let first = usize::try_from(self.ask.abort_min.max(1)).unwrap_or(usize::MAX);
        let failures = |results: &[bool]| results.iter().filter(|failed| **failed).count();
        let begin = failures(&self.results[..self.results.len().min(first)]);
        let lately = failures(&self.results[self.results.len().saturating_sub(ABORT_WINDOW)..]);
        let limit = |of: usize| share_of(self.ask.abort_rate, of);
        if begin >= limit(first) {
            Some(format!("{begin} of the first {first} failed again"))
        } else if lately >= limit(ABORT_WINDOW) {
            Some(format!("{lately} of {ABORT_WINDOW} failed again"))
        } else {
            None
        }
    }

    fn release(&mut self, turn: Turn, now: Timestamp) -> Option<Release> {
        if self.turn() != Some(turn.task) {
            return None;
        }
        if turn.verdict != Verdict::Replay {
            self.pending.retain(|task| *task != turn.task);
            self.left_out.push((turn.task, turn.verdict));
            return None;
        }
        if turn.held.is_some() {
            self.held = turn.held;
            return None;
        }
        if self.held.take().is_some() && self.next_at < now {
            self.anchor_at(now);
        }
        if now < self.next_at {
            return None;
        }
        // A little late is caught up with, so that timers do not add up; a whole interval late begins anew, so that
        // there is never a burst.
        if now.since(self.next_at).as_secs_f64() * self.rate() >= 1.0 {
            self.anchor_at(now);
        }
        self.since_anchor += 1;
        self.next_at = self.anchor + Duration::from_secs_f64(f64::from(self.since_anchor) / self.rate());
        self.pending.retain(|task| *task != turn.task);
        let generation = turn.generation + 1;
        self.released.push((turn.task, generation));
        Some(Release { task: turn.task, generation, named_by_person: self.ask.payments.contains(&turn.task) })
    }

    fn rate(&self) -> f64 {
        self.ask.rate.clamp(RATE_MIN, RATE_MAX)
    }

    const fn anchor_at(&mut self, at: Timestamp) {
        self.anchor = at;
        self.since_anchor = 0;
        self.next_at = at;
    }

    fn end(&mut self, state: ReplayState, note: &str, now: Timestamp) {
        self.state = state;
        self.ended_at = Some(now);
        self.held = None;
        self.note = note.to_owned();
    }

    fn changed(&self) -> NewEvent {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let state = self.state.to_string();
        Happening::ReplayChanged {
            replay: self.id.clone(),
            state,
            released: count(self.sent()),
            total: count(self.total()),
        }
        .into()
    }
}

/// How many of `of` make up the share: 20 % of 20 is 4.
fn share_of(share: f64, of: usize) -> usize {
    let of = u32::try_from(of).unwrap_or(u32::MAX);
    (1..=of).find(|n| f64::from(*n) >= share * f64::from(of) - 1e-9).map_or(usize::MAX, |n| n as usize)
}

words! {
    /// Where a replay stands.
    ReplayState, "replay state", "running, paused, finished, cancelled, aborted" {
        /// Releasing letters at its rate.
        Running = "running",
        /// Held by a person.
        Paused = "paused",
        /// All released, all results in.
        Finished = "finished",
        /// Ended by a person; what was not released stays.
        Cancelled = "cancelled",
        /// Ended by itself: too many failed again.
        Aborted = "aborted",
    }
}

/// A replay, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Its name, such as `RPL-1`.
    pub id: String,
    /// Where it stands.
    pub state: ReplayState,
    /// What was asked.
    pub ask: ReplayAsk,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended; none while it has not, or as stored before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// When the next letter may be released.
    pub next_at: Timestamp,
    /// Letters not yet released, oldest first.
    pub pending: Vec<TaskId>,
    /// Letters released whose result is not in: with the round each was released into.
    pub released: Vec<(TaskId, u32)>,
    /// Letters that ended well, in the order of their results.
    pub succeeded: Vec<TaskId>,
    /// Letters that failed again.
    pub failed: Vec<TaskId>,
    /// Letters left out, and why.
    pub left_out: Vec<(TaskId, Verdict)>,
    /// Results in the order they came (`true` = it failed again): what the abort rule reads.
    pub results: Vec<bool>,
    /// Why it is paused or ended, in words.
    #[serde(default)]
    pub note: String,
    /// The point its rate is counted from: the n-th letter since is released n/rate seconds later.
    pub anchor: Timestamp,
    /// How many were released since.
    #[serde(default)]
    pub since_anchor: u32,
    /// What holds its next letter back (an open breaker, a crowded agent), if anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The business keys of letters that share one with another.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<TaskId, String>,
}
