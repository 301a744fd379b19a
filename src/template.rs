//! Templates: read strictly, run within limits, and filled with data that cannot close the tags that fence it.
//!
//! All we ask of the template engine. What a template is filled with is data: it is never read as a template, it cannot
//! end its fence (see `fenced`), and what does not show in it is written out (see [`visible`]). Errors never hold values.

use std::borrow::Cow;
use std::collections::BTreeSet;

use minijinja::value::{Kwargs, Rest, StringInput, Value as Data, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, filters};

use crate::conversation::{is_invisible, visible};

/// The steps a template may take: far above any prompt, far below a second.
const FUEL: u64 = 500_000;
/// The widest that anything is made, in characters or items: fuel is counted by the step, and one step can fill all memory.
const WIDTH_MAX: usize = 1_000;

/// Why a template cannot be read or filled in. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// Which line of the template, first = 1; 0 when unknown.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl From<minijinja::Error> for TemplateError {
    fn from(error: minijinja::Error) -> Self {
        Self { line: error.line().unwrap_or(0), message: without_place(&error) }
    }
}

/// Templates that fence the same data: what they print cannot close the tags of any of them.
#[derive(Debug)]
pub struct Templates(Environment<'static>);

impl Templates {
    /// None read yet, and with the tags of these fenced.
    #[must_use]
    pub fn fencing<'a>(bodies: impl IntoIterator<Item = &'a str>) -> Self {
        Self(environment(tags(bodies)))
    }

    /// Reads one now, so that it need not be read whenever it is filled in.
    #[must_use]
    pub fn with(mut self, body: &str) -> Self {
        if is_template(body) {
            // One that cannot be read is read again, and its error told, by whoever fills it in.
            let _ = self.0.add_template_owned(body.to_owned(), body.to_owned());
        }
        self
    }

    /// Fills a template in, one of those that were read or another.
    ///
    /// # Errors
    /// When it is no template, speaks of what is not there, or does not come to its end.
    pub fn fill(&self, body: &str, data: &Data) -> Result<String, TemplateError> {
        if !is_template(body) {
            // As the engine leaves a text: without the end of its last line.
            return Ok(body.strip_suffix('\n').map_or(body, |body| body.strip_suffix('\r').unwrap_or(body)).to_owned());
        }
        match self.0.get_template(body) {
            Ok(read) => Ok(read.render(data)?),
            Err(_) => Ok(self.0.render_named_str("", body, data)?),
        }
    }
}

/// Is there anything in a text to be filled in?
fn is_template(body: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|begin| body.contains(begin))
}

/// The top-level names a template speaks of.
///
/// # Errors
/// When it is no template.
pub fn names(body: &str) -> Result<BTreeSet<String>, TemplateError> {
    let environment = environment(BTreeSet::new());
    let template = environment.template_from_str(body)?;
    Ok(template.undeclared_variables(false).into_iter().collect())
}

/// What is wrong with a template: does it parse, and does it speak only of what there is? Each with its line. It is run
/// once with an example of everything: filters and tests that do not exist show only then.
#[must_use]
pub fn flaws(body: &str, variables: &[&str], arguments: &[&str], example: &Data) -> Vec<(usize, String)> {
    let environment = environment(BTreeSet::new());
    let template = match environment.template_from_str(body) {
        Ok(template) => template,
        Err(error) => return vec![(error.line().unwrap_or(1), without_place(&error))],
    };
    let known: BTreeSet<&str> = environment.globals().map(|(name, _)| name).chain(variables.iter().copied()).collect();
    let mut flaws = Vec::new();
    for path in template.undeclared_variables(true).into_iter().collect::<BTreeSet<String>>() {
        let mut levels = path.split('.');
        let first = levels.next().unwrap_or_default();
        let line = body.lines().position(|line| line.contains(path.as_str())).map_or(1, |at| at + 1);
        if !known.contains(first) {
            let near = crate::spelling::nearest(first, variables.iter().copied());
            let hint = near.map_or_else(String::new, |word| format!("; did you mean `{word}`?"));
            flaws.push((line, format!("`{first}` is nothing a template is given{hint}")));
        } else if first == "args"
            && let Some(second) = levels.next()
            && !arguments.contains(&second)
        {
            flaws.push((line, format!("`args.{second}` is not among the declared arguments")));
        }
    }
    if flaws.is_empty()
        && let Err(error) = template.render(example)
    {
        let fatal = matches!(
            error.kind(),
            ErrorKind::UnknownFilter
                | ErrorKind::UnknownTest
                | ErrorKind::UnknownFunction
                | ErrorKind::TemplateNotFound
                | ErrorKind::BadInclude
                | ErrorKind::OutOfFuel
        );
        flaws.extend(fatal.then(|| (error.line().unwrap_or(1), without_place(&error))));
    }
    flaws
}

/// An error without its place (we tell it better) and without values: never `{:#}`, which prints them.
fn without_place(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) if error.kind() == ErrorKind::SyntaxError => format!("syntax error: {detail}"),
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    }
}

