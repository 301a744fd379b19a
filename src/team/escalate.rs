//! Opens incidents and lets them grow: carries out what `escalation.rs` and `incident.rs` decide.
//!
//! Called by the incident actor at every look, and by the root when the CEO is gone. Everything is a compare-and-set
//! over stored documents, so calling it twice does nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::drawer::{self, Stored, Written};
use super::office::Office;
use super::outcome;
use super::root::Part;
use crate::bygone;
use crate::delivery::Hold;
use crate::engine;
use crate::escalation::{self, Rules, Step};
use crate::guard::Stance;
use crate::incident::{self, Home, Incident, IncidentChange, IncidentCommand, IncidentRefused, Opening, Page, Trigger};
use crate::mutant;
use crate::outbox;
use crate::query::{Death, Filter, PageAsk};
use crate::record::{Letter, LetterStatus, Record, State};
use crate::task::TaskId;
use crate::time::Timestamp;

/// The rules of this team.
pub(crate) fn rules(office: &Office) -> Rules {
    let config = &office.config.escalation;
    Rules {
        threshold: config.threshold,
        window: config.window,
        repage_after: config.repage_after,
        repages_max: config.repages_max,
        reminder_after: config.reminder_after,
        ..Rules::default()
    }
}

/// The names of the channels of each person on call.
pub(crate) fn steps(office: &Office) -> Vec<Vec<String>> {
    office.on_call.iter().map(|person| person.channels.iter().map(|(name, _)| name.clone()).collect()).collect()
}

/// Looks at everything that may call a human, and answers when to look again.
pub(crate) async fn look(office: &Office) -> Result<Option<Timestamp>, engine::Error> {
    // In this order: what an integration's own incident explains is not counted a second time.
    bring_up_integrations(office).await?;
    let resting = resting(office);
    let mut found = 0;
    if resting.is_none() {
        found = count_dead_letters(office).await?;
        absorb(office).await?;
    }
    // Before anything ends: a CEO that leaves its work lying is not well again.
    let overdue = watch_the_ceo(office).await?;
    let well = match resting {
        // Whatever changed is looked at then.
        Some(until) => Some(until),
        None => {
            let (waiting, well) = judgements(office).await?;
            rest(office, found.max(waiting));
            well
        }
    };
    remind(office).await?;
    // At the end: all that is read above may come across some.
    bring_up_unreadable(office).await?;
    let incidents = office.kept::<Incident>().await?;
    let reminders =
        incidents.iter().filter_map(|stored| stored.value.standing()).filter_map(|open| escalation::next_at(&open));
    Ok(reminders.chain(overdue).chain(well).min())
}

/// Until when the crowd that was looked through last is left alone; none: nothing is.
fn resting(office: &Office) -> Option<Timestamp> {
    let until = Timestamp::from_millis(office.rests_until.load(Ordering::Acquire));
    (office.now() < until).then_some(until)
}

/// So many were looked through just now.
fn rest(office: &Office, found: usize) {
    if let Some(until) = escalation::rest(found, office.now()) {
        office.rests_until.store(until.millis(), Ordering::Release);
    }
}

/// Where the window begins that counts now.
fn window(rules: &Rules, now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.millis() - i64::try_from(rules.window.as_millis()).unwrap_or(i64::MAX))
}

/// Do so many die that a human is called in any case? The CEO asks at every letter: where the answer stands for a while, the
/// deaths are not read for each.
pub(crate) async fn systemic(office: &Office) -> Result<bool, engine::Error> {
    let (rules, now) = (rules(office), office.now());
    if now < Timestamp::from_millis(office.systemic_until.load(Ordering::Acquire)) {
        return Ok(true);
    }
    let deaths = office.engine.deaths(window(&rules, now)).await?;
    let until = escalation::systemic_until(&deaths, &rules);
    office.systemic_until.store(until.map_or(i64::MIN, Timestamp::millis), Ordering::Release);
    Ok(until.is_some())
}

