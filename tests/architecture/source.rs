//! A Rust file as far as its layering shows: code without words for people, the paths it uses, its attributes.
//!
//! A scanner of a page, not a parser: it knows comments, strings and brackets, and that is enough to be told on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// One source file.
pub(crate) struct File {
    /// Its path from the root of the repository.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) text: String,
    /// The same with comments and strings blanked, line by line.
    code: String,
}

/// Every Rust file under these folders of the repository, in the order of their names.
pub(crate) fn files(folders: &[&str]) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                // What is built is not ours.
                open.extend(Some(path).filter(|path| !path.ends_with("target")));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
                found.push(File::new(&name, &fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: code(text) }
    }

    /// Its name without `.rs`.
    pub(crate) fn stem(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Directly under `src/`, and not one of the two that only list and start.
    pub(crate) fn is_pure(&self) -> bool {
        self.path.starts_with("src/") && self.folder().is_none() && !matches!(self.stem(), "lib" | "main")
    }

    /// The folder of `src/` it is in.
    pub(crate) fn folder(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split_once('/').map(|(folder, _)| folder)
    }

    /// Every identifier in its code.
    pub(crate) fn words(&self) -> BTreeSet<&str> {
        words_of(&self.code)
    }

    /// Every path in its code, `use` trees taken apart, `super` that leaves its folder resolved.
    pub(crate) fn paths(&self) -> Vec<Vec<String>> {
        paths(&tokens(&self.code)).into_iter().map(|path| self.resolved(path)).collect()
    }

    /// The top-level modules of this crate that it uses.
    pub(crate) fn uses_of_the_crate(&self) -> BTreeSet<String> {
        let own = self.paths().into_iter().filter(|path| path[0] == "crate" && path.len() > 1);
        own.map(|path| path[1].clone()).filter(|name| name != "*").collect()
    }

    /// `super::x` as `crate::…`, if it stands outside inline modules; those mean their own file with it.
    fn resolved(&self, path: Vec<String>) -> Vec<String> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let inside = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let depth = inside.trim_end_matches("/mod").split('/').count();
        // `super::*` is how tests in the file see the file.
        if ups == depth && path.get(ups).is_some_and(|next| next != "*") {
            return std::iter::once("crate".to_owned()).chain(path.into_iter().skip(ups)).collect();
        }
        path
    }

    /// The attributes: line and what stands between the brackets.
    pub(crate) fn attributes(&self) -> Vec<(usize, String)> {
        let bytes = self.code.as_bytes();
        let starts = self.code.match_indices('#').map(|(at, _)| at);
        let open = starts.filter_map(|at| match bytes.get(at + 1..)? {
            [b'[', ..] => Some((at, at + 1)),
            [b'!', b'[', ..] => Some((at, at + 2)),
            _ => None,
        });
        let whole = open.filter_map(|(at, open)| Some((at, open + 1, closing(bytes, open)?)));
        whole
            .map(|(at, from, to)| {
                let text = self.code[from..to].split_whitespace().collect::<Vec<_>>().join(" ");
                (self.code[..at].lines().count().max(1), text)
            })
            .collect()
    }

    /// Its code with what `#[cfg(test)]` guards blanked.
    pub(crate) fn code_outside_tests(&self) -> String {
        let mut code = self.code.clone().into_bytes();
        while let Some(at) = find(&code, b"#[cfg(test)]") {
            let next = code[at..].iter().position(|byte| matches!(byte, b'{' | b';')).map(|offset| at + offset);
            let end = match next {
                Some(open) if code[open] == b'{' => closing(&code, open).unwrap_or(code.len() - 1),
                Some(end) => end,
                None => code.len() - 1,
            };
            blank(&mut code, at, end + 1);
        }
        String::from_utf8(code).expect("only ASCII was put in")
    }
}

/// Every identifier of a text.
pub(crate) fn words_of(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect()
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn blank(text: &mut [u8], from: usize, to: usize) {
    text[from..to].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

/// Where the bracket opened at `open` closes.
fn closing(text: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in text.iter().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The text with comments, strings and characters blanked; lines stay where they are.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let in_a_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + comment(rest)
        } else if rest[0] == b'"' {
            at + string(rest, 0)
        } else if !in_a_word && raw_string(rest).is_some() {
            at + raw_string(rest).unwrap_or(1)
        } else if rest[0] == b'\'' {
            at + character(rest)
        } else {
            at += 1;
            continue;
        };
        blank(&mut code, at, end);
        at = end;
    }
    String::from_utf8(code).expect("whole comments and strings were blanked")
}

fn comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The end of a string whose opening quote stands at `open`.
fn string(rest: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The end of `r"…"`, `r#"…"#`, `br"…"`.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let from = match rest {
        [b'r', ..] => 1,
        [b'b' | b'c', b'r', ..] => 2,
        _ => return None,
    };
    let hashes = rest[from..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(from + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let inside = from + hashes + 1;
    Some(find(&rest[inside..], &close).map_or(rest.len(), |at| inside + at + close.len()))
}

/// The end of a character literal; a lifetime is no literal and only its quote is taken.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let close = rest.iter().skip(3).position(|byte| *byte == b'\'');
        return close.map_or(1, |at| at + 4);
    }
    let text = String::from_utf8_lossy(&rest[..rest.len().min(6)]).into_owned();
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some(one), Some('\'')) => 2 + one.len_utf8(),
        _ => 1,
    }
}

/// Identifiers, `::` and single characters.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = match word {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            word => word,
        };
        if !first.is_whitespace() {
            tokens.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    tokens
}

fn is_word(token: &str) -> bool {
    token.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// Every path of at least two parts; braces of `use` trees are multiplied out.
fn paths(tokens: &[&str]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        // `$crate` in a macro is not this file's doing.
        let starts = is_word(tokens[at]) && tokens.get(at + 1) == Some(&"::") && (at == 0 || tokens[at - 1] != "$");
        at = if starts { tree(tokens, at, &[], &mut paths) } else { at + 1 };
    }
    paths
}

/// Reads one path or tree from `at`; returns where it ends.
fn tree(tokens: &[&str], mut at: usize, prefix: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(&"{") => {
                at += 1;
                while let Some(token) = tokens.get(at) {
                    match *token {
                        "}" => return at + 1,
                        word if is_word(word) || word == "*" || word == "{" => at = tree(tokens, at, &path, paths),
                        _ => at += 1,
                    }
                }
                return at;
            }
            Some(word) if is_word(word) || *word == "*" => path.push((*word).to_owned()),
            _ => break,
        }
        at += 1;
        if tokens.get(at) == Some(&"::") { at += 1 } else { break }
    }
    paths.push(path);
    at
}
