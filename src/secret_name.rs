//! What the name of a member promises about what stands under it: nothing, a token, a credential.
//!
//! Names are read by their words, however they are joined, so that `dbPassword` and `DB_PASSWORD` are one; counts such as
//! `max_tokens` promise nothing.

use serde_json::Value;

/// What the name of a member says about what stands under it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Nothing.
    Nothing,
    /// A token: a credential when it is a text, a count when it is a number.
    Token,
    /// A credential, whatever it looks like.
    Secret,
}

impl Promise {
    /// What a name promises.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let words = words_of(name);
        let last = words.last().map_or("", String::as_str);
        if words.is_empty() || ABOUT.contains(&last) {
            return Self::Nothing;
        }
        let whole = words.concat();
        let pair = |pair: &[String]| matches!(pair, [whose, key] if matches!(key.as_str(), "key" | "keys") && KEYS_OF.contains(&whose.as_str()));
        let telling = words.iter().any(|word| TELLING.contains(&word.as_str()))
            || words.windows(2).any(pair)
            || ENDINGS.iter().any(|ending| whole.ends_with(ending));
        match last {
            _ if telling => Self::Secret,
            "token" | "tokens" | "auth" | "signature" => Self::Token,
            _ if whole.ends_with("token") => Self::Token,
            _ => Self::Nothing,
        }
    }

    /// What holds for a member of something that is promised already.
    #[must_use]
    pub fn within(self, own: Self, inner: &Value) -> Self {
        match (self, own) {
            (Self::Secret, _) | (_, Self::Secret) => Self::Secret,
            // `tokens: {input: 5}` counts.
            (_, Self::Token) if !inner.is_object() => Self::Token,
            (Self::Nothing | Self::Token, Self::Nothing | Self::Token) => Self::Nothing,
        }
    }

    /// Is this text a credential, going by the name it stands under?
    #[must_use]
    pub fn hides(self, text: &str) -> bool {
        match self {
            Self::Nothing => false,
            // A number of few digits is a count; an empty text is nothing.
            Self::Token => text.len() > 7 || text.bytes().any(|byte| !byte.is_ascii_digit()),
            Self::Secret => !text.is_empty(),
        }
    }
}

/// Words that promise a credential wherever they stand in a name.
const TELLING: &[&str] = &[
    "password",
    "passwords",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "secrets",
    "credential",
    "credentials",
    "authorization",
    "cookie",
    "cookies",
    "apikey",
    "apikeys",
    "jwt",
    "bearer",
];
/// Whose keys are credentials.
const KEYS_OF: &[&str] = &[
    "api",
    "private",
    "secret",
    "access",
    "account",
    "signing",
    "encryption",
    "master",
    "routing",
    "integration",
    "license",
    "ssh",
    "shared",
    "storage",
    "session",
    "auth",
    "service",
    "deploy",
];
/// Ends of names written without a gap.
const ENDINGS: &[&str] =
    &["password", "passwd", "passphrase", "apikey", "privatekey", "secretkey", "accesskey", "clientsecret"];
/// Last words of names that speak about a credential and hold none: how many, how long, called what.
const ABOUT: &[&str] = &[
    "count", "counts", "total", "limit", "max", "min", "size", "length", "len", "type", "kind", "name", "names",
    "expires", "expiry", "age", "at", "policy", "required", "present", "enabled",
];

/// The words of a name in lower case, however they are joined: `api-key`, `api_key`, `apiKey`, `APIKey`.
fn words_of(name: &str) -> Vec<String> {
    let letters: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (at, letter) in letters.iter().enumerate() {
        if !letter.is_alphanumeric() {
            words.push(String::new());
            continue;
        }
        let before = at.checked_sub(1).map(|before| letters[before]);
        let humps = letter.is_uppercase()
            && (before.is_some_and(|before| before.is_lowercase() || before.is_ascii_digit())
                || (before.is_some_and(char::is_uppercase)
                    && letters.get(at + 1).is_some_and(|after| after.is_lowercase())));
        if humps {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_by_their_words() {
        for (name, expected) in [
            ("api-key", &["api", "key"][..]),
            ("api_key", &["api", "key"]),
            ("apiKey", &["api", "key"]),
            ("APIKey", &["api", "key"]),
            ("DB_PASSWORD", &["db", "password"]),
            ("oauth2Token", &["oauth2", "token"]),
            ("x.y z", &["x", "y", "z"]),
            ("", &[]),
        ] {
            assert_eq!(words_of(name), expected, "{name}");
        }
    }
}
