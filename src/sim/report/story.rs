//! The worst hour in plain words: what broke, what the team did about it, who was called, when it was over.

use std::time::Duration;

use super::story_facts::Facts;
use crate::redact::one_line;
use crate::scenario::{Scenario, Target};
use crate::sim::play::Run;
use crate::time::{Timestamp, format_duration};

/// Words of others are cut after so many characters.
const QUOTE_MAX: usize = 160;

/// The story of the hour with the most trouble, a sentence each.
#[must_use]
pub fn worst_hour(scenario: &Scenario, run: &Run, moments: &[Duration]) -> Vec<String> {
    let Some(facts) = Facts::of(scenario, run, moments) else {
        let asked = run.books.asked.len() as u64;
        return vec![format!("Nothing went wrong: {} came, and nothing was broken.", tasks(asked))];
    };
    let teller = Teller { scenario, run, facts: &facts };
    let mut story = vec![teller.opening()];
    story.extend(teller.broken());
    story.extend(teller.breakers());
    story.extend(teller.gates());
    story.extend(teller.process());
    story.extend(teller.turned_away());
    story.push(teller.waiting());
    story.extend(teller.given_up());
    story.push(teller.pages());
    story.push(teller.end());
    story
}

struct Teller<'a> {
    scenario: &'a Scenario,
    run: &'a Run,
    facts: &'a Facts,
}

/// `1 task`, `3 tasks`.
fn tasks(number: u64) -> String {
    many(number, "task")
}

