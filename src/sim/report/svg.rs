//! What stood when, drawn: faults, tasks, breakers, dead letters, pages and money over one axis of time.

use std::fmt::Write as _;
use std::time::Duration;

use super::junit::escaped;
use super::story::{clock, rounded};
use super::timeline::{Depth, Mark, Row, Spend, Timeline};
use crate::time::Timestamp;

const WIDTH: f64 = 1_080.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 1_060.0;

/// How high a layer of the chart of tasks reaches.
type Layer = fn(&Depth) -> u32;

/// A drawing in progress: how far down it is, and how long its time.
struct Drawing {
    out: String,
    y: f64,
    span: f64,
    start: Timestamp,
}

/// The drawing as an SVG element, to stand in a page.
pub(super) fn drawn(timeline: &Timeline, start: Timestamp) -> String {
    let mut drawing = Drawing { out: String::new(), y: 4.0, span: timeline.span_s.max(1.0), start };
    if !timeline.faults.is_empty() {
        drawing.heading("Faults", &[]);
        drawing.rows(&timeline.faults, &|_| "fault");
    }
    drawing.heading(
        "Tasks",
        &[("running", "running"), ("waiting", "waiting"), ("parked", "parked"), ("human", "with a person")],
    );
    drawing.depth(&timeline.depth);
    if !timeline.breakers.is_empty() {
        drawing.heading("Breakers", &[("open", "open"), ("half", "half-open"), ("gate", "gate closed (Retry-After)")]);
        drawing.rows(&timeline.breakers, &|what| match what {
            "half-open" => "half",
            "gate" => "gate",
            _ => "open",
        });
    }
    drawing.heading("Dead letters and pages", &[("death", "given up"), ("page", "paged")]);
    drawing.marks(timeline);
    drawing.heading("Spend", &[("spend", "all calls"), ("unanswered", "calls without an answer")]);
    drawing.spend(&timeline.spend);
    drawing.finished()
}