/// Three in the hour call a human; more of them join. Answers how many there are.
async fn count_dead_letters(office: &Office) -> Result<usize, engine::Error> {
    let (rules, now) = (rules(office), office.now());
    let since = window(&rules, now);
    let since = if mutant::on("window-inclusive") { Timestamp::from_millis(since.millis() - 1) } else { since };
    let mut deaths = office.engine.deaths(since).await?;
    deaths.retain(|death| escalation::counts(&death.task_type));
    if deaths.is_empty() {
        return Ok(0);
    }
    let incidents = values(&office.kept::<Incident>().await?);
    for (incident, deaths) in incident::explained(&incidents, &deaths) {
        append(office, &incident.id, deaths).await?;
    }
    let incidents = values(&office.kept::<Incident>().await?);
    let open = incidents.iter().find(|incident| incident.is_open() && incident.trigger == Trigger::DeadLetters);
    let standing = open.and_then(Incident::standing);
    for step in escalation::judge(&deaths, &incident::counted(&incidents), standing.as_ref(), &rules, now) {
        match (step, open) {
            (Step::Open(deaths), _) => open_one(office, Trigger::DeadLetters, "", deaths, "").await?,
            (Step::Append(deaths), Some(open)) => append(office, &open.id, deaths).await?,
            // Updates and re-pages are timed for all incidents alike, below.
            (Step::Update | Step::Repage | Step::Append(_), _) => {}
        }
    }
    Ok(deaths.len())
}

/// Tasks that wait for a person: those that are in no open incident yet are brought up, and incidents whose tasks wait no
/// more are over. Answers how many wait, and when the next incident may be over.
async fn judgements(office: &Office) -> Result<(usize, Option<Timestamp>), engine::Error> {
    let filter = Filter { states: vec![State::WaitingHuman], ..Filter::default() };
    let waiting = office.every(filter).await?;
    bring_up(office, &waiting).await?;
    let waiting: BTreeSet<(TaskId, u32)> = waiting.iter().map(|record| (record.task.id, record.generation)).collect();
    Ok((waiting.len(), end_what_is_over(office, &waiting).await?))
}

async fn bring_up(office: &Office, waiting: &[Record]) -> Result<(), engine::Error> {
    if waiting.is_empty() {
        return Ok(());
    }
    let mut incidents = values(&office.kept::<Incident>().await?);
    // In one that is over it was before it waited for anybody.
    let open = incidents.iter().filter(|incident| incident.is_open());
    let known: BTreeSet<(TaskId, u32)> = open.flat_map(|incident| incident.deaths.iter().copied()).collect();
    let mut joining: BTreeMap<String, Vec<Death>> = BTreeMap::new();
    for record in waiting {
        let Some(death) = escalation::death_of(record) else { continue };
        if known.contains(&(death.task, death.generation)) {
            continue;
        }
        let subject = match incident::home(&incidents, &death) {
            Home::In(open) => {
                joining.entry(open.id.clone()).or_default().push(death);
                continue;
            }
            Home::Own(subject) => subject,
        };
        let asked = record.decisions.last().map(|decided| decided.reasons.join("; ")).unwrap_or_default();
        open_one(office, Trigger::Judgement, &subject, vec![death], &asked).await?;
        // Read anew: the next may belong to the incident this one opened.
        incidents = values(&office.kept::<Incident>().await?);
    }
    // All of an incident at once: whoever joins has the whole of it written anew.
    for (id, deaths) in joining {
        append(office, &id, deaths).await?;
    }
    Ok(())
}

async fn end_what_is_over(
    office: &Office,
    waiting: &BTreeSet<(TaskId, u32)>,
) -> Result<Option<Timestamp>, engine::Error> {
    let (rules, now) = (rules(office), office.now());
    let mut next: Option<Timestamp> = None;
    for incident in office.kept::<Incident>().await?.iter().map(|stored| &stored.value) {
        // Whoever decides about it now has their word first.
        if office.deciding.about(&incident.id) {
            continue;
        }
        // Parked again within the window, it is the same trouble: an integration whose quota is used up again and again calls
        // once, and not each time. So does a CEO that dies again and again.
        let well = |subject: &str| {
            let since = match incident.trigger {
                Trigger::Integration => {
                    let of = office.guards.integrations().find(|integration| integration.as_str() == subject);
                    of.and_then(|integration| office.guards.well_since(integration, now))
                }
                Trigger::CeoDown => office.well.since(subject),
                Trigger::DeadLetters
                | Trigger::Judgement
                | Trigger::Unreadable
                | Trigger::StoreDown
                | Trigger::Test => None,
            };
            let due = since.map(|at| at + rules.window);
            next = next.into_iter().chain(due.filter(|due| *due > now)).min();
            due.is_some_and(|due| due <= now)
        };
        if let Some(note) = incident::over(incident, waiting, &rules, well) {
            resolve(office, &incident.id, note.to_owned()).await?;
        }
    }
    Ok(next)
}

/// No person does.
async fn resolve(office: &Office, id: &str, note: String) -> Result<(), engine::Error> {
    change(office, id, IncidentCommand::Resolve { by: incident::BY_ITSELF.to_owned(), note }).await
}

