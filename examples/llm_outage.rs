//! An LLM outage from start to end, in virtual time: `cargo run --example llm_outage [SCENARIO.yaml [SEED]]`.
//!
//! Anthropic is down for twelve minutes of a busy hour. The whole team runs in this process, the same code as in
//! production; only the models, the pager and the clock are played, so that the hour takes a moment. No key, no network.

use std::error::Error;
use std::path::Path;

use backstop::definitions;
use backstop::sim::library;
use backstop::sim::play::play;
use backstop::sim::screen::{Screen, Style};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next();
    let seed = arguments.next().map_or(Ok(7), |seed| seed.parse())?;
    // A scenario of your own, or the shipped one that `backstop sim run anthropic-outage` plays.
    let loaded = match &file {
        Some(file) => definitions::scenario(Path::new(file), None),
        None => {
            let (_, text) = library::named("anthropic-outage").ok_or("it is shipped")?;
            definitions::scenario_text("anthropic-outage.yaml", text, None)
        }
    };
    let loaded = loaded.inspect_err(|problems| problems.errors.iter().for_each(|error| eprintln!("{error}")))?;

    let run = play(&loaded, seed)?;

    // Everything worth telling is in the event feed.
    let (mut screen, mut out) = (Screen::new(Style::default()), std::io::stdout());
    for event in &run.events {
        screen.feed(event);
        screen.print(event.at, &mut out)?;
    }
    screen.finish(run.events.last().map_or(loaded.scenario.start, |event| event.at), &mut out)?;
    let (balance, calls, met) =
        (run.balance, run.books.calls.len(), run.books.calls.iter().filter(|call| call.fault.is_some()).count());
    println!(
        "\n{} submitted, {} done, {} lost; {calls} calls, {met} of them met the outage",
        balance.submitted,
        balance.done,
        balance.lost()
    );
    println!("seed {seed}, feed {}", &run.hash[..12]);
    if run.at_rest && balance.lost() == 0 { Ok(()) } else { Err("not everything came to rest".into()) }
}