impl Drawing {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (seconds / self.span).clamp(0.0, 1.0)
    }

    /// `12m4s in, at 09:12:04`.
    fn when(&self, seconds: f64) -> String {
        let at = Duration::from_secs_f64(seconds.max(0.0));
        let (day, time) = clock(self.start, at);
        format!("{} in, {day} {time}", rounded(at))
    }

    /// A section's name, and what its colours mean.
    fn heading(&mut self, title: &str, legend: &[(&str, &str)]) {
        self.y += 24.0;
        let _ = writeln!(self.out, "<text class=\"h\" x=\"0\" y=\"{:.1}\">{}</text>", self.y, escaped(title));
        let mut x = RIGHT;
        for (class, words) in legend.iter().rev() {
            #[allow(clippy::cast_precision_loss, reason = "a few letters")]
            let width = words.chars().count() as f64 * 6.3;
            x -= width;
            let _ = writeln!(self.out, "<text class=\"t\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>", self.y, escaped(words));
            x -= 15.0;
            let _ = writeln!(
                self.out,
                "<rect class=\"{class} key\" x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" rx=\"2\"/>",
                self.y - 9.0
            );
            x -= 16.0;
        }
        self.y += 12.0;
    }

    fn label(&mut self, text: &str, y: f64) {
        let shown: String = text.chars().take(22).collect();
        let _ = writeln!(
            self.out,
            "<text class=\"t\" x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            escaped(&shown)
        );
    }

    /// A row of bars each.
    fn rows(&mut self, rows: &[Row], class: &dyn Fn(&str) -> &'static str) {
        for row in rows {
            let y = self.y;
            self.label(&row.name, y + 11.0);
            let _ = writeln!(
                self.out,
                "<rect class=\"lane\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"14\" rx=\"3\"/>",
                RIGHT - LEFT
            );
            for stretch in &row.stretches {
                let (from, until) = (self.x(stretch.from_s), self.x(stretch.until_s));
                let lasts = rounded(Duration::from_secs_f64((stretch.until_s - stretch.from_s).max(0.0)));
                let title = format!("{}: {} for {lasts}", stretch.what, self.when(stretch.from_s));
                let _ = writeln!(
                    self.out,
                    "<rect class=\"{}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"14\" rx=\"2\"><title>{}</title></rect>",
                    class(&stretch.what),
                    (until - from).max(2.0),
                    escaped(&title)
                );
            }
            self.y += 19.0;
        }
    }

    /// A scale from nothing to `most` at the left of a chart.
    fn scale(&mut self, top: f64, height: f64, most: &str) {
        for (y, text) in [(top, most), (top + height, "0")] {
            let _ =
                writeln!(self.out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
            self.label(text, y + 4.0);
        }
    }

    /// Tasks, one layer upon the other.
    fn depth(&mut self, depth: &[Depth]) {
        const HEIGHT: f64 = 110.0;
        let all = |depth: &Depth| depth.waiting + depth.running + depth.parked + depth.with_human;
        let most = depth.iter().map(all).max().unwrap_or_default().max(1);
        let top = self.y + 2.0;
        self.scale(top, HEIGHT, &most.to_string());
        let y = |count: u32| top + HEIGHT - HEIGHT * f64::from(count) / f64::from(most);
        let layers: [(&str, Layer); 4] = [
            ("human", |depth| depth.running + depth.waiting + depth.parked + depth.with_human),
            ("parked", |depth| depth.running + depth.waiting + depth.parked),
            ("waiting", |depth| depth.running + depth.waiting),
            ("running", |depth| depth.running),
        ];
        // The highest first, so that each hides what belongs to those below it.
        for (class, height) in layers {
            let mut path = format!("M{LEFT:.1} {:.1}", top + HEIGHT);
            for (place, depth_here) in depth.iter().enumerate() {
                let until = depth.get(place + 1).map_or(self.span, |next| next.at_s);
                let level = y(height(depth_here));
                let _ = write!(path, "L{:.1} {level:.1}L{:.1} {level:.1}", self.x(depth_here.at_s), self.x(until));
            }
            let _ = writeln!(self.out, "<path class=\"{class}\" d=\"{path}L{RIGHT:.1} {:.1}Z\"/>", top + HEIGHT);
        }
        if let Some(worst) = depth.iter().max_by_key(|depth| all(depth)) {
            let words = format!(
                "at most {most} at once, {}: {} running, {} waiting, {} parked, {} with a person",
                self.when(worst.at_s),
                worst.running,
                worst.waiting,
                worst.parked,
                worst.with_human
            );
            let _ = writeln!(
                self.out,
                "<rect class=\"hover\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{HEIGHT}\"><title>{}</title></rect>",
                RIGHT - LEFT,
                escaped(&words)
            );
        }
        self.y = top + HEIGHT + 6.0;
    }

    fn marks(&mut self, timeline: &Timeline) {
        for (name, class, marks) in [("given up", "death", &timeline.deaths), ("paged", "page", &timeline.pages)] {
            let middle = self.y + 9.0;
            self.label(name, middle + 4.0);
            let _ = writeln!(
                self.out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>"
            );
            for mark in marks {
                self.mark(mark, class, middle);
            }
            self.y += 22.0;
        }
    }

    /// A dead letter is a disc, a page a triangle: not told apart by colour alone.
    fn mark(&mut self, mark: &Mark, class: &str, middle: f64) {
        let x = self.x(mark.at_s);
        let size = (4.0 + f64::from(mark.count).sqrt()).min(9.0);
        let title = escaped(&format!("{} {}: {}", mark.count, mark.what, self.when(mark.at_s)));
        let shape = match class {
            "page" => format!(
                "<path class=\"page\" d=\"M{x:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}Z\">",
                middle - size - 1.0,
                x + size,
                middle + size - 1.0,
                x - size,
                middle + size - 1.0
            ),
            _ => format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"{size:.1}\">"),
        };
        let end = if class == "page" { "</path>" } else { "</circle>" };
        let _ = writeln!(self.out, "{shape}<title>{title}</title>{end}");
    }

    fn spend(&mut self, spend: &[Spend]) {
        const HEIGHT: f64 = 70.0;
        let last = spend.last().copied().unwrap_or_default();
        let most = if last.usd > 0.0 { last.usd } else { 1.0 };
        let top = self.y + 2.0;
        let dollars = |usd: f64| format!("${usd:.2}");
        self.scale(top, HEIGHT, &dollars(last.usd));
        let y = |usd: f64| top + HEIGHT - HEIGHT * usd / most;
        let mut line = format!("M{LEFT:.1} {:.1}", top + HEIGHT);
        let mut dashed = line.clone();
        for here in spend {
            let _ = write!(line, "L{:.1} {:.1}", self.x(here.at_s), y(here.usd));
            let _ = write!(dashed, "L{:.1} {:.1}", self.x(here.at_s), y(here.unanswered_usd));
        }
        let title =
            format!("{} spent, {} of it on calls without an answer", dollars(last.usd), dollars(last.unanswered_usd));
        let _ = writeln!(
            self.out,
            "<path class=\"spend-area\" d=\"{line}L{RIGHT:.1} {:.1}Z\"><title>{}</title></path>",
            top + HEIGHT,
            escaped(&title)
        );
        let _ = writeln!(self.out, "<path class=\"spend-line\" d=\"{line}\"/>");
        let _ = writeln!(self.out, "<path class=\"unanswered-line\" d=\"{dashed}\"/>");
        self.y = top + HEIGHT + 6.0;
    }

    /// With its axis, in its frame.
    fn finished(self) -> String {
        let bottom = self.y + 6.0;
        let mut grid = String::new();
        let step = step(self.span);
        let mut at = 0.0;
        while at <= self.span {
            let x = self.x(at);
            let _ = writeln!(grid, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"36\" y2=\"{bottom:.1}\"/>");
            let moment = Duration::from_secs_f64(at);
            let (day, time) = clock(self.start, moment);
            let shown = if step >= 86_400.0 { day } else { time.get(..5).unwrap_or(&time).to_owned() };
            for (below, text) in [(16.0, rounded(moment)), (31.0, shown)] {
                let class = if below < 20.0 { "t strong" } else { "t" };
                let _ = writeln!(
                    grid,
                    "<text class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    bottom + below,
                    escaped(&text)
                );
            }
            at += step;
        }
        let days = if step >= 86_400.0 { "day (UTC)" } else { "clock (UTC)" };
        for (below, text) in [(16.0, "into the run"), (31.0, days)] {
            let _ = writeln!(grid, "<text class=\"t\" x=\"0\" y=\"{:.1}\">{text}</text>", bottom + below);
        }
        let height = bottom + 40.0;
        let about = format!(
            "Timelines over {}: faults, tasks waiting and running, breakers, dead letters, pages and spend",
            rounded(Duration::from_secs_f64(self.span))
        );
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-labelledby=\"what-when\">\n<title id=\"what-when\">{}</title>\n{grid}{}</svg>\n",
            escaped(&about),
            self.out
        )
    }
}

/// How far apart the marks of the axis are: a round span, so that there are at most nine of them.
fn step(span: f64) -> f64 {
    const STEPS: [f64; 19] = [
        1.0,
        5.0,
        10.0,
        30.0,
        60.0,
        120.0,
        300.0,
        600.0,
        900.0,
        1_800.0,
        3_600.0,
        7_200.0,
        10_800.0,
        21_600.0,
        43_200.0,
        86_400.0,
        172_800.0,
        604_800.0,
        2_592_000.0,
    ];
    STEPS
        .iter()
        .copied()
        .find(|step| span / step <= 9.0)
        .unwrap_or_else(|| (span / 8.0 / 2_592_000.0).ceil() * 2_592_000.0)
}

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn the_axis_has_few_and_round_marks() {
        for (span, expected) in
            [(5.0, 1.0), (3_600.0, 600.0), (7_200.0, 900.0), (86_400.0, 10_800.0), (26_000_000.0, 5_184_000.0)]
        {
            assert!((step(span) - expected).abs() < 1e-9, "{span}: {}", step(span));
        }
    }
}
