//! Kill points: the workload is cut at each of its operations on the disk, in each way, and judged after it goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::called::unsaid;
use crate::disk::{Disk, Mode, Scratch, compiled};
use crate::ledger::{AGAIN, Ledger, Promises, Ticket, asked};
use crate::phases::{Begins, Phase, downgraded, settle, tickets};
use crate::project::{Client, Gone, Project, Started, TOO_LONG, Up};
use crate::verdict::{uncalled, verdict};
use crate::world::{Books, World};
use crate::{Outcome, options, parsed};

pub(crate) const USAGE: &str = "kill-points [--every K] [--mode kill|after|torn|short|eio|eio-sticky|enospc|enospc-sticky|lost|all] [--phase NAME] [--at OPERATION] [--only POINT] [--jobs J]";

/// A point that takes longer than this hangs.
const POINT_MAX: Duration = Duration::from_secs(120);
/// How many failures are told in full.
const TOLD_MAX: usize = 10;

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    every: u64,
    modes: Vec<Mode>,
    phases: Vec<Phase>,
    only: Option<u64>,
    at: Option<u64>,
    jobs: usize,
}

impl Asked {
    pub(crate) fn read<'a>(words: impl Iterator<Item = &'a str>) -> Outcome<Self> {
        let mut asked =
            Self { every: 1, modes: vec![Mode::Kill], phases: Phase::ALL.to_vec(), only: None, at: None, jobs: 4 };
        options(
            words,
            |name, value| {
                match name {
                    "--every" => asked.every = parsed::<u64>(name, value)?.max(1),
                    "--at" => asked.at = Some(parsed(name, value)?),
                    "--only" => asked.only = Some(parsed(name, value)?),
                    "--jobs" => asked.jobs = parsed::<usize>(name, value)?.max(1),
                    "--mode" if value == "all" => asked.modes = Mode::ALL.to_vec(),
                    "--mode" => {
                        asked.modes = value
                            .split(',')
                            .map(|word| Mode::ALL.into_iter().find(|mode| mode.word() == word))
                            .collect::<Option<_>>()
                            .ok_or(USAGE)?;
                    }
                    "--phase" => {
                        asked.phases = value
                            .split(',')
                            .map(|word| Phase::ALL.into_iter().find(|phase| phase.word() == word))
                            .collect::<Option<_>>()
                            .ok_or(USAGE)?;
                    }
                    _ => return Ok(false),
                }
                Ok(true)
            },
            USAGE,
        )?;
        Ok(asked)
    }
}

/// What a phase begins with, made once.
#[derive(Clone, Debug, Default)]
struct Begun {
    store: Option<PathBuf>,
    promises: Promises,
    books: Books,
}

/// The place where points are played.
struct Bench {
    scratch: Scratch,
    shim: PathBuf,
    begun: BTreeMap<Phase, Begun>,
}

/// One point: where the disk fails, and how.
#[derive(Clone, Copy, Debug)]
struct Point {
    number: u64,
    phase: Phase,
    at: u64,
    mode: Mode,
}