/// A CEO that neither decides nor dies: that, too, calls a human. It is well again once no letter is overdue. Answers when the
/// next would be.
async fn watch_the_ceo(office: &Office) -> Result<Option<Timestamp>, engine::Error> {
    let filter = Filter { states: vec![State::Dead], status: vec![LetterStatus::Open], ..Filter::default() };
    let mut page = PageAsk { after: None, limit: 1, oldest_first: true };
    let letter = loop {
        let found = office.engine.dead_letters(filter.clone(), page.clone()).await?;
        if let Some(letter) = found.items.into_iter().find_map(|record| record.letter) {
            break Some(letter);
        }
        page.limit = 200;
        // What cannot be read is brought up by itself; behind it others may wait.
        let Some(next) = found.next else { break None };
        page.after = Some(next);
    };
    let now = office.now();
    let advice = office.config.ceo.adviser.as_ref().map_or(Duration::ZERO, |adviser| adviser.within);
    let overdue = |letter: &Letter| escalation::overdue_at(letter.at, office.under_way.began, advice);
    let next = letter.as_ref().map(overdue);
    let Some(letter) = letter.filter(|letter| overdue(letter) <= now) else {
        // One that is down is well from its next start on.
        if office.ceo.alive() {
            office.well.begin(Part::Ceo, now);
        }
        return Ok(next);
    };
    office.well.end(Part::Ceo);
    let why = format!("a dead letter has waited since {} and nobody decided about it", letter.at);
    open_one(office, Trigger::CeoDown, Part::Ceo.as_str(), Vec::new(), &why).await?;
    Ok(None)
}

/// Tasks that cannot be read: no agent, no rule and no CEO will see to them. Or other rows: what they said is not counted.
async fn bring_up_unreadable(office: &Office) -> Result<(), engine::Error> {
    let found = office.engine.unreadable();
    let new = found.get(office.called_for.load(Ordering::Acquire)..).unwrap_or_default();
    if new.is_empty() {
        return Ok(());
    }
    let incidents = office.kept::<Incident>().await?;
    let open = |stored: &Stored<Incident>| stored.value.is_open() && stored.value.trigger == Trigger::Unreadable;
    // Whoever was called looks at all there is; what comes later is told when they have ended that.
    if incidents.iter().any(open) {
        return Ok(());
    }
    let named: Vec<String> = new.iter().take(3).map(|one| format!("{} ({})", one.id, one.why)).collect();
    let more = if new.len() > 3 { format!(" and {} more", new.len() - 3) } else { String::new() };
    open_one(office, Trigger::Unreadable, "store", Vec::new(), &format!("{}{more}", named.join(", "))).await?;
    office.called_for.store(found.len(), Ordering::Release);
    Ok(())
}

/// Integrations nobody but a person can make work again.
async fn bring_up_integrations(office: &Office) -> Result<(), engine::Error> {
    let now = office.now();
    for integration in office.guards.integrations() {
        let Stance::Held { why: Hold::IntegrationParked, .. } = office.guards.peek(integration, now) else { continue };
        // Opened by hand: whoever did knows.
        if office.guards.with(integration, |guard| guard.held_by_person()) == Some(true) {
            continue;
        }
        let incidents = office.kept::<Incident>().await?;
        let brought_up = incidents.iter().map(|stored| &stored.value).any(|incident| {
            incident.is_open() && incident.trigger == Trigger::Integration && incident.subject == integration.as_str()
        });
        if !brought_up {
            let why = office.guards.with(integration, |guard| guard.why().to_owned()).unwrap_or_default();
            open_one(office, Trigger::Integration, integration.as_str(), Vec::new(), &why).await?;
        }
    }
    Ok(())
}

/// What was brought up one by one is part of the incident about dead letters now: one trouble, one call. At every look: the
/// process may have died between the opening of the whole and the end of its parts.
async fn absorb(office: &Office) -> Result<(), engine::Error> {
    let incidents = values(&office.kept::<Incident>().await?);
    let open = |trigger| move |incident: &&Incident| incident.is_open() && incident.trigger == trigger;
    let Some(whole) = incidents.iter().find(open(Trigger::DeadLetters)) else { return Ok(()) };
    let whole_of: BTreeSet<(TaskId, u32)> = whole.deaths.iter().copied().collect();
    for part in incidents.iter().filter(open(Trigger::Judgement)) {
        if !part.deaths.is_empty() && part.deaths.iter().all(|death| whole_of.contains(death)) {
            resolve(office, &part.id, format!("it is part of {}", whole.id)).await?;
        }
    }
    Ok(())
}

