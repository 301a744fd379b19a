//! `backstop breaker`: the circuit breakers of integrations.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::output::{Table, cut};
use super::{Context, Error, actor, now};
use crate::api::Items;
use crate::team::desk::BreakerView;
use crate::time::{format_duration, parse_duration};

/// The circuit breakers of integrations.
#[derive(Debug, Subcommand)]
pub(super) enum Breaker {
    /// List the integrations and how their breakers stand
    #[command(visible_alias = "list", after_help = "Examples:\n  backstop breaker ls")]
    Ls,
    /// Force a breaker open: its tasks wait without spending a delivery
    #[command(after_help = "Examples:\n  backstop breaker open anthropic --for 30m --reason 'announced maintenance'")]
    Open {
        /// Which integration
        integration: String,
        /// For how long; until closed by hand when left out
        #[arg(long = "for", value_parser = parse_duration, value_name = "SPAN")]
        span: Option<Duration>,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Close a breaker and forget its failures
    #[command(after_help = "Examples:\n  backstop breaker close anthropic --reason 'new key in place'")]
    Close {
        /// Which integration
        integration: String,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
}

impl Breaker {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let (integration, verb, body) = match self {
            Self::Ls => {
                let got = context.client.get::<Items<BreakerView>>(&["api", "v1", "breakers"], &[]).await?;
                context.out.data(&got.raw, "/integration", || table(&got.it.items))?;
                context.out.next("backstop task ls --state parked");
                return Ok(());
            }
            Self::Open { integration, span, reason } => {
                let span = span.map(format_duration);
                (integration, "open", json!({ "by": actor(), "reason": reason, "for": span }))
            }
            Self::Close { integration, reason } => (integration, "close", json!({ "by": actor(), "reason": reason })),
        };
        let path = ["api", "v1", "breakers", &integration, verb];
        let got = context.client.post::<BreakerView>(&path, &body).await?;
        context.out.data(&got.raw, "/integration", || table(std::slice::from_ref(&got.it)))?;
        context.out.next("backstop breaker ls");
        Ok(())
    }
}

fn table(breakers: &[BreakerView]) -> String {
    let mut table = Table::new(&["INTEGRATION", "STATE", "UNTIL", "FAILURES", "PARKED", "WHY"]);
    for breaker in breakers {
        let until = breaker.until.filter(|until| *until > now());
        let gate = match breaker.ramp {
            _ if breaker.gate_closed => " (gate closed)".to_owned(),
            Some(most) => format!(" (gate opens: {most} at once)"),
            None => String::new(),
        };
        table.row(&[
            breaker.integration.to_string(),
            format!("{}{gate}", breaker.state),
            until.map(|until| format!("in {}", seconds(now().until(until)))).unwrap_or_default(),
            format!("{}/{}", breaker.failures, breaker.threshold),
            breaker.parked.to_string(),
            cut(&breaker.why, 100),
        ]);
    }
    table.render("no integrations")
}

fn seconds(span: Duration) -> String {
    format_duration(Duration::from_secs(span.as_secs()))
}
