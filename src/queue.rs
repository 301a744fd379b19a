//! Which task goes next: priorities 6 : 3 : 1, tenants in turn, first come first served within.
//!
//! One [`Queues`] holds what waits, by agent; engines keep it in memory beside the records and rebuild it at a start.
//! Inside a class new work and work tried before are two lines, so that the retries of an outage never crowd out
//! what was submitted meanwhile: at most one in five while both wait. First come is first due: new work when it was
//! submitted, a retry when its backoff was over. Holds, stops and deaths of the process move when it is due, and not its
//! place; nor does it lose that when it is moved to another agent while it waits, where it may stand before work of that one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

use crate::record::{Record, State};
use crate::task::{AgentName, Integration, Priority};
use crate::time::Timestamp;

/// How many turns of a round each class has, high first: 6, 3 and 1.
pub const TURNS: [u32; 3] = [6, 3, 1];

/// How many new tasks of a class go between two that were tried before, while both wait.
pub const FRESH_BETWEEN_RETRIES: u32 = 4;

/// A waiting task as the queue sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose turn it is.
    pub agent: AgentName,
    /// How urgent it is.
    pub priority: Priority,
    /// On whose behalf; tasks without a tenant are one tenant.
    pub tenant: String,
    /// Which integration its delivery would call.
    pub integration: Integration,
    /// Was it tried before ([`Record::was_tried`])?
    pub again: bool,
    /// Since when it stands in line: its place there.
    pub since: Timestamp,
    /// When it may be claimed.
    pub due: Timestamp,
    /// When it need not be begun any more.
    pub deadline: Option<Timestamp>,
}

impl Entry {
    /// The entry of a record, if it waits to be claimed.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        match record.state {
            State::Ready | State::Scheduled | State::Parked => Some(Self {
                agent: record.agent.clone(),
                priority: record.task.priority,
                tenant: record.task.tenant.clone().unwrap_or_default(),
                integration: record.integration.clone(),
                again: record.was_tried(),
                since: record.since.unwrap_or(record.due),
                due: record.due,
                deadline: record.task.deadline,
            }),
            State::Running | State::Done | State::Dead | State::WaitingHuman | State::Cancelled => None,
        }
    }
}

/// Everything that waits, by agent, and whose turn it is. Tasks are known by their number in order of submission.
#[derive(Clone, Debug, Default)]
pub struct Queues {
    agents: BTreeMap<AgentName, Queue>,
}

impl Queues {
    /// Begins to wait.
    pub fn enter(&mut self, seq: u64, entry: &Entry) {
        if !self.agents.contains_key(&entry.agent) {
            self.agents.insert(entry.agent.clone(), Queue::default());
        }
        if let Some(queue) = self.agents.get_mut(&entry.agent) {
            queue.enter(seq, entry);
        }
    }

    /// Stops waiting, with the entry it was entered by.
    pub fn leave(&mut self, seq: u64, entry: &Entry) {
        if let Some(queue) = self.agents.get_mut(&entry.agent) {
            queue.leave(seq, entry);
        }
    }

    /// Takes the task that goes next, not calling any of `except`. The turn is spent; the caller must claim it.
    pub fn next(&mut self, agent: &AgentName, now: Timestamp, except: &[Integration]) -> Option<u64> {
        self.agents.get_mut(agent)?.next(now, except)
    }

    /// The first time after `now` at which a wait or a deadline ends.
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let after = (Excluded((now, u64::MAX)), Unbounded);
        self.agents
            .values()
            .flat_map(|queue| {
                let wait = queue.sleeping.range(after).next().map(|(&(due, _), _)| due);
                let deadline = queue.deadlines.range(after).next().map(|&(deadline, _)| deadline);
                wait.into_iter().chain(deadline)
            })
            .min()
    }

    /// Tasks that wait although their deadline has passed (`deadline <= now`), the longest passed first, with that deadline.
    #[must_use]
    pub fn overdue(&self, now: Timestamp) -> Vec<(Timestamp, u64)> {
        let passed = self.agents.values().flat_map(|queue| queue.deadlines.range(..=(now, u64::MAX)));
        let mut passed: Vec<_> = passed.copied().collect();
        passed.sort_unstable();
        passed
    }

    /// Forgets a deadline: it was none of this task's.
    pub fn not_overdue(&mut self, deadline: Timestamp, seq: u64) {
        for queue in self.agents.values_mut() {
            queue.deadlines.remove(&(deadline, seq));
        }
    }
}

