//! Chaos: the real process under mixed load, killed, stopped and starved by seeded dice for minutes, and judged at the end.
//!
//! `dice` says what goes wrong, `load` are the clients and their ledger, `outside` is what stands around, `judge` the verdict.
//! Everything is drawn from the seed but what the machine makes of it: a seed plays the same plan, not the same microseconds.

mod dice;
mod judge;
mod load;
mod orphans;
mod outside;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use self::dice::{Dice, End, Fault, QUIET, Round};
use self::judge::{Counts, Wrong, judge, settle, uncalled};
use self::load::{Kind, Load};
use self::orphans::{Orphans, spread};
use self::outside::Outside;
use crate::called::unsaid;
use crate::disk::{Disk, Mode, Scratch, compiled};
use crate::project::{Client, Project, Started, Up};
use crate::{Outcome, options, parsed};

pub(crate) const USAGE: &str = "chaos [--minutes N] [--seed S] [--rate TASKS-A-SECOND]";

/// The team's name, a part of the keys of its pages.
const TEAM: &str = "chaos";
/// How long a drain may take by the team's word, and what closing the store and the process may take beyond it.
const DRAIN: Duration = Duration::from_secs(5);
const DRAIN_SLACK: Duration = Duration::from_secs(2);
/// How many things that are wrong are told in full.
const TOLD_MAX: usize = 10;
/// When nothing is broken any more every client has its answer within this.
const ANSWERED: Duration = Duration::from_secs(240);
/// When nothing is broken any more everything comes to rest within this: what was due by a clock that was a minute ahead
/// too, and what the CEO parked, which is a quarter of an hour.
const SETTLES: Duration = Duration::from_secs(1_200);

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    minutes: f64,
    seed: u64,
    rate: u64,
}

impl Asked {
    pub(crate) fn read<'a>(words: impl Iterator<Item = &'a str>) -> Outcome<Self> {
        let mut asked = Self { minutes: 30.0, seed: 7, rate: 20 };
        options(
            words,
            |name, value| {
                match name {
                    "--minutes" => asked.minutes = parsed::<f64>(name, value)?.clamp(0.1, 1_440.0),
                    "--seed" => asked.seed = parsed(name, value)?,
                    "--rate" => asked.rate = parsed::<u64>(name, value)?.clamp(1, 1_000),
                    _ => return Ok(false),
                }
                Ok(true)
            },
            USAGE,
        )?;
        Ok(asked)
    }
}

/// Something after which a page may be sent again: the process ended, or could not write for a while.
#[derive(Clone, Copy, Debug)]
struct Cut {
    from: Instant,
    to: Instant,
    /// It was told to stop.
    told: bool,
}

impl Cut {
    /// Did it fall between these two moments?
    fn within(&self, first: Instant, second: Instant) -> bool {
        self.from <= second && self.to >= first
    }
}

/// Everything that was counted while it went on.
#[derive(Clone, Debug, Default)]
struct Tally {
    kills: u32,
    told: u32,
    drains: Vec<Duration>,
    orphans: Orphans,
    wrong: Vec<String>,
}

/// What is broken besides the process.
#[derive(Clone, Debug)]
struct Weather {
    faults: BTreeMap<&'static str, u32>,
    /// By how much the clock is wrong, in milliseconds.
    clock: i64,
    outage_until: Instant,
    /// The disk is full, or slow.
    disk_until: Instant,
    /// When the process stood still, or could not write.
    spells: Vec<Cut>,
}

impl Weather {
    fn new(now: Instant) -> Self {
        Self { faults: BTreeMap::new(), clock: 0, outage_until: now, disk_until: now, spells: Vec::new() }
    }

    fn words(&self) -> String {
        let all: Vec<String> = self.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
        all.join(", ")
    }
}

/// A team, its disk, its clients and its world.
struct Stage {
    scratch: Scratch,
    project: Project,
    disk: Disk,
    outside: Arc<Outside>,
    load: Load,
    team: watch::Sender<Option<Client>>,
}

