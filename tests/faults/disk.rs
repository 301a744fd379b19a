//! Disks that fail: a scratch directory, the shim that is preloaded into the process, and the book it keeps.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Outcome;

/// What happens at the operation that is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// SIGKILL before it.
    Kill,
    /// SIGKILL after it.
    After,
    /// Half of what it writes, then SIGKILL.
    Torn,
    /// Half of what it writes, and it says so.
    Short,
    /// It fails with EIO.
    Eio,
    /// It and all after it fail with EIO, until that is lifted.
    EioSticky,
    /// It fails with ENOSPC.
    Enospc,
    /// It and all after it that need room fail with ENOSPC, until that is lifted.
    EnospcSticky,
    /// Syncs fail until that is lifted, and what they were to write is gone after a power cut.
    Lost,
}

impl Mode {
    pub(crate) const ALL: [Self; 9] = [
        Self::Kill,
        Self::After,
        Self::Torn,
        Self::Short,
        Self::Eio,
        Self::EioSticky,
        Self::Enospc,
        Self::EnospcSticky,
        Self::Lost,
    ];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::After => "after",
            Self::Torn => "torn",
            Self::Short => "short",
            Self::Eio => "eio",
            Self::EioSticky => "eio-sticky",
            Self::Enospc => "enospc",
            Self::EnospcSticky => "enospc-sticky",
            Self::Lost => "lost",
        }
    }

    /// Does the process die of it?
    pub(crate) const fn kills(self) -> bool {
        matches!(self, Self::Kill | Self::After | Self::Torn)
    }

    /// Does it last until it is lifted?
    pub(crate) const fn sticky(self) -> bool {
        matches!(self, Self::EioSticky | Self::EnospcSticky | Self::Lost)
    }
}

/// A directory of our own, gone when this is dropped unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    kept: std::sync::atomic::AtomicBool,
}

impl Scratch {
    pub(crate) fn new() -> Outcome<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("backstop-faults-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, kept: false.into() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it for somebody to look at.
    pub(crate) fn keep(&self) -> &Path {
        self.kept.store(true, Ordering::Relaxed);
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            let _left_behind = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Compiles a piece of C that stands beside this file.
pub(crate) fn compiled(scratch: &Scratch, source: &str, output: &str, arguments: &[&str]) -> Outcome<PathBuf> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults").join(source);
    let to = scratch.path().join(output);
    let said = Command::new("cc").args(["-Wall", "-O1"]).args(arguments).arg("-o").arg(&to).arg(&from).output();
    let said = said.map_err(|error| format!("cc: {error}"))?;
    if !said.status.success() {
        return Err(format!("cc {source}: {}", String::from_utf8_lossy(&said.stderr)));
    }
    Ok(to)
}

/// The size of the shim's book: 4,096 bytes and its ranges.
const BOOK: usize = 4_096 + RANGES * 32;
const RANGES: usize = 32_000;

/// The disk of one process: which of its operations fails, how, and what the shim wrote down of it.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    shim: PathBuf,
    book: PathBuf,
    lift: PathBuf,
    now: PathBuf,
    fault: Option<(Mode, u64)>,
}

impl Disk {
    /// A disk that fails at the operation of this number; without one it only counts. Its books are kept in `beside`.
    pub(crate) fn new(shim: &Path, beside: &Path, fault: Option<(Mode, u64)>) -> Outcome<Self> {
        let (book, lift, now) = (beside.join("book"), beside.join("lifted"), beside.join("now"));
        let disk = Self { shim: shim.to_owned(), book, lift, now, fault };
        for (path, size) in [(&disk.book, BOOK), (&disk.now, 16)] {
            std::fs::write(path, vec![0; size]).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(disk)
    }

    /// Puts it under a process whose store is in `dir`.
    pub(crate) fn under(&self, command: &mut tokio::process::Command, dir: &Path) {
        command.env("LD_PRELOAD", &self.shim).env("FAULTIO_DIR", dir).env("FAULTIO_BOOK", &self.book);
        command.env("FAULTIO_LIFT", &self.lift).env("FAULTIO_NOW", &self.now);
        if let Some((mode, at)) = self.fault {
            command.env("FAULTIO_MODE", mode.word()).env("FAULTIO_AT", at.to_string());
        }
    }

    fn book(&self) -> Vec<u8> {
        std::fs::read(&self.book).unwrap_or_default()
    }

    fn head(&self) -> Vec<u8> {
        let mut head = vec![0; 4_096];
        let read = std::fs::File::open(&self.book).and_then(|file| file.read_exact_at(&mut head, 0));
        read.expect("the book stands beside the project");
        head
    }

    fn number(&self, at: usize) -> u64 {
        self.head().get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
    }

    /// How many operations there were so far.
    pub(crate) fn count(&self) -> u64 {
        self.number(0)
    }

    /// Which operation failed, if one did.
    pub(crate) fn fired(&self) -> Option<String> {
        let book = self.head();
        let said: Vec<u8> = book.get(16..)?.iter().copied().take_while(|byte| *byte != 0).collect();
        (self.number(8) > 0).then(|| String::from_utf8_lossy(&said).into_owned())
    }

    /// What a power cut does to the files of `dir`: bytes whose sync failed are gone. How many.
    pub(crate) fn cut_power(&self, dir: &Path) -> std::io::Result<u64> {
        let book = self.book();
        let mut gone = 0;
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let file = std::fs::OpenOptions::new().write(true).open(&path)?;
            let of = file.metadata()?;
            for range in book[4_096..].chunks_exact(32) {
                let number = |at: usize| u64::from_ne_bytes(range[at..at + 8].try_into().expect("eight bytes"));
                let (inode, from, count, lost) = (number(0), number(8), number(16), number(24));
                if inode == 0 {
                    break;
                }
                if inode == of.ino() && lost == 1 && from < of.len() {
                    let count = count.min(of.len() - from);
                    file.write_all_at(&vec![0; usize::try_from(count).expect("a length")], from)?;
                    gone += count;
                }
            }
        }
        Ok(gone)
    }

    /// A sticky fault that was lifted is back.
    pub(crate) fn strike(&self) {
        // It may not have been lifted.
        let _there = std::fs::remove_file(&self.lift);
    }

    /// From now on the wall clock of its process is wrong by so many milliseconds.
    pub(crate) fn set_clock(&self, wrong: i64) {
        self.set(0, wrong);
    }

    /// From now on each sync takes so many milliseconds longer.
    pub(crate) fn set_slow(&self, by: i64) {
        self.set(8, by);
    }

    fn set(&self, at: u64, number: i64) {
        // Written in place: the process has it mapped.
        let written = std::fs::OpenOptions::new().write(true).open(&self.now);
        let written = written.and_then(|file| file.write_all_at(&number.to_ne_bytes(), at));
        written.expect("it stands beside the project");
    }

    /// The disk is well again.
    pub(crate) fn lift(&self) {
        std::fs::write(&self.lift, "").expect("a file beside the project");
    }
}
