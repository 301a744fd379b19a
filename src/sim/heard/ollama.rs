//! Ollama's requests: chat messages, or one prompt; streams unless told otherwise.

use serde_json::Value;

use super::{Form, Read, Said, Who, list, messages, model, offered};

pub(super) fn read(body: &Value, form: Form) -> Result<Read, String> {
    let model = model(body).map_err(|_| "model is required".to_owned())?;
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let said = match form {
        Form::Generate => {
            let (system, prompt) = (text("system"), text("prompt"));
            vec![Said { who: Who::System, words: system }, Said { who: Who::Asker, words: prompt }]
        }
        Form::Chat | Form::Array => messages(list(body, "messages")?)?,
    };
    Ok(Read {
        model,
        said,
        tools: offered(body.get("tools"), &["/function/name"], &["/function/parameters"]),
        // `"json"` asks for JSON of any shape.
        schema: body.get("format").filter(|format| format.is_object()).cloned(),
        stream: body.get("stream").and_then(Value::as_bool).unwrap_or(true),
        usage_chunk: false,
    })
}
