//! Gemini's requests: contents of parts, the model in the path, schemas with types in capitals, keys in either case.

use serde_json::{Value, json};

use super::{Offered, Read, Said, Who, first, list, offered};

pub(super) fn read(body: &Value) -> Result<Read, String> {
    let contents =
        list(body, "contents").map_err(|_| "* GenerateContentRequest.contents: contents is not specified")?;
    let system = first(body, &["/systemInstruction", "/system_instruction"]).map(|system| words(&system));
    let mut said = vec![Said { who: Who::System, words: system.unwrap_or_default() }];
    said.extend(contents.iter().map(|content| {
        let who = if content["role"] == "model" { Who::Model } else { Who::Asker };
        Said { who, words: words(content) }
    }));
    if let Some(complaint) = unpaired(contents) {
        return Err(complaint.to_owned());
    }
    let generation = first(body, &["/generationConfig", "/generation_config"]).unwrap_or_default();
    let schema =
        first(&generation, &["/responseJsonSchema", "/response_json_schema", "/responseSchema", "/response_schema"]);
    Ok(Read {
        // In the path.
        model: String::new(),
        said,
        tools: tools(body),
        schema: schema.map(json_schema),
        stream: false,
        usage_chunk: false,
    })
}

fn tools(body: &Value) -> Vec<Offered> {
    let lists = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let declared = lists.flat_map(|tool| {
        let functions = tool.get("functionDeclarations").or_else(|| tool.get("function_declarations"));
        offered(functions, &["/name"], &["/parametersJsonSchema", "/parameters_json_schema", "/parameters"])
    });
    declared.map(|tool| Offered { parameters: json_schema(tool.parameters), ..tool }).collect()
}

fn parts<'a>(content: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    content["parts"].as_array().into_iter().flatten().filter_map(move |part| part.get(kind))
}

/// The words of all parts, and what tools answered.
fn words(content: &Value) -> String {
    let texts = parts(content, "text").filter_map(|text| text.as_str().map(str::to_owned));
    let told = parts(content, "functionResponse").map(|told| {
        let response = &told["response"];
        let output = ["output", "error", "result"].iter().find_map(|key| response[*key].as_str());
        output.map_or_else(|| response.to_string(), str::to_owned)
    });
    texts.chain(told).collect::<Vec<_>>().join("\n")
}

/// What is wrong with calls and results, in the vendor's words: as many results as calls, in the very next turn.
fn unpaired(contents: &[Value]) -> Option<&'static str> {
    for (at, content) in contents.iter().enumerate() {
        let called = parts(content, "functionCall").count();
        let told = contents.get(at + 1).map_or(0, |next| parts(next, "functionResponse").count());
        if called != told {
            return Some(
                "Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn.",
            );
        }
    }
    let orphans = contents.first().is_some_and(|first| parts(first, "functionResponse").next().is_some());
    orphans.then_some("Please ensure that function response turn comes immediately after a function call turn.")
}

/// Types in small letters, as JSON Schema has them; a schema written that way stays as it is.
fn json_schema(schema: Value) -> Value {
    match schema {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| match (key.as_str(), value) {
                ("type", Value::String(kind)) => (key, json!(kind.to_ascii_lowercase())),
                (_, value) => (key, json_schema(value)),
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(json_schema).collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}
