//! What a caller sends, read strictly: query parameters, a JSON body, and who they say they are.

use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, Json, Query, Request};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::filter;
use super::problem::{Pointed, Problem};
use crate::query::{Filter, PageAsk};
use crate::spelling::nearest;
use crate::time::{Timestamp, format_duration};
use crate::triage::Decision;

/// The largest body accepted, in bytes: a payload of the largest size, and room for its escapes.
pub const BODY_LIMIT: usize = 2 * 1024 * 1024;
/// How long a body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// The header that names the person or program behind a change.
pub const ACTOR: &str = "x-backstop-actor";
/// The header that makes a submission safe to repeat.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A request, read as a whole and not yet understood.
#[derive(Debug)]
pub struct Input {
    /// Its headers.
    pub headers: HeaderMap,
    uri: Uri,
    body: Bytes,
}

impl<S: Sync> FromRequest<S> for Input {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let encoded = parts.headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
        if encoded {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "encoded",
                "The body is encoded",
                "send the body as it is, without `Content-Encoding`",
            ));
        }
        let read = tokio::time::timeout(BODY_PATIENCE, to_bytes(body, BODY_LIMIT)).await.map_err(|_| {
            let detail = format!("the body did not come within {}", format_duration(BODY_PATIENCE));
            Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "Too slow", detail)
        })?;
        let body = read.map_err(|error| unread(&error))?;
        if !body.is_empty() && !is_json(&parts.headers) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not-json",
                "The body is not JSON",
                "send the body as JSON with `Content-Type: application/json`",
            ));
        }
        Ok(Self { headers: parts.headers, uri: parts.uri, body })
    }
}

fn unread(error: &axum::Error) -> Problem {
    if error.to_string().contains("length limit") {
        let detail = format!("the body may have at most {BODY_LIMIT} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail);
    }
    Problem::new(StatusCode::BAD_REQUEST, "unreadable", "The body could not be read", error.to_string())
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

impl Input {
    /// The query parameters.
    ///
    /// # Errors
    /// When the query string is not well formed.
    pub fn params(&self) -> Result<Params, Problem> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&self.uri)
            .map_err(|error| wrong("query", error.body_text()))?
            .0;
        Ok(Params { pairs, errors: Vec::new() })
    }

    /// The body as it came, for who must look at its signature first.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.body
    }

    /// The body as a `T`; an empty body is the empty object.
    ///
    /// # Errors
    /// When it is not UTF-8, not JSON (with line and column), or has a field wrong (with its pointer).
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        read_json(&self.body)
    }

    /// The body as an object of fields.
    ///
    /// # Errors
    /// As [`Input::json`].
    pub fn object(&self) -> Result<Map<String, Value>, Problem> {
        self.json()
    }

    /// Who asks: the header [`ACTOR`], else the body's `by`, else `api`; and why: the body's `reason`. Both are taken
    /// out of the fields.
    ///
    /// # Errors
    /// When one of them is not a short text.
    pub fn actor(&self, fields: &mut Map<String, Value>) -> Result<(String, String), Problem> {
        let header = self.headers.get(ACTOR).map(|value| value.to_str().map(str::to_owned));
        let by = match (fields.remove("by"), header) {
            (Some(Value::String(by)), _) => by,
            (Some(_), _) => return Err(wrong("/by", "must be a text: who decides this")),
            (None, Some(Ok(by))) => by,
            (None, Some(Err(_))) => return Err(wrong(ACTOR, "must be printable ASCII; send other names as `by`")),
            (None, None) => "api".to_owned(),
        };
        let reason = match fields.remove("reason").or_else(|| fields.remove("note")) {
            None => String::new(),
            Some(Value::String(reason)) => reason,
            Some(_) => return Err(wrong("/reason", "must be a text")),
        };
        if by.trim().is_empty() || by.chars().count() > 100 || by.chars().any(char::is_control) {
            return Err(wrong("/by", "must have 1 to 100 characters, none of them control characters"));
        }
        if reason.chars().count() > 2_000 {
            return Err(wrong("/reason", "must have at most 2,000 characters"));
        }
        Ok((by, reason))
    }
}

