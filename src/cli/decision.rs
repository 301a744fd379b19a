//! A person's decision about a dead letter, as words of the command line.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{Error, now};
use crate::agent::ModelRef;
use crate::task::AgentName;
use crate::time::parse_duration;
use crate::triage::Decision;

/// What is to be done with it
#[derive(Clone, Debug, Subcommand)]
pub(super) enum DecisionArgs {
    /// The same agent, another model
    #[command(
        after_help = "Examples:\n  backstop ceo decide 0192d5a1-7c3e retry-on-fallback --model openai/gpt-5.4 --reason 'outage'"
    )]
    RetryOnFallback {
        /// Which model, as provider/model
        #[arg(long)]
        model: ModelRef,
    },
    /// The same agent and model again, once the cause is gone
    #[command(
        after_help = "Examples:\n  backstop ceo decide 0192d5a1-7c3e retry-after-check --after 10m --reason 'disk cleaned'"
    )]
    RetryAfterCheck {
        /// Not before this has passed
        #[arg(long, default_value = "0", value_parser = parse_duration, value_name = "SPAN")]
        after: std::time::Duration,
    },
    /// Another agent, with words added to the prompt
    #[command(
        after_help = "Examples:\n  backstop ceo decide 0192d5a1-7c3e reassign --agent backend --amendment 'Answer in JSON only.'"
    )]
    Reassign {
        /// Which agent
        #[arg(long)]
        agent: AgentName,
        /// The words
        #[arg(long, default_value = "")]
        amendment: String,
    },
    /// Wait, then look again
    #[command(
        after_help = "Examples:\n  backstop ceo decide 0192d5a1-7c3e park --for 2h --reason 'provider announced maintenance'"
    )]
    Park {
        /// How long
        #[arg(long = "for", value_parser = parse_duration, value_name = "SPAN")]
        span: std::time::Duration,
    },
    /// Give it up for good
    #[command(after_help = "Examples:\n  backstop ceo decide 0192d5a1-7c3e discard --reason 'order was cancelled'")]
    Discard,
    /// Ask a person
    #[command(after_help = "Examples:\n  backstop ceo decide 0192d5a1-7c3e page-human --reason 'finance must look'")]
    PageHuman,
    /// It was done by other means; counts as done
    #[command(
        after_help = "Examples:\n  backstop ceo decide 0192d5a1-7c3e resolve --reason 'charged by hand, receipt 17'"
    )]
    Resolve,
    /// Do it again as it is; the only way a payment is ever repeated
    #[command(
        after_help = "Examples:\n  backstop ceo decide 0192d5a1-7c3e run-again --reason 'the bank says nothing was charged'"
    )]
    RunAgain {
        /// Words added to the prompt
        #[arg(long)]
        amendment: Option<String>,
    },
}

impl DecisionArgs {
    /// The body of the request that has it done.
    pub(super) fn body(self, by: &str, reason: &str) -> Result<Value, Error> {
        let words = || if reason.is_empty() { "decided by a person".to_owned() } else { reason.to_owned() };
        let decision = match self {
            Self::RetryOnFallback { model } => Decision::RetryOnFallback { model },
            Self::RetryAfterCheck { after } => Decision::RetryAfterCheck { due: now() + after, checked: words() },
            Self::Reassign { agent, amendment } => Decision::Reassign { agent, amendment },
            Self::Park { span } => Decision::Park { until: now() + span, why: words() },
            Self::Discard | Self::Resolve if reason.trim().is_empty() => {
                return Err(Error::Usage {
                    message: "this ends the task for good and needs --reason".to_owned(),
                    next: Some("the same with --reason '...'".to_owned()),
                });
            }
            Self::Discard => Decision::Discard { why: words() },
            Self::PageHuman => Decision::PageHuman { why: words() },
            Self::Resolve => Decision::Resolve { note: words() },
            Self::RunAgain { amendment } => Decision::RunAgain { amendment },
        };
        let mut fields = match serde_json::to_value(&decision) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) | Err(_) => Map::new(),
        };
        fields.insert("by".to_owned(), json!(by));
        fields.insert("reason".to_owned(), json!(reason));
        Ok(Value::Object(fields))
    }
}
