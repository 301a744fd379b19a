//! What must never be shown: credentials are taken out of every text that leaves the process.
//!
//! Two nets. [`redact`] knows the shapes of keys and of the places they stand in; [`Redactor`] also knows the exact
//! secrets of this process, in plain, Base64, hexadecimal and URL-encoded form, and what the names in a JSON value
//! promise. All rather take out too much.

use std::borrow::Cow;

use serde_json::Value;

use crate::secret_name::Promise;

/// What stands where a credential stood.
pub const MASK: &str = "[redacted]";

/// Takes everything that looks like a credential out of a text.
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while at < text.len() {
        match secret_at(text, at) {
            Some((start, end)) => {
                out.push_str(&text[copied..start]);
                out.push_str(MASK);
                copied = end;
                at = end;
            }
            None => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// An address without whoever logs in by it, for words about one; also what is none, because its scheme is missing or a
/// `/` stands in its password.
#[must_use]
pub fn address(url: &str) -> String {
    let url = redact(url);
    match url.rsplit_once('@') {
        Some((before, host)) if !before.ends_with(MASK) => format!("{MASK}@{host}"),
        Some(_) | None => url.into_owned(),
    }
}

/// May a header of this name carry a credential? Names are compared without case.
#[must_use]
pub fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if name == "idempotency-key" {
        return false;
    }
    let exact = ["authorization", "proxy-authorization", "cookie", "set-cookie", "www-authenticate"];
    exact.contains(&name.as_str())
        || name.split(['-', '_', '.']).any(|word| {
            matches!(word, "key" | "apikey" | "token" | "secret" | "password" | "signature" | "credential" | "auth")
        })
}

/// One line of at most `max` characters, with control, bidirectional and zero-width characters made visible.
#[must_use]
pub fn one_line(text: &str, max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max));
    let mut count = 0;
    for c in text.trim().chars() {
        let piece: Cow<'static, str> = match c {
            '\n' | '\r' | '\t' => " ".into(),
            _ if is_deceptive(c) => format!("\\u{{{:x}}}", u32::from(c)).into(),
            _ => c.to_string().into(),
        };
        if piece == " " && line.ends_with(' ') {
            continue;
        }
        let length = piece.chars().count();
        if count + length > max {
            // The mark that something is missing takes the place of the last character.
            line.pop();
            line.push('…');
            break;
        }
        line.push_str(&piece);
        count += length;
    }
    if max == 0 { String::new() } else { line }
}

/// Characters that do not show, or that change what others look like.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Takes out the exact secrets it was given too, in every form they are likely to appear in.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Every form of every secret, the longest first, so that none is left in part.
    needles: Vec<String>,
}

/// Never shows what it hides.
impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} forms)", self.needles.len())
    }
}

/// Shorter secrets are not looked for exactly: taking "a" out of every text would hide everything and protect nothing.
const SHORTEST_SECRET: usize = 6;

impl Redactor {
    /// A redactor that knows these secrets. Those of fewer than 6 characters are ignored.
    #[must_use]
    pub fn new<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Self {
        let mut needles = Vec::new();
        for secret in secrets {
            let secret = secret.as_ref().trim();
            if secret.len() < SHORTEST_SECRET {
                continue;
            }
            needles.push(secret.to_owned());
            for escaped in [percent(secret, u8::to_ascii_uppercase), percent(secret, u8::to_ascii_lowercase)] {
                needles.push(escaped.replace("%20", "+"));
                needles.push(escaped);
            }
            needles.push(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
            // Inside a longer encoded text a secret begins at any of three offsets; the characters it shares with its
            // neighbours are left out.
            for offset in 0..3 {
                let encoded = base64(&[&vec![0; offset], secret.as_bytes()].concat());
                let skip = [0, 2, 3][offset];
                let whole = (offset + secret.len()) / 3 * 4;
                if whole > skip + SHORTEST_SECRET {
                    let core = &encoded[skip..whole];
                    needles.push(core.to_owned());
                    needles.push(core.replace('+', "-").replace('/', "_"));
                }
            }
            // A secret inside JSON: quotes and backslashes escaped; by some a slash too, by others what HTML would read.
            let json = secret.replace('\\', "\\\\").replace('"', "\\\"");
            let html = json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
            needles.extend([json.replace('/', "\\/"), html.replace('/', "\\/"), html, json]);
        }
        needles.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        needles.dedup();
        Self { needles }
    }

    /// The text without credentials.
    #[must_use]
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for needle in &self.needles {
            if text.contains(needle.as_str()) {
                text = Cow::Owned(text.replace(needle.as_str(), MASK));
            }
        }
        match redact(&text) {
            Cow::Owned(clean) => Cow::Owned(clean),
            Cow::Borrowed(_) => text,
        }
    }

