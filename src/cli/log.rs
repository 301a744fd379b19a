//! The log of a process that runs for months. Whoever logs does not wait for whoever reads the log, and does not fail by it:
//! a thread of its own writes it, and what cannot be written is counted, and told when it can.
//!
//! It was stderr itself once. A log file on a full disk made `tracing` complain to stderr as well, which panicked in whoever
//! had logged: an agent between a call and its record. And a reader that stands still (Ctrl-S, a pager) held up everybody.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::check::env;
use super::output::{Output, visible_lines};
use super::{Context, Error, LogFormat};
use crate::redact::redact;

/// Bytes that wait for a reader that stands still. What comes then is lost, and counted.
const WAITING_MAX: usize = 1 << 20;
/// What is said under this name (a panic, lines that are lost, why it ends) is said whatever else is wanted.
const ALWAYS: &str = "backstop::always";
/// How long the end of the process waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where lines are left to be written. A clone is the same log.
#[derive(Clone)]
pub(super) struct Log(Arc<Desk>);

struct Desk {
    tray: Mutex<Tray>,
    /// Something was left.
    left: Condvar,
    /// All of it was taken to its end.
    empty: Condvar,
}

#[derive(Default)]
struct Tray {
    lines: VecDeque<Vec<u8>>,
    /// In `lines`, and in the hands of the writer.
    bytes: usize,
    /// Lines that were not written, and not told yet.
    lost: u64,
}

impl Log {
    /// Logs go to stderr, as text or JSON; `BACKSTOP_LOG` filters them as `RUST_LOG` does elsewhere.
    pub(super) fn start(context: &Context) -> Started {
        let default = match (context.out.quiet, context.verbose) {
            (true, _) => "error",
            (false, 0) => "warn,backstop=info",
            (false, 1) => "info,backstop=debug",
            (false, _) => "debug,backstop=trace",
        };
        let filter = env("BACKSTOP_LOG").and_then(|filter| EnvFilter::try_new(filter).ok());
        let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
        // The MCP SDK logs what servers say as it came, arguments and results among it; what matters of that we say, redacted.
        let filter = filter.add_directive("rmcp=off".parse().expect("a directive"));
        let filter = filter.add_directive(format!("{ALWAYS}=error").parse().expect("a directive"));
        let log = Self::to(io::stderr(), |lost| {
            tracing::error!(
                target: ALWAYS,
                "{lost} lines of this log are lost: they could not be written, or nobody took them in time"
            );
        });
        let line = log.clone();
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || line.clone());
        let builder = builder.log_internal_errors(false);
        // A second start in one process keeps the first one's log.
        let first = match context.log {
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
            LogFormat::Text => builder.with_ansi(context.out.color).try_init(),
        };
        if first.is_ok() {
            // Else a panic is told on stderr, by whoever panics, who would wait there; with whatever it has in its words.
            std::panic::set_hook(Box::new(|panic| {
                let thread = thread::current();
                let stack = Backtrace::capture();
                let stack = if stack.status() == BacktraceStatus::Captured { stack.to_string() } else { String::new() };
                let said = format!("thread '{}' {panic}\n{stack}", thread.name().unwrap_or("without a name"));
                tracing::error!(target: ALWAYS, "{}", visible_lines(&redact(said.trim_end())));
            }));
        }
        Started { log, format: context.log, out: context.out.clone() }
    }

    /// One that is written there; `tell` says how many lines were lost, once one can be written again. Where no thread can
    /// be had for it, nothing is written.
    fn to(out: impl Write + Send + 'static, tell: impl Fn(u64) + Send + 'static) -> Self {
        let desk = Desk { tray: Mutex::default(), left: Condvar::new(), empty: Condvar::new() };
        let log = Self(Arc::new(desk));
        let writer = log.clone();
        let written = thread::Builder::new().name("backstop-log".to_owned()).spawn(move || writer.write_to(out, tell));
        drop(written);
        log
    }

    fn tray(&self) -> MutexGuard<'_, Tray> {
        self.0.tray.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, line: &[u8]) {
        let mut tray = self.tray();
        if tray.bytes + line.len() > WAITING_MAX {
            tray.lost += 1;
            return;
        }
        tray.bytes += line.len();
        tray.lines.push_back(line.to_vec());
        drop(tray);
        self.0.left.notify_one();
    }

    fn write_to(&self, mut out: impl Write, tell: impl Fn(u64)) {
        let mut cut = false;
        loop {
            let nothing_left = |tray: &mut Tray| tray.lines.is_empty();
            let mut tray = self.0.left.wait_while(self.tray(), nothing_left).unwrap_or_else(PoisonError::into_inner);
            let lines = std::mem::take(&mut tray.lines);
            drop(tray);
            let unwritten = lines.iter().filter(|line| !put(&mut out, line, &mut cut)).count() as u64;
            let mut tray = self.tray();
            tray.bytes -= lines.iter().map(Vec::len).sum::<usize>();
            tray.lost += unwritten;
            let lost = if unwritten == 0 { std::mem::take(&mut tray.lost) } else { 0 };
            drop(tray);
            if lost > 0 {
                tell(lost);
            }
            self.0.empty.notify_all();
        }
    }

    /// Waits until all that was left is written or lost; not for ever.
    fn finish(&self, most: Duration) {
        let busy = |tray: &mut Tray| tray.bytes > 0;
        drop(self.0.empty.wait_timeout_while(self.tray(), most, busy));
    }
}