pub(crate) async fn run(asked: Asked) -> Outcome<()> {
    let began = Instant::now();
    let bench = Arc::new(Bench::new().await?);
    bench.control().await?;
    println!(
        "control: a task taken out of the store, a charge made twice, a due time and a count moved by hand, and nobody called were found out"
    );
    // A point's number is the same whatever else was asked for, give or take a few: group commits fall differently each
    // time. Its operation in its phase is nearer.
    let mut points = Vec::new();
    let mut number = 0;
    if let Some(at) = asked.at {
        let at =
            |phase: &Phase| asked.modes.iter().map(|mode| Point { number, phase: *phase, at, mode: *mode }).collect();
        points = asked.phases.iter().flat_map::<Vec<Point>, _>(at).collect();
    }
    for phase in Phase::ALL.into_iter().filter(|_| asked.at.is_none()) {
        let count = bench.counted(phase).await?;
        let of_phase = (1..=count).step_by(usize::try_from(phase.stride()).expect("a stride"));
        let first = number + 1;
        for at in of_phase {
            number += 1;
            let wanted = asked.phases.contains(&phase) && asked.only.is_none_or(|only| only == number);
            if wanted && (asked.only.is_some() || number % asked.every == 0) {
                points.extend(asked.modes.iter().map(|mode| Point { number, phase, at, mode: *mode }));
            }
        }
        println!("{:<10} {count:>6} operations, points {first} to {number}", phase.word());
    }
    let turns = Arc::new(Semaphore::new(asked.jobs));
    let mut playing = tokio::task::JoinSet::new();
    points.sort_by_key(|point| point.mode);
    for point in points {
        let (bench, turns) = (Arc::clone(&bench), Arc::clone(&turns));
        playing.spawn(async move {
            let _turn = turns.acquire_owned().await.expect("never closed");
            let began = Instant::now();
            let played = timeout(POINT_MAX, bench.play(point)).await;
            (point, played.unwrap_or_else(|_| Err(format!("it hangs: more than {POINT_MAX:?}"))), began.elapsed())
        });
    }
    let mut tally: BTreeMap<(Mode, Phase), (u32, u32, u32, Duration)> = BTreeMap::new();
    let mut failed = Vec::new();
    while let Some(played) = playing.join_next().await {
        let (point, outcome, took) = played.map_err(|error| format!("the harness failed: {error}"))?;
        let row = tally.entry((point.mode, point.phase)).or_default();
        row.3 += took;
        match outcome {
            Ok(true) => row.0 += 1,
            Ok(false) => row.1 += 1,
            Err(why) => {
                row.2 += 1;
                if failed.len() < TOLD_MAX {
                    eprintln!(
                        "\nFAILED point {} ({}, operation {}, {}):\n{why}",
                        point.number,
                        point.phase.word(),
                        point.at,
                        point.mode.word()
                    );
                    eprintln!(
                        "see it again: cargo test --release --test faults -- kill-points --mode {} --phase {} --at {}",
                        point.mode.word(),
                        point.phase.word(),
                        point.at
                    );
                }
                failed.push(point);
            }
        }
    }
    println!(
        "\n{:<14} {:<10} {:>7} {:>8} {:>7} {:>10} {:>8}",
        "mode", "phase", "points", "passed", "failed", "not struck", "seconds"
    );
    for ((mode, phase), (struck, missed, failed, took)) in &tally {
        let points = struck + missed + failed;
        let seconds = took.as_secs_f64();
        println!(
            "{:<14} {:<10} {points:>7} {struck:>8} {failed:>7} {missed:>10} {seconds:>8.1}",
            mode.word(),
            phase.word()
        );
    }
    // A sync cannot be short: what a mode cannot do at an operation is nothing that was passed.
    let (struck, missed) =
        tally.values().fold((0, 0), |(struck, missed), row| (struck + row.0 + row.2, missed + row.1));
    println!(
        "{struck} points struck, {} failed, {missed} not struck, {:.0} s",
        failed.len(),
        began.elapsed().as_secs_f64()
    );
    if struck == 0 {
        let why = if missed > 0 { "nothing was struck" } else { "there is no such point" };
        return Err(format!("{why}: nothing was tried"));
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("{} points failed", failed.len())) }
}

impl Bench {
    async fn new() -> Outcome<Self> {
        let scratch = Scratch::new()?;
        let shim = compiled(&scratch, "faultio.c", "faultio.so", &["-shared", "-fPIC", "-ldl"])?;
        let mut bench = Self { scratch, shim, begun: BTreeMap::new() };
        let worked = bench.worked().await?;
        let killed = bench.killed().await?;
        for phase in Phase::ALL {
            let begun = match phase.begins() {
                Begins::Empty => Begun::default(),
                Begins::Killed => killed.clone(),
                Begins::Worked { format } => {
                    let name = format.map_or_else(|| "as-it-is".to_owned(), |format| format!("format-{format}"));
                    let store = bench.scratch.path().join(name);
                    let from = worked.store.clone().expect("it has worked");
                    if let Some(format) = format {
                        std::fs::create_dir_all(&store).map_err(|error| error.to_string())?;
                        downgraded(&from.join("backstop.db"), &store.join("backstop.db"), format)?;
                    } else {
                        copied(&from, &store)?;
                    }
                    Begun { store: Some(store), ..worked.clone() }
                }
            };
            bench.begun.insert(phase, begun);
        }
        Ok(bench)
    }