/// Tasks of one line, by [`Entry::since`].
type Line = BTreeMap<(Timestamp, u64), Waits>;

/// What of a task in line decides whether it may be claimed.
#[derive(Clone, Copy, Debug)]
struct Waits {
    /// It was due once; by a clock that was set back it may not be.
    due: Timestamp,
    deadline: Option<Timestamp>,
}

/// What waits for one agent.
#[derive(Clone, Debug, Default)]
struct Queue {
    /// Due as far as anybody looked: by (class, tried before), tenant and integration.
    lines: BTreeMap<(Priority, bool), BTreeMap<String, BTreeMap<Integration, Line>>>,
    /// Not due when last looked at.
    sleeping: BTreeMap<(Timestamp, u64), Entry>,
    /// Every deadline of those waiting here.
    deadlines: BTreeSet<(Timestamp, u64)>,
    round: Round,
}

/// The next of one line: since when it stands there, its number, whose it is.
struct Offer {
    since: Timestamp,
    seq: u64,
    tenant: String,
    integration: Integration,
    again: bool,
}

impl Queue {
    fn enter(&mut self, seq: u64, entry: &Entry) {
        self.sleeping.insert((entry.due, seq), entry.clone());
        self.deadlines.extend(entry.deadline.map(|deadline| (deadline, seq)));
    }

    fn leave(&mut self, seq: u64, entry: &Entry) {
        self.sleeping.remove(&(entry.due, seq));
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, seq));
        }
        // From whichever line it stands in: a record that another version of this program wrote down may have entered the
        // other one.
        for again in [entry.again, !entry.again] {
            self.take(seq, entry.since, (entry.priority, again), &entry.tenant, &entry.integration);
        }
    }

    /// Removes a task from its line, and lines and tenants that are empty now.
    fn take(&mut self, seq: u64, since: Timestamp, class: (Priority, bool), tenant: &str, integration: &Integration) {
        let Some(tenants) = self.lines.get_mut(&class) else { return };
        let Some(integrations) = tenants.get_mut(tenant) else { return };
        let Some(line) = integrations.get_mut(integration) else { return };
        line.remove(&(since, seq));
        if line.is_empty() {
            integrations.remove(integration);
        }
        if integrations.is_empty() {
            tenants.remove(tenant);
        }
    }

    /// Those whose wait has ended stand in line from now on.
    fn wake(&mut self, now: Timestamp) {
        while let Some(first) = self.sleeping.first_entry().filter(|first| first.key().0 <= now) {
            let ((due, seq), entry) = first.remove_entry();
            let key = (entry.since, seq);
            self.lines
                .entry((entry.priority, entry.again))
                .or_default()
                .entry(entry.tenant)
                .or_default()
                .entry(entry.integration)
                .or_default()
                .insert(key, Waits { due, deadline: entry.deadline });
        }
    }

    fn next(&mut self, now: Timestamp, except: &[Integration]) -> Option<u64> {
        self.wake(now);
        let mut offers = Priority::ALL.iter().map(|&class| self.offer(class, now, except)).collect::<Vec<_>>();
        let turn = self.round.turn(&offers.iter().map(Option::is_some).collect::<Vec<_>>())?;
        let (offer, class) = (offers.swap_remove(turn)?, Priority::ALL[turn]);
        self.take(offer.seq, offer.since, (class, offer.again), &offer.tenant, &offer.integration);
        self.round.served(turn, offer.again, offer.tenant);
        Some(offer.seq)
    }

    /// The next of one class: the one that stands there longest, unless it was tried before and such have had their share.
    fn offer(&self, class: Priority, now: Timestamp, except: &[Integration]) -> Option<Offer> {
        let fresh = self.offer_of(class, false, now, except);
        let again = self.offer_of(class, true, now, except);
        match (fresh, again) {
            (Some(fresh), Some(again)) => {
                let first = (again.since, again.seq) < (fresh.since, fresh.seq);
                if first && self.round.retry_has_share(class) { Some(again) } else { Some(fresh) }
            }
            (fresh, again) => fresh.or(again),
        }
    }

    fn offer_of(&self, class: Priority, again: bool, now: Timestamp, except: &[Integration]) -> Option<Offer> {
        let tenants = self.lines.get(&(class, again))?;
        let last = self.round.last_tenant(class, again);
        let after = tenants.range::<str, _>((Excluded(last), Unbounded));
        after.chain(tenants.range::<str, _>((Unbounded, Included(last)))).find_map(|(tenant, integrations)| {
            integrations
                .iter()
                .filter(|(integration, _)| !except.contains(integration))
                .filter_map(|(integration, line)| {
                    // Past its deadline it is no offer; it leaves when somebody gives it up.
                    let begins =
                        |waits: &Waits| waits.due <= now && waits.deadline.is_none_or(|deadline| deadline > now);
                    let (&(since, seq), _) = line.iter().find(|(_, waits)| begins(waits))?;
                    let (tenant, integration) = (tenant.clone(), integration.clone());
                    Some(Offer { since, seq, tenant, integration, again })
                })
                .min_by_key(|offer| (offer.since, offer.seq))
        })
    }
}

