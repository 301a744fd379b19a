//! What a failing body says for machines and for people, whichever of a dozen envelopes it comes in.
//!
//! Vendors wrap errors as `{"error":{…}}`, as `{"error":"…"}`, flat, in a list of one, in a Responses object, as
//! `{"detail":…}` or as plain text. [`ErrorBody::of`] finds the same few facts in all of them and judges nothing.

use serde_json::Value;

/// The facts of an error body. Everything is optional: bodies lie, and some are HTML.
#[derive(Clone, Debug, Default)]
pub struct ErrorBody<'a> {
    /// Codes more exact than `code`: `details.error_code`, `ErrorInfo.reason`, `innererror.code`, `limit_source`.
    pub exact: Vec<&'a str>,
    /// The error's own code, when it is a word.
    pub code: Option<&'a str>,
    /// The error's type.
    pub kind: Option<&'a str>,
    /// Google's canonical status, or the status of a Responses object's error.
    pub status: Option<&'a str>,
    /// A status given as a number inside the body (`code`, `statusCode`, `originalStatusCode`).
    pub number: Option<u16>,
    /// The message for people; never judged while a code decides.
    pub message: String,
    /// An upstream error handed through as text, often JSON itself.
    pub raw: Option<&'a str>,
    /// Google's quota identifiers, such as `GenerateRequestsPerDayPerProjectPerModel`.
    pub quotas: Vec<&'a str>,
    /// Google's `RetryInfo.retryDelay`.
    pub retry_delay: Option<&'a str>,
    /// Seconds to wait, as a number in the body.
    pub retry_seconds: Option<f64>,
    /// Rate-limit headers handed through inside the body, names as they came.
    pub headers: Vec<(&'a str, String)>,
    /// Moderation put its finding into the metadata.
    pub moderated: bool,
    /// The model's own broken output is quoted (`failed_generation`).
    pub failed_generation: bool,
    /// It is a page for browsers, not an answer of an API.
    pub html: bool,
}

/// Parses a body if it is JSON.
#[must_use]
pub fn parse(body: &str) -> Option<Value> {
    let text = body.trim_start();
    if text.starts_with(['{', '[']) { serde_json::from_str(text).ok() } else { None }
}

/// The first JSON object inside a text: proxies put the upstream's answer into their own message.
#[must_use]
pub fn embedded(text: &str) -> Option<Value> {
    let start = text.find('{')?;
    serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>().next()?.ok().filter(Value::is_object)
}

impl<'a> ErrorBody<'a> {
    /// Reads a body; `value` is what [`parse`] made of `text`.
    #[must_use]
    pub fn of(text: &'a str, value: Option<&'a Value>) -> Self {
        let mut facts = Self::default();
        match value {
            Some(value) => facts.read(value),
            None => facts.read_text(text),
        }
        facts
    }

    /// Every code, the most exact first.
    pub fn codes(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.exact.iter().copied().chain(self.code).chain(self.kind).chain(self.status)
    }

    fn read_text(&mut self, text: &str) {
        let text = text.trim();
        if text.starts_with('<') {
            self.html = true;
            return;
        }
        self.message = text.to_owned();
        // Cloudflare without HTML: "error code: 524".
        self.number = text.strip_prefix("error code: ").and_then(|number| number.parse().ok()).and_then(error_status);
    }

    fn read(&mut self, value: &'a Value) {
        let root = match value.as_array() {
            Some(list) => list.iter().find(|item| item.get("error").is_some()).or(list.first()).unwrap_or(value),
            None => value,
        };
        // Responses API: the error sits in the response, the response may sit in an event.
        let root = root.get("response").filter(|inner| inner.is_object()).unwrap_or(root);
        match root.get("error") {
            Some(error @ Value::Object(_)) => {
                self.read_object(error);
                // Anthropic's outer `type` only says "error"; xAI's outer `code` is prose. Neither adds anything here.
            }
            Some(Value::String(message)) => {
                self.message.clone_from(message);
                self.code = root.get("code").and_then(Value::as_str);
                self.number = root.get("status").and_then(number);
            }
            // OpenRouter reports an upstream's failure in the choice it spoiled.
            Some(_) | None => self.read_object(root.pointer("/choices/0/error").unwrap_or(root)),
        }
        if let Some(reason) = root.pointer("/incomplete_details/reason").and_then(Value::as_str) {
            self.exact.push(reason);
        }
    }

