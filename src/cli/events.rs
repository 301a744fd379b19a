//! `backstop events`: what happens, as JSON lines, without a gap.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::output::{escaped, json_line, visible};
use super::{Context, Error};
use crate::query::Page;

/// What happens, as JSON lines.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop events --since 1h | jq 'select(.event == \"dead-lettered\")'\n  backstop events --follow"
)]
pub(super) struct Events {
    /// Go on with what happens next, and reconnect without a gap
    #[arg(short, long)]
    follow: bool,
    /// Begin then: 1h, or an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Begin after this event
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
    /// Only events of this task: its id, or the beginning of it
    #[arg(long, conflicts_with_all = ["follow", "since", "after"])]
    task: Option<String>,
}

impl Events {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let mut query = Vec::new();
        query.extend(self.since.clone().map(|since| ("since".to_owned(), since)));
        query.extend(self.after.map(|after| ("after".to_owned(), after.to_string())));
        if let Some(task) = &self.task {
            let got = context.client.get::<Value>(&["api", "v1", "tasks", task, "events"], &[]).await?;
            print(context, &got.raw)?;
            context.out.next(&format!("backstop task show {task}"));
            return Ok(());
        }
        if self.follow {
            return follow(context, query).await;
        }
        query.push(("limit".to_owned(), "1000".to_owned()));
        loop {
            let page = context.client.get::<Page<Value>>(&["api", "v1", "events"], &query).await?;
            print(context, &page.raw)?;
            let Some(next) = page.it.next else { break };
            query.retain(|(name, _)| name == "limit");
            query.push(("after".to_owned(), next));
        }
        context.out.next("backstop events --follow");
        Ok(())
    }
}

fn print(context: &Context, raw: &Value) -> Result<(), Error> {
    let items = raw["items"].as_array().into_iter().flatten();
    context.out.text(&items.map(json_line).collect::<String>())
}

/// Reads the stream; when it breaks, begins again after the last event seen, or where it began.
async fn follow(context: &Context, mut query: Vec<(String, String)>) -> Result<(), Error> {
    let mut last = None;
    let mut tries = 0;
    loop {
        match context.client.events(last, &query).await {
            Ok(mut response) => {
                let mut reader = Lines::default();
                // An ended or broken stream is the same to us: come back and say where we were.
                while let Ok(Some(bytes)) = response.chunk().await {
                    for data in reader.feed(&bytes) {
                        context.out.text(&format!("{}\n", escaped(&data)))?;
                    }
                    if reader.last.is_some() {
                        last = reader.last;
                        tries = 0;
                    }
                }
                if last.is_some() {
                    query.clear();
                }
            }
            Err(error @ Error::Unreachable { .. }) if tries < 30 && (last.is_some() || tries > 0) => {
                context.out.say(&format!("{}; trying again", visible(&error.to_string())));
            }
            Err(error) => return Err(error),
        }
        tries += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Server-sent events out of bytes: the data of each, and the number to come back with.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    id: Option<u64>,
    data: String,
    /// The last number that came whole, also without data. Of one that was cut off before its data nothing was seen.
    last: Option<u64>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                self.last = self.id;
                if !self.data.is_empty() {
                    events.push(std::mem::take(&mut self.data));
                }
            } else if let Some(id) = line.strip_prefix("id:") {
                self.id = id.trim().parse().ok().or(self.id);
            } else if let Some(data) = line.strip_prefix("data:") {
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_read_in_any_cut() {
        let text = b"retry: 2000\n: hello\n\nid: 7\ndata: {\"seq\":7}\n\n: alive\n\nid:8\r\ndata:{\"seq\":8}\r\n\r\n";
        for size in [1, 2, 3, 7, text.len()] {
            let mut lines = Lines::default();
            let found: Vec<_> = text.chunks(size).flat_map(|chunk| lines.feed(chunk)).collect();
            assert_eq!(found, [r#"{"seq":7}"#, r#"{"seq":8}"#], "in pieces of {size}");
            assert_eq!(lines.last, Some(8), "in pieces of {size}");
        }
    }

    /// A stream that broke before its first event was begun again with what happened next: what had happened meanwhile was
    /// never told.
    #[test]
    fn where_to_come_back_to_is_known_before_the_first_event_and_never_ahead_of_what_was_seen() {
        let mut lines = Lines::default();
        for (text, seen, last) in [
            (": hello\n\n", 0, None),
            ("id: 7\nretry: 2000\n", 0, None),
            ("\n", 0, Some(7)),
            (": alive\n\n", 0, Some(7)),
            ("id: 8\ndata: {\"seq\"", 0, Some(7)),
            (":8}\n", 0, Some(7)),
            ("\n", 1, Some(8)),
        ] {
            assert_eq!(lines.feed(text.as_bytes()).len(), seen, "{text:?}");
            assert_eq!(lines.last, last, "{text:?}");
        }
    }
}
