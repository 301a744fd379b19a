//! The pages of an incident: one a channel, stored before they are sent, tried for a day, and stood in for.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::event::{Happening, NewEvent};
use crate::incident::{Incident, Page, PageAction, PageDraft};
use crate::mutant;
use crate::time::Timestamp;

/// The most dead letters a page lists; counts are always complete.
pub const PAGE_DEATHS_MAX: usize = 100;
/// The most characters of a dedup key (PagerDuty's limit).
pub const DEDUP_KEY_MAX: usize = 255;
/// How long a page is tried before it is given up.
pub const PAGE_TRIED_FOR: Duration = Duration::from_secs(24 * 3600);
/// The longest that a channel's word on when to come back is kept to: a call that comes a day late is none.
pub const PAGE_HINT_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a call may stay undelivered on every channel of a step before the next step is called as well.
pub const STAND_IN_AFTER: Duration = Duration::from_secs(300);

/// The same for every page of an incident, at most [`DEDUP_KEY_MAX`] characters: a long team name is cut, not the incident.
#[must_use]
pub fn dedup_key(team: &str, incident: &str) -> String {
    let fixed = "backstop//".len() + incident.chars().count();
    let team: String = team.chars().take(DEDUP_KEY_MAX.saturating_sub(fixed)).collect();
    format!("backstop/{team}/{incident}").chars().take(DEDUP_KEY_MAX).collect()
}

/// Writes a message out: one page a channel. `steps` are the names of the channels of each person on call, in order;
/// without any, the log. A call goes to its own step, everything else to everybody called so far.
#[must_use]
pub fn pages(incident: &Incident, draft: &PageDraft, team: &str, steps: &[Vec<String>], now: Timestamp) -> Vec<Page> {
    let log = [vec!["log".to_owned()]];
    let steps = if steps.iter().all(Vec::is_empty) { &log[..] } else { steps };
    let last = steps.len() - 1;
    let level = usize::try_from(draft.level).unwrap_or(0);
    let called = match draft.action {
        PageAction::Trigger => level % steps.len()..=level % steps.len(),
        PageAction::Update | PageAction::Acknowledge | PageAction::Resolve => 0..=level.min(last),
    };
    let mut shown = incident.clone();
    shown.deaths.truncate(PAGE_DEATHS_MAX);
    let mut seen = BTreeSet::new();
    let mut pages = Vec::new();
    for step in called {
        for channel in steps[step].iter().filter(|channel| seen.insert((*channel).clone())) {
            pages.push(Page {
                id: format!("{}.{}.{channel}", incident.id, incident.messages),
                incident: shown.clone(),
                channel: channel.clone(),
                action: draft.action,
                dedup_key: match mutant::on("page-key-changes") {
                    true => dedup_key(team, &format!("{}.{}", incident.id, incident.messages)),
                    false => dedup_key(team, &incident.id),
                },
                again: draft.again,
                level: u32::try_from(step).unwrap_or(u32::MAX),
                due: now,
                tries: 0,
                delivered_at: None,
                last_error: None,
                abandoned: false,
            });
        }
    }
    pages
}

/// How long to wait after the n-th try (first = 1) that was not taken: minutes, as PagerDuty asks, for 24 hours in all. By tries
/// and not by the time: a process that was down for a day has not tried, and what fell due meanwhile is sent at the start.
#[must_use]
pub fn next_try(tries: u32) -> Option<Duration> {
    let minutes = |n: u32| match n {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        _ => 5,
    };
    let wait = Duration::from_secs(60 * minutes(tries));
    let so_far: u64 = (1..=tries.min(10_000)).map(|n| 60 * minutes(n)).sum();
    (Duration::from_secs(so_far) <= PAGE_TRIED_FOR).then_some(wait)
}

/// What became of one try to send a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It was taken.
    Taken {
        /// To whom it went.
        to: String,
    },
    /// It may be taken later.
    Later {
        /// What the channel said.
        error: String,
        /// The channel's word on when: a floor, up to [`PAGE_HINT_MAX`].
        retry_after: Option<Duration>,
    },
    /// It will never be taken.
    Never {
        /// What the channel said.
        error: String,
    },
}