/// One place that is wrong.
pub(super) fn wrong(pointer: &str, detail: impl Into<String>) -> Problem {
    Problem::invalid(vec![Pointed { pointer: pointer.to_owned(), detail: detail.into() }])
}

/// Reads a JSON body.
///
/// # Errors
/// When it is not UTF-8, not JSON, or not a `T`.
pub fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = if body.is_empty() { b"{}".as_slice() } else { body };
    if let Err(error) = std::str::from_utf8(body) {
        let detail = format!("the body is not UTF-8: byte {} does not belong there", error.valid_up_to() + 1);
        return Err(Problem::new(StatusCode::BAD_REQUEST, "not-utf8", "The body is not UTF-8", detail));
    }
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(body) {
        let detail = error.to_string();
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "malformed-json",
            "The body is not well-formed JSON",
            detail,
        ));
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(wrong("", "the body must be a JSON object, in braces"));
    }
    Json::<T>::from_bytes(body).map(|Json(value)| value).map_err(|error| {
        let text = error.body_text();
        let said = text.split_once("target type: ").map_or(text.as_str(), |(_, said)| said);
        pointed(said)
    })
}

/// Turns `filter.clas: unknown field ...` into a pointer and a sentence with the nearest right word.
fn pointed(said: &str) -> Problem {
    let (path, message) = match said.split_once(": ") {
        Some((path, message)) if !path.contains(' ') && !path.contains('`') => (path, message),
        Some(_) | None => ("", said),
    };
    let mut pointer = String::new();
    for segment in path.split(['.', '[', ']']).filter(|segment| !segment.is_empty() && *segment != "?") {
        pointer.push('/');
        pointer.push_str(segment);
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let mut detail = message.to_owned();
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let written = quoted.next().unwrap_or("");
        let words: Vec<&str> = quoted.collect();
        if message.starts_with("unknown field") && !pointer.ends_with(&format!("/{written}")) {
            pointer.push('/');
            pointer.push_str(written);
        }
        if let Some(meant) = nearest(written, words.iter().copied()) {
            detail.push_str(&format!("; did you mean `{meant}`?"));
        }
    } else if message.starts_with("missing field")
        && let Some(name) = quoted.next()
    {
        pointer.push('/');
        pointer.push_str(name);
    }
    wrong(&pointer, detail)
}

/// Reads a decision from the fields that are left, refusing those it does not have.
///
/// # Errors
/// When it is none of the closed set, or a field is missing, wrong or too many.
pub fn decision(fields: Map<String, Value>) -> Result<Decision, Problem> {
    if !fields.contains_key("decision") {
        return Err(wrong("/decision", "is missing; it names the decision, such as `retry-on-fallback`"));
    }
    let names: Vec<String> = fields.keys().cloned().collect();
    let decision: Decision =
        serde_json::from_value(Value::Object(fields)).map_err(|error| pointed(&error.to_string()))?;
    let known = match serde_json::to_value(&decision) {
        Ok(Value::Object(known)) => known,
        Ok(_) | Err(_) => Map::new(),
    };
    let words: Vec<&str> = known.keys().map(String::as_str).collect();
    let errors: Vec<Pointed> = names
        .iter()
        .filter(|name| !known.contains_key(*name))
        .map(|name| Pointed { pointer: format!("/{name}"), detail: unknown(name, &words) })
        .collect();
    if errors.is_empty() { Ok(decision) } else { Err(Problem::invalid(errors)) }
}

/// Refuses whatever fields are left.
///
/// # Errors
/// When any is.
pub fn nothing_else(fields: &Map<String, Value>, known: &[&str]) -> Result<(), Problem> {
    let errors: Vec<Pointed> =
        fields.keys().map(|name| Pointed { pointer: format!("/{name}"), detail: unknown(name, known) }).collect();
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}