    /// The same value without credentials: whatever stands under a telling name goes, every other text is looked
    /// through, texts that are JSON themselves by their own names. Counts such as `max_tokens` stay.
    #[must_use]
    pub fn value(&self, value: &Value) -> Value {
        self.walk(value, Promise::Nothing)
    }

    fn walk(&self, value: &Value, promise: Promise) -> Value {
        match value {
            Value::Null | Value::Bool(_) => value.clone(),
            Value::Number(_) if promise == Promise::Secret => Value::String(MASK.to_owned()),
            Value::Number(_) => value.clone(),
            Value::String(text) if promise.hides(text) => Value::String(MASK.to_owned()),
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => match items.as_slice() {
                // A header as a pair.
                [Value::String(name), Value::String(text)] if said_by_name(name, text) => {
                    Value::Array(vec![items[0].clone(), Value::String(MASK.to_owned())])
                }
                _ => Value::Array(items.iter().map(|item| self.walk(item, promise)).collect()),
            },
            Value::Object(members) => {
                // A header as `{name, value}`.
                let named = ["name", "key", "header"].into_iter().find_map(|name| members.get(name)?.as_str());
                let of = |name: &str, inner: &Value| match (name, named, inner) {
                    ("value", Some(named), Value::String(text)) if said_by_name(named, text) => Promise::Secret,
                    _ => promise.within(Promise::of(name), inner),
                };
                let kept = members
                    .iter()
                    .map(|(name, inner)| (self.redact(name).into_owned(), self.walk(inner, of(name, inner))));
                Value::Object(kept.collect())
            }
        }
    }

    fn text(&self, text: &str) -> String {
        if text.trim_start().starts_with(['{', '['])
            && let Ok(inner) = serde_json::from_str::<Value>(text)
        {
            let clean = self.value(&inner);
            if clean != inner {
                return clean.to_string();
            }
        }
        self.redact(text).into_owned()
    }
}

fn said_by_name(name: &str, text: &str) -> bool {
    Promise::of(name).hides(text) || (is_secret_header(name) && !text.is_empty())
}

/// Prefixes of keys, and how many characters must follow.
const KEYS: &[(&str, usize)] = &[
    ("sk-", 12),
    ("sk_live_", 8),
    ("sk_test_", 8),
    ("rk_live_", 8),
    ("pk_live_", 8),
    ("whsec_", 8),
    ("AIza", 20),
    ("ya29.", 20),
    ("ghp_", 16),
    ("gho_", 16),
    ("ghu_", 16),
    ("ghs_", 16),
    ("ghr_", 16),
    ("github_pat_", 16),
    ("glpat-", 12),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("xoxa-", 10),
    ("xoxr-", 10),
    ("xoxs-", 10),
    ("xapp-", 10),
    ("AKIA", 12),
    ("ASIA", 12),
    ("gsk_", 16),
    ("xai-", 16),
    ("hf_", 16),
    ("npm_", 20),
    ("pypi-", 16),
    ("dop_v1_", 16),
    ("eyJ", 24),
];

