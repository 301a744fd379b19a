//! E-mail through SMTP: one thread per incident, one mail a page.
//!
//! `smtp://` to this machine goes in the clear; to any other, TLS is required (STARTTLS). `smtps://` is TLS from the
//! first byte. Mail of a retried page has the same Message-ID, so that mailboxes show it once.

use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::{Channel, Error, Receipt, Sending, details};
use crate::error_chain::in_full;
use crate::incident::{Page, visible};

/// Writes to a list of people through one server.
pub(super) struct Email {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
    team: String,
    timeout: Duration,
    /// Never to appear in an error.
    secrets: Vec<String>,
}

impl Email {
    pub(super) fn new(
        smtp: &SecretString,
        from: &str,
        to: &[String],
        team: &str,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let never = |detail: String| Error::never("email", detail);
        let mailbox = |address: &str| {
            let shown = details::cut(&visible(address), 80);
            address.parse::<Mailbox>().map_err(|why| never(format!("`{shown}` is not an address: {why}")))
        };
        let mut url = Url::parse(smtp.expose_secret())
            .map_err(|why| never(format!("its server is none ({why}); write smtps://user:password@host:465")))?;
        if !matches!(url.scheme(), "smtp" | "smtps") || url.host_str().is_none() {
            return Err(never("its server must be written smtp://host:port or smtps://host:port".to_owned()));
        }
        if url.scheme() == "smtp" && !is_loopback(&url) {
            // Whatever was asked: neither credentials nor pages leave this machine in the clear.
            url.set_query(Some("tls=required"));
        }
        drop(rustls::crypto::ring::default_provider().install_default());
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.as_str())
            .map_err(|why| never(format!("its server cannot be used: {why}")))?
            .timeout(Some(timeout))
            .build();
        let to = to.iter().map(|address| mailbox(address)).collect::<Result<Vec<_>, _>>()?;
        if to.is_empty() {
            return Err(never("it has no recipients".to_owned()));
        }
        let secrets = [url.password().unwrap_or_default(), url.username()];
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty()).map(str::to_owned).collect();
        Ok(Self { transport, from: mailbox(from)?, to, team: team.to_owned(), timeout, secrets })
    }

    fn message(&self, page: &Page) -> Result<Message, lettre::error::Error> {
        let incident = &page.incident;
        let thread = self.message_id(&incident.id);
        // The first call is the root of the thread; everything else answers it.
        let first = !page.again && page.level == 0;
        let id = if first { thread.clone() } else { self.message_id(&page.id) };
        let written = Duration::from_millis(u64::try_from(incident.updated_at.millis()).unwrap_or(0));
        let mut mail = Message::builder()
            .from(self.from.clone())
            .date(UNIX_EPOCH + written)
            .message_id(Some(id))
            .subject(format!("[{}] {} {}: {}", self.team, incident.id, details::heading(page), details::summary(page)))
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
            .header(ContentType::TEXT_PLAIN);
        if !first {
            mail = mail.in_reply_to(thread.clone()).references(thread);
        }
        for address in &self.to {
            mail = mail.to(address.clone());
        }
        mail.body(text(page, &self.team))
    }

    fn message_id(&self, name: &str) -> String {
        let plain = |text: &str| -> String {
            text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' }).collect()
        };
        format!("<{}.{}@{}>", plain(name), plain(&self.team), self.from.email.domain())
    }

    /// 5xx is for good, everything else may pass. The server's words are kept, our credentials are not.
    fn refused(&self, error: &lettre::transport::smtp::Error) -> Error {
        let mut text = in_full(error);
        for secret in &self.secrets {
            text = text.replace(secret, "[secret]");
        }
        let detail = details::cut(&visible(&text), 300);
        if error.is_permanent() { Error::never("email", detail) } else { Error::later("email", detail) }
    }
}

impl Channel for Email {
    fn name(&self) -> &str {
        "email"
    }

    fn send<'a>(&'a self, page: &'a Page) -> Sending<'a> {
        Box::pin(async move {
            let mail = self
                .message(page)
                .map_err(|why| Error::never("email", format!("the mail cannot be written: {why}")))?;
            // The transport's own timer is for each command; a server that drips its answers would outlast them all.
            match tokio::time::timeout(self.timeout, self.transport.send(mail)).await {
                Ok(Ok(answer)) => {
                    let to: Vec<String> = self.to.iter().map(|address| address.email.to_string()).collect();
                    let said = answer.message().collect::<Vec<_>>().join(" ");
                    let detail = details::cut(&visible(&format!("{} {said}", answer.code())), 300);
                    Ok(Receipt { to: to.join(", "), detail })
                }
                Ok(Err(error)) => Err(self.refused(&error)),
                Err(_) => Err(Error::later("email", format!("no answer within {:?}", self.timeout))),
            }
        })
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The details as lines for people.
fn text(page: &Page, team: &str) -> String {
    let incident = &page.incident;
    let mut lines = vec![details::summary(page), String::new()];
    let mut say = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name}: {value}"));
        }
    };
    say("Incident", format!("{} ({}), team {team}", visible(&incident.id), incident.state));
    say("Opened", incident.opened_at.to_string());
    say("Dead letters", incident.size().to_string());
    let agents: Vec<String> = incident.agents.iter().take(50).map(|(agent, n)| format!("{agent} {n}")).collect();
    say("Agents", agents.join(", "));
    say("Pattern", incident.pattern.iter().take(20).map(|line| visible(line)).collect::<Vec<_>>().join("; "));
    for doubt in &incident.in_doubt {
        say("Did this happen?", details::cut(&visible(doubt), 1_000));
    }
    say("Do first", details::cut(&visible(&incident.runbook), details::RUNBOOK_MAX));
    for answer in &incident.answers {
        let words = format!("by {} at {} {}", visible(&answer.by), answer.at, visible(&answer.note));
        say(answer.state.as_str(), words.trim_end().to_owned());
    }
    if !incident.deaths.is_empty() {
        lines.push(String::new());
        lines.push("Tasks:".to_owned());
        lines.extend(incident.deaths.iter().take(50).map(|(task, round)| format!("  {task} (round {round})")));
        let more = usize::try_from(incident.size()).unwrap_or(0).saturating_sub(incident.deaths.len().min(50));
        if more > 0 {
            lines.push(format!("  and {more} more"));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}
