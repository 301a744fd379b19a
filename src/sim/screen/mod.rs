//! The demo's screen: a reader of the event feed, one line for each event worth telling, the rest in counters.
//!
//! [`line()`] is the whole meaning and pure; [`Screen`] only keeps order, folds what happens to many tasks at once into
//! one line, and prints. A word stands for every state, so nothing is said by colour alone; text that comes from tasks,
//! models or providers is cut and escaped before it is shown.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::time::Duration;

use crate::event::{Event, Happening};
use crate::task::TaskId;
use crate::time::Timestamp;
use crate::triage::Decision;

mod line;
#[cfg(test)]
mod tests;

pub(super) use line::grouped;
pub use line::{Fold, Line, Names, Tone, line};

/// How wide the screen is, in columns.
pub const WIDTH: usize = 80;
/// What stands before the text: ` mm:ss WORD    `.
const MARGIN: usize = 15;
/// How long a line waits for others like it, in the team's time.
const FOLD_WINDOW: Duration = Duration::from_secs(8);
/// From how many on they are one line.
const FOLD_FROM: usize = 3;

/// How the screen may look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// May colours be used?
    pub colour: bool,
    /// May the cursor be moved, to keep a status line at the bottom?
    pub cursor: bool,
}

/// Where the tasks stand, counted from events alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally(BTreeMap<TaskId, &'static str>);

impl Tally {
    fn note(&mut self, event: &Event) {
        let Some(id) = event.task else { return };
        let now = match &event.what {
            Happening::Submitted { .. } | Happening::Released { .. } | Happening::Replayed { .. } => "waiting",
            Happening::Claimed { .. } => "running",
            Happening::Done { .. } => "done",
            Happening::RetryScheduled { .. } => "retrying",
            Happening::Parked { .. } => "parked",
            Happening::DeadLettered { .. } => "dead",
            Happening::Cancelled { .. } => "cancelled",
            Happening::Decided { decided, .. } => match &decided.decision {
                Decision::RetryOnFallback { .. }
                | Decision::RetryAfterCheck { .. }
                | Decision::Reassign { .. }
                | Decision::RunAgain { .. } => "waiting",
                Decision::Park { .. } => "parked",
                Decision::Discard { .. } => "dead",
                Decision::PageHuman { .. } => "for you",
                Decision::Resolve { .. } => "done",
            },
            Happening::Resumed { .. }
            | Happening::Compacted { .. }
            | Happening::OutcomeUnknown { .. }
            | Happening::OutcomeJudged { .. }
            | Happening::BreakerChanged { .. }
            | Happening::GateClosed { .. }
            | Happening::ProbeSent { .. }
            | Happening::AgentStarted { .. }
            | Happening::AgentDied { .. }
            | Happening::CrashLoop { .. }
            | Happening::IncidentOpened { .. }
            | Happening::IncidentUpdated { .. }
            | Happening::IncidentAcknowledged { .. }
            | Happening::IncidentOverridden { .. }
            | Happening::IncidentResolved { .. }
            | Happening::PageDelivered { .. }
            | Happening::PageFailed { .. }
            | Happening::ReplayChanged { .. }
            | Happening::TeamStarted { .. }
            | Happening::Draining { .. }
            | Happening::Pruned { .. } => return,
        };
        self.0.insert(id, now);
    }

    /// `60 tasks: 41 done, 4 running, 15 parked`; what is zero is left out.
    fn text(&self) -> String {
        let order = ["done", "running", "waiting", "retrying", "parked", "dead", "for you", "cancelled"];
        let counts = order.iter().filter_map(|state| {
            let count = self.0.values().filter(|now| *now == state).count();
            (count > 0).then(|| format!("{count} {state}"))
        });
        format!("{} tasks: {}", self.0.len(), counts.collect::<Vec<_>>().join(", "))
    }
}

/// What is printed as things happen.
#[derive(Debug)]
pub struct Screen {
    style: Style,
    names: Names,
    tally: Tally,
    queue: VecDeque<Waiting>,
    next_progress: Option<Timestamp>,
    last_progress: String,
    bar: bool,
}

/// Lines not printed yet: one, or several that may become one.
#[derive(Debug)]
struct Waiting {
    at: Timestamp,
    key: Option<String>,
    lines: Vec<Line>,
}

/// How often the counters are printed where the cursor may not be moved, in the team's time.
const PROGRESS_EVERY: Duration = Duration::from_secs(60);