/// Names after which, behind `:` or `=`, a credential stands. Compared without case; for `-` also `_` or nothing.
const NAMES: &[&str] = &[
    "proxy-authorization",
    "authorization",
    "x-goog-api-key",
    "x-api-key",
    "api-key",
    "routing-key",
    "integration-key",
    "access-token",
    "refresh-token",
    "auth-token",
    "id-token",
    "client-secret",
    "secret-access-key",
    "secret-key",
    "private-key",
    "account-key",
    "passphrase",
    "password",
    "passwd",
    "pwd",
    "credentials",
    "credential",
    "set-cookie",
    "cookie",
    "secret",
    "token",
    "sig",
];

/// The credential that begins at or is introduced at `at`, as byte bounds of what has to go.
fn secret_at(text: &str, at: usize) -> Option<(usize, usize)> {
    let rest = &text[at..];
    let first = *rest.as_bytes().first()?;
    // Everything below begins with an ASCII letter or one of two marks; most characters end here.
    if !(first.is_ascii_alphabetic() || first == b'-' || first == b':') {
        return None;
    }
    // A word begins after what is neither letter nor digit, and at a hump: `accessToken`.
    let starts_word = match text[..at].chars().next_back() {
        Some(before) if first.is_ascii_uppercase() => !before.is_ascii_uppercase() && !before.is_ascii_digit(),
        Some(before) => !before.is_ascii_alphanumeric(),
        None => true,
    };
    if first == b'-' {
        return pem(text, at);
    }
    if first == b':' {
        return userinfo(text, at);
    }
    if !starts_word {
        return None;
    }
    key(text, at).or_else(|| scheme(text, at)).or_else(|| named(text, at))
}

/// `sk-…`, `ghp_…`: a known prefix and enough of what keys are made of.
fn key(text: &str, at: usize) -> Option<(usize, usize)> {
    let rest = &text[at..];
    let (prefix, least) = KEYS.iter().find(|(prefix, _)| rest.starts_with(prefix))?;
    let length = token_length(&rest[prefix.len()..]);
    (length >= *least).then_some((at, at + prefix.len() + length))
}

/// `Bearer …`, `Basic …`: the scheme stays, the credential goes.
fn scheme(text: &str, at: usize) -> Option<(usize, usize)> {
    let rest = &text[at..];
    let scheme = ["bearer ", "basic ", "token token="].into_iter().find(|scheme| starts_with_ci(rest, scheme))?;
    let blanks = rest[scheme.len()..].len() - rest[scheme.len()..].trim_start_matches(' ').len();
    let start = at + scheme.len() + blanks;
    let length = token_length(&text[start..]);
    // "basic authentication" and "bearer token" are words, not credentials.
    let value = &text[start..start + length];
    let looks_random = length >= 8 && (length >= 20 || value.bytes().any(|byte| !byte.is_ascii_lowercase()));
    looks_random.then_some((start, start + length))
}

/// `x-api-key: …`, `"api_key": "…"`, `password=…`.
fn named(text: &str, at: usize) -> Option<(usize, usize)> {
    let rest = &text[at..];
    let (name, length) = NAMES.iter().find_map(|name| Some((name, starts_with_name(rest, name)?)))?;
    let mut end = at + length;
    let skip = |end: &mut usize, marks: &[char]| {
        let before = *end;
        *end += text[*end..].len() - text[*end..].trim_start_matches(marks).len();
        *end > before
    };
    skip(&mut end, &['"', '\'', '\\']);
    skip(&mut end, &[' ']);
    if !skip(&mut end, &[':', '=']) {
        return None;
    }
    skip(&mut end, &[' ', '\t']);
    let escaped = skip(&mut end, &['\\']);
    let quote = text[end..].chars().next().filter(|c| matches!(c, '"' | '\''));
    if let Some(quote) = quote {
        end += 1;
        let stop = closing(&text[end..], quote, escaped);
        return (stop > 0).then_some((end, end + stop));
    }
    // Cookies and `Authorization: Scheme value` go to the end of the line.
    let to_line_end = matches!(*name, "cookie" | "set-cookie" | "authorization" | "proxy-authorization");
    let stop = match to_line_end {
        true => text[end..].find(['\n', '\r', '"']),
        false => text[end..].find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '&' | '}' | ')')),
    };
    let stop = stop.unwrap_or(text.len() - end);
    // `tokens: 12` is no name of ours, but `token: 12` could be a count.
    let is_count = matches!(*name, "token" | "sig")
        && text[end..end + stop].bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (stop > 0 && !is_count).then_some((end, end + stop))
}