/// Writes a line; false if it could not be. `cut`: the last one ended before its end, and its rest must not be taken for
/// the start of this one.
fn put(out: &mut impl Write, line: &[u8], cut: &mut bool) -> bool {
    if *cut && out.write_all(b"\n").is_err() {
        return false;
    }
    *cut = false;
    let mut rest = line;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => break,
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    *cut = !rest.is_empty() && rest.len() < line.len();
    rest.is_empty()
}

/// `tracing` hands over a line at a time.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.leave(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of this process, from its start to its end: dropped, its last lines are written.
pub(super) struct Started {
    log: Log,
    format: LogFormat,
    out: Output,
}

impl Started {
    /// Words for people; in a log of JSON they are a line of it, so that whatever reads it can read every line.
    pub(super) fn tell(&self, words: &str) {
        match self.format {
            LogFormat::Json => words.lines().for_each(|line| tracing::info!("{line}")),
            LogFormat::Text => self.leave(self.out.said(words)),
        }
    }

    /// The likely next command; nobody types into a log of JSON.
    pub(super) fn next(&self, command: &str) {
        match self.format {
            LogFormat::Json => {}
            LogFormat::Text => self.leave(self.out.said_next(command)),
        }
    }

    /// Why it ends; the same with its words said, where there are any.
    pub(super) fn ends(&self, error: Error) -> Error {
        if error.quiet() {
            return error;
        }
        let said = self.out.said_error(&error);
        match self.format {
            LogFormat::Json => said.lines().for_each(|line| tracing::error!(target: ALWAYS, "{}", line.trim_start())),
            LogFormat::Text => self.leave(Some(said)),
        }
        Error::Silent(error.exit_code())
    }

    fn leave(&self, words: Option<String>) {
        if let Some(words) = words {
            self.log.leave(format!("{words}\n").as_bytes());
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.log.finish(LAST_LINES);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Somewhere to write that does with each write what it is told to: takes so many bytes, or fails.
    struct Reader {
        orders: Receiver<io::Result<usize>>,
        seen: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // It stands still until it is told.
            let took = self.orders.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.seen.lock().expect("not poisoned").extend(&bytes[..took]);
            Ok(took)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    struct Case {
        log: Log,
        orders: Option<Sender<io::Result<usize>>>,
        seen: Arc<Mutex<Vec<u8>>>,
        lost: Receiver<u64>,
    }

    impl Case {
        fn new() -> Self {
            let (orders, told) = channel();
            let (losing, lost) = channel();
            let seen = Arc::default();
            let log = Log::to(Reader { orders: told, seen: Arc::clone(&seen) }, move |count| {
                losing.send(count).expect("somebody listens");
            });
            Self { log, orders: Some(orders), seen, lost }
        }

        fn order(&self, what: io::Result<usize>) {
            self.orders.as_ref().expect("not done").send(what).expect("it writes");
        }

        /// Everything is taken from now on.
        fn takes_all(&mut self) {
            self.orders = None;
        }

        fn line(&mut self, line: &str) {
            self.log.write_all(line.as_bytes()).expect("it never fails");
        }

        fn seen(&self) -> String {
            self.log.finish(LONG);
            String::from_utf8(self.seen.lock().expect("not poisoned").clone()).expect("text")
        }
    }

    #[test]
    fn lines_are_written_in_order() {
        let mut case = Case::new();
        case.takes_all();
        case.line("one\n");
        case.line("two\n");
        assert_eq!(case.seen(), "one\ntwo\n");
        assert!(case.lost.try_recv().is_err(), "nothing is lost");
    }

    #[test]
    fn nobody_waits_for_a_reader_that_stands_still_and_what_it_missed_is_told() {
        let mut case = Case::new();
        let line = format!("{}\n", "x".repeat(1023));
        // A writer that waited would never come to the end of this.
        for _ in 0..WAITING_MAX / line.len() + 5 {
            case.line(&line);
        }
        case.takes_all();
        assert_eq!(case.seen().len(), WAITING_MAX);
        assert_eq!(case.lost.recv_timeout(LONG), Ok(5));
        case.line("next\n");
        assert!(case.seen().ends_with("x\nnext\n"));
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_the_next_begins_on_its_own() {
        let mut case = Case::new();
        case.order(Ok(3));
        case.order(Err(io::ErrorKind::StorageFull.into()));
        case.line("cut short\n");
        assert_eq!(case.seen(), "cut");
        case.order(Err(io::ErrorKind::StorageFull.into()));
        case.line("not at all\n");
        assert_eq!(case.seen(), "cut");
        assert!(case.lost.try_recv().is_err(), "nothing can be told yet");
        case.takes_all();
        case.line("again\n");
        assert_eq!(case.seen(), "cut\nagain\n");
        assert_eq!(case.lost.recv_timeout(LONG), Ok(2));
    }

    #[test]
    fn the_end_waits_for_the_last_lines_and_not_for_ever() {
        let mut case = Case::new();
        case.line("held up\n");
        case.log.finish(Duration::ZERO);
        assert!(case.seen.lock().expect("not poisoned").is_empty());
        case.takes_all();
        assert_eq!(case.seen(), "held up\n");
    }
}