impl Screen {
    /// An empty screen.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self {
            style,
            names: Names::default(),
            tally: Tally::default(),
            queue: VecDeque::new(),
            next_progress: None,
            last_progress: String::new(),
            bar: false,
        }
    }

    /// The names it has learnt.
    #[must_use]
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// Learns from an event of an earlier run without telling it again.
    pub fn remember(&mut self, event: &Event) {
        self.names.note(event);
        self.names.told(event);
        self.tally.note(event);
    }

    /// Takes the next event; it is printed by [`Screen::print`].
    pub fn feed(&mut self, event: &Event) {
        self.names.note(event);
        self.tally.note(event);
        self.next_progress.get_or_insert(event.at + PROGRESS_EVERY);
        let told = line(event, &self.names);
        self.names.told(event);
        let Some(line) = told else { return };
        let key = line.fold.as_ref().map(|fold| fold.key.clone());
        let open = self.queue.iter_mut().find(|waiting| key.is_some() && waiting.key == key);
        match open {
            Some(group) if event.at < group.at + FOLD_WINDOW => group.lines.push(line),
            Some(_) | None => self.queue.push_back(Waiting { at: event.at, key, lines: vec![line] }),
        }
    }

    /// Prints what is ripe: in order, and nothing that may still grow.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn print(&mut self, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
        self.count(now);
        while let Some(first) = self.queue.front() {
            if first.key.is_some() && now < first.at + FOLD_WINDOW {
                break;
            }
            if let Some(ripe) = self.queue.pop_front() {
                self.clear_bar(out)?;
                self.write(&ripe, out)?;
            }
        }
        self.bottom(now, out)?;
        out.flush()
    }

    /// Prints everything that is left.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&mut self, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
        self.clear_bar(out)?;
        while let Some(left) = self.queue.pop_front() {
            self.write(&left, out)?;
        }
        let text = self.tally.text();
        if text != self.last_progress {
            self.rows(&self.names.clock(now), Tone::Plain, "", &text, out)?;
        }
        out.flush()
    }

    fn write(&self, waiting: &Waiting, out: &mut dyn Write) -> io::Result<()> {
        let at = self.names.clock(waiting.at);
        match waiting.lines.as_slice() {
            [Line { tone, word, fold: Some(fold), .. }, rest @ ..] if rest.len() + 1 >= FOLD_FROM => {
                let members = waiting.lines.iter().filter_map(|line| line.fold.as_ref());
                let list = members.map(|fold| fold.member.as_str()).collect::<Vec<_>>().join(" ");
                let text = format!("{}{}{} ({list})", fold.head, waiting.lines.len(), fold.tail);
                self.rows(&at, *tone, word, &text, out)
            }
            lines => lines.iter().try_for_each(|line| self.rows(&at, line.tone, line.word, &line.text, out)),
        }
    }

    /// One line of text as rows of at most [`WIDTH`] columns.
    fn rows(&self, at: &str, tone: Tone, word: &str, text: &str, out: &mut dyn Write) -> io::Result<()> {
        let (on, off) = if self.style.colour { (colour(tone), "\x1b[0m") } else { ("", "") };
        for (index, row) in wrap(text, WIDTH - MARGIN).iter().enumerate() {
            if index == 0 {
                writeln!(out, " {at:>5} {on}{word:<7}{off} {row}")?;
            } else {
                writeln!(out, "{:MARGIN$}{row}", "")?;
            }
        }
        Ok(())
    }

    fn bottom(&mut self, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
        if !self.style.cursor {
            return Ok(());
        }
        let row = format!(" {} {}", self.names.clock(now), self.tally.text());
        let row: String = row.chars().take(WIDTH - 1).collect();
        if !self.bar || row != self.last_progress {
            write!(out, "\r\x1b[2K{row}")?;
            self.bar = true;
            self.last_progress = row;
        }
        Ok(())
    }

    /// Where the cursor stays, the counters are lines among the others.
    fn count(&mut self, now: Timestamp) {
        let Some(due) = self.next_progress.filter(|due| !self.style.cursor && *due <= now) else { return };
        let mut next = due;
        while next <= now {
            next = next + PROGRESS_EVERY;
        }
        self.next_progress = Some(next);
        let text = self.tally.text();
        if text != self.last_progress {
            let line = Line { tone: Tone::Plain, word: "", text: text.clone(), fold: None };
            self.queue.push_back(Waiting { at: now, key: None, lines: vec![line] });
            self.last_progress = text;
        }
    }

    fn clear_bar(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if std::mem::take(&mut self.bar) { write!(out, "\r\x1b[2K") } else { Ok(()) }
    }
}

const fn colour(tone: Tone) -> &'static str {
    match tone {
        Tone::Bad => "\x1b[31m",
        Tone::Wait => "\x1b[33m",
        Tone::Good => "\x1b[32m",
        Tone::Ceo => "\x1b[36m",
        Tone::Human => "\x1b[1;35m",
        Tone::Plain => "\x1b[2m",
    }
}

/// Breaks text at blanks into rows of at most `width` characters; longer words are broken where they must be.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for (index, part) in letters.chunks(width).enumerate() {
            let blank = usize::from(used > 0 && index == 0);
            if used + blank + part.len() > width {
                rows.push(String::new());
                used = 0;
            }
            if let Some(row) = rows.last_mut() {
                if used > 0 && index == 0 {
                    row.push(' ');
                    used += 1;
                }
                row.extend(part);
                used += part.len();
            }
        }
    }
    rows
}
