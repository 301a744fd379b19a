//! What it takes to hold a value against a JSON Schema: references multiply, and two kilobytes of them may take for ever.
//!
//! A validator visits a schema as often as ways lead to it: forty definitions of which each refers twice to the next are
//! 2^40 visits, and nothing can stop it meanwhile. So the visits are counted before, as a validator makes them, and no
//! further than a bound. The trap is to count too few of them: where a reference might mean several places all are
//! visited, a pattern fits every name, and nothing that fails spares the rest.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Visits besides its own length, whatever it is held against. Turned up: more is taken that nobody wrote by hand.
pub const EXPANDED_MAX: usize = 100_000;
/// Visits for one value. Turned up: deeper answers to schemas that refer to themselves, and a thread is held up longer.
pub const VISITS_MAX: usize = 2_000_000;
/// How deep one visit may be within others: a validator has a stack.
pub const DEPTH_MAX: usize = 1_024;

/// What a place in a schema leads to by itself, on average, before it counts.
const OWN: usize = 16;

/// Does anything in it refer to something? All other schemas take no longer than they are written.
#[must_use]
pub fn refers(schema: &Value) -> bool {
    places(schema).iter().any(|(place, _)| REFERENCES.iter().any(|key| place.get(key).is_some_and(Value::is_string)))
}

/// Does who only asks whether a value is right visit each part of it once a definition? What is found of a part is remembered
/// by the validator, but not by what looks for members that nothing has looked at, nor across a scope that moves.
#[must_use]
pub fn is_remembered(schema: &Value) -> bool {
    let forgets = |key: &String| key.starts_with("unevaluated") || key == "$dynamicRef" || key == "$recursiveRef";
    !places(schema).iter().any(|(place, _)| place.as_object().is_some_and(|members| members.keys().any(forgets)))
}

/// Is it usable at all: does no place in it lead to too many others, or back to itself, for the same value?
#[must_use]
pub fn is_finite(schema: &Value) -> bool {
    let places = places(schema);
    let mut count = Count::new(schema, &places, EXPANDED_MAX + OWN * places.len());
    places.iter().all(|(place, home)| count.affords(place, home, None))
}

/// Can this value be held against it in a reasonable time?
#[must_use]
pub fn affords(schema: &Value, value: &Value) -> bool {
    Count::new(schema, &places(schema), VISITS_MAX).affords(schema, schema, Some(value))
}

const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// A place in a schema, and the schema with a name of its own that it is in: what `#` means there.
type Place<'a> = (&'a Value, &'a Value);

/// Every object in a schema, itself included: each may be a schema.
fn places(schema: &Value) -> Vec<Place<'_>> {
    let (mut found, mut open) = (Vec::new(), vec![(schema, schema)]);
    while let Some((place, home)) = open.pop() {
        let home = home_at(place, home);
        match place {
            Value::Object(members) => {
                found.push((place, home));
                open.extend(members.values().map(|below| (below, home)));
            }
            Value::Array(items) => open.extend(items.iter().map(|below| (below, home))),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found
}

/// What is told apart of a name: its last part. What stands before it need not be said wherever it is meant.
fn told_apart(name: &str) -> String {
    let name = decoded(name).to_ascii_lowercase();
    name.trim_matches(['#', '/']).rsplit('/').next().unwrap_or_default().to_owned()
}

fn home_at<'a>(place: &'a Value, home: &'a Value) -> &'a Value {
    let own = ["$id", "id"].into_iter().filter_map(|key| place.get(key)?.as_str()).any(|id| !id.starts_with('#'));
    if own { place } else { home }
}

/// One visit that is still to be made.
struct Visit<'a> {
    place: Place<'a>,
    /// What is held against it; none: whatever it is.
    value: Option<&'a Value>,
    depth: usize,
}

struct Count<'a> {
    root: &'a Value,
    /// The places that have names of their own.
    named: BTreeMap<String, Vec<Place<'a>>>,
    /// Visits that may still be made.
    left: usize,
}

