//! YAML as a tree in which every key and value knows its file, line and column.
//!
//! The only module that knows which parser is used. It reads events rather than going through serde, because serde
//! stops at the first error and an operator wants all of them.

use std::collections::HashMap;
use std::rc::Rc;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Nodes of one document, aliases expanded: far above any real team, far below what a bomb needs.
const NODES_MAX: usize = 100_000;
/// Levels of nesting.
const DEPTH_MAX: usize = 32;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file, relative to the directory that is read.
    pub(super) file: Rc<str>,
    /// Its line, first = 1; 0 for the file as a whole.
    pub(super) line: usize,
    /// Its column, first = 1; 0 for the file as a whole.
    pub(super) column: usize,
}

impl Place {
    /// A file as a whole.
    pub(super) fn file(file: &str) -> Self {
        Self { file: file.into(), line: 0, column: 0 }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a value is. A scalar keeps its text; what it means depends on what is asked for.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Scalar { text: String, plain: bool },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key and its place.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) text: String,
}

/// What keeps a text from being YAML.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) remedy: &'static str,
}

impl Node {
    /// An empty map, for a section that is not written.
    pub(super) fn nothing(place: Place) -> Self {
        Self { place, kind: Kind::Map(Vec::new()) }
    }

    /// Nothing was written: `key:` or `key: ~`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for people.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a map".to_owned(),
            Kind::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Kind::Scalar { text, plain: true } if text == "true" || text == "false" => format!("the flag {text}"),
            Kind::Scalar { text, plain: true } if text.parse::<f64>().is_ok() => format!("the number {}", cut(text)),
            Kind::Scalar { text, .. } => format!("the text `{}`", cut(text)),
        }
    }

    /// Lays another tree over this one: maps are merged key by key, everything else is replaced.
    pub(super) fn overlay(&mut self, above: Node) {
        match (&mut self.kind, above.kind) {
            (Kind::Map(below), Kind::Map(entries)) => {
                for (key, value) in entries {
                    match below.iter_mut().find(|(known, _)| known.text == key.text) {
                        Some((known, under)) => {
                            *known = key;
                            under.overlay(value);
                        }
                        None => below.push((key, value)),
                    }
                }
            }
            (_, kind) => *self = Node { place: above.place, kind },
        }
    }
}

/// A value as quoted in a message: one line, at most 60 characters.
pub(super) fn cut(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(61).collect();
    if line.chars().count() > 60 { format!("{}…", line.chars().take(60).collect::<String>()) } else { line }
}

/// Parses one document. `skipped` lines stand before the text in its file (a front matter begins on line 2).
pub(super) fn parse(file: &str, text: &str, skipped: usize) -> Result<Node, Broken> {
    let mut tree =
        Tree { events: Parser::new_from_str(text), file: file.into(), skipped, anchors: HashMap::new(), nodes: 0 };
    tree.document()
}