pub(super) fn many(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `a, b and c`.
fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A span for people: whole seconds, and whole minutes when it is long.
pub(super) fn rounded(span: Duration) -> String {
    let seconds = span.as_secs() + u64::from(span.subsec_millis() >= 500);
    let kept = match seconds {
        0..7_200 => seconds,
        7_200..172_800 => seconds / 60 * 60,
        _ => seconds / 3_600 * 3_600,
    };
    format_duration(Duration::from_secs(kept))
}

/// The day and the time of day of a moment, to the nearest second, as [`rounded`] has it.
pub(super) fn clock(start: Timestamp, at: Duration) -> (String, String) {
    let text = (start + at + Duration::from_millis(500)).to_string();
    match text.split_once('T') {
        Some((day, time)) => (day.to_owned(), time.get(..8).unwrap_or(time).to_owned()),
        None => (String::new(), text),
    }
}

impl Teller<'_> {
    /// `at 09:12:04 (12m4s in)`, with the day when it is another than that of the opening.
    fn at(&self, moment: Duration) -> String {
        format!("at {} ({} in)", self.time(moment), rounded(moment))
    }

    fn time(&self, moment: Duration) -> String {
        let (day, time) = clock(self.scenario.start, moment);
        let (first, _) = clock(self.scenario.start, self.facts.from);
        if day == first { time } else { format!("{time} on {day}") }
    }

    fn opening(&self) -> String {
        let (day, time) = clock(self.scenario.start, self.facts.from);
        format!("The worst hour began on {day} at {time} UTC, {} into the run.", rounded(self.facts.from))
    }

    fn broken(&self) -> Vec<String> {
        const SHOWN: usize = 4;
        let mut faults: Vec<(&usize, &u64)> = self.facts.met.iter().collect();
        faults.sort_by_key(|(place, calls)| (std::cmp::Reverse(**calls), **place));
        let mut told: Vec<String> =
            faults.iter().take(SHOWN).map(|(place, calls)| self.fault(**place, **calls)).collect();
        if faults.len() > SHOWN {
            told.push(format!("{} more faults struck besides", faults.len() - SHOWN));
        }
        let mut sentences = Vec::new();
        if !told.is_empty() {
            sentences.push(format!("What broke: {}.", told.join("; ")));
        }
        if self.facts.unbidden > 0 {
            let models = many(self.facts.unbidden, "answer");
            sentences.push(format!("Models gave {models} that could not be used without any fault being on."));
        }
        sentences
    }

    fn fault(&self, place: usize, calls: u64) -> String {
        let fault = &self.scenario.faults[place];
        let on = self.run.windows.iter().filter(|window| {
            window.fault == place && window.from < self.facts.until && window.until >= self.facts.from
        });
        let on: Vec<_> = on.collect();
        let met = if fault.kind.target() == Target::Calls {
            format!(", and {} met it", many(calls, "call"))
        } else {
            String::new()
        };
        match on.as_slice() {
            [once] if fault.kind.is_moment() => format!("{fault} struck {}", self.at(once.from)),
            [once] => {
                let span = rounded(once.until.saturating_sub(once.from));
                format!("{fault} from {} ({} in) for {span}{met}", self.time(once.from), rounded(once.from))
            }
            several => format!("{fault} struck {} times{met}", several.len()),
        }
    }

    fn breakers(&self) -> Vec<String> {
        const SHOWN: usize = 2;
        let told = self.facts.breakers.iter().filter_map(|(integration, breaker)| {
            let (at, why) = breaker.opened.as_ref()?;
            let probes = match breaker.probes {
                0 => String::new(),
                probes => format!("let a single call through to see {}, and ", times(probes.into())),
            };
            let closed = match breaker.closed.filter(|closed| closed > at) {
                Some(closed) => format!("closed {}", self.at(closed)),
                None => "was not closed within the hour".to_owned(),
            };
            let why = one_line(why, QUOTE_MAX);
            Some(format!("The breaker of {integration} opened {}, on \"{why}\"; it {probes}{closed}.", self.at(*at)))
        });
        let mut told: Vec<String> = told.collect();
        if told.len() > SHOWN {
            let others = self.facts.breakers.iter().filter(|(_, breaker)| breaker.opened.is_some()).skip(SHOWN);
            let others: Vec<String> = others.map(|(integration, _)| integration.to_string()).collect();
            told.truncate(SHOWN);
            told.push(format!("The breaker of {} opened too.", list(&others)));
        }
        told
    }

    fn gates(&self) -> Option<String> {
        let gates = self.facts.gates.iter().map(|(integration, (asked, own, longest))| {
            let why = match (asked, own) {
                (0, own) => format!("{} because it was at its limit", times((*own).into())),
                (asked, 0) => format!("{} because it asked for silence", times((*asked).into())),
                (asked, own) => {
                    let (asked, own) = (times((*asked).into()), times((*own).into()));
                    format!("{asked} because it asked for silence and {own} because it was at its limit")
                }
            };
            format!("the gate of {integration} was closed {why}, for {} at the longest", rounded(*longest))
        });
        let gates: Vec<String> = gates.collect();
        (!gates.is_empty()).then(|| format!("For the whole team {}.", list(&gates)))
    }

    fn process(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if let Some((died, up)) = self.facts.down.first() {
            let span = rounded(up.saturating_sub(*died));
            let more = match self.facts.down.len() as u64 - 1 {
                0 => String::new(),
                more => format!(", and died {} more within the hour", times(more)),
            };
            sentences.push(format!("The process died {} and was up again {span} later{more}.", self.at(*died)));
        }
        let died = self.facts.died.iter().map(|(agent, often)| format!("{agent} {}", times((*often).into())));
        let died: Vec<String> = died.collect();
        if !died.is_empty() {
            sentences.push(format!("Agents died and were started again: {}.", list(&died)));
        }
        let looping: Vec<String> = self.facts.looping.iter().map(ToString::to_string).collect();
        if !looping.is_empty() {
            sentences.push(format!("{} died too often in a row and stayed down; the others went on.", list(&looping)));
        }
        sentences
    }

    /// Who came and could not leave their task.
    fn turned_away(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        match self.facts.unanswered {
            0 => {}
            1 => sentences.push("1 client found no process to submit to, and came again.".to_owned()),
            more => sentences.push(format!("{more} clients found no process to submit to, and came again.")),
        }
        if let Some((number, first, why)) = &self.facts.refused {
            let were = if *number == 1 { "was" } else { "were" };
            let why = one_line(why, QUOTE_MAX);
            let number = many(*number, "submission");
            sentences.push(format!("{number} {were} refused, the first {}: \"{why}\".", self.at(*first)));
        }
        sentences
    }

    fn waiting(&self) -> String {
        let (most, at) = self.facts.waited;
        let most = match most {
            0 => "No task had to wait".to_owned(),
            most => format!("At most {} waited at once, {}", tasks(most.into()), self.at(at)),
        };
        let again = match self.facts.retried {
            1 => "1 delivery was".to_owned(),
            more => format!("{more} deliveries were"),
        };
        let parked = match self.facts.parked {
            0 => "none was parked".to_owned(),
            parked => format!("tasks were parked {}", times(parked)),
        };
        format!("{most}; {parked}, and {again} tried again by schedule.")
    }

    fn given_up(&self) -> Vec<String> {
        let given_up: u64 = self.facts.given_up.values().sum();
        if given_up == 0 {
            return vec!["No task was given up.".to_owned()];
        }
        let kinds = self.facts.given_up.iter().map(|(kind, number)| format!("{number} for {kind}"));
        let kinds: Vec<String> = kinds.collect();
        let was = if given_up == 1 { "task was" } else { "tasks were" };
        let mut sentences = vec![format!("{given_up} {was} given up: {}.", list(&kinds))];
        if let Some((at, what, why)) = &self.facts.first {
            let decided = self.facts.decided.iter().map(|(kind, number)| format!("{kind} {}", times(*number)));
            let decided: Vec<String> = decided.collect();
            let why = if why.is_empty() { String::new() } else { format!(", because {}", one_line(why, QUOTE_MAX)) };
            let what = format!("its first decision, {}, was to {what}{why}", self.at(*at));
            sentences.push(format!("The CEO decided: {}; {what}.", list(&decided)));
        }
        sentences
    }

    fn pages(&self) -> String {
        let unheard = match self.facts.unheard {
            0 => String::new(),
            1 => "; 1 message was not taken by its channel and sent again".to_owned(),
            unheard => format!("; {unheard} messages were not taken by their channel and sent again"),
        };
        let Some((first, incident, summary)) = self.facts.paged.first() else {
            return format!("Nobody was paged{unheard}.");
        };
        // What was on their screen then; what became of the incident they were not told yet.
        let about = format!(" (\"{}\")", one_line(summary, QUOTE_MAX));
        let more = match self.facts.paged.len() - 1 {
            0 => String::new(),
            1 => " and once more within the hour".to_owned(),
            more => format!(" and {more} more times within the hour"),
        };
        let said = |what: &str| {
            let word = self.run.books.words.iter().find(|word| word.about == *incident && word.what == what);
            word.map(|word| word.at)
        };
        let took = said("acknowledge").map(|at| format!("; they took it on {}", self.at(at))).unwrap_or_default();
        let words = self.run.books.words.iter().filter(|word| word.about == *incident);
        let decided: std::collections::BTreeSet<_> = words.filter_map(|word| word.task).collect();
        let and = if took.is_empty() { "; they" } else { " and" };
        let decided = match decided.len() as u64 {
            0 => String::new(),
            number => format!("{and} decided about {}", tasks(number)),
        };
        format!("The person on call was paged {} for {incident}{about}{more}{took}{decided}{unheard}.", self.at(*first))
    }

    fn end(&self) -> String {
        let over = &self.facts.over;
        let incidents: Vec<String> = over.incidents.iter().cloned().collect();
        let lasted = rounded(over.at.saturating_sub(self.facts.from));
        if over.refused > 0 {
            let end = self.at(self.run.elapsed);
            let refused = many(over.refused, "submission");
            let waiting = match over.tasks {
                0 => String::new(),
                waiting => format!(", and {} had come to no end", tasks(waiting)),
            };
            return format!("It was not over when the run ended {end}: {refused} had never been taken{waiting}.");
        }
        match (over.tasks, incidents.as_slice()) {
            (0, []) => {
                let at = self.at(over.at);
                format!("It was over {at}, {lasted} after it began: every task in trouble had come to its end.")
            }
            (0, _) => {
                let open = list(&incidents);
                format!("Every task in trouble had come to its end, but nobody closed {open} until the run was over.")
            }
            (waiting, _) => {
                let end = self.at(self.run.elapsed);
                format!("It was not over when the run ended {end}: {} had come to no end.", tasks(waiting))
            }
        }
    }
}

/// `once`, `twice`, `3 times`.
fn times(number: u64) -> String {
    match number {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        more => format!("{more} times"),
    }
}