/// Where a quoted text ends: at its quote, or with the line. A quote in it is escaped, once more where the first one is.
fn closing(text: &str, quote: char, escaped: bool) -> usize {
    let mut backslashes = 0;
    for (at, c) in text.char_indices() {
        let closes = if escaped { backslashes % 4 == 1 } else { backslashes % 2 == 0 };
        match c {
            '\n' => return at,
            '\\' => backslashes += 1,
            c if c == quote && closes => return at - usize::from(escaped),
            _ => backslashes = 0,
        }
    }
    text.len()
}

/// `https://user:password@host`: what stands between `://` and `@`.
fn userinfo(text: &str, at: usize) -> Option<(usize, usize)> {
    let start = at + 3;
    if !text[at..].starts_with("://") {
        return None;
    }
    let end = text[start..].find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>'));
    let authority = &text[start..end.map_or(text.len(), |end| start + end)];
    let length = authority.rfind('@')?;
    (length > 0).then_some((start, start + length))
}

/// `-----BEGIN PRIVATE KEY----- … -----END PRIVATE KEY-----`, or to the end of the text when it is cut.
fn pem(text: &str, at: usize) -> Option<(usize, usize)> {
    let rest = &text[at..];
    if !rest.starts_with("-----BEGIN ") {
        return None;
    }
    let end = rest.find("-----END ").and_then(|end| {
        let label = end + "-----END ".len();
        rest[label..].find("-----").map(|close| label + close + 5)
    });
    Some((at, at + end.unwrap_or(rest.len())))
}

fn token_length(text: &str) -> usize {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '/' | '=' | '~' | '%');
    let length = text.find(|c: char| !part(c)).unwrap_or(text.len());
    // A full stop at the end belongs to the sentence.
    text[..length].trim_end_matches('.').len()
}