/// Whose turn it is at one agent: turns left of the round, and who was served last.
///
/// A class that has nothing waiting lends its turns and takes them back when something comes, so that a high task
/// goes next unless high tasks have just had theirs. The turn of the lowest class ends the round: it never waits
/// for more than the nine turns above it.
#[derive(Clone, Debug)]
struct Round {
    left: [u32; 3],
    fresh_since_retry: [u32; 3],
    last_tenant: [[String; 2]; 3],
}

impl Default for Round {
    fn default() -> Self {
        Self { left: TURNS, fresh_since_retry: [FRESH_BETWEEN_RETRIES; 3], last_tenant: Default::default() }
    }
}

impl Round {
    /// The class that goes next among those with something waiting; takes its turn.
    fn turn(&mut self, waiting: &[bool]) -> Option<usize> {
        if !waiting.contains(&true) {
            return None;
        }
        let with_turns = |left: &[u32; 3]| (0..3).find(|&class| waiting[class] && left[class] > 0);
        let class = with_turns(&self.left).or_else(|| {
            self.left = TURNS;
            with_turns(&self.left)
        })?;
        self.left[class] -= 1;
        if class == 2 && self.left[class] == 0 {
            self.left = TURNS;
        }
        Some(class)
    }

    fn served(&mut self, class: usize, again: bool, tenant: String) {
        self.fresh_since_retry[class] = if again { 0 } else { self.fresh_since_retry[class].saturating_add(1) };
        self.last_tenant[class][usize::from(again)] = tenant;
    }

    fn retry_has_share(&self, class: Priority) -> bool {
        self.fresh_since_retry[class as usize] >= FRESH_BETWEEN_RETRIES
    }