pub(crate) async fn run(asked: Asked) -> Outcome<()> {
    control().await?;
    println!(
        "control: a task taken out of the store, a charge made twice, a page sent twice and nobody called were found out; a slow disk is slow"
    );
    let span = Duration::from_secs_f64(asked.minutes * 60.0);
    let stage = Stage::new(asked.seed, span + SETTLES).await?;
    let again = format!(
        "cargo test --release --test faults -- chaos --minutes {} --seed {} --rate {}",
        asked.minutes, asked.seed, asked.rate
    );
    match stage.play(&asked, span).await {
        Ok(()) => Ok(()),
        Err(why) => Err(format!(
            "{why}\n\nFAILED with seed {}; kept in {}\n{again}",
            asked.seed,
            stage.scratch.keep().display()
        )),
    }
}

/// A verdict that finds nothing wrong whatever was done would be worth nothing.
async fn control() -> Outcome<()> {
    let stage = Stage::new(0, Duration::from_secs(60)).await?;
    let (up, _) = stage.start().await?;
    let mut names = Vec::new();
    for kind in [Kind::Review, Kind::Charge, Kind::Fail, Kind::Fail, Kind::Fail] {
        names.push(stage.load.submit(kind).await?);
    }
    let (slow, asked) = (Duration::from_millis(500), Instant::now());
    stage.disk.set_slow(500);
    names.push(stage.load.submit(Kind::Review).await?);
    stage.disk.set_slow(0);
    if asked.elapsed() < slow {
        return Err(format!("the control: a disk that takes {slow:?} longer took {:?}", asked.elapsed()));
    }
    settle(&up.client, &stage.outside, Duration::from_secs(30)).await.map_err(|why| format!("the control: {why}"))?;
    let (well, _) = judge(&up.client, &stage.load, &stage.outside, &[], &[]).await?;
    if !well.all().is_empty() {
        return Err(format!("the control, before anything was done to it:\n{}\n{}", well.all().join("\n"), up.said()));
    }
    let found = uncalled(&up.client, &stage.load, &stage.outside).await;
    let found = found.map_err(|why| format!("the control: {why}"))?.pages.join("\n");
    if let Some(words) = unsaid(&found) {
        return Err(format!("the control: nobody was called, and `{words}` was not found in:\n{found}"));
    }
    up.kill().await?;
    let take_out = || -> rusqlite::Result<()> {
        let store = rusqlite::Connection::open(stage.project.data().join("backstop.db"))?;
        for (table, key) in [("step", "task"), ("body", "seq"), ("progress", "seq"), ("task", "seq")] {
            let of = "(SELECT seq FROM idempotency WHERE key = ?1)";
            store.execute(&format!("DELETE FROM {table} WHERE {key} = {of}"), [&names[0]])?;
        }
        Ok(())
    };
    take_out().map_err(|error| format!("the control: {error}"))?;
    stage.outside.forge(&names[1]);
    let (up, _) = stage.start().await?;
    let (found, _) = judge(&up.client, &stage.load, &stage.outside, &[], &[]).await?;
    if found.lost.is_empty() || found.repeated.is_empty() || !found.pages.iter().any(|why| why.contains("doubled")) {
        return Err(format!("the control: this is not all that was done to it:\n{}", found.all().join("\n")));
    }
    Ok(())
}

