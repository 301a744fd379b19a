//! Power cuts: a store on an ext4 of its own, loaded, killed, then cut off from power, and judged after it is mounted again.
//!
//! The process dies first, so that nobody is promised anything by a process whose disk is gone already. The ledger, the
//! model's log, the shop and the pager are in this process, which writes nothing to that disk.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::disk::{Scratch, compiled};
use crate::ledger::{Ledger, Ticket};
use crate::phases::settle;
use crate::project::{Client, Gone, Project, Up};
use crate::verdict::verdict;
use crate::world::{Books, World};
use crate::{Outcome, options, parsed};

const USAGE: &str = "power-cuts [--rounds N]";
/// Rounds on one file system, the first of them on an empty one.
const ROUNDS_PER_DISK: u32 = 4;
/// Clients that hand in work at once.
const CLIENTS: u32 = 8;
/// Of each kind of work that is not a review, at most so many on one file system.
const OTHERS_MAX: u32 = 60;
/// Lines the control writes without a sync.
const CONTROL_LINES: usize = 2_000;

/// What a file system is made and mounted with.
const TOOLS: [&str; 4] = ["mkfs.ext4", "losetup", "mount", "umount"];

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    rounds: u32,
}

impl Asked {
    pub(crate) fn read<'a>(words: impl Iterator<Item = &'a str>) -> Outcome<Self> {
        let mut asked = Self { rounds: 200 };
        let take = |name: &str, value: &str| {
            if name == "--rounds" {
                asked.rounds = parsed::<u32>(name, value)?.max(1);
            }
            Ok(name == "--rounds")
        };
        options(words, take, USAGE)?;
        Ok(asked)
    }
}

/// Plays the rounds; also when told to stop, what was mounted is unmounted.
pub(crate) async fn run(asked: Asked) -> Outcome<()> {
    if let Some(why) = unable() {
        let said = format!("SKIPPED: power cuts need root, loop devices and mkfs.ext4: {why}");
        println!("{said}");
        eprintln!("{said}");
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let cutter = compiled(&scratch, "shutdown.c", "shutdown", &[])?;
    let disk = Ext4::new(&scratch, &cutter).map_err(|why| format!("no power was cut, for want of a disk: {why}"))?;
    let lost = control(&disk)?;
    println!("control: of {CONTROL_LINES} lines written without a sync, {lost} were lost");
    if lost == 0 {
        return Err("the method sees no loss: nothing it says of a store means anything".to_owned());
    }
    tokio::select! {
        played = rounds(asked, &scratch, disk) => played,
        _ = tokio::signal::ctrl_c() => Err("stopped".to_owned()),
    }
}

/// Why no power can be cut by whoever runs this; none when it can, and whatever fails is an error.
fn unable() -> Option<String> {
    // It belongs to whom we act as.
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        return Some("this is not root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |tool: &str| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| !there(tool)).collect();
    (!missing.is_empty()).then(|| format!("there is no {}", missing.join(", ")))
}

/// A writer that acknowledges what it has not synced loses it, or a power cut is none: lines that were lost.
fn control(disk: &Ext4) -> Outcome<usize> {
    let path = disk.at.join("lines");
    let lines: String = (0..CONTROL_LINES).map(|line| format!("line {line} is acknowledged\n")).collect();
    std::fs::write(&path, lines).map_err(|error| error.to_string())?;
    disk.cut_power()?;
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    Ok(CONTROL_LINES - found.lines().filter(|line| line.ends_with("acknowledged")).count())
}

async fn rounds(asked: Asked, scratch: &Scratch, disk: Ext4) -> Outcome<()> {
    let began = Instant::now();
    let (mut played, mut acknowledged, mut bought) = (0, 0, 0);
    let mut failed = Vec::new();
    while played < asked.rounds {
        disk.format()?;
        let others = (1..=OTHERS_MAX).flat_map(|n| [Ticket::Fail(n), Ticket::Order(n), Ticket::Charge(n)]);
        let world = World::start(&others.chain([Ticket::Later(1)]).collect::<Vec<_>>(), Books::default()).await?;
        let project = Project::new(scratch.path(), &disk.at.join("data"), &world)?;
        let ledger = Ledger::default();
        let next = AtomicU32::new(0);
        let mut up = project.up().await?;
        for cuts in 1..=ROUNDS_PER_DISK.min(asked.rounds - played) {
            played += 1;
            let outcome = async {
                if cuts == 1 {
                    let later = ledger.submit(&up.client, Ticket::Later(1)).await;
                    later.unwrap_or_else(|Gone| Err("it died of nothing".to_owned()))?;
                    let settled = settle(&up.client, &ledger, &world).await;
                    settled.unwrap_or_else(|Gone| Err("it died of nothing".to_owned()))?;
                }
                load(&up.client, &ledger, &next, drawn(played)).await
            };
            let outcome = outcome.await;
            up.kill().await?;
            disk.cut_power()?;
            world.quiet().await?;
            up = project.up().await.map_err(|why| format!("round {played}: {why}"))?;
            let outcome = match outcome {
                Ok(()) => judge(&up, &ledger, &world, cuts).await,
                Err(why) => Err(why),
            };
            if let Err(why) = outcome {
                eprintln!(
                    "\nFAILED round {played}, the {cuts}. cut of its file system:\n{why}\nit said:\n{}",
                    up.said()
                );
                failed.push(played);
                break;
            }
        }
        let promised = ledger.promises().tickets;
        acknowledged += promised.values().filter(|id| id.is_some()).count();
        bought += world.books().shop.len();
        up.kill().await?;
        if played % 20 == 0 || played >= asked.rounds {
            println!(
                "{played:>5} rounds, {acknowledged} tasks acknowledged, {} failed, {:.0} s",
                failed.len(),
                began.elapsed().as_secs_f64()
            );
        }
    }
    println!(
        "{played} power cuts, {acknowledged} tasks acknowledged, {bought} charges and orders made, {} rounds failed, {:.0} s",
        failed.len(),
        began.elapsed().as_secs_f64()
    );
    if failed.is_empty() { Ok(()) } else { Err(format!("rounds that failed: {failed:?}")) }
}

/// How long a round works before its power is cut: spread over a few group commits and over many.
fn drawn(round: u32) -> Duration {
    let roll = round.wrapping_mul(2_654_435_761) >> 16;
    Duration::from_millis(u64::from(5 + roll % 350))
}

/// Clients hand in work until the time is up.
async fn load(client: &Client, ledger: &Ledger, next: &AtomicU32, time: Duration) -> Outcome<()> {
    let hand_in = || async {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let of_kind = n / 24 + 1;
            let ticket = match n % 24 {
                3 if of_kind <= OTHERS_MAX => Ticket::Order(of_kind),
                11 if of_kind <= OTHERS_MAX => Ticket::Charge(of_kind),
                19 if of_kind <= OTHERS_MAX => Ticket::Fail(of_kind),
                _ => Ticket::Review(n + 1),
            };
            match ledger.submit(client, ticket).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return why,
                Err(Gone) => return format!("nobody answers {}", ticket.name()),
            }
        }
    };
    let clients = futures_util::future::select_all((0..CLIENTS).map(|_| Box::pin(hand_in())));
    tokio::select! {
        biased;
        (why, _, _) = clients => Err(why),
        () = sleep(time) => Ok(()),
    }
}

