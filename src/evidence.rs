//! What a journal says to whoever must decide: what is done, what nobody knows, what it cost. In words, and as data.
//!
//! The CEO's table, its adviser, the agent that goes on and the person who is asked all read the same account. What
//! models and tools said in it is quoted: credentials out, one line, short, and fenced where it goes into a prompt.

use serde_json::{Value, json};

use crate::conversation::visible;
use crate::failure::Kind;
use crate::journal::{self, Call, Judge, Outcome, Step, Tally};
use crate::redact::{Redactor, one_line, redact};
use crate::stand;
use crate::task::Effect;
use crate::tool::{Repeat, ToolRef};

/// The most characters of anything quoted in a prompt: an error, what is done, words of advice.
pub const QUOTE_MAX: usize = 2_000;
/// The most characters of the arguments of one call.
const ARGUMENTS_MAX: usize = 160;
/// The most characters of what came of one call.
const RESULT_MAX: usize = 120;
/// The most characters of a reason why nobody knows.
const WHY_MAX: usize = 200;
/// The most calls named in one sentence.
const NAMED_MAX: usize = 5;
/// How much of a text is searched for credentials before the little of it that is shown is cut out.
const SEARCHED: usize = 4_096;

/// The account of a journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Calls that are done, oldest first.
    pub done: Vec<Deed>,
    /// Calls of which only a person (or a probe) can say whether they happened.
    pub doubts: Vec<Doubt>,
    /// Calls that may have happened and are made again, under the same key.
    pub repeated: Vec<Doubt>,
    /// The tools of calls that were tried and are to be made still.
    pub due: Vec<ToolRef>,
    /// What everything used so far.
    pub spent: Tally,
}

/// A call that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// Its step.
    pub step: u32,
    /// What was called, as it can be shown.
    pub tool: String,
    /// What that does.
    pub effect: Effect,
    /// Its arguments, short and without credentials.
    pub arguments: String,
    /// What came of it, in a clause.
    pub result: String,
    /// Did it change something, as far as is known?
    pub changed: bool,
}

/// A call of which it is not known whether it happened, or that may not be made again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Its step.
    pub step: u32,
    /// What was called, as it can be shown.
    pub tool: String,
    /// In words: which step, tool, key and when, and why nobody knows.
    pub words: String,
}

impl Evidence {
    /// Reads a journal, oldest step first, of a task nobody works on.
    #[must_use]
    pub fn of(steps: &[Step]) -> Self {
        let in_doubt = stand::in_doubt(steps, 0);
        let mut evidence = Self { spent: journal::tally(steps), ..Self::default() };
        for (step, call) in last_tries(steps) {
            if in_doubt.iter().any(|other| other.number == step.number) {
                evidence.doubts.push(doubt(step, call));
                continue;
            }
            match &step.outcome {
                Some(Outcome::Returned { .. } | Outcome::Judged { happened: true, .. }) => {
                    evidence.done.push(deed(steps, step, call));
                }
                None | Some(Outcome::Unknown { .. }) => {
                    if call.class.repeat == Repeat::SameKey {
                        evidence.repeated.push(doubt(step, call));
                    }
                    evidence.due.push(call.tool.clone());
                }
                Some(Outcome::Failed { .. } | Outcome::Judged { happened: false, .. } | Outcome::Replied(_)) => {
                    evidence.due.push(call.tool.clone());
                }
            }
        }
        evidence
    }

    /// What a person must say before anything else is done, when there are calls in doubt.
    #[must_use]
    pub fn question(&self) -> Option<String> {
        let words: Vec<&str> = self.doubts.iter().map(|doubt| doubt.words.as_str()).collect();
        (!words.is_empty()).then(|| format!("{}; say which with `backstop task outcome`", first_few(&words, "; ")))
    }

    /// The calls that changed something, in a sentence.
    #[must_use]
    pub fn changed(&self) -> Option<String> {
        let changed: Vec<String> = self
            .done
            .iter()
            .filter(|deed| deed.changed)
            .map(|deed| format!("{} (step {}, {})", deed.tool, deed.step, deed.effect))
            .collect();
        let named = first_few(&changed, ", ");
        match changed.len() {
            0 => None,
            1 => Some(format!("1 call changed something: {named}; it is not made again")),
            n => Some(format!("{n} calls changed something: {named}; they are not made again")),
        }
    }

    /// What is done, a line a call, within `most` characters. Calls that changed something come first to be kept, and of
    /// the others the latest; what is left out is said.
    #[must_use]
    pub fn done_in_lines(&self, most: usize) -> String {
        // The line that says what is left out has its place too.
        let mut left = most.saturating_sub(80);
        let mut kept: Vec<bool> = vec![false; self.done.len()];
        let lines: Vec<String> = self.done.iter().map(Deed::line).collect();
        let changed = (0..lines.len()).filter(|at| self.done[*at].changed);
        let others = (0..lines.len()).rev().filter(|at| !self.done[*at].changed);
        for at in changed.chain(others) {
            let length = lines[at].chars().count() + 1;
            if length <= left {
                left -= length;
                kept[at] = true;
            }
        }
        let mut shown: Vec<&str> = Vec::new();
        let missing = kept.iter().filter(|kept| !**kept).count();
        let note = format!("({missing} more {} left out here)", if missing == 1 { "call is" } else { "calls are" });
        if missing > 0 {
            shown.push(&note);
        }
        shown.extend(lines.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(line, _)| line.as_str()));
        shown.join("\n")
    }

    /// What was used so far, in a clause.
    #[must_use]
    pub fn cost(&self) -> String {
        let Tally { asks, calls, usage, counted, .. } = self.spent;
        format!(
            "so far {asks} {} and {calls} of tools, {} tokens, ${}.{:04} counted",
            if asks == 1 { "call of a model" } else { "calls of models" },
            usage.total(),
            counted / 1_000_000,
            counted % 1_000_000 / 100
        )
    }

    /// The account as data, for an adviser.
    #[must_use]
    pub fn summary(&self) -> Value {
        let words = |doubts: &[Doubt]| doubts.iter().map(|doubt| doubt.words.clone()).collect::<Vec<_>>();
        json!({
            "done": self.done_in_lines(QUOTE_MAX).lines().collect::<Vec<_>>(),
            "unknown": words(&self.doubts),
            "made_again_under_the_same_key": words(&self.repeated),
            "spent": {
                "model_calls": self.spent.asks,
                "tool_calls": self.spent.calls,
                "tokens": self.spent.usage.total(),
                "micro_usd_counted": self.spent.counted,
            },
        })
    }
}