fn unknown(name: &str, words: &[&str]) -> String {
    match nearest(name, words.iter().copied()) {
        Some(meant) => format!("unknown; did you mean `{meant}`?"),
        None if words.is_empty() => "unknown; nothing may stand here".to_owned(),
        None => format!("unknown; known are {}", words.join(", ")),
    }
}

/// Query parameters, taken one by one; what is left at the end is an error.
#[derive(Debug)]
pub struct Params {
    pairs: Vec<(String, String)>,
    errors: Vec<Pointed>,
}

impl Params {
    /// A parameter's text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(key, _)| key == name)?;
        Some(self.pairs.remove(at).1)
    }

    /// A parameter read as a `T`; a wrong one is remembered and told by [`Params::end`].
    pub fn read<T: std::str::FromStr>(&mut self, name: &str, wanted: &str) -> Option<T> {
        let text = self.text(name)?;
        let read = text.parse().ok();
        if read.is_none() {
            self.errors.push(Pointed { pointer: name.to_owned(), detail: format!("`{text}` is not {wanted}") });
        }
        read
    }

    /// `name`, `name=true` and `name=false`.
    pub fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref() {
            None | Some("false" | "0") => false,
            Some("" | "true" | "1") => true,
            Some(other) => {
                self.errors
                    .push(Pointed { pointer: name.to_owned(), detail: format!("`{other}` is not true or false") });
                false
            }
        }
    }

    /// `limit`: how many, from 1 to 1000.
    pub fn page_size(&mut self) -> u32 {
        let limit = self.read::<u32>("limit", "a number from 1 to 1000").unwrap_or(PageAsk::default().limit);
        if !(1..=1_000).contains(&limit) {
            self.errors.push(Pointed { pointer: "limit".to_owned(), detail: "must be from 1 to 1000".to_owned() });
        }
        limit
    }

    /// `limit`, `after`, `oldest_first`.
    pub fn page(&mut self) -> PageAsk {
        PageAsk { limit: self.page_size(), after: self.text("after"), oldest_first: self.flag("oldest_first") }
    }

    /// Every other parameter is a word of the filter; `where` is a whole one.
    ///
    /// # Errors
    /// Every parameter that is wrong.
    pub fn filter(mut self, now: Timestamp) -> Result<Filter, Problem> {
        let mut found = Filter::default();
        if let Some(text) = self.text("where") {
            match filter::parse_where(&text, now) {
                Ok(filter) => found = filter,
                Err(errors) => self.errors.extend(
                    errors.iter().map(|error| Pointed { pointer: "where".to_owned(), detail: error.to_string() }),
                ),
            }
        }
        for (word, value) in std::mem::take(&mut self.pairs) {
            if let Err(error) = filter::set(&mut found, &word, &value, now) {
                self.errors.push(Pointed { pointer: word, detail: error.to_string() });
            }
        }
        self.end(&[])?;
        Ok(found)
    }

    /// Nothing more is expected.
    ///
    /// # Errors
    /// When parameters are left, or one was wrong.
    pub fn end(mut self, known: &[&str]) -> Result<(), Problem> {
        for (name, _) in &self.pairs {
            self.errors.push(Pointed { pointer: name.clone(), detail: unknown(name, known) });
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::invalid(self.errors)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::ReplayAsk;
    use crate::team::desk::NewTask;

    fn refusal<T: DeserializeOwned>(body: &[u8]) -> (u16, String, String) {
        let problem = read_json::<T>(body).err().expect("refused");
        let pointer = problem.errors.first().map(|error| error.pointer.clone()).unwrap_or_default();
        (problem.status, pointer, problem.detail)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_waited_for_half_a_minute() {
        use axum::body::Body;
        use futures_util::{StreamExt, stream};
        let begun = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]).chain(stream::pending());
        let began = tokio::time::Instant::now();
        let problem = Input::from_request(Request::new(Body::from_stream(begun)), &()).await.expect_err("refused");
        assert_eq!((problem.status, began.elapsed()), (408, BODY_PATIENCE));
        assert!(problem.detail.contains("did not come within 30s"), "{}", problem.detail);
    }

    #[test]
    fn a_bad_body_is_told_where_and_with_the_nearest_word() {
        for (body, pointer, expected) in [
            (&br#"{"type":"mail","#[..], "", "line 1 column 15"),
            (b"{\"type\":\"mail\",\n \"payload\": tru}", "", "line 2 column"),
            (b"\xff\xfe", "", "byte 1 does not belong"),
            (br#"{"type":"mail","payloud":{}}"#, "/payloud", "did you mean `payload`?"),
            (br#"{"payload":{}}"#, "/type", "missing field `type`"),
            (br#"{"type":"code review"}"#, "/type", "may only hold letters"),
            (br#"{"type":"mail","effect":"paymant"}"#, "/effect", "did you mean `payment`?"),
            (br#"{"type":7}"#, "/type", "invalid type"),
            (br#"[]"#, "", "must be a JSON object"),
            (br#"{"type":"mail","deadline":"tomorrow"}"#, "/deadline", "is not a time"),
            (br#"{"type":"a","type":"b"}"#, "", "duplicate field `type`"),
        ] {
            let (status, found, detail) = refusal::<NewTask>(body);
            assert_eq!(status, 400);
            assert!(detail.contains(expected), "{}: {detail}", String::from_utf8_lossy(body));
            assert!(pointer.is_empty() || found == pointer, "{found} is not {pointer}");
        }
        let (_, pointer, detail) = refusal::<ReplayAsk>(br#"{"filter":{"clas":"logic"},"by":"a","reason":"b"}"#);
        assert_eq!(pointer, "/filter/clas", "{detail}");
        assert!(detail.contains("did you mean `class`?"), "{detail}");
    }

    #[test]
    fn decisions_are_read_strictly() {
        let read = |text: &str| decision(serde_json::from_str(text).expect("json"));
        assert_eq!(
            read(r#"{"decision":"retry-on-fallback","model":"openai/gpt-5.4"}"#),
            Ok(Decision::RetryOnFallback { model: "openai/gpt-5.4".parse().expect("a model") })
        );
        assert_eq!(read(r#"{"decision":"run-again"}"#), Ok(Decision::RunAgain { amendment: None }));
        for (text, pointer, expected) in [
            ("{}", "/decision", "is missing"),
            (r#"{"decision":"retry"}"#, "", "unknown variant `retry`"),
            (r#"{"decision":"discard"}"#, "/why", "missing field `why`"),
            (r#"{"decision":"discard","why":"old","modle":"x"}"#, "/modle", "unknown"),
        ] {
            let problem = read(text).expect_err(text);
            assert_eq!(problem.errors[0].pointer, pointer, "{text}");
            assert!(problem.detail.contains(expected), "{text}: {}", problem.detail);
        }
    }

    #[test]
    fn parameters_are_checked_all_at_once() {
        let params = |query: &str| Input {
            headers: HeaderMap::new(),
            uri: format!("/api/v1/tasks?{query}").parse().expect("a uri"),
            body: Bytes::new(),
        };
        let now = Timestamp::from_millis(10_000_000);
        let mut ok = params("limit=5&oldest_first&states=ready,parked&text=a%20b").params().expect("a query");
        assert_eq!(ok.page(), PageAsk { limit: 5, after: None, oldest_first: true });
        assert_eq!(ok.filter(now).expect("a filter").text.as_deref(), Some("a b"));
        let mut bad = params("limit=0&agnet=cto&class=x&where=zzz").params().expect("a query");
        bad.page();
        let problem = bad.filter(now).expect_err("four mistakes");
        let pointers: Vec<&str> = problem.errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["limit", "where", "agnet", "class"]);
    }
}