fn starts_with_ci(text: &str, prefix: &str) -> bool {
    text.as_bytes().get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// How many bytes of the text are this name, if it begins with it.
fn starts_with_name(text: &str, name: &str) -> Option<usize> {
    let text = text.as_bytes();
    let mut at = 0;
    for wanted in name.bytes() {
        let found = text.get(at)?;
        match wanted {
            b'-' if matches!(found, b'-' | b'_') => at += 1,
            b'-' => {}
            _ if found.eq_ignore_ascii_case(&wanted) => at += 1,
            _ => return None,
        }
    }
    Some(at)
}

/// Every byte that is no plain one as `%2F`, in the case that is wanted.
fn percent(text: &str, case: fn(&u8) -> u8) -> String {
    let hex = |digit: u8| char::from(case(&b"0123456789abcdef"[usize::from(digit)]));
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.extend(['%', hex(byte >> 4), hex(byte & 15)]),
        }
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(group >> (18 - 6 * place) & 63) as usize]));
        }
        text.push_str(&"=="[..3 - chunk.len()]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_known_shape_go() {
        for (text, clean) in [
            ("key sk-ant-api03-abcdefghijkl is bad", "key [redacted] is bad"),
            ("sk-proj-1234567890abcdef.", "[redacted]."),
            ("(AIzaSyA1234567890abcdefghijk)", "([redacted])"),
            ("ghp_0123456789abcdefABCD", "[redacted]"),
            ("xoxb-123456789012-abcdef", "[redacted]"),
            ("AKIAIOSFODNN7EXAMPLE", "[redacted]"),
            ("Authorization: Bearer abc.def-123", "Authorization: [redacted]"),
            ("sent Bearer abcDEF123456 twice", "sent Bearer [redacted] twice"),
            ("x-api-key: hunter2\nhost: a", "x-api-key: [redacted]\nhost: a"),
            (r#"{"api_key":"hunter2","model":"m"}"#, r#"{"api_key":"[redacted]","model":"m"}"#),
            (r#"{\"api_key\":\"hunter2\"}"#, r#"{\"api_key\":\"[redacted]\"}"#),
            ("GET /v1?api_key=hunter2&x=1", "GET /v1?api_key=[redacted]&x=1"),
            ("postgres://user:pass@db/x", "postgres://[redacted]@db/x"),
            ("-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY----- ok", "[redacted] ok"),
            ("-----BEGIN PRIVATE KEY-----\nMII cut", "[redacted]"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "[redacted]"),
            ("password = \"hunter 2\"", "password = \"[redacted]\""),
            (r#"401: {"password":"ab\/cd\"ef","a":1}"#, r#"401: {"password":"[redacted]","a":1}"#),
            (r#"401: {"password":"ab\\","a":1}"#, r#"401: {"password":"[redacted]","a":1}"#),
            (r#"{\"password\":\"ab\\/cd\\\"ef\",\"a\":1}"#, r#"{\"password\":\"[redacted]\",\"a\":1}"#),
            ("password: \"ab\\\ncut", "password: \"[redacted]\ncut"),
            ("AccountKey=hunter2;Suffix=core", "AccountKey=[redacted];Suffix=core"),
            ("accessToken=hunter2 apiKey: hunter2", "accessToken=[redacted] apiKey: [redacted]"),
            ("DB_PASSWORD=hunter2 dbPassword=hunter2", "DB_PASSWORD=[redacted] dbPassword=[redacted]"),
        ] {
            assert_eq!(redact(text), clean, "{text}");
        }
    }

    #[test]
    fn ordinary_text_is_left_alone_and_not_copied() {
        for text in [
            "",
            "Overloaded",
            "task-12345678901234567890 asked for basic authentication and a bearer token",
            "max tokens: 4096, token: 12",
            "risk-assessment-of-the-quarter",
            "https://api.example.com/v1/messages?x=a@b",
            "die Anfrage schlug fehl: größer als erlaubt 🚀",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(same) if same == text), "{text} -> {}", redact(text));
        }
    }

    #[test]
    fn exact_secrets_go_in_every_encoding() {
        let secret = "p@ss word/42+x";
        let redactor = Redactor::new([secret, "abc"]);
        assert_eq!(redactor.redact("it is p@ss word/42+x, abc"), "it is [redacted], abc");
        assert_eq!(redactor.redact("q=p%40ss%20word%2F42%2Bx"), "q=[redacted]");
        assert_eq!(redactor.redact("q=p%40ss+word%2F42%2Bx"), "q=[redacted]");
        assert_eq!(redactor.redact("q=p%40ss%20word%2f42%2bx"), "q=[redacted]");
        assert_eq!(redactor.redact(r"p@ss word\/42+x"), "[redacted]", "as some write a slash in JSON");
        assert_eq!(Redactor::new(["a<b>c&d/e"]).redact(r"a\u003cb\u003ec\u0026d/e"), "[redacted]");
        for prefix in ["", "u:", "me:", "user:"] {
            let encoded = base64(format!("{prefix}{secret}").as_bytes());
            let clean = redactor.redact(&encoded).into_owned();
            assert!(clean.contains(MASK), "{prefix}: {encoded} -> {clean}");
        }
        assert!(!format!("{redactor:?}").contains("p@ss"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_left_of_a_secret_and_redacting_twice_changes_nothing(
            before in "[ a-zé\"=:/]{0,12}",
            after in "[ é\"\n]{0,12}",
            secret in "[A-Za-z0-9]{24}",
        ) {
            let text = format!("{before} sk-{secret}{after}");
            let clean = redact(&text).into_owned();
            assert!(!clean.contains(&secret), "{text:?} -> {clean:?}");
            assert_eq!(redact(&clean), clean);
            let redactor = Redactor::new([&secret]);
            assert!(!redactor.redact(&format!("{before}{secret}{after}")).contains(&secret));
        }
    }

    #[test]
    fn base64_is_the_standard_one() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn what_a_name_promises_goes_and_counts_stay() {
        use serde_json::json;
        let redactor = Redactor::new(["configured-42"]);
        for (value, clean) in [
            (json!({"password": "a", "user": "b"}), json!({"password": MASK, "user": "b"})),
            (json!({"dbPassword": 1234, "DB_PASSWORD": "x"}), json!({"dbPassword": MASK, "DB_PASSWORD": MASK})),
            (
                json!({"api_key": "x", "apiKey": "x", "API-Key": "x", "APIKey": "x", "xapikey": "x"}),
                json!({"api_key": MASK, "apiKey": MASK, "API-Key": MASK, "APIKey": MASK, "xapikey": MASK}),
            ),
            (json!({"accessToken": "x", "tokens": ["x", 7]}), json!({"accessToken": MASK, "tokens": [MASK, 7]})),
            (
                json!({"secret": {"a": "x", "b": [1, true, null, ""]}}),
                json!({"secret": {"a": MASK, "b": [MASK, true, null, ""]}}),
            ),
            (
                json!({"headers": [["X-Api-Key", "x"], ["Accept", "y"]]}),
                json!({"headers": [["X-Api-Key", MASK], ["Accept", "y"]]}),
            ),
            (
                json!([{"name": "Cookie", "value": "a=b"}, {"name": "Host", "value": "h"}]),
                json!([{"name": "Cookie", "value": MASK}, {"name": "Host", "value": "h"}]),
            ),
            (
                json!({"note": "{\"client_secret\":\"x\",\"n\":1}"}),
                json!({"note": "{\"client_secret\":\"[redacted]\",\"n\":1}"}),
            ),
            (json!({"said": "it is configured-42", "configured-42": 1}), json!({"said": "it is [redacted]", MASK: 1})),
            (
                json!({"private_key": "-----BEGIN", "PrivateKeys": ["x"]}),
                json!({"private_key": MASK, "PrivateKeys": [MASK]}),
            ),
        ] {
            assert_eq!(redactor.value(&value), clean, "{value}");
            assert_eq!(redactor.value(&clean), clean, "twice");
        }
        for same in [
            json!({"max_tokens": 4096, "tokens": {"input": 5}, "token": 12, "maxTokens": "4096", "token_count": "9"}),
            json!({"idempotency_key": "order-42", "key": "k", "keys": ["a"], "monkey": "x", "secretary": "Ana"}),
            json!({"token_type": "refresh", "password_required": "yes", "secret_name": "prod"}),
            json!({"author": "Ana", "authority": "b", "tokenizer": "c", "note": "{not json", "list": "[1]"}),
        ] {
            assert_eq!(redactor.value(&same), same);
        }
    }

    #[test]
    fn headers_that_carry_credentials_are_known() {
        for name in ["Authorization", "x-api-key", "api-key", "X-Goog-Api-Key", "set-cookie", "x-amz-security-token"] {
            assert!(is_secret_header(name), "{name}");
        }
        for name in ["retry-after", "content-type", "request-id", "x-ratelimit-remaining-tokens", "idempotency"] {
            assert!(!is_secret_header(name), "{name}");
        }
    }

    #[test]
    fn one_line_shows_what_would_not_show() {
        assert_eq!(one_line("  two\r\n lines\t. ", 50), "two lines .");
        assert_eq!(one_line("a\u{202e}b\u{200b}c\u{1b}[31m", 50), "a\\u{202e}b\\u{200b}c\\u{1b}[31m");
        assert_eq!(one_line("abcdef", 4), "abc…");
        assert_eq!(one_line("abcd", 4), "abcd");
        assert_eq!(one_line("äöü", 2), "ä…");
        assert_eq!(one_line("x", 0), "");
    }
}