impl<'a> Count<'a> {
    fn new(root: &'a Value, places: &[Place<'a>], left: usize) -> Self {
        let mut named: BTreeMap<String, Vec<Place<'a>>> = BTreeMap::new();
        for place in places {
            for key in ["$id", "id", "$anchor", "$dynamicAnchor"] {
                if let Some(name) = place.0.get(key).and_then(Value::as_str) {
                    named.entry(told_apart(name)).or_default().push(*place);
                }
            }
        }
        Self { root, named, left }
    }

    fn affords(&mut self, schema: &'a Value, home: &'a Value, value: Option<&'a Value>) -> bool {
        let mut open = vec![Visit { place: (schema, home), value, depth: 0 }];
        while let Some(visit) = open.pop() {
            if self.left <= open.len() || visit.depth > DEPTH_MAX {
                return false;
            }
            self.left -= 1;
            self.visit(&visit, &mut open);
        }
        true
    }

    fn visit(&self, visit: &Visit<'a>, open: &mut Vec<Visit<'a>>) {
        let (schema, home) = visit.place;
        let Some(keywords) = schema.as_object() else { return };
        let (home, depth) = (home_at(schema, home), visit.depth + 1);
        // What nothing has looked at yet is found by looking once more.
        let times = if keywords.keys().any(|key| key.starts_with("unevaluated")) { 2 } else { 1 };
        for (key, said) in keywords {
            for place in self.in_place(key, said, home) {
                open.extend((0..times).map(|_| Visit { place, value: visit.value, depth }));
            }
        }
        match visit.value {
            Some(Value::Object(members)) => {
                for (name, value) in members {
                    open.extend(of_member(keywords, name).map(|schema| Visit {
                        place: (schema, home),
                        value: Some(value),
                        depth,
                    }));
                    let of_name = keywords.get("propertyNames");
                    open.extend(of_name.map(|schema| Visit { place: (schema, home), value: None, depth }));
                }
            }
            Some(Value::Array(items)) => {
                for (index, value) in items.iter().enumerate() {
                    open.extend(of_item(keywords, index).map(|schema| Visit {
                        place: (schema, home),
                        value: Some(value),
                        depth,
                    }));
                }
            }
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => {}
        }
    }

    /// What a keyword holds the same value against.
    fn in_place(&self, key: &str, said: &'a Value, home: &'a Value) -> Vec<Place<'a>> {
        match key {
            "allOf" | "anyOf" | "oneOf" => said.as_array().into_iter().flatten().map(|below| (below, home)).collect(),
            "not" | "if" | "then" | "else" => vec![(said, home)],
            "dependentSchemas" | "dependencies" => {
                said.as_object().into_iter().flat_map(Map::values).map(|below| (below, home)).collect()
            }
            key if REFERENCES.contains(&key) => said.as_str().map_or_else(Vec::new, |to| self.targets(to, home)),
            _ => Vec::new(),
        }
    }

    /// Where a reference may lead. One that leads nowhere here is refused by whoever compiles the schema.
    fn targets(&self, reference: &str, home: &'a Value) -> Vec<Place<'a>> {
        let (base, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let fragment = decoded(fragment);
        let named = |name: &str| self.named.get(&told_apart(name)).cloned().unwrap_or_default();
        if !fragment.is_empty() && !fragment.starts_with('/') {
            return named(&fragment);
        }
        let homes = match base {
            "" => vec![self.root, home],
            base => {
                let alike: Vec<&Value> = named(base).into_iter().map(|(place, _)| place).collect();
                // A name in full means one place, whatever else ends as it does.
                let is = |place: &&Value| ["$id", "id"].iter().any(|key| place.get(key).is_some_and(|id| id == base));
                let exact: Vec<&Value> =
                    alike.iter().copied().filter(|place| base.contains("://") && is(place)).collect();
                if exact.is_empty() { alike } else { exact }
            }
        };
        let mut found: Vec<Place<'a>> = Vec::new();
        for home in homes {
            if let Some(place) = home.pointer(&fragment)
                && !found.iter().any(|(known, _)| std::ptr::eq(*known, place))
            {
                found.push((place, home));
            }
        }
        found
    }
}

/// What a member of an object is held against.
fn of_member<'a>(keywords: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a Value> {
    let own = keywords.get("properties").and_then(|said| said.get(name));
    let patterns = keywords.get("patternProperties").and_then(Value::as_object).into_iter().flat_map(Map::values);
    let others = ["additionalProperties", "unevaluatedProperties"].into_iter().filter_map(move |key| keywords.get(key));
    own.into_iter().chain(patterns).chain(others.filter(move |_| own.is_none()))
}

