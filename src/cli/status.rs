//! `backstop status`: how the team is, in a sentence; and `healthcheck`, for containers.

use clap::Args;

use super::output::{details, wrapped};
use super::{Context, Error};
use crate::api::status::{Level, Status as Report};

/// How the team is, in a sentence.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  backstop status\n  backstop status --exit-code || echo 'somebody should look'")]
pub(super) struct Status {
    /// End with 10 when degraded and 11 when an incident is open
    #[arg(long)]
    exit_code: bool,
}

impl Status {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let got = context.client.get::<Report>(&["api", "v1", "status"], &[]).await?;
        context.out.data(&got.raw, "/level", || show(&got.it))?;
        context.out.next(&next_for(&got.it));
        match (self.exit_code, got.it.level) {
            (false, _) | (true, Level::Ok) => Ok(()),
            (true, Level::Degraded) => Err(Error::Silent(10)),
            (true, Level::Incident) => Err(Error::Silent(11)),
        }
    }
}

fn show(report: &Report) -> String {
    let balance = &report.balance;
    let mut text = format!("{}\n\n", wrapped(&report.sentence, 0));
    text.push_str(&details(&[
        ("submitted", balance.submitted.to_string()),
        ("running", balance.running.to_string()),
        ("waiting", format!("{} ({} parked, {} to be retried)", balance.waiting, balance.parked, balance.retrying)),
        ("done", balance.done.to_string()),
        ("dead", balance.dead.to_string()),
        ("with a human", balance.waiting_human.to_string()),
        ("cancelled", balance.cancelled.to_string()),
        ("lost", report.lost.to_string()),
        ("agents up", format!("{} of {}", report.agents_up.0, report.agents_up.1)),
    ]));
    text
}

fn next_for(report: &Report) -> String {
    if let Some(incident) = report.incidents.first() {
        format!("backstop incident show {}", incident.id)
    } else if !report.breakers.is_empty() {
        "backstop breaker ls".to_owned()
    } else if report.agents_up.0 < report.agents_up.1 {
        "backstop agent ls".to_owned()
    } else if report.balance.dead + report.balance.waiting_human > 0 {
        "backstop dlq groups".to_owned()
    } else {
        "backstop task submit <type> <payload> --wait".to_owned()
    }
}

/// Is the team ready?
pub(super) async fn healthcheck(context: &Context) -> Result<(), Error> {
    let (status, body) = context.client.plain("readyz").await?;
    if status == 200 {
        return context.out.text("ready\n");
    }
    let problem = serde_json::from_str::<crate::api::problem::Problem>(&body);
    let message = problem.map_or_else(|_| format!("not ready (HTTP {status})"), |problem| problem.detail);
    Err(Error::Failed { message, next: Some("backstop status".to_owned()) })
}