/// Clients whose answer was cut off come again; then all that was promised is there.
async fn judge(up: &Up, ledger: &Ledger, world: &World, cuts: u32) -> Outcome<()> {
    let open: Vec<Ticket> =
        ledger.promises().tickets.iter().filter(|(_, id)| id.is_none()).map(|(ticket, _)| *ticket).collect();
    let gone = |_: Gone| Err("it died of nothing".to_owned());
    ledger.submit_all(&up.client, &open).await.unwrap_or_else(gone)?;
    settle(&up.client, ledger, world).await.unwrap_or_else(gone)?;
    verdict(&up.client, ledger, world, cuts).await
}

/// An ext4 in a file, mounted; unmounted when dropped.
struct Ext4 {
    image: PathBuf,
    at: PathBuf,
    cutter: PathBuf,
}

impl Ext4 {
    fn new(scratch: &Scratch, cutter: &Path) -> Outcome<Self> {
        let disk = Self {
            image: scratch.path().join("disk.img"),
            at: scratch.path().join("mount"),
            cutter: cutter.to_owned(),
        };
        std::fs::create_dir_all(&disk.at).map_err(|error| error.to_string())?;
        disk.make()?;
        disk.mount()?;
        Ok(disk)
    }

    fn make(&self) -> Outcome<()> {
        let file = std::fs::File::create(&self.image).and_then(|file| file.set_len(192 << 20));
        file.map_err(|error| format!("{}: {error}", self.image.display()))?;
        told(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&self.image))
    }

    fn mount(&self) -> Outcome<()> {
        told(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.at))
    }

    /// A file system that is busy for a moment is not for long.
    fn unmount(&self) -> Outcome<()> {
        let mut outcome = Ok(());
        for _ in 0..50 {
            outcome = told(Command::new("umount").arg(&self.at));
            if outcome.is_ok() {
                break;
            }
            told(Command::new("sleep").arg("0.1"))?;
        }
        outcome
    }

    /// An empty one in its place.
    fn format(&self) -> Outcome<()> {
        self.unmount()?;
        self.make()?;
        self.mount()
    }

    /// Off and on again: what was not synced is gone.
    fn cut_power(&self) -> Outcome<()> {
        told(Command::new(&self.cutter).arg(&self.at))?;
        self.unmount()?;
        self.mount()
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        // Not mounted, or for the one who finds the directory.
        let _left_behind = self.unmount().or_else(|_| told(Command::new("umount").arg("-l").arg(&self.at)));
    }
}

fn told(command: &mut Command) -> Outcome<()> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim())) }
}
