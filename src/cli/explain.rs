//! `backstop explain`: which retry policy applies, who set it, and what happened.

use clap::Args;

use super::output::{details, wrapped};
use super::{Context, Error};
use crate::task::AgentName;
use crate::team::desk::Explanation;

/// Which retry policy applies to a task or type, and why.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  backstop explain code_review --agent cto\n  backstop explain 0192d5a1-7c3e")]
pub(super) struct Explain {
    /// A type of task, or the id of a task (or the beginning of one)
    subject: String,
    /// With this agent
    #[arg(long)]
    agent: Option<AgentName>,
}

impl Explain {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let what = if is_id(&self.subject) { "task" } else { "type" };
        let mut query = vec![(what.to_owned(), self.subject.clone())];
        query.extend(self.agent.map(|agent| ("agent".to_owned(), agent.to_string())));
        let got = context.client.get::<Explanation>(&["api", "v1", "explain"], &query).await?;
        context.out.data(&got.raw, "/winner", || show(&got.it))?;
        match what {
            "task" => context.out.next(&format!("backstop ceo explain {}", self.subject)),
            _ => context.out.next(&format!("backstop task ls --type {}", self.subject)),
        }
        Ok(())
    }
}

/// At least eight hexadecimal digits, one of them a digit, and hyphens: no type is called so.
fn is_id(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| *c != '-').collect();
    digits.len() >= 8 && digits.iter().all(char::is_ascii_hexdigit) && digits.iter().any(char::is_ascii_digit)
}

fn show(explanation: &Explanation) -> String {
    let waits: Vec<String> = explanation.waits_s.iter().map(|wait| format!("{wait} s")).collect();
    let mut text = details(&[
        ("subject", explanation.subject.clone()),
        ("policy of", explanation.winner.clone()),
        ("deliveries", explanation.policy.max_deliveries.to_string()),
        ("waits", waits.join(", ")),
        ("effect", explanation.effect.clone()),
    ]);
    text.push_str("\nlevels, strongest first\n");
    for (level, says) in &explanation.levels {
        let mark = if *level == explanation.winner { ">" } else { " " };
        let says = says.as_deref().unwrap_or("-");
        text.push_str(&format!("{}\n", wrapped(&format!("{mark} {level}: {says}"), 0)));
    }
    if !explanation.story.is_empty() {
        text.push_str("\nwhat happened\n");
        for line in &explanation.story {
            text.push_str(&format!("{}\n", wrapped(line, 2)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_types_are_told_apart() {
        for (text, expected) in [
            ("0192d5a1-7c3e-7000-8000-000000000001", true),
            ("0192d5a1", true),
            ("0192d5a", false),
            ("code_review", false),
            ("deadbeef", false),
            ("facade-decade", false),
        ] {
            assert_eq!(is_id(text), expected, "{text}");
        }
    }
}