    fn read_object(&mut self, error: &'a Value) {
        let text = |name: &str| error.get(name).and_then(Value::as_str);
        self.code = text("code").filter(|code| code.parse::<u16>().ok().and_then(error_status).is_none());
        self.kind = text("type").or_else(|| text("__type")).filter(|kind| *kind != "error");
        self.status = text("status").filter(|status| *status != "failed");
        // What a gateway was told counts for more than what it makes of it.
        self.number = ["originalStatusCode", "code", "statusCode", "status_code", "status", "raw_status_code"]
            .iter()
            .find_map(|name| error.get(*name).and_then(number));
        self.message = ["message", "Message", "detail", "error_description", "error_msg", "msg"]
            .iter()
            .find_map(|name| error.get(*name).filter(|value| !value.is_null()))
            .map(|value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
            .unwrap_or_default();
        self.failed_generation = error.get("failed_generation").is_some_and(|value| !value.is_null());
        match error.get("details") {
            Some(Value::Array(details)) => details.iter().for_each(|detail| self.read_google(detail)),
            Some(details @ Value::Object(_)) => self.exact.extend(details.get("error_code").and_then(Value::as_str)),
            Some(_) | None => {}
        }
        let mut inner = error.get("innererror").or_else(|| error.get("inner_error"));
        while let Some(object) = inner {
            self.exact.extend(object.get("code").and_then(Value::as_str));
            inner = object.get("innererror");
        }
        if let Some(metadata) = error.get("metadata") {
            self.read_metadata(metadata);
        }
    }

    fn read_google(&mut self, detail: &'a Value) {
        let name = detail.get("@type").and_then(Value::as_str).and_then(|name| name.rsplit('.').next());
        match name {
            Some("ErrorInfo") => {
                self.exact.extend(detail.get("reason").and_then(Value::as_str));
                self.quotas.extend(detail.pointer("/metadata/quota_limit").and_then(Value::as_str));
            }
            Some("RetryInfo") => self.retry_delay = detail.get("retryDelay").and_then(Value::as_str),
            Some("QuotaFailure") => {
                let violations = detail.get("violations").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                self.quotas.extend(violations.iter().filter_map(|one| one.get("quotaId").and_then(Value::as_str)));
            }
            Some(_) | None => {}
        }
    }

    fn read_metadata(&mut self, metadata: &'a Value) {
        self.exact.extend(metadata.get("limit_source").and_then(Value::as_str));
        self.exact.extend(metadata.get("error_type").and_then(Value::as_str));
        self.raw = metadata.get("raw").and_then(Value::as_str);
        self.retry_seconds = metadata.get("retry_after_seconds").and_then(Value::as_f64);
        self.moderated = metadata.get("flagged_input").is_some() || metadata.get("reasons").is_some();
        if let Some(headers) = metadata.get("headers").and_then(Value::as_object) {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            self.headers = headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
        }
    }
}

/// A status as a number or as the text of one.
fn number(value: &Value) -> Option<u16> {
    let number = value.as_str().map_or_else(|| value.as_u64(), |text| text.parse().ok())?;
    u16::try_from(number).ok().and_then(error_status)
}

fn error_status(number: u16) -> Option<u16> {
    (400..600).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(body: &str) -> (Vec<String>, Option<u16>, String) {
        let value = parse(body);
        let facts = ErrorBody::of(body, value.as_ref());
        (facts.codes().map(str::to_owned).collect(), facts.number, facts.message)
    }

    #[test]
    fn every_envelope_gives_its_code_its_number_and_its_message() {
        for (body, want_codes, want_number, want_message) in [
            (
                r#"{"type":"error","error":{"type":"a","message":"m","details":{"error_code":"b"}}}"#,
                vec!["b", "a"],
                None,
                "m",
            ),
            (r#"{"error":{"message":"m","type":"t","code":"c"}}"#, vec!["c", "t"], None, "m"),
            (r#"{"error":{"code":"429","message":"m"}}"#, vec![], Some(429), "m"),
            (r#"[{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}]"#, vec!["UNAVAILABLE"], Some(503), "m"),
            (
                r#"{"error":{"code":400,"status":"S","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"R"}]}}"#,
                vec!["R", "S"],
                Some(400),
                "",
            ),
            (r#"{"statusCode":401,"message":"m"}"#, vec![], Some(401), "m"),
            (r#"{"code":"prose","error":"m"}"#, vec!["prose"], None, "m"),
            (r#"{"error":"m"}"#, vec![], None, "m"),
            (r#"{"detail":"m"}"#, vec![], None, "m"),
            (
                r#"{"object":"error","message":{"detail":[1]},"type":"t","code":"1300","raw_status_code":429}"#,
                vec!["1300", "t"],
                Some(429),
                "{\"detail\":[1]}",
            ),
            (r#"{"error":{"code":"x","innererror":{"code":"y"}}}"#, vec!["y", "x"], None, ""),
            (
                r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error","message":"m"}}}"#,
                vec!["server_error"],
                None,
                "m",
            ),
            (
                r#"{"status":"incomplete","error":null,"incomplete_details":{"reason":"max_output_tokens"}}"#,
                vec!["max_output_tokens", "incomplete"],
                None,
                "",
            ),
            (
                r#"{"type":"error","code":"rate_limit_exceeded","message":"m","sequence_number":1}"#,
                vec!["rate_limit_exceeded"],
                None,
                "m",
            ),
            ("error code: 524", vec![], Some(524), "error code: 524"),
            ("<html>", vec![], None, ""),
            ("{cut", vec![], None, "{cut"),
        ] {
            assert_eq!(
                codes(body),
                (want_codes.into_iter().map(str::to_owned).collect(), want_number, want_message.to_owned()),
                "{body}"
            );
        }
    }

    #[test]
    fn an_upstream_error_is_found_inside_a_proxys_message() {
        let value = embedded(r#"litellm.X: AnthropicError - {"error":{"type":"overloaded_error"}} and more"#);
        assert_eq!(value.and_then(|value| value.pointer("/error/type").cloned()), Some("overloaded_error".into()));
        assert_eq!(embedded("no {json here"), None);
    }
}