impl Stage {
    async fn new(seed: u64, most: Duration) -> Outcome<Self> {
        let scratch = Scratch::new()?;
        let shim = compiled(&scratch, "faultio.c", "faultio.so", &["-shared", "-fPIC", "-ldl"])?;
        let outside = Arc::new(Outside::start(seed).await?);
        let data = scratch.path().join("data");
        let file = |text: &str| {
            let text = text.replace("{provider}", outside.provider()).replace("{shop}", &outside.shop());
            text.replace("{pager}", &outside.pager())
        };
        let files = [
            ("backstop.yaml", file(include_str!("team/backstop.yaml"))),
            ("works.json", r#"{ "type": "object", "required": ["works"] }"#.to_owned()),
            ("agents/cto.md", file(include_str!("team/cto.md"))),
            ("agents/coo.md", file(include_str!("team/coo.md"))),
        ];
        let project = Project::of(scratch.path(), &data, &files)?;
        // A full disk that is lifted from the beginning: it comes and goes as the dice say.
        let disk = Disk::new(&shim, scratch.path(), Some((Mode::EnospcSticky, 1)))?;
        disk.lift();
        let (team, heard) = watch::channel(None);
        Ok(Self { scratch, project, disk, outside, load: Load::new(heard, Instant::now() + most), team })
    }

    /// Starts the process, and tells the clients where it is; when it began to start.
    async fn start(&self) -> Outcome<(Up, Instant)> {
        let began = Instant::now();
        match self.project.start(Some(&self.disk)).await? {
            Started::Up(up) => {
                self.team.send_replace(Some(up.client.clone()));
                Ok((*up, began))
            }
            Started::Ended { code, said } => Err(format!("it did not start again (exit {code:?}):\n{said}")),
        }
    }

    async fn play(&self, asked: &Asked, span: Duration) -> Outcome<()> {
        let began = Instant::now();
        let end = began + span;
        let handing_in = tokio::spawn(self.load.clone().hand_in(asked.rate, asked.seed));
        let reading = tokio::spawn(self.load.clone().read(asked.seed));
        let on_call = tokio::spawn(self.load.clone().answer_pages(Arc::clone(&self.outside)));
        let (mut dice, mut wrong, mut tally, mut cuts) = (Dice::new(asked.seed), 0, Tally::default(), Vec::new());
        let mut weather = Weather::new(began);
        let (mut up, mut started) = self.start().await?;
        let (mut number, mut minute) = (0, 1);
        let (mut orphaned, mut disturbed) = (Vec::new(), false);
        while Instant::now() < end {
            let round = dice::round(&mut dice, number, &mut wrong);
            self.suffer(&up, started, &round, end, &mut weather).await?;
            self.measure(&up, &orphaned, started, disturbed, &mut tally).await;
            let from = Instant::now();
            disturbed = from < weather.outage_until || held_back(&up.client).await;
            let told = round.end == End::Terminate;
            if told {
                // Who cannot write cannot write that anything was given back.
                sleep_until(weather.disk_until).await;
                self.drained(&mut up, &mut tally).await?;
                orphaned = Vec::new();
                tally.told += 1;
            } else {
                let waiting = self.outside.look(|books| books.waiting(started));
                self.team.send_replace(None);
                up.kill().await?;
                let answered = self.outside.look(|books| books.since(from, |call| call.answered));
                orphaned = waiting.into_iter().filter(|ticket| !answered.contains_key(ticket)).collect();
                tally.kills += 1;
            }
            if let Some(by) = round.step_meanwhile {
                self.step(by, &mut weather);
                *weather.faults.entry("clock steps").or_default() += 1;
            }
            // Starts on a full disk are the kill points' part.
            sleep_until(weather.disk_until).await;
            self.disk.lift();
            self.disk.set_slow(0);
            (up, started) = self.start().await?;
            cuts.push(Cut { from, to: Instant::now(), told });
            number += 1;
            while began.elapsed().as_secs() >= minute * 60 {
                println!("{}", self.line(minute, &up.client, &tally, &weather).await);
                minute += 1;
            }
        }
        println!("no more faults after {:.0} s; it comes to rest", began.elapsed().as_secs_f64());
        self.heal().await?;
        self.load.stop();
        let acknowledged = timeout_at(Instant::now() + ANSWERED, handing_in).await;
        acknowledged.map_err(|_| "a client is still not acknowledged")?.map_err(|error| error.to_string())?;
        for task in [reading, on_call] {
            let ended = timeout_at(Instant::now() + ANSWERED, task).await;
            ended.map_err(|_| "a client hangs")?.map_err(|error| error.to_string())?;
        }
        sleep_until(started + QUIET).await;
        self.measure(&up, &orphaned, started, disturbed, &mut tally).await;
        let settled = settle(&up.client, &self.outside, SETTLES).await;
        println!("at rest after {:.0} s", began.elapsed().as_secs_f64());
        let (mut found, counts) = judge(&up.client, &self.load, &self.outside, &cuts, &weather.spells).await?;
        found.lost.extend(settled.err());
        self.drained(&mut up, &mut tally).await?;
        found.other.extend(tally.wrong.iter().cloned());
        self.table(&tally, &weather, &found, &counts).await?;
        let mut all = found.all();
        all.extend(tally.orphans.late(tally.kills, span));
        if all.is_empty() {
            return Ok(());
        }
        let told: Vec<String> = all.iter().take(TOLD_MAX).map(|why| why.chars().take(3_000).collect()).collect();
        Err(format!("\n{} things are wrong:\n{}\n\nthe last process said:\n{}", all.len(), told.join("\n"), up.said()))
    }

    /// One round of life: its faults come and go.
    async fn suffer(
        &self,
        up: &Up,
        started: Instant,
        round: &Round,
        end: Instant,
        weather: &mut Weather,
    ) -> Outcome<()> {
        for (begins, lasts, fault) in &round.faults {
            let from = started + *begins;
            if from >= end || *begins >= round.lives {
                break;
            }
            sleep_until(from).await;
            let from = Instant::now();
            let to = from + *lasts;
            *weather.faults.entry(fault.word()).or_default() += 1;
            match fault {
                Fault::Stopped => {
                    up.stop();
                    sleep(*lasts).await;
                    up.resume();
                    weather.spells.push(Cut { from, to: Instant::now(), told: false });
                }
                Fault::Clock(by) => self.step(*by, weather),
                // These go on by themselves, and may outlive the process.
                Fault::Full => {
                    self.disk.strike();
                    weather.spells.push(Cut { from, to, told: false });
                    weather.disk_until = weather.disk_until.max(to);
                    let disk = self.disk.clone();
                    tokio::spawn(async move {
                        sleep_until(to).await;
                        disk.lift();
                    });
                }
                // What was acknowledged is as safe; only time goes by. So it is no spell: it excuses nothing.
                Fault::Slow(by) => {
                    self.disk.set_slow(*by);
                    weather.disk_until = weather.disk_until.max(to);
                    let disk = self.disk.clone();
                    tokio::spawn(async move {
                        sleep_until(to).await;
                        disk.set_slow(0);
                    });
                }
                Fault::PagerDown => {
                    self.outside.pager_down(true);
                    let outside = Arc::clone(&self.outside);
                    tokio::spawn(async move {
                        sleep_until(to).await;
                        outside.pager_down(false);
                    });
                }
                Fault::Outage { fault, echo } => {
                    let mut fault = fault.clone();
                    fault["for"] = format!("{}ms", lasts.as_millis()).into();
                    self.outside.order(&json!({ "add": fault })).await?;
                    weather.outage_until = weather.outage_until.max(to + *echo);
                }
            }
        }
        sleep_until((started + round.lives).min(end)).await;
        Ok(())
    }

    fn step(&self, by: i64, weather: &mut Weather) {
        weather.clock += by;
        self.disk.set_clock(weather.clock);
    }

    /// Nothing is broken any more.
    async fn heal(&self) -> Outcome<()> {
        self.disk.lift();
        self.disk.set_slow(0);
        self.disk.set_clock(0);
        self.outside.pager_down(false);
        self.outside.order(&json!({ "clear": true })).await
    }

    /// Tells it to stop, under load: it ends within its limit, and well.
    async fn drained(&self, up: &mut Up, tally: &mut Tally) -> Outcome<()> {
        let told = Instant::now();
        up.terminate();
        let code = up.ended().await?;
        let took = told.elapsed();
        self.team.send_replace(None);
        tally.drains.push(took);
        if code != Some(0) || took > DRAIN + DRAIN_SLACK {
            tally.wrong.push(format!("told to stop it ended with {code:?} after {took:.1?}:\n{}", up.said()));
        }
        Ok(())
    }

    /// How long orphans took to be asked about again, now that the round is over.
    async fn measure(&self, up: &Up, orphaned: &[String], started: Instant, disturbed: bool, tally: &mut Tally) {
        if orphaned.is_empty() {
            return;
        }
        if disturbed {
            tally.orphans.pass_over();
            return;
        }
        tally.orphans.measure(orphaned, started, &up.client, &self.load, &self.outside).await;
    }

    async fn line(&self, minute: u64, client: &Client, tally: &Tally, weather: &Weather) -> String {
        let promises = self.load.promises();
        let acknowledged = promises.tickets.values().filter(|id| id.is_some()).count();
        let balance = client.read("/api/v1/balance").await.unwrap_or_default();
        format!(
            "minute {minute}: {acknowledged} acknowledged, {} done, {} open, {} lost; {} kills, {} stops on demand; {}; restarts {}",
            balance["done"],
            balance["waiting"].as_u64().unwrap_or(0) + balance["running"].as_u64().unwrap_or(0),
            balance["lost"],
            tally.kills,
            tally.told,
            weather.words(),
            tally.orphans.brief(),
        )
    }

    async fn table(&self, tally: &Tally, weather: &Weather, found: &Wrong, counts: &Counts) -> Outcome<()> {
        let promises = self.load.promises();
        let (requests, by_status) = self.outside.traffic().await?;
        let refused = self.outside.look(|books| books.refused);
        let before = [
            (
                "tasks",
                format!("{} of {} tickets acknowledged: {:?}", counts.tasks, promises.tickets.len(), counts.states),
            ),
            ("clients", format!("refused, by status: {:?}; not heard {} times", promises.refused, promises.gone)),
            ("attempts", format!("{}, {} given back, {} cut off", counts.attempts, counts.released, counts.cut)),
            ("provider", format!("{requests} requests, by status {by_status}")),
            ("shop", format!("told {} times, {} of them payments", counts.shop, counts.payments)),
            ("pager", format!("{} incidents, {} pages, {refused} refused", counts.incidents, counts.pages)),
            ("kills", format!("{}, {} stops on demand, {}", tally.kills, tally.told, weather.words())),
            ("drains", format!("{} (limit {DRAIN:?})", spread(&tally.drains))),
        ];
        let after = [
            (
                "sent again",
                format!("{} pages, under their key, after a cut between the sending and its record", counts.sent_again),
            ),
            ("lost", found.lost.len().to_string()),
            ("doubled", found.doubled.len().to_string()),
            ("payments repeated", found.repeated.len().to_string()),
            ("pages missed or doubled", found.pages.len().to_string()),
            ("stops counted", format!("{} attempts", found.counted.len())),
            ("otherwise wrong", found.other.len().to_string()),
        ];
        println!();
        for (name, said) in before.into_iter().chain(tally.orphans.rows()).chain(after) {
            println!("{name:<24} {said}");
        }
        Ok(())
    }
}

/// Is the provider held back, by a breaker or because it asked for silence? Then its work is to wait, restart or not.
async fn held_back(client: &Client) -> bool {
    let breakers = client.get("/api/v1/breakers").await;
    let well =
        |item: &serde_json::Value| item["state"] == "closed" && item["gate_closed"] != true && item["ramp"].is_null();
    let all_well = |said: &serde_json::Value| said["items"].as_array().is_some_and(|items| items.iter().all(well));
    !matches!(breakers, Ok((200, said)) if all_well(&said))
}
