//! A report as one page that needs nothing but itself: no script, no font, nothing fetched, every text escaped.

use std::fmt::Write as _;
use std::time::Duration;

use super::html_parts::STYLE;
use super::junit::escaped;
use super::spread::Played;
use super::story::rounded;
use super::{Report, svg, words};
use crate::assertion::Measure;
use crate::budget::dollars;
use crate::redact::one_line;

/// The page. It shows one seed in full, the first with which something is not true that must be, or the first; `again`
/// says which command shows it again.
#[must_use]
pub fn html(played: &Played, again: &dyn Fn(u64) -> String) -> String {
    let Some(report) = played.shown() else { return String::new() };
    let mut out = String::new();
    let title = text(&played.scenario);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}: a simulated outage</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    header(&mut out, played, report);
    tiles(&mut out, report);
    buckets(&mut out, report);
    section(
        &mut out,
        "The worst hour",
        &report.story.iter().fold(String::new(), |mut all, sentence| {
            let _ = writeln!(all, "<p>{}</p>", text(sentence));
            all
        }),
    );
    section(
        &mut out,
        "What stood when",
        &format!("<div class=\"scroll\">{}</div>", svg::drawn(&report.timeline, report.start)),
    );
    if let Some(beside) = &report.published {
        section(&mut out, "What was published", &format!("<pre>{}</pre>\n", escaped(&beside.text)));
    }
    assertions(&mut out, played);
    faults(&mut out, report);
    costs(&mut out, report);
    measures(&mut out, played, report);
    let _ = write!(
        out,
        "<footer><p>To see it again: <code>{}</code></p><p>Event feed <code>{}</code>, configuration <code>{}</code>.</p></footer>\n</main>\n</body>\n</html>\n",
        text(&again(report.seed)),
        text(&report.hash),
        text(&report.configuration)
    );
    out
}

/// A text of others, for a page.
fn text(words: &str) -> String {
    escaped(&one_line(words, 2_000))
}

fn span(seconds: f64) -> String {
    rounded(Duration::from_secs_f64(seconds.max(0.0)))
}

fn section(out: &mut String, title: &str, body: &str) {
    let _ = write!(out, "<section>\n<h2>{}</h2>\n{body}</section>\n", text(title));
}

/// A table; columns whose name begins with `#` are numbers. Cells are HTML already.
fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let is_number = |place: usize| columns.get(place).is_some_and(|name| name.starts_with('#'));
    let class = |place: usize| if is_number(place) { " class=\"n\"" } else { "" };
    let mut out = String::from("<div class=\"scroll\"><table>\n<thead><tr>");
    for (place, name) in columns.iter().enumerate() {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(place), text(name.trim_start_matches('#')));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (place, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{cell}</td>", class(place));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    out
}

fn header(out: &mut String, played: &Played, report: &Report) {
    let _ = write!(
        out,
        "<header>\n<div class=\"kicker\">Backstop: a simulated outage</div>\n<h1>{}</h1>\n<p>{}</p>\n",
        text(&played.scenario),
        text(&played.about)
    );
    let rest = if report.at_rest { "all at rest after" } else { "not at rest after" };
    let seeds = match played.reports.len() {
        1 => String::new(),
        many => format!(", one of {many} played"),
    };
    let _ = writeln!(
        out,
        "<div class=\"meta\">Team {}, seed {}{seeds}, {} of work, {rest} {}</div>",
        text(&report.team),
        report.seed,
        span(report.run_s),
        span(report.elapsed_s)
    );
    let failed: usize =
        played.reports.iter().map(|report| report.assertions.iter().filter(|one| !one.holds).count()).sum();
    let asked: usize = played.reports.iter().map(|report| report.assertions.len()).sum();
    let (class, verdict) = match (asked, failed) {
        (0, _) => ("good", "nothing was asserted".to_owned()),
        (_, 0) => ("good", "everything is true that must be".to_owned()),
        (_, failed) => ("bad", format!("{failed} of {asked} assertions failed")),
    };
    let _ = write!(out, "<div class=\"verdict {class}\">{verdict}</div>\n</header>\n");
}

fn tiles(out: &mut String, report: &Report) {
    let classes: Vec<String> = report.deaths_by_class.iter().map(|(class, count)| format!("{count} {class}")).collect();
    let classes =
        if classes.is_empty() { "dead letters".to_owned() } else { format!("dead letters: {}", classes.join(", ")) };
    let is = |measure| report.words(measure);
    out.push_str("<div class=\"tiles\">\n");
    for (value, about) in [
        (
            is(Measure::DoneShare),
            format!("done of {}, {} lost", report.many(Measure::Submitted, "task"), is(Measure::Lost)),
        ),
        (is(Measure::DeadLetters), classes),
        (is(Measure::Pages), format!("pages, of {}", report.many(Measure::Incidents, "incident"))),
        (is(Measure::DelayP50), format!("from ask to done in the middle; p99 {}", is(Measure::DelayP99))),
        (is(Measure::CallsPerLogicalCall), "calls for each answer that was used".to_owned()),
        (is(Measure::Usd), format!("for {} tokens; {} for nothing", is(Measure::Tokens), is(Measure::WastedUsd))),
    ] {
        let _ = writeln!(out, "<div class=\"tile\"><b>{}</b><span>{}</span></div>", text(&value), text(&about));
    }
    out.push_str("</div>\n");
}