/// Writes down what became of a try: the page as it is stored next, and the event of it.
#[must_use]
pub fn tried(page: &Page, how: Tried, now: Timestamp) -> (Page, NewEvent) {
    let mut next = page.clone();
    next.tries += 1;
    let incident = page.incident.id.clone();
    let channel = page.channel.clone();
    let event = match how {
        Tried::Taken { to } => {
            next.delivered_at = Some(now);
            next.last_error = None;
            Happening::PageDelivered { incident, channel, to, again: page.again, action: page.action.to_string() }
        }
        Tried::Later { error, retry_after } => {
            let wait = next_try(next.tries)
                .filter(|_| !mutant::on("page-lost"))
                .map(|wait| wait.max(retry_after.unwrap_or_default().min(PAGE_HINT_MAX)));
            next.abandoned = wait.is_none();
            next.due = wait.map_or(page.due, |wait| now + wait);
            next.last_error = Some(error.clone());
            Happening::PageFailed { incident, channel, error, next: wait.map(|wait| now + wait) }
        }
        Tried::Never { error } => {
            next.abandoned = true;
            next.last_error = Some(error.clone());
            Happening::PageFailed { incident, channel, error, next: None }
        }
    };
    (next, event.into())
}

/// Has a later page of the same incident made this one pointless before it was delivered? Then it is given up, not sent: a
/// trigger that reached PagerDuty after the resolve would call somebody for nothing. An answer or the end does so through
/// whatever channel it goes: a call may stand in for one of another person's.
#[must_use]
pub fn superseded(page: &Page, outbox: &[Page]) -> bool {
    let open = page.delivered_at.is_none() && !page.abandoned;
    let answers = |later: PageAction| matches!(later, PageAction::Acknowledge | PageAction::Resolve);
    let overtakes = |later: &Page| match page.action {
        PageAction::Trigger if answers(later.action) => true,
        PageAction::Trigger => later.action == PageAction::Trigger && later.channel == page.channel,
        PageAction::Update => later.channel == page.channel,
        // A later call begins anew: an answer to the one before would quiet it.
        PageAction::Acknowledge => {
            matches!(later.action, PageAction::Resolve | PageAction::Trigger) && later.channel == page.channel
        }
        PageAction::Resolve => false,
    };
    let later =
        |other: &Page| other.incident.id == page.incident.id && other.incident.messages > page.incident.messages;
    open && outbox.iter().any(|other| later(other) && overtakes(other))
}

/// The last answer or the end of an incident, for those channels that a call went through and it does not: of calls that
/// stood in for others. Without it they keep an alert that nobody ends. `outbox` as for [`stand_ins`]; `sent` holds the
/// names of the pages that are under way, or may have been when the process before this one died.
#[must_use]
pub fn ends(outbox: &[Page], sent: &BTreeSet<String>, now: Timestamp) -> Vec<Page> {
    let answers = |page: &&Page| matches!(page.action, PageAction::Acknowledge | PageAction::Resolve);
    let number = |page: &Page| page.incident.messages;
    let Some(last) = outbox.iter().filter(answers).max_by_key(|page| number(page)) else { return Vec::new() };
    let told = outbox.iter().filter(|page| number(page) == number(last)).map(|page| page.channel.as_str());
    let mut told: BTreeSet<&str> = told.collect();
    // Tried is enough: it may have arrived all the same, or still arrive.
    let tried = |page: &Page| page.delivered_at.is_some() || page.tries > 0 || sent.contains(&page.id);
    let went = |page: &&Page| page.action == PageAction::Trigger && tried(page);
    let calls = outbox.iter().filter(went).filter(|call| number(call) < number(last));
    let untold: Vec<&Page> = calls.filter(|call| told.insert(&call.channel)).collect();
    untold.into_iter().map(|call| through(last, &call.channel, call.level, now)).collect()
}

/// May a page have gone out although nobody noted it? One that is older than this process and was never tried may have been
/// on its way when the one before died.
#[must_use]
pub fn may_have_gone(page: &Page, began: Timestamp) -> bool {
    page.tries == 0 && !page.abandoned && page.due <= began
}

/// Is a call of these on its way? Nobody else is called in its place meanwhile. `sending` as for [`stands_back`].
#[must_use]
pub fn is_calling(outbox: &[Page], sending: &BTreeSet<String>) -> bool {
    outbox.iter().any(|page| page.action == PageAction::Trigger && sending.contains(&page.id))
}

