//! `backstop page`: does a page reach a human?

use clap::Subcommand;
use serde_json::json;

use super::output::Table;
use super::{Context, Error, actor};
use crate::api::Items;
use crate::team::desk::PageTest;

/// Try the pager.
#[derive(Debug, Subcommand)]
pub(super) enum Page {
    /// Send a test page through every channel and resolve it
    #[command(after_help = "Examples:\n  backstop page test\n  backstop page test --channel pagerduty")]
    Test {
        /// Only this channel
        #[arg(long)]
        channel: Option<String>,
    },
}

impl Page {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let Self::Test { channel } = self;
        let body = json!({ "by": actor(), "channel": channel });
        let got = context.client.post::<Items<PageTest>>(&["api", "v1", "page-test"], &body).await?;
        context.out.data(&got.raw, "/channel", || {
            let mut table = Table::new(&["CHANNEL", "RESULT", "DETAIL"]);
            for test in &got.it.items {
                let result = if test.delivered { "delivered" } else { "failed" };
                table.row(&[test.channel.clone(), result.to_owned(), test.detail.clone()]);
            }
            table.render("no channel is configured")
        })?;
        if got.it.items.is_empty() || got.it.items.iter().any(|test| !test.delivered) {
            let message = "not every channel took the page".to_owned();
            return Err(Error::Failed { message, next: Some("backstop check".to_owned()) });
        }
        context.out.next("backstop incident ls");
        Ok(())
    }
}