/// What an item of a list is held against.
fn of_item(keywords: &Map<String, Value>, index: usize) -> impl Iterator<Item = &Value> {
    let at = ["prefixItems", "items"].into_iter().filter_map(move |key| keywords.get(key)?.as_array()?.get(index));
    let each = ["items", "additionalItems", "unevaluatedItems", "contains"].into_iter();
    at.chain(each.filter_map(move |key| keywords.get(key).filter(|said| !said.is_array())))
}

/// A fragment as it is meant: `%24` is a `$`.
fn decoded(fragment: &str) -> String {
    let mut pieces = fragment.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        match piece.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(&piece.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend(piece.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Definitions of which each refers to the next by `refer`, twice.
    fn doubling(definitions: usize, refer: impl Fn(usize) -> Value, define: impl Fn(usize, Value) -> Value) -> Value {
        let mut all = Map::new();
        for n in 0..definitions {
            all.insert(format!("a{n}"), define(n, json!({"allOf": [refer(n + 1), refer(n + 1)]})));
        }
        all.insert(format!("a{definitions}"), define(definitions, json!({"type": "object"})));
        json!({"$ref": "#/$defs/a0", "$defs": all})
    }

    fn with(mut schema: Value, key: &str, said: String) -> Value {
        schema[key] = said.into();
        schema
    }

    #[test]
    fn references_that_multiply_are_counted_however_they_are_written() {
        let by_pointer = |n: usize| json!({"$ref": format!("#/$defs/a{n}")});
        let plain = |_: usize, schema: Value| schema;
        for (schema, expected) in [
            (doubling(10, by_pointer, plain), true),
            (doubling(40, by_pointer, plain), false),
            (doubling(40, |n| json!({"$ref": format!("#/%24defs/a{n}")}), plain), false),
            (doubling(40, |n| json!({"$ref": format!("#n{n}")}), |n, it| with(it, "$anchor", format!("n{n}"))), false),
            (doubling(40, |n| json!({"$ref": format!("n{n}")}), |n, it| with(it, "$id", format!("x/../n{n}"))), false),
            (
                json!({"properties": {"a": doubling(40, by_pointer, plain)["$defs"]["a0"], "b": {}},
                    "$defs": doubling(40, by_pointer, plain)["$defs"]}),
                false,
            ),
            (json!({"$ref": "#"}), false),
            (json!({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#"}]}}}), false),
            (json!({"$ref": "https://example.com/other.json"}), true),
            (
                json!({"$id": "https://a.example/v2/order.json", "allOf": [{"$ref": "https://a.example/v1/order.json"}],
                    "$defs": {"v1": {"$id": "https://a.example/v1/order.json", "type": "object"}}}),
                true,
            ),
            (json!({"properties": {"$ref": {"type": "string"}, "not": {}}}), true),
            (json!(true), true),
        ] {
            assert_eq!(is_finite(&schema), expected, "{schema}");
        }
    }

    #[test]
    fn a_value_may_go_as_deep_as_its_schema_does_not_multiply() {
        let nested = |depth: usize| (0..depth).fold(json!({}), |value, _| json!({"x": value, "y": [1]}));
        let node = json!({"$ref": "#/$defs/node"});
        let of = |node: Value| json!({"$ref": "#/$defs/node", "$defs": {"node": node}});
        let tree = of(json!({"type": "object", "properties": {"x": node, "y": {"items": {"type": "integer"}}}}));
        let twice = of(json!({"properties": {"x": {"allOf": [node, node]}}}));
        let by_pattern = of(json!({"properties": {"x": node}, "patternProperties": {"^x$": node}}));
        let union = of(json!({"oneOf": [
            {"properties": {"op": {"const": "not"}, "x": node}}, {"properties": {"op": {"const": "minus"}, "x": node}},
        ]}));
        let closed = of(json!({"allOf": [{"properties": {"x": node}}], "unevaluatedProperties": false}));
        let long: Vec<u32> = (0..100_000).collect();
        for (schema, value, expected) in [
            (&tree, nested(120), true),
            (&tree, json!({"y": long}), true),
            (&twice, nested(12), true),
            (&twice, nested(40), false),
            (&by_pattern, nested(40), false),
            (&union, nested(12), true),
            (&union, nested(40), false),
            (&closed, nested(12), true),
            (&closed, nested(40), false),
        ] {
            assert!(refers(schema) && is_finite(schema), "{schema}");
            assert_eq!(affords(schema, &value), expected, "{schema}");
        }
        assert!(!refers(&json!({"properties": {"$ref": {"type": "string"}}, "items": {"enum": ["$ref"]}})));
    }
}