/// A message once more, through another channel.
fn through(message: &Page, channel: &str, level: u32, now: Timestamp) -> Page {
    Page {
        id: format!("{}.{}.{channel}", message.incident.id, message.incident.messages),
        channel: channel.to_owned(),
        level,
        due: now,
        tries: 0,
        delivered_at: None,
        last_error: None,
        abandoned: false,
        ..message.clone()
    }
}

/// Has a page to stand back until another of its incident is through the same channel? One at a time: sent side by side,
/// a resolve may arrive before the trigger that was still on its way, and leave an alert that nobody ends. `sending`
/// holds the names of the pages under way.
#[must_use]
pub fn stands_back<'a>(page: &Page, outbox: impl IntoIterator<Item = &'a Page>, sending: &BTreeSet<String>) -> bool {
    let under_way = |other: &&Page| sending.contains(&other.id) && other.id != page.id;
    let same_way = |other: &Page| other.incident.id == page.incident.id && other.channel == page.channel;
    !mutant::on("pages-side-by-side") && outbox.into_iter().filter(under_way).any(same_way)
}

/// The last call, with every page of it; none once somebody has answered it, or one of them was taken.
fn unanswered(outbox: &[Page]) -> Option<(&Page, Vec<&Page>)> {
    let calls = || outbox.iter().filter(|page| page.action == PageAction::Trigger);
    let last = calls().max_by_key(|page| page.incident.messages)?;
    let message: Vec<&Page> = calls().filter(|page| page.incident.messages == last.incident.messages).collect();
    let answers = |page: &&Page| matches!(page.action, PageAction::Acknowledge | PageAction::Resolve);
    let answered = outbox.iter().filter(answers).any(|page| page.incident.messages > last.incident.messages);
    (!answered && message.iter().all(|page| page.delivered_at.is_none())).then_some((last, message))
}

/// Until when the steps called so far have to take a call: each is given its own time, counted from when the message was
/// written.
fn patience_ends(last: &Page, message: &[&Page]) -> Timestamp {
    let level = message.iter().map(|page| page.level).max().unwrap_or(0);
    let first = message.iter().map(|page| page.level).min().unwrap_or(0);
    last.incident.updated_at + STAND_IN_AFTER * (level - first + 1)
}

/// When [`stand_ins`] has more to say, if nothing else happens: nothing but time makes it so.
#[must_use]
pub fn next_stand_in(outbox: &[Page], steps: &[Vec<String>], now: Timestamp) -> Option<Timestamp> {
    let (last, message) = unanswered(outbox)?;
    let at = patience_ends(last, &message);
    (at > now && !stand_ins(outbox, steps, at).is_empty()).then_some(at)
}

/// Which further channels a call goes through because those of its step do not take it: all other channels as soon as
/// every page of the step is given up, the next step's after [`STAND_IN_AFTER`]. `outbox` holds every page of the
/// incident so far; what is in it already is not written twice.
#[must_use]
pub fn stand_ins(outbox: &[Page], steps: &[Vec<String>], now: Timestamp) -> Vec<Page> {
    let Some((last, message)) = unanswered(outbox) else { return Vec::new() };
    let level = message.iter().map(|page| page.level).max().unwrap_or(0);
    let refused = message.iter().all(|page| page.abandoned);
    let silent = now >= patience_ends(last, &message);
    let next = usize::try_from(level).unwrap_or(0) + 1;
    let mut channels: Vec<(usize, String)> = Vec::new();
    for (step, names) in steps.iter().enumerate() {
        if refused || (silent && step == next) {
            channels.extend(names.iter().map(|name| (step, name.clone())));
        }
    }
    if refused || silent {
        // The last resort, whatever is configured.
        channels.push((next - 1, "log".to_owned()));
    }
    let taken: BTreeSet<&str> = message.iter().map(|page| page.channel.as_str()).collect();
    let mut seen = BTreeSet::new();
    channels
        .into_iter()
        .filter(|(_, channel)| !taken.contains(channel.as_str()) && seen.insert(channel.clone()))
        .map(|(step, channel)| through(last, &channel, u32::try_from(step).unwrap_or(u32::MAX), now))
        .collect()
}