    /// What the phase of work leaves.
    async fn worked(&self) -> Outcome<Begun> {
        let stage = Stage::new(self, Phase::Work, None).await?;
        let up = stage.project.up().await?;
        let played = Phase::Work.play(&up.client, &stage.ledger, &stage.world).await;
        played.unwrap_or_else(|Gone| Err("it died".to_owned())).map_err(|why| format!("{why}\n{}", up.said()))?;
        self.left(stage, up, true).await
    }

    /// What is left when it is killed in the middle of work: half-way through the operations of a whole run.
    async fn killed(&self) -> Outcome<Begun> {
        let count = self.counted(Phase::Work).await?;
        let stage = Stage::new(self, Phase::Work, Some((Mode::Kill, count * 6 / 10))).await?;
        let Started::Up(up) = stage.project.start(Some(&stage.disk)).await? else {
            return Err("it was to die at work, and did not come up".to_owned());
        };
        let Err(Gone) = Phase::Work.play(&up.client, &stage.ledger, &stage.world).await else {
            return Err("it was to die at work, and did not".to_owned());
        };
        self.left(stage, *up, false).await
    }

    async fn left(&self, stage: Stage, mut up: Up, told: bool) -> Outcome<Begun> {
        if told {
            up.terminate();
        }
        up.ended().await?;
        stage.world.quiet().await?;
        let store = self.scratch.path().join(if told { "worked" } else { "killed" });
        copied(stage.project.data(), &store)?;
        Ok(Begun { store: Some(store), promises: stage.ledger.promises(), books: stage.world.books() })
    }

    /// A verdict that finds nothing wrong whatever was done would be worth nothing.
    async fn control(&self) -> Outcome<()> {
        let stage = Stage::new(self, Phase::Work, None).await?;
        let up = stage.project.up().await?;
        let played = Phase::Work.play(&up.client, &stage.ledger, &stage.world).await;
        played.unwrap_or_else(|Gone| Err("it died".to_owned()))?;
        let found = uncalled(&up.client, &stage.ledger, &stage.world).await;
        let found = found.map_err(|why| format!("the control: {why}"))?;
        if let Some(words) = unsaid(&found) {
            return Err(format!("the control: nobody was called, and `{words}` was not found in:\n{found}"));
        }
        up.kill().await?;
        let damage = || -> rusqlite::Result<()> {
            let store = rusqlite::Connection::open(stage.project.data().join("backstop.db"))?;
            let of = "(SELECT seq FROM idempotency WHERE key = 'review-0011')";
            for (table, key) in [("step", "task"), ("body", "seq"), ("progress", "seq"), ("task", "seq")] {
                store.execute(&format!("DELETE FROM {table} WHERE {key} = {of}"), [])?;
            }
            let of = "(SELECT seq FROM idempotency WHERE key = 'review-0012')";
            let more = "json_set(record, '$.attempt', json_extract(record, '$.attempt') + 1)";
            store.execute(&format!("UPDATE progress SET record = {more} WHERE seq = {of}"), [])?;
            Ok(())
        };
        damage().map_err(|error| format!("the control: {error}"))?;
        stage.world.forge(Ticket::Charge(1));
        stage.ledger.note(|promises| drop(promises.due.insert(Ticket::Later(1), "1970-01-01T00:00:00Z".to_owned())));
        let point = Point { number: 0, phase: Phase::Work, at: 0, mode: Mode::Kill };
        let found = stage.goes_on(point, 1).await.err().unwrap_or_default();
        let all = [
            "LOST: review-0011",
            "review-0012: it counts 2 attempts",
            "charge-0001: REPEATED",
            "later-0001: it was due at 1970",
        ];
        match all.into_iter().find(|words| !found.contains(words)) {
            None => Ok(()),
            Some(words) => Err(format!("the control: `{words}` was not found in:\n{found}")),
        }
    }

    /// How many operations a whole run of a phase makes, on a disk that is well.
    async fn counted(&self, phase: Phase) -> Outcome<u64> {
        let stage = Stage::new(self, phase, None).await?;
        stage.whole_run(phase).await.map_err(|why| format!("{} on a disk that is well: {why}", phase.word()))?;
        Ok(stage.disk.count())
    }