fn buckets(out: &mut String, report: &Report) {
    let parts = [
        (Measure::DoneFirstTry, "on the first try"),
        (Measure::DoneAfterRetry, "after a retry"),
        (Measure::DoneOnFallback, "on a fallback model"),
        (Measure::DoneAfterReassignment, "by another agent"),
        (Measure::DoneByHuman, "by a human"),
    ];
    let done = report.measure(Measure::Done).max(1.0);
    let mut body = String::from("<div class=\"bar\" aria-hidden=\"true\">");
    let mut keys = String::from("<ul class=\"keys\">\n");
    for (place, (measure, about)) in parts.iter().enumerate() {
        let count = report.measure(*measure);
        if count > 0.0 {
            let _ = write!(body, "<i class=\"b{place}\" style=\"width:{:.2}%\"></i>", count / done * 100.0);
        }
        let _ = writeln!(keys, "<li><i class=\"b{place}\"></i>{} {about}</li>", report.words(*measure));
    }
    let _ = write!(body, "</div>\n{keys}</ul>\n");
    section(out, "How the tasks were done", &body);
}

fn assertions(out: &mut String, played: &Played) {
    let Some(report) = played.shown().filter(|report| !report.assertions.is_empty()) else { return };
    let several = played.reports.len() > 1;
    let row = |(place, checked): (usize, &super::Checked)| {
        let fails = played.reports.iter().filter(|report| report.assertions.get(place).is_some_and(|one| !one.holds));
        let failed: Vec<String> = fails.map(|report| report.seed.to_string()).collect();
        let (class, mark) = if checked.holds { ("good", "true") } else { ("bad", "failed") };
        let mut row = vec![
            format!("<code>{}</code>", text(&checked.assertion)),
            text(&checked.words),
            format!("<span class=\"verdict {class}\" style=\"margin:0\">{mark}</span>"),
        ];
        if several {
            row.push(if failed.is_empty() { "none".to_owned() } else { text(&failed.join(", ")) });
        }
        row
    };
    let rows: Vec<Vec<String>> = report.assertions.iter().enumerate().map(row).collect();
    let columns: &[&str] = &["Must be true", "Measured", "Is it?", "Failed with seeds"];
    section(out, "What must be true", &table(&columns[..if several { 4 } else { 3 }], &rows));
}

fn faults(out: &mut String, report: &Report) {
    if report.faults.is_empty() {
        return;
    }
    let row = |fault: &super::FaultLine| {
        vec![
            text(&fault.what),
            text(&fault.name),
            fault.times.to_string(),
            span(fault.seconds),
            fault.calls.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = report.faults.iter().map(row).collect();
    section(out, "What broke", &table(&["Fault", "Name", "#Struck", "#For in all", "#Calls that met it"], &rows));
}

fn costs(out: &mut String, report: &Report) {
    out.push_str("<div class=\"pair\">\n");
    let price = |micro_usd: Option<u64>| micro_usd.map_or("not known".to_owned(), dollars);
    let row = |line: &super::BillLine| {
        vec![text(&line.model.to_string()), line.calls.to_string(), line.tokens.to_string(), price(line.micro_usd)]
    };
    let rows: Vec<Vec<String>> = report.bill.iter().map(row).collect();
    section(out, "What the models cost", &table(&["Model", "#Calls", "#Tokens", "#Dollars"], &rows));
    let kinds = report.deaths_by_kind.iter().map(|(kind, count)| vec![format!("given up: {kind}"), count.to_string()]);
    let decisions = report.decisions.iter().map(|(kind, count)| vec![format!("decided: {kind}"), count.to_string()]);
    let rows: Vec<Vec<String>> = kinds.chain(decisions).collect();
    let body = if rows.is_empty() {
        "<p>Nothing was given up.</p>\n".to_owned()
    } else {
        table(&["What", "#How often"], &rows)
    };
    section(out, "Dead letters and decisions", &body);
    out.push_str("</div>\n");
}

fn measures(out: &mut String, played: &Played, report: &Report) {
    let several = played.reports.len() > 1;
    let row = |measure: &Measure| {
        let mut row = vec![format!("<code>{measure}</code>"), text(&report.words(*measure))];
        if several && let Some(spread) = played.spread.get(measure) {
            let values = [spread.median, spread.p10, spread.p90, spread.least, spread.most];
            row.extend(values.map(|value| text(&words(*measure, value))));
        }
        row
    };
    let rows: Vec<Vec<String>> = Measure::ALL.iter().map(row).collect();
    let seed = format!("#Seed {}", report.seed);
    if several {
        let columns = ["Measure", &seed, "#Median", "#P10", "#P90", "#Least", "#Most"];
        section(out, &format!("Every measure, over {} seeds", played.reports.len()), &table(&columns, &rows));
        return;
    }
    let columns = ["Measure", &seed];
    let tables: String = rows.chunks(rows.len().div_ceil(3).max(1)).map(|rows| table(&columns, rows)).collect();
    section(out, "Every measure", &format!("<div class=\"three\">{tables}</div>\n"));
}