impl Deed {
    fn line(&self) -> String {
        let effect = if self.effect == Effect::ReadOnly { String::new() } else { format!(" ({})", self.effect) };
        format!("- step {}, {}{effect} {}: {}", self.step, self.tool, self.arguments, self.result)
    }
}

/// Each call with its last try: what came of those before it is no news.
fn last_tries(steps: &[Step]) -> impl Iterator<Item = (&Step, &Call)> {
    let calls = steps.iter().filter_map(|step| Some((step, step.call()?)));
    calls.filter(move |(step, call)| {
        let same = |other: &Step| other.call().is_some_and(|later| (later.ask, later.index) == (call.ask, call.index));
        !steps.iter().any(|other| other.number > step.number && same(other))
    })
}

fn deed(steps: &[Step], step: &Step, call: &Call) -> Deed {
    let asked = steps.iter().find(|other| other.number == call.ask).and_then(Step::reply);
    let wanted = asked.and_then(|reply| reply.calls.get(call.index as usize));
    let arguments = wanted.map_or_else(String::new, |wanted| short_arguments(&wanted.arguments));
    let (result, happened) = match &step.outcome {
        Some(Outcome::Returned { text, failed: false, .. }) => (quoted(text, RESULT_MAX), true),
        Some(Outcome::Returned { text, failed: true, failure }) => {
            // It answered, so it was done; only the answer was of no use.
            let unusable = failure.as_ref().is_some_and(|failure| failure.kind == Kind::MalformedResponse);
            (format!("failed: {}", quoted(text, RESULT_MAX)), unusable)
        }
        Some(Outcome::Judged { by, note, .. }) => (format!("it happened, says {}", said(by, note)), true),
        Some(Outcome::Replied(_) | Outcome::Failed { .. } | Outcome::Unknown { .. }) | None => (String::new(), false),
    };
    let effect = call.class.effect;
    Deed {
        step: step.number,
        tool: shown(&call.tool),
        effect,
        arguments,
        result,
        changed: happened && effect != Effect::ReadOnly,
    }
}

fn doubt(step: &Step, call: &Call) -> Doubt {
    let tool = shown(&call.tool);
    let why = match &step.outcome {
        None => "may or may not have happened: its outcome was never seen".to_owned(),
        Some(Outcome::Unknown { failure }) => {
            format!("may or may not have happened: {}", quoted(&failure.message, WHY_MAX))
        }
        Some(Outcome::Failed { failure, .. }) => {
            format!("failed, and money is not moved again by itself: {}", quoted(&failure.message, WHY_MAX))
        }
        Some(Outcome::Judged { by, note, .. }) => {
            format!("did not happen, says {}, and money is not moved again by itself", said(by, note))
        }
        Some(Outcome::Returned { text, .. }) => quoted(text, WHY_MAX),
        Some(Outcome::Replied(_)) => "is no call of a tool".to_owned(),
    };
    let words = format!("step {}, {tool} (key {}, begun {}), {why}", step.number, call.key, step.at);
    Doubt { step: step.number, tool, words }
}

fn said(by: &Judge, note: &str) -> String {
    let who = match by {
        Judge::Probe { step } => format!("the look in step {step}"),
        Judge::Person { who } => quoted(who, 64),
    };
    match note.trim() {
        "" => who,
        note => format!("{who} ({})", quoted(note, RESULT_MAX)),
    }
}

/// A tool's name is its server's choice: as one short line.
pub(crate) fn shown(tool: &ToolRef) -> String {
    quoted(&tool.to_string(), 100)
}

fn first_few<S: AsRef<str>>(all: &[S], between: &str) -> String {
    let mut named = all.iter().take(NAMED_MAX).map(AsRef::as_ref).collect::<Vec<_>>().join(between);
    if all.len() > NAMED_MAX {
        named.push_str(&format!("{between}and {} more", all.len() - NAMED_MAX));
    }
    named
}

/// A text from outside as one short line, without credentials.
fn quoted(text: &str, most: usize) -> String {
    let searched: String = text.chars().take(SEARCHED).collect();
    one_line(&redact(&searched), most)
}

/// The arguments of a call, short, without credentials: by what they look like, and by the names they stand under.
#[must_use]
pub fn short_arguments(arguments: &Value) -> String {
    one_line(&Redactor::default().value(arguments).to_string(), ARGUMENTS_MAX)
}

/// Text as data: within a fence longer than any in it, at most [`QUOTE_MAX`] characters, nothing in it that does not
/// show.
pub(crate) fn fenced(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    let shown = visible(&kept);
    let mut cut: String = shown.chars().take(QUOTE_MAX).collect();
    if shown.chars().count() > QUOTE_MAX {
        cut.push_str(" [cut]");
    }
    let longest = cut.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{cut}\n{fence}")
}
