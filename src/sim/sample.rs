//! The smallest JSON value that meets a schema: what the outage server's models answer when nobody wrote an answer.
//!
//! Enough of JSON Schema for answers of agents: types, required properties, enums, constants, bounds, formats by
//! name. What it does not know it ignores; the answer is validated by the team in any case.

use serde_json::{Map, Value, json};

const WORDS: [&str; 12] = [
    "steady", "plan", "reviewed", "rollout", "checked", "measured", "small", "change", "tested", "ready", "ship",
    "note",
];

/// A value that meets `schema`, its words drawn by `dice`. `#/$defs/…` references are looked up in `schema` itself.
#[must_use]
pub fn sample(schema: &Value, dice: u64) -> Value {
    value(schema, schema, dice, 0)
}

/// A value that does not meet `schema`: like a sample with one thing wrong, where the schema says enough to be broken.
#[must_use]
pub fn breaking(schema: &Value, dice: u64) -> Value {
    let good = sample(schema, dice);
    let mut tries = Vec::new();
    for name in good.as_object().into_iter().flatten().map(|(name, _)| name) {
        let mut odd = good.clone();
        odd[name] = json!([[WORDS[(dice % WORDS.len() as u64) as usize]]]);
        tries.push(odd);
    }
    tries.extend([json!("steady"), json!([[]]), Value::Null, json!({"steady": 1})]);
    let fits = |value: &Value| jsonschema::validator_for(schema).is_ok_and(|schema| schema.is_valid(value));
    tries.iter().find(|value| !fits(value)).cloned().unwrap_or(good)
}

fn value(schema: &Value, root: &Value, dice: u64, depth: u32) -> Value {
    if depth > 16 {
        return Value::Null;
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#')) {
        return root.pointer(target).map_or(Value::Null, |found| value(found, root, dice, depth + 1));
    }
    if let Some(fixed) = schema.get("const").or_else(|| schema.get("default")) {
        return fixed.clone();
    }
    if let Some(first) = schema.get("enum").and_then(Value::as_array).and_then(|all| all.first()) {
        return first.clone();
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema.get(choice).and_then(Value::as_array).and_then(|all| all.first()) {
            return value(first, root, dice, depth + 1);
        }
    }
    match kind(schema) {
        "object" => object(schema, root, dice, depth),
        "array" => array(schema, root, dice, depth),
        "integer" => json!(bound(schema).ceil() as i64),
        "number" => json!(bound(schema)),
        "boolean" => json!(true),
        "null" => Value::Null,
        _ => json!(text(schema, dice)),
    }
}

fn kind(schema: &Value) -> &str {
    let named = match schema.get("type") {
        Some(Value::Array(several)) => several.first().and_then(Value::as_str),
        Some(one) => one.as_str(),
        None => None,
    };
    named.unwrap_or(if schema.get("properties").is_some() { "object" } else { "string" })
}

fn object(schema: &Value, root: &Value, dice: u64, depth: u32) -> Value {
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut fields = Map::new();
    for (index, name) in required.iter().enumerate() {
        let inner = schema.get("properties").and_then(|all| all.get(*name)).unwrap_or(&Value::Null);
        fields.insert((*name).to_owned(), value(inner, root, dice.rotate_left(7 + index as u32), depth + 1));
    }
    Value::Object(fields)
}

fn array(schema: &Value, root: &Value, dice: u64, depth: u32) -> Value {
    let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(1).min(64);
    let items = schema.get("items").unwrap_or(&Value::Null);
    (0..least).map(|index| value(items, root, dice.rotate_left(3 + index as u32), depth + 1)).collect()
}

/// The least number allowed, or the most when only that is given and it is below zero.
fn bound(schema: &Value) -> f64 {
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    let least = number("minimum").or_else(|| number("exclusiveMinimum").map(|least| least + 1.0)).unwrap_or(0.0);
    number("maximum").map_or(least, |most| least.min(most))
}

fn text(schema: &Value, dice: u64) -> String {
    match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => return "2026-01-01T00:00:00Z".to_owned(),
        Some("date") => return "2026-01-01".to_owned(),
        Some("uri") => return "https://example.com/".to_owned(),
        Some("email") => return "team@example.com".to_owned(),
        Some(_) | None => {}
    }
    if schema.get("pattern").is_some() {
        // One word of small letters meets most patterns of names.
        return WORDS[(dice % WORDS.len() as u64) as usize].to_owned();
    }
    let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0).min(100_000) as usize;
    let most = schema.get("maxLength").and_then(Value::as_u64).map_or(usize::MAX, |most| most as usize);
    let mut words = String::new();
    for step in 0.. {
        if step >= 4 && words.len() >= least {
            break;
        }
        if step > 0 {
            words.push(' ');
        }
        words.push_str(WORDS[(dice.rotate_left(step * 5) % WORDS.len() as u64) as usize]);
    }
    words.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_meet_their_schema() {
        let schemas = [
            json!({"type": "string"}),
            json!({"type": "string", "minLength": 60, "maxLength": 61}),
            json!({"type": "object", "required": ["a", "b", "c"], "additionalProperties": false, "properties": {
                "a": {"enum": ["approve", "reject"]},
                "b": {"type": "array", "minItems": 2, "items": {"type": "integer", "minimum": 3}},
                "c": {"$ref": "#/$defs/inner"}, "d": {"type": "string"}},
                "$defs": {"inner": {"type": "object", "required": ["n"], "properties": {"n": {"type": "number", "maximum": -2}}}}}),
            json!({"type": ["string", "null"], "maxLength": 3}),
            json!({"anyOf": [{"type": "boolean"}, {"type": "null"}]}),
            json!({"const": {"x": 1}}),
        ];
        for schema in schemas {
            for dice in [0, 7, u64::MAX] {
                let found = sample(&schema, dice);
                assert!(jsonschema::is_valid(&schema, &found), "{schema} {found}");
                let broken = breaking(&schema, dice);
                assert!(!jsonschema::is_valid(&schema, &broken), "{schema} {broken}");
            }
        }
    }

    #[test]
    fn a_schema_that_never_ends_gives_something_finite() {
        let endless = json!({"$ref": "#"});
        assert_eq!(sample(&endless, 1), Value::Null);
    }
}