struct Tree<'t> {
    events: Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    file: Rc<str>,
    skipped: usize,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'t> Tree<'t> {
    fn document(&mut self) -> Result<Node, Broken> {
        let mut root = None;
        while let Some((event, place)) = self.next()? {
            #[allow(clippy::wildcard_enum_match_arm, reason = "the first node of the document, whatever it is")]
            match event {
                Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(Broken {
                        place,
                        message: "a second document begins here".to_owned(),
                        remedy: "keep one document to a file; remove the `---`",
                    });
                }
                Event::DocumentStart(..) => {}
                first => root = Some(self.node(first, place, 0)?),
            }
        }
        Ok(root.unwrap_or_else(|| Node::nothing(Place { file: self.file.clone(), line: self.skipped + 1, column: 1 })))
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Place)>, Broken> {
        match self.events.next() {
            None => Ok(None),
            Some(Ok((event, span))) => Ok(Some((event, self.place(span)))),
            Some(Err(error)) => Err(self.broken(&error)),
        }
    }

    fn place(&self, span: Span) -> Place {
        Place { file: self.file.clone(), line: span.start.line() + self.skipped, column: span.start.col() + 1 }
    }

    fn broken(&self, error: &ScanError) -> Broken {
        let at = error.marker();
        Broken {
            place: Place { file: self.file.clone(), line: at.line() + self.skipped, column: at.col() + 1 },
            message: format!("not YAML: {}", error.info()),
            remedy: "check indentation (blanks, never tabs), and quote texts that hold `: ` or ` #`, or begin with one of `[]{}*&!|>%@`",
        }
    }

    fn node(&mut self, event: Event<'t>, place: Place, depth: usize) -> Result<Node, Broken> {
        self.nodes += 1;
        if self.nodes > NODES_MAX || depth > DEPTH_MAX {
            return Err(Broken {
                place,
                message: "more than can be read".to_owned(),
                remedy: "a file may hold 100000 values, aliases counted in full, nested 32 deep",
            });
        }
        let before = self.nodes;
        #[allow(clippy::wildcard_enum_match_arm, reason = "the parser's enum, open for additions")]
        let (anchor, kind) = match event {
            Event::Scalar(text, style, anchor, _) => {
                (anchor, Kind::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain })
            }
            Event::SequenceStart(_, anchor, _) => (anchor, Kind::List(self.list(depth)?)),
            Event::MappingStart(_, anchor, _) => (anchor, Kind::Map(self.map(depth)?)),
            Event::Alias(id) => return self.alias(id, place),
            // Ends and metadata, where a value should be.
            _ => return Err(unexpected_end(place)),
        };
        let node = Node { place, kind };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before + 1));
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, place: Place) -> Result<Node, Broken> {
        let Some((node, size)) = self.anchors.get(&id) else {
            return Err(Broken {
                place,
                message: "an alias to a value that contains it".to_owned(),
                remedy: "write the value out",
            });
        };
        self.nodes += size;
        if self.nodes > NODES_MAX {
            return Err(Broken {
                place,
                message: "aliases that grow beyond what can be read".to_owned(),
                remedy: "write the values out; a file may hold 100000 values, aliases counted in full",
            });
        }
        Ok(Node { place, kind: node.kind.clone() })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Broken> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Some((Event::SequenceEnd, _)) => return Ok(items),
                Some((event, place)) => items.push(self.node(event, place, depth + 1)?),
                None => return Err(unexpected_end(Place::file(&self.file))),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Broken> {
        let mut entries = Vec::new();
        loop {
            let (event, place) = match self.next()? {
                Some((Event::MappingEnd, _)) => return Ok(entries),
                Some(found) => found,
                None => return Err(unexpected_end(Place::file(&self.file))),
            };
            let Kind::Scalar { text, .. } = self.node(event, place.clone(), depth + 1)?.kind else {
                return Err(Broken {
                    place,
                    message: "a key must be a text".to_owned(),
                    remedy: "put quotes around the text: to YAML, `{{ }}` outside them is a map",
                });
            };
            let key = Key { place, text };
            match self.next()? {
                Some((event, place)) => {
                    let value = self.node(event, place, depth + 1)?;
                    entries.push((key, value));
                }
                None => return Err(unexpected_end(Place::file(&self.file))),
            }
        }
    }
}

fn unexpected_end(place: Place) -> Broken {
    Broken {
        place,
        message: "not YAML: a value is missing here".to_owned(),
        remedy: "write the value or remove the key",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_knows_its_place() {
        let Ok(root) = parse("f.yaml", "a: 1\nb:\n  - x\n  - {c: \"2\"}\n", 1) else { panic!("is YAML") };
        let Kind::Map(entries) = root.kind else { panic!("is a map") };
        assert_eq!((entries[0].0.place.line, entries[0].0.place.column, entries[0].1.place.column), (2, 1, 4));
        let Kind::List(items) = &entries[1].1.kind else { panic!("is a list") };
        assert_eq!((items[1].place.line, items[1].place.column), (5, 5));
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let before = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(", ")));
        }
        assert!(parse("f", &bomb, 0).is_err_and(|broken| broken.message.contains("grow beyond")));
        let of_itself = parse("f", "a: &a [*a, *a, *a]\n", 0);
        assert!(of_itself.is_err_and(|broken| broken.message == "an alias to a value that contains it"));
        assert!(parse("f", &"[".repeat(10_000), 0).is_err());
        assert!(parse("f", &format!("{}x", "- ".repeat(10_000)), 0).is_err());
    }
}