    fn last_tenant(&self, class: Priority, again: bool) -> &str {
        &self.last_tenant[class as usize][usize::from(again)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(priority: Priority, tenant: &str, due: i64) -> Entry {
        Entry {
            agent: AgentName::new("cto").expect("a name"),
            priority,
            tenant: tenant.to_owned(),
            integration: Integration::new("anthropic").expect("a name"),
            again: false,
            since: Timestamp::from_millis(due),
            due: Timestamp::from_millis(due),
            deadline: None,
        }
    }

    /// Enters each with its index as its number, then takes all that are due at `now`.
    fn order(entries: &[Entry], now: i64, except: &[Integration]) -> Vec<u64> {
        let mut queues = Queues::default();
        for (seq, entry) in (0..).zip(entries) {
            queues.enter(seq, entry);
        }
        let agent = AgentName::new("cto").expect("a name");
        std::iter::from_fn(|| queues.next(&agent, Timestamp::from_millis(now), except)).collect()
    }

    #[test]
    fn first_due_goes_first_and_what_is_not_due_waits() {
        let entries = [("", 5), ("", 0), ("", 0), ("", 11)].map(|(tenant, due)| entry(Priority::Normal, tenant, due));
        assert_eq!(order(&entries, 10, &[]), [1, 2, 0]);
    }

    #[test]
    fn a_round_is_six_three_one() {
        let entries: Vec<_> =
            Priority::ALL.iter().flat_map(|&class| std::iter::repeat_n(entry(class, "", 0), 100)).collect();
        let classes: String =
            order(&entries, 0, &[]).iter().take(20).map(|seq| ["H", "N", "L"][*seq as usize / 100]).collect();
        assert_eq!(classes, "HHHHHHNNNLHHHHHHNNNL");
    }

    #[test]
    fn tenants_take_turns() {
        let entries = ["a", "a", "a", "b", "c", "b"].map(|tenant| entry(Priority::Normal, tenant, 0));
        assert_eq!(order(&entries, 0, &[]), [0, 3, 4, 1, 5, 2]);
    }

    #[test]
    fn retries_are_at_most_one_in_five_while_new_work_waits() {
        let mut entries = vec![entry(Priority::Normal, "", 0); 3];
        entries.iter_mut().for_each(|entry| entry.again = true);
        entries.extend(vec![entry(Priority::Normal, "", 1); 9]);
        assert_eq!(order(&entries, 1, &[]), [0, 3, 4, 5, 6, 1, 7, 8, 9, 10, 2, 11]);
    }

    #[test]
    fn a_retry_waits_for_its_turn_among_the_earlier_due() {
        let mut entries = vec![entry(Priority::Normal, "", 0); 3];
        entries[0].again = true;
        entries[0].since = Timestamp::from_millis(1);
        assert_eq!(order(&entries, 1, &[]), [1, 2, 0]);
    }

    /// Handed back, held or cut off, it is due later than those who came after it, and goes before them all the same.
    #[test]
    fn a_place_is_kept_however_late_it_is_due() {
        let mut entries = [0, 1, 2].map(|since| entry(Priority::Normal, "", since));
        entries[0].due = Timestamp::from_millis(9);
        assert_eq!(order(&entries, 9, &[]), [0, 1, 2]);
        assert_eq!(order(&entries, 8, &[]), [1, 2]);
    }

    /// Found by chaos: a retry that was cut off waited behind a backlog of new work that was there when it was begun, and
    /// had been behind it then.
    #[test]
    fn a_retry_keeps_its_place_among_new_work() {
        let mut entries = [vec![entry(Priority::Normal, "", 5); 2], vec![entry(Priority::Normal, "", 1); 3]].concat();
        entries[..2].iter_mut().for_each(|entry| entry.again = true);
        assert_eq!(order(&entries, 5, &[]), [2, 3, 4, 0, 1]);
        entries[1].since = Timestamp::from_millis(0);
        assert_eq!(order(&entries, 5, &[]), [1, 2, 3, 4, 0]);
    }

    #[test]
    fn what_is_not_due_by_a_clock_set_back_holds_up_nobody() {
        let entries = [0, 1]
            .map(|since| Entry { due: Timestamp::from_millis(9 - 8 * since), ..entry(Priority::Normal, "", since) });
        let mut queues = Queues::default();
        (0..).zip(&entries).for_each(|(seq, entry)| queues.enter(seq, entry));
        let agent = &entries[0].agent;
        assert_eq!(queues.next(agent, Timestamp::from_millis(9), std::slice::from_ref(&entries[0].integration)), None);
        assert_eq!(queues.next(agent, Timestamp::from_millis(5), &[]), Some(1));
        assert_eq!(queues.next(agent, Timestamp::from_millis(5), &[]), None);
        assert_eq!(queues.next(agent, Timestamp::from_millis(9), &[]), Some(0));
    }

    #[test]
    fn a_task_leaves_whichever_line_it_stands_in() {
        for again in [false, true] {
            let mut queues = Queues::default();
            let late =
                |due, since| Entry { again, due: Timestamp::from_millis(due), ..entry(Priority::Normal, "", since) };
            let (waits, another) = (late(1, 0), late(2, 1));
            queues.enter(1, &waits);
            queues.enter(2, &another);
            let woken =
                queues.next(&waits.agent, Timestamp::from_millis(1), std::slice::from_ref(&another.integration));
            assert_eq!(woken, None, "held, and in its line");
            queues.leave(1, &Entry { again: !again, ..waits.clone() });
            assert_eq!(queues.next(&waits.agent, Timestamp::from_millis(2), &[]), Some(2), "{again}");
        }
    }

    #[test]
    fn held_integrations_and_passed_deadlines_are_left_where_they_are() {
        let mut entries = vec![entry(Priority::Normal, "", 0); 3];
        entries[0].integration = Integration::new("openai").expect("a name");
        entries[1].deadline = Some(Timestamp::from_millis(7));
        assert_eq!(order(&entries, 7, &[entries[0].integration.clone()]), [2]);
        assert_eq!(order(&entries, 6, &[]), [0, 1, 2]);

        let mut queues = Queues::default();
        queues.enter(1, &entries[1]);
        assert_eq!(queues.next_due(Timestamp::from_millis(0)), Some(Timestamp::from_millis(7)));
        assert_eq!(queues.overdue(Timestamp::from_millis(6)), []);
        assert_eq!(queues.overdue(Timestamp::from_millis(7)), [(Timestamp::from_millis(7), 1)]);
        queues.leave(1, &entries[1]);
        assert_eq!(queues.overdue(Timestamp::from_millis(7)), []);
        assert_eq!(queues.next(&entries[1].agent, Timestamp::from_millis(6), &[]), None);
    }
}
