//! The lists of models, each as its vendor writes it.

use serde_json::{Value, json};

use super::{Complaint, Draw, Outgoing, complain, rfc3339};
use crate::config::Wire;

/// Which models are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing<'a> {
    /// All.
    All,
    /// The one of this name.
    One(&'a str),
}

/// A few names of each vendor, so that a client that looks before it asks finds one. Any other may be asked too.
const fn names(wire: Wire) -> &'static [&'static str] {
    match wire {
        Wire::Anthropic => &["claude-opus-5-5", "claude-sonnet-5-5", "claude-sonnet-5", "claude-haiku-5-5"],
        Wire::OpenAi | Wire::Responses => &["gpt-6-sol", "gpt-6-luna", "gpt-5.4", "gpt-5.4-mini"],
        Wire::Gemini => &["gemini-4-argon", "gemini-3.8-flash"],
        Wire::Ollama => &["llama3.3:latest", "qwen3:latest"],
    }
}

/// A list of models, or one of them.
#[must_use]
pub fn listing(wire: Wire, listing: Listing<'_>, draw: Draw) -> Outgoing {
    let body = match listing {
        Listing::All => all(wire, draw),
        Listing::One(name) => match names(wire).iter().find(|known| **known == name) {
            Some(known) => one(wire, known, draw),
            None => return complain(wire, draw, Complaint::NoSuchModel(name)),
        },
    };
    // A complaint has the headers of a body; the rest is its own.
    Outgoing { status: 200, pieces: vec![body.to_string()], ..complain(wire, draw, Complaint::ServerError) }
}

fn all(wire: Wire, draw: Draw) -> Value {
    let names = names(wire);
    let data: Vec<Value> = names.iter().map(|name| one(wire, name, draw)).collect();
    match wire {
        Wire::Anthropic => {
            json!({"data": data, "has_more": false, "first_id": names.first(), "last_id": names.last()})
        }
        Wire::OpenAi | Wire::Responses => json!({"object": "list", "data": data}),
        Wire::Gemini | Wire::Ollama => json!({"models": data}),
    }
}

fn one(wire: Wire, name: &str, draw: Draw) -> Value {
    match wire {
        Wire::Anthropic => {
            json!({"type": "model", "id": name, "display_name": name, "created_at": rfc3339(draw.created)})
        }
        Wire::OpenAi | Wire::Responses => {
            json!({"id": name, "object": "model", "created": draw.created, "owned_by": "openai"})
        }
        Wire::Gemini => json!({"name": format!("models/{name}"), "version": "001", "displayName": name,
            "inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent", "countTokens"]}),
        Wire::Ollama => json!({"name": name, "model": name, "modified_at": rfc3339(draw.created),
            "size": 4_661_224_676_u64, "digest": format!("{:064x}", draw.words),
            "details": {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"],
                "parameter_size": "8.0B", "quantization_level": "Q4_0"}}),
    }
}