async fn remind(office: &Office) -> Result<(), engine::Error> {
    let (now, mut outcome) = (office.now(), Ok(()));
    for incident in office.kept::<Incident>().await?.iter().map(|stored| &stored.value) {
        let Some(open) = incident.standing() else { continue };
        for step in escalation::remind(&open, now) {
            let command = match step {
                Step::Update => IncidentCommand::Update,
                Step::Repage => IncidentCommand::Repage,
                Step::Open(_) | Step::Append(_) => continue,
            };
            // One that cannot be changed keeps nobody from being reminded of the others.
            outcome = outcome.and(change(office, &incident.id, command).await);
        }
    }
    outcome
}

/// Opens an incident with its pages, in one transaction.
pub(crate) async fn open_one(
    office: &Office,
    trigger: Trigger,
    subject: &str,
    deaths: Vec<Death>,
    why: &str,
) -> Result<(), engine::Error> {
    let in_doubt = outcome::lines(office, &deaths).await?;
    let mut taken = 0;
    loop {
        // Before what is known: one that is opened behind the back of that has the number then.
        let names = drawer::names::<Incident>(&*office.engine).await?;
        let known = office.kept::<Incident>().await?;
        // Somebody was faster, or this was asked before a crash: one incident per cause.
        let same =
            |incident: &Incident| incident.is_open() && incident.trigger == trigger && incident.subject == subject;
        if known.iter().any(|stored| same(&stored.value)) {
            return Ok(());
        }
        let number = bygone::last(bygone::INCIDENT, &names).max(taken) + 1;
        let opening = Opening {
            id: format!("{}{number}", bygone::INCIDENT),
            trigger,
            subject: subject.to_owned(),
            deaths: deaths.clone(),
            why: office.one_line(why, 500),
            runbook: office.config.escalation.runbook.clone(),
            in_doubt: in_doubt.clone(),
        };
        let change = incident::open(opening, &rules(office), office.now());
        let mut documents = vec![drawer::document(&change.incident, 0)];
        documents.extend(pages(office, &change));
        match office.engine.save(documents, change.events, office.now()).await {
            // Perhaps by one whose row is damaged, and that cannot be seen among those there are.
            Err(engine::Error::DocumentConflict { .. }) => taken = number,
            other => return other,
        }
    }
}

/// More dead letters for an incident, and what nobody knows about them.
async fn append(office: &Office, id: &str, deaths: Vec<Death>) -> Result<(), engine::Error> {
    let in_doubt = outcome::lines(office, &deaths).await?;
    // First, so that the summary that follows names them.
    if !in_doubt.is_empty() {
        change(office, id, IncidentCommand::Doubt(in_doubt)).await?;
    }
    change(office, id, IncidentCommand::Append(deaths)).await
}

/// Changes an incident by a command; one that does not apply any more changes nothing.
async fn change(office: &Office, id: &str, command: IncidentCommand) -> Result<(), engine::Error> {
    match tell(office, id, command).await {
        Ok(_) => Ok(()),
        Err(TellError::Refused(refused)) => {
            tracing::debug!(%refused, "an incident had ended meanwhile");
            Ok(())
        }
        Err(TellError::Engine(error)) => Err(error),
    }
}

/// Why an incident was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TellError {
    #[error(transparent)]
    Refused(#[from] IncidentRefused),
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

/// Changes an incident by a command and writes its pages, in one transaction. `Ok(None)`: there is no such incident.
pub(crate) async fn tell(office: &Office, id: &str, command: IncidentCommand) -> Result<Option<Incident>, TellError> {
    let (rules, now) = (rules(office), office.now());
    drawer::change(&*office.engine, id, now, |incident: &Incident| {
        let change = incident::apply(incident, command.clone(), &rules, now)?;
        let with = pages(office, &change);
        Ok(Written { value: change.incident, with, events: change.events })
    })
    .await
}

/// What an incident sends, written out for the channels.
pub(super) fn written_out(office: &Office, change: &IncidentChange) -> Vec<Page> {
    let steps = steps(office);
    let write = |draft| outbox::pages(&change.incident, draft, &office.config.team, &steps, office.now());
    change.pages.iter().flat_map(write).collect()
}

/// The same as documents of the outbox.
pub(super) fn pages(office: &Office, change: &IncidentChange) -> Vec<engine::Document> {
    written_out(office, change).iter().map(|page| drawer::document(page, 0)).collect()
}

fn values<T: Clone>(stored: &[Stored<T>]) -> Vec<T> {
    stored.iter().map(|stored| stored.value.clone()).collect()
}