/// Strict, limited, and with data fenced. `pretty` writes JSON for a model to read; a text stays as it is.
fn environment(tags: BTreeSet<String>) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_debug(false);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("pretty", |value: Data| match value.as_str() {
        Some(text) => text.to_owned(),
        None => serde_json::to_string_pretty(&value).unwrap_or_else(|_| value.to_string()),
    });
    environment.add_filter("indent", indent);
    environment.add_filter("slice", slice);
    environment.add_filter("batch", batch);
    environment.add_filter("format", format_text);
    environment.set_formatter(move |out, _, value| {
        if value.is_none() || value.is_undefined() {
            return Ok(());
        }
        let text = value.as_str().map_or_else(|| Cow::Owned(value.to_string()), Cow::Borrowed);
        Ok(out.write_str(&fenced(&visible(&text), &tags))?)
    });
    environment
}

fn bounded(width: usize) -> Result<usize, Error> {
    let too_wide = || Error::new(ErrorKind::InvalidOperation, format!("more than {WIDTH_MAX} is too wide"));
    (width <= WIDTH_MAX).then_some(width).ok_or_else(too_wide)
}

fn indent(
    text: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<Data, Error> {
    let said = named.peek::<Option<usize>>("width").ok().flatten();
    width.or(said).map_or(Ok(0), bounded)?;
    filters::indent(text, width, first, blank, named)
}

fn slice(state: &State<'_, '_>, items: Data, count: usize, fill: Option<Data>) -> Result<Data, Error> {
    filters::slice(state, items, bounded(count)?, fill)
}

fn batch(state: &State<'_, '_>, items: Data, count: usize, fill: Option<Data>) -> Result<Data, Error> {
    filters::batch(state, items, bounded(count)?, fill)
}

/// Widths stand in the text: as digits, or as places where an argument says how wide.
fn format_text(state: &mut State<'_, '_>, text: &Data, args: Rest<ValueOrKwargs>) -> Result<Data, Error> {
    let said = text.as_str().unwrap_or_default();
    for digits in said.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()) {
        bounded(digits.parse().unwrap_or(usize::MAX))?;
    }
    if said.contains('*') || said.contains(":{") {
        return Err(Error::new(ErrorKind::InvalidOperation, "write the width out"));
    }
    let mut rest = said;
    while let Some((_, after)) = rest.split_once('%') {
        rest = after.strip_prefix('%').unwrap_or(after);
        // `%(name)s`: the engine walks a name byte by byte, and panics inside a letter of two.
        let name = after.strip_prefix('(').and_then(|name| name.split(')').next()).unwrap_or_default();
        if !name.is_ascii() {
            return Err(Error::new(ErrorKind::InvalidOperation, "a name in a format is written in ASCII"));
        }
    }
    filters::format(state, text, args)
}

/// The names of the tags that a template puts around its data.
fn tags<'a>(bodies: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for piece in bodies.into_iter().flat_map(|body| body.split("</").skip(1)) {
        let name: String = piece.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
        if !name.is_empty() {
            found.insert(name.to_ascii_lowercase());
        }
    }
    found
}

/// Data that cannot end the fence around it: `</diff>` inside what stands between `<diff>` and `</diff>` becomes `<\/diff>`.
/// Only the template's own tags are changed, so that HTML in a payload stays HTML.
fn fenced<'a>(text: &'a str, tags: &BTreeSet<String>) -> Cow<'a, str> {
    if !text.contains("</") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut pieces = text.split("</");
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let shown: String = piece.chars().filter(|c| !is_invisible(*c)).take(200).collect();
        let start = shown.trim_start().to_ascii_lowercase();
        out.push_str(if tags.iter().any(|tag| start.starts_with(tag.as_str())) { "<\\/" } else { "</" });
        out.push_str(piece);
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    /// Fuel is counted by the step, and `{{ "x"|indent(18446744073709551615) }}` is one step: it panicked, and a little
    /// less of it took all memory there was. The width may come from a payload, so that whoever could submit a task for
    /// such a prompt could end the process.
    #[test]
    fn no_single_step_of_a_template_fills_the_memory() {
        let filled = |body: &str| Templates::fencing([body]).fill(body, &context! { wide => u64::MAX });
        for body in [
            "{{ 'x'|indent(18446744073709551615) }}",
            "{{ 'x\ny'|indent(width=99999999999) }}",
            "{{ 'x'|indent(wide) }}",
            "{{ [1]|slice(99999999999) }}",
            "{{ [1]|batch(18446744073709551615, 'x') }}",
            "{{ '%99999999999d'|format(1) }}",
            "{{ '{:>99999999999}'|format(1) }}",
            "{{ '%*d'|format(99999999999, 1) }}",
            "{{ 'x' * 99999999999 }}",
            "{{ range(99999999999) }}",
            // Found by fuzzing: this one panicked.
            "{{ '%(ключ)s'|format(1) }}",
        ] {
            assert!(filled(body).is_err(), "{body}");
        }
        for (body, expected) in [
            ("{{ 'a\nb'|indent }}", "a\n    b"),
            ("{{ 'ключ %%(ключ) %s'|format('é') }}", "ключ %(ключ) é"),
            ("{{ '%(key)s ключ'|format(key='é') }}", "é ключ"),
            ("{{ 'a\nb'|indent(2, true) }}", "  a\n  b"),
            ("{{ 'a\nb'|indent(width=1) }}", "a\n b"),
            ("{{ [1, 2, 3]|batch(2, 0) }}", "[[1, 2], [3, 0]]"),
            ("{{ [1, 2, 3]|slice(2) }}", "[[1, 2], [3]]"),
            ("{{ '%.2f of %3d'|format(1.5, 7) }}", "1.50 of   7"),
        ] {
            assert_eq!(filled(body).as_deref(), Ok(expected), "{body}");
        }
    }
}
