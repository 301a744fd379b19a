//! The little repository of the demo, in memory, and the three tools that read it.
//!
//! It counts what it is asked, so that the journal's word that nothing was done twice can be held against the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::tool::Hints;
use crate::tools::{self, Function, Local, function};

/// The tools, under the names that agents list.
pub const TOOLS: [&str; 3] = ["list_files", "search", "read_file"];

/// Its files: where the change under review belongs, what it calls, and what tests it.
const FILES: [(&str, &str); 4] = [
    (
        "src/fetch.rs",
        r#"//! Fetches a page of orders, and asks again when the shop is busy.

use crate::backoff::{retry_with_jitter, Backoff};
use crate::shop::{Busy, Order, Shop};

/// The orders of one day. Gives up after five tries.
pub fn orders(shop: &Shop, day: Day) -> Result<Vec<Order>, Busy> {
    let mut backoff = Backoff::default();
    loop {
        match shop.page(day) {
            Ok(orders) => return Ok(orders),
            Err(busy) if backoff.tries() >= 5 => return Err(busy),
            Err(_) => retry_with_jitter(&mut backoff),
        }
    }
}
"#,
    ),
    (
        "src/backoff.rs",
        r#"//! How long to wait before the next try: doubled each time, and spread.

/// Waits so far.
#[derive(Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    pub fn tries(&self) -> u32 {
        self.tries
    }
}

/// Waits once.
pub fn retry_with_jitter(backoff: &mut Backoff) {
    let base = 100 * 2_u64.pow(backoff.tries);
    // Up to half of it more, so that a thousand clients do not come back at once.
    sleep(base + random(0..base / 2));
}
"#,
    ),
    (
        "tests/fetch.rs",
        r#"#[test]
fn a_busy_shop_is_asked_again() {
    let shop = Shop::busy_for(2);
    assert_eq!(orders(&shop, Day::today()).expect("orders").len(), 3);
}
"#,
    ),
    ("README.md", "# Orders\n\nFetches the orders of a day from the shop, patiently.\n"),
];

/// The repository. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Repository(Arc<AtomicU64>);

impl Repository {
    /// How often one of its tools was called.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Its tools, as a server of them.
    ///
    /// # Errors
    /// Never, as names and schemas are constants; the checks are those of every function.
    pub fn server(&self) -> Result<Local, tools::Error> {
        let [list, search, read] = TOOLS;
        let text = |what: &str| json!({"type": "object", "required": [what], "properties": {what: {"type": "string"}}});
        Local::new([
            self.reads(list, "The files of the repository", json!({"type": "object"}), |_| Ok(list_files())),
            self.reads(search, "The lines that hold a text, with file and number", text("text"), |arguments| {
                Ok(lines_with(arguments["text"].as_str().unwrap_or_default()))
            }),
            self.reads(read, "One file, whole", text("path"), |arguments| {
                whole_file(arguments["path"].as_str().unwrap_or_default())
            }),
        ])
    }

    /// A function that only reads, and is counted.
    fn reads(
        &self,
        name: &str,
        description: &str,
        schema: Value,
        answer: impl Fn(Value) -> Result<String, String> + Send + Sync + 'static,
    ) -> Function {
        let count = Arc::clone(&self.0);
        let hints = Hints { read_only: Some(true), ..Hints::default() };
        function(name, description, schema, hints, move |arguments, _key| {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(answer(arguments))
        })
    }
}

fn list_files() -> String {
    FILES.map(|(path, _)| path).join("\n")
}

fn lines_with(text: &str) -> String {
    let of_file = |(path, content): (&str, &str)| {
        let lines = content.lines().enumerate().filter(|(_, line)| line.contains(text));
        lines.map(|(at, line)| format!("{path}:{}: {}\n", at + 1, line.trim())).collect::<String>()
    };
    let found: String = FILES.into_iter().map(of_file).collect();
    if found.is_empty() { format!("no line holds `{text}`") } else { found }
}

fn whole_file(path: &str) -> Result<String, String> {
    let found = FILES.into_iter().find(|(known, _)| *known == path);
    found.map(|(_, content)| content.to_owned()).ok_or_else(|| format!("there is no file `{path}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lists_searches_and_reads_and_says_what_is_not_there() {
        assert_eq!(list_files(), "src/fetch.rs\nsrc/backoff.rs\ntests/fetch.rs\nREADME.md");
        assert_eq!(lines_with("Waits once"), "src/backoff.rs:15: /// Waits once.\n");
        assert_eq!(lines_with("unwrap"), "no line holds `unwrap`");
        assert_eq!(whole_file("tests/fetch.rs").expect("a file").lines().count(), 5);
        assert_eq!(whole_file("src/shop.rs"), Err("there is no file `src/shop.rs`".to_owned()));
    }
}
