//! Which wire a path belongs to, and what of a request is said by the path alone.

use crate::config::Wire;

/// Where a request came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The wire spoken here.
    pub wire: Wire,
    /// The model, where the path names it.
    pub model: Option<String>,
    /// Is a stream wanted, where the path says so?
    pub stream: Option<bool>,
    /// In which form the answer is wanted.
    pub form: Form,
}

/// The form of an answer, where a wire has more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The usual one.
    Chat,
    /// Ollama's `/api/generate`: one prompt, one response.
    Generate,
    /// Gemini's stream without `alt=sse`: one JSON array, sent piece by piece.
    Array,
}

impl From<Wire> for Door {
    /// The usual door of a wire.
    fn from(wire: Wire) -> Self {
        Self { wire, model: None, stream: None, form: Form::Chat }
    }
}

impl Door {
    /// The door at this path, if there is one. OpenAI's also opens without `/v1`, for clients whose base URL lacks it.
    #[must_use]
    pub fn find(path: &str, query: Option<&str>) -> Option<Self> {
        match path {
            "/v1/messages" => return Some(Wire::Anthropic.into()),
            "/v1/chat/completions" | "/chat/completions" => return Some(Wire::OpenAi.into()),
            "/v1/responses" | "/responses" => return Some(Wire::Responses.into()),
            "/api/chat" => return Some(Wire::Ollama.into()),
            "/api/generate" => return Some(Self { form: Form::Generate, ..Wire::Ollama.into() }),
            _ => {}
        }
        let (_, named) = path.strip_prefix('/')?.split_once('/').filter(|(version, _)| version.starts_with("v1"))?;
        let (model, verb) = named.rsplit_once(':')?;
        let model = model.strip_prefix("models/").unwrap_or(model).to_owned();
        let events = query.is_some_and(|query| query.split('&').any(|pair| pair == "alt=sse"));
        let (stream, form) = match verb {
            "generateContent" => (false, Form::Chat),
            "streamGenerateContent" => (true, if events { Form::Chat } else { Form::Array }),
            _ => return None,
        };
        Some(Self { wire: Wire::Gemini, model: Some(model), stream: Some(stream), form })
    }

    /// The wire of a path that is no door of ours, as far as it can be told: for a complaint in the right words.
    /// `has_header` says whether the request came with this one.
    #[must_use]
    pub fn guess(path: &str, has_header: impl Fn(&str) -> bool) -> Wire {
        match path {
            _ if has_header("anthropic-version") => Wire::Anthropic,
            // Some of Google's clients ask for the version before the one they are made for.
            _ if has_header("x-goog-api-key") => Wire::Gemini,
            _ if path.starts_with("/api/") => Wire::Ollama,
            _ if path.starts_with("/v1beta") => Wire::Gemini,
            _ if path.contains("/responses") => Wire::Responses,
            _ => Wire::OpenAi,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_a_door_of_one_wire() {
        let gemini = |model: &str, stream, form| {
            Some(Door { wire: Wire::Gemini, model: Some(model.to_owned()), stream: Some(stream), form })
        };
        for (path, query, expected) in [
            ("/v1/messages", None, Some(Wire::Anthropic.into())),
            ("/v1/chat/completions", None, Some(Wire::OpenAi.into())),
            ("/responses", None, Some(Wire::Responses.into())),
            ("/api/chat", None, Some(Wire::Ollama.into())),
            ("/v1beta/models/g-1:generateContent", Some("key=k"), gemini("g-1", false, Form::Chat)),
            ("/v1/models/g-1:streamGenerateContent", Some("key=k&alt=sse"), gemini("g-1", true, Form::Chat)),
            ("/v1beta/models/g-1:streamGenerateContent", None, gemini("g-1", true, Form::Array)),
            ("/v1beta/tunedModels/g:generateContent", None, gemini("tunedModels/g", false, Form::Chat)),
            ("/v1beta/models/g-1:countTokens", None, None),
            ("/v1/models", None, None),
            ("/v2/messages", None, None),
            ("/", None, None),
        ] {
            assert_eq!(Door::find(path, query), expected, "{path}");
        }
    }
}
