//! A mail server that delivers nowhere: enough SMTP on loopback for a client to leave its mails with.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The largest mail taken, in bytes.
const MAIL_LIMIT: usize = 10 * 1024 * 1024;
/// The longest command line taken, in bytes (RFC 5321 asks for 512).
const LINE_LIMIT: u64 = 4096;

/// A running stub.
pub struct SmtpStub {
    address: SocketAddr,
    box_: Arc<Letterbox>,
    stop: CancellationToken,
}

/// One mail as left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// Headers and body as sent, lines ended by `\n`, dots undone.
    pub text: String,
}

impl Mail {
    /// The first header of this name, whatever its case; folded lines joined.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.text.split("\n\n").next().unwrap_or_default().replace("\n ", " ").replace("\n\t", " ");
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

struct Letterbox {
    mails: Mutex<Vec<Mail>>,
    failing: Mutex<Option<u16>>,
    count: watch::Sender<usize>,
}

impl SmtpStub {
    /// Starts one.
    ///
    /// # Errors
    /// When no port on loopback can be had.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let box_ =
            Arc::new(Letterbox { mails: Mutex::default(), failing: Mutex::default(), count: watch::Sender::new(0) });
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, box_.clone(), stop.clone()));
        Ok(Self { address, box_, stop })
    }

    /// Where it is: `smtp://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Every mail left, oldest first.
    #[must_use]
    pub fn mails(&self) -> Vec<Mail> {
        lock(&self.box_.mails).clone()
    }

    /// Answers every mail with this code from now on (such as 451 or 550); none: works again.
    pub fn fail(&self, code: Option<u16>) {
        *lock(&self.box_.failing) = code;
    }

    /// Waits until at least `count` mails were left.
    pub async fn left(&self, count: usize) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.box_.count.subscribe().wait_for(|so_far| *so_far >= count).await;
    }
}

impl Drop for SmtpStub {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, box_: Arc<Letterbox>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => if let Ok((socket, _)) = accepted {
                let (box_, stop) = (box_.clone(), stop.clone());
                tokio::spawn(async move {
                    let (read, write) = socket.into_split();
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        ended = converse(BufReader::new(read), write, &box_) => if let Err(error) = ended {
                            tracing::debug!(%error, "an SMTP client went away");
                        }
                    }
                });
            }
        }
    }
}

/// One client, from greeting to QUIT.
async fn converse<R, W>(mut read: BufReader<R>, mut write: W, box_: &Letterbox) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    write.write_all(b"220 localhost ready\r\n").await?;
    let mut mail = Mail::default();
    loop {
        let mut line = String::new();
        if (&mut read).take(LINE_LIMIT).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let refusal = *lock(&box_.failing);
        let reply = match (verb.as_str(), refusal) {
            ("EHLO", _) => "250-localhost\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH PLAIN".to_owned(),
            ("HELO" | "NOOP", _) => "250 OK".to_owned(),
            ("AUTH", _) => "235 2.7.0 welcome".to_owned(),
            ("RSET", _) => {
                mail = Mail::default();
                "250 OK".to_owned()
            }
            ("MAIL", Some(code)) => format!("{code} on cue"),
            ("MAIL", None) => {
                mail = Mail { from: address_in(line), ..Mail::default() };
                "250 OK".to_owned()
            }
            ("RCPT", _) if mail.from.is_empty() => "503 MAIL first".to_owned(),
            ("RCPT", _) => {
                mail.to.push(address_in(line));
                "250 OK".to_owned()
            }
            ("DATA", _) if mail.to.is_empty() => "503 RCPT first".to_owned(),
            ("DATA", _) => {
                write.write_all(b"354 end with a dot\r\n").await?;
                mail.text = body(&mut read).await?;
                let count = {
                    let mut mails = lock(&box_.mails);
                    mails.push(std::mem::take(&mut mail));
                    mails.len()
                };
                box_.count.send_replace(count);
                format!("250 OK queued as {count}")
            }
            ("QUIT", _) => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 unknown command".to_owned(),
        };
        write.write_all(reply.as_bytes()).await?;
        write.write_all(b"\r\n").await?;
    }
}

fn address_in(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(address, _)| address);
    inner.unwrap_or_default().to_owned()
}

async fn body<R: AsyncRead + Unpin>(read: &mut BufReader<R>) -> io::Result<String> {
    let mut text = Vec::new();
    loop {
        let start = text.len();
        if read.take((MAIL_LIMIT - start.min(MAIL_LIMIT)) as u64).read_until(b'\n', &mut text).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the mail has no end, or is too long"));
        }
        if text[start..] == *b".\r\n" || text[start..] == *b".\n" {
            text.truncate(start);
            return Ok(String::from_utf8_lossy(&text).replace("\r\n", "\n"));
        }
        if text[start] == b'.' {
            text.remove(start);
        }
    }
}