    /// Plays one point; `false`: it went by without being struck.
    async fn play(&self, point: Point) -> Outcome<bool> {
        let stage = Stage::new(self, point.phase, Some((point.mode, point.at))).await?;
        let played = if point.mode.kills() { stage.killed(point).await } else { stage.survived(point).await };
        let struck = stage.disk.fired();
        match played {
            Ok(()) => Ok(struck.is_some()),
            Err(why) => {
                let kept = stage.scratch.keep().display();
                Err(format!("struck at: {}\n{why}\nkept in {kept}", struck.unwrap_or_else(|| "nothing".to_owned())))
            }
        }
    }
}

/// One run: a project, its world, its ledger and its disk.
struct Stage {
    scratch: Scratch,
    project: Project,
    world: World,
    ledger: Ledger,
    disk: Disk,
}

impl Stage {
    async fn new(bench: &Bench, phase: Phase, fault: Option<(Mode, u64)>) -> Outcome<Self> {
        let begun = bench.begun.get(&phase).cloned().unwrap_or_default();
        let scratch = Scratch::new()?;
        let data = scratch.path().join("data");
        if let Some(store) = &begun.store {
            copied(store, &data)?;
        }
        let world = World::start(&tickets(), begun.books).await?;
        let project = Project::new(scratch.path(), &data, &world)?;
        let disk = Disk::new(&bench.shim, scratch.path(), fault)?;
        Ok(Self { scratch, project, world, ledger: Ledger::new(begun.promises), disk })
    }

    /// Cuts it has been through when it is judged: those of this run, and those it began with.
    fn cuts(phase: Phase, now: u32) -> u32 {
        now + u32::from(phase.begins() == Begins::Killed)
    }

    /// The whole phase without a fault.
    async fn whole_run(&self, phase: Phase) -> Outcome<()> {
        let mut up = match self.project.start(Some(&self.disk)).await? {
            Started::Up(up) => *up,
            Started::Ended { code, said } => return Err(format!("it did not start (exit {code:?}):\n{said}")),
        };
        let played = phase.play(&up.client, &self.ledger, &self.world).await;
        played.unwrap_or_else(|Gone| Err("it died".to_owned())).map_err(|why| format!("{why}\n{}", up.said()))?;
        verdict(&up.client, &self.ledger, &self.world, Self::cuts(phase, 0)).await?;
        up.terminate();
        match up.ended().await? {
            Some(0) => Ok(()),
            code => Err(format!("told to stop it ended with {code:?}:\n{}", up.said())),
        }
    }

    /// A point at which the process dies.
    async fn killed(&self, point: Point) -> Outcome<()> {
        if let Started::Up(mut up) = self.project.start(Some(&self.disk)).await? {
            // It dies somewhere in here, or at the end.
            let played = point.phase.play(&up.client, &self.ledger, &self.world).await;
            if let Ok(Err(why)) = played {
                return Err(format!("{why}\n{}", up.said()));
            }
            up.terminate();
            up.ended().await?;
        }
        self.goes_on(point, 1).await
    }

    /// The disk is well, the process starts again, clients come again, and all that was promised is kept.
    async fn goes_on(&self, point: Point, cuts: u32) -> Outcome<()> {
        self.world.quiet().await?;
        let mut up = self.project.up().await?;
        let judged = async {
            let promises = self.ledger.promises();
            let open: Vec<Ticket> =
                promises.tickets.iter().filter(|(_, id)| id.is_none()).map(|(ticket, _)| *ticket).collect();
            let handed_in = self.ledger.submit_all(&up.client, &open).await;
            handed_in.unwrap_or_else(|Gone| Err("it died without a fault".to_owned()))?;
            let settled = settle(&up.client, &self.ledger, &self.world).await;
            settled.unwrap_or_else(|Gone| Err("it died without a fault".to_owned()))?;
            let cuts = Self::cuts(point.phase, cuts);
            verdict(&up.client, &self.ledger, &self.world, cuts).await
        };
        judged.await.map_err(|why| format!("{why}\nafter the restart it said:\n{}", up.said()))?;
        up.terminate();
        match up.ended().await? {
            Some(0) => Ok(()),
            code => Err(format!("told to stop it ended with {code:?}:\n{}", up.said())),
        }
    }

