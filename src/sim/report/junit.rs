//! A report as JUnit XML, for whatever draws test results: a test case for each assertion and seed.

use std::fmt::Write as _;

use super::spread::Played;
use crate::conversation::visible;

/// The XML. `again` says which command shows a seed again.
#[must_use]
pub fn junit(played: &Played, again: &dyn Fn(u64) -> String) -> String {
    let cases = || played.reports.iter().flat_map(|report| report.assertions.iter().map(move |one| (report, one)));
    let tests = cases().count();
    let failures = cases().filter(|(_, checked)| !checked.holds).count();
    let name = escaped(&played.scenario);
    let counts = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\"");
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(out, "<testsuites name=\"backstop sim\" {counts}>");
    let _ = writeln!(out, "  <testsuite name=\"{name}\" {counts}>");
    for (report, checked) in cases() {
        let case = format!("{} (seed {})", checked.assertion, report.seed);
        // How long it took is of the machine, not of the run: a report of the same seed is the same to the byte.
        let _ = write!(out, "    <testcase classname=\"{name}\" name=\"{}\" time=\"0\"", escaped(&case));
        if checked.holds {
            out.push_str("/>\n");
            continue;
        }
        let message = format!("{} with seed {}: it is {}", checked.assertion, report.seed, checked.words);
        let command = format!("to see it again: {}", again(report.seed));
        let _ = writeln!(
            out,
            ">\n      <failure type=\"assertion\" message=\"{}\">{}</failure>\n    </testcase>",
            escaped(&message),
            escaped(&command)
        );
    }
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}

/// Text as XML and HTML can hold it, in content and in attributes, with what hides in it shown by its number.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn nothing_gets_out_of_its_text() {
        for (text, expected) in [
            ("a < b && c > \"d\" 'e'", "a &lt; b &amp;&amp; c &gt; &quot;d&quot; &#39;e&#39;"),
            ("\u{0}\u{1b}[31m\u{ffff}", "\\u{0}\\u{1b}[31m\u{fffd}"),
            // Shown as it stands, the second half would read backwards.
            ("paid \u{202e}ton\u{202c}\u{200b}", "paid \\u{202e}ton\\u{202c}\\u{200b}"),
            ("]]>\nx", "]]&gt; x"),
        ] {
            assert_eq!(escaped(text), expected);
        }
    }
}