    /// A point at which an operation fails, and the process lives on, unless it was only starting or ending.
    async fn survived(&self, point: Point) -> Outcome<()> {
        let mut up = match self.project.start(Some(&self.disk)).await? {
            Started::Up(up) => *up,
            Started::Ended { code: Some(code), said } if code > 0 && said.contains("error") => {
                self.disk.lift();
                return self.goes_on(point, 0).await;
            }
            Started::Ended { code, said } => return Err(format!("it ended with {code:?} and these words:\n{said}")),
        };
        let lived = self.lived(point, &up.client).await;
        lived.map_err(|why| format!("{why}\nit said:\n{}", up.said()))?;
        self.words()?;
        let cuts = Self::cuts(point.phase, u32::from(self.disk.fired().is_some()));
        let judged = verdict(&up.client, &self.ledger, &self.world, cuts).await;
        judged.map_err(|why| format!("without a restart: {why}\nit said:\n{}", up.said()))?;
        if point.mode == Mode::Lost {
            up.kill().await?;
            self.disk.cut_power(self.project.data()).map_err(|error| format!("a power cut: {error}"))?;
            return self.goes_on(point, 1).await;
        }
        up.terminate();
        // A fault while it closes its store is no loss, whatever it says of it.
        up.ended().await?;
        self.disk.lift();
        self.goes_on(point, u32::from(self.disk.fired().is_some())).await
    }

    /// Plays the phase, and looks what the fault does to others meanwhile.
    async fn lived(&self, point: Point, client: &Client) -> Outcome<()> {
        let watched = self.watch(point, client);
        let played = async {
            let played = point.phase.play(client, &self.ledger, &self.world).await;
            played.unwrap_or_else(|Gone| Err("it died of it".to_owned()))
        };
        tokio::pin!(watched, played);
        tokio::select! {
            biased;
            wrong = &mut watched => match wrong {
                Err(why) => Err(why),
                Ok(()) => played.await,
            },
            played = &mut played => played,
        }
    }

    /// While the fault lasts: nothing is acknowledged, the refusal says why, what is there can be read. Then lifts it.
    async fn watch(&self, point: Point, client: &Client) -> Outcome<()> {
        if !point.mode.sticky() {
            return std::future::pending().await;
        }
        while self.disk.fired().is_none() {
            sleep(AGAIN).await;
        }
        let until = Instant::now() + TOO_LONG;
        let (mut refused, mut full) = (0, 0);
        let mut asked = asked(Ticket::Review(1));
        asked["idempotency_key"] = "probe".into();
        while refused < 3 {
            let submitted = client.post("/api/v1/tasks", &asked).await;
            match submitted {
                Ok((status @ 500.., said)) if says_why(&said) => {
                    refused += 1;
                    full += u32::from(status == 507 && said["title"] == "No room is left");
                }
                Ok((status, said)) => return Err(format!("while the disk failed a submission got {status} {said}")),
                // Told to stop meanwhile: the fault came at the end.
                Err(Gone) => return std::future::pending().await,
            }
            for path in ["/api/v1/tasks?limit=1", "/api/v1/balance", "/livez"] {
                match client.get(path).await {
                    Ok((200, _)) => {}
                    Ok((status, said)) => return Err(format!("while the disk failed GET {path} got {status} {said}")),
                    Err(Gone) => return Err(format!("while the disk failed nobody answered GET {path}")),
                }
            }
            if Instant::now() > until {
                return Err("the disk failed, and nobody was refused".to_owned());
            }
        }
        if point.mode == Mode::EnospcSticky && full == 0 {
            return Err("the disk was full, and nobody was told so by 507".to_owned());
        }
        self.disk.lift();
        Ok(())
    }

    /// Whoever was refused was told why, in the words of the system.
    fn words(&self) -> Outcome<()> {
        for (status, said) in &self.ledger.refusals() {
            if !says_why(said) {
                return Err(format!("a client was refused with {status} and not told why: {said}"));
            }
        }
        Ok(())
    }
}

/// Does a refusal say why, in the words of the system?
fn says_why(said: &Value) -> bool {
    said["detail"].as_str().is_some_and(|detail| detail.contains("full") || detail.contains("I/O error"))
}

fn copied(from: &Path, to: &Path) -> Outcome<()> {
    let copy = || {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    };
    copy().map_err(|error: std::io::Error| format!("{} to {}: {error}", from.display(), to.display()))
}
