//! An error with all that is behind it, in one line of words.

use std::error::Error;

/// What it says, then what each of its causes says that was not said just before: wrappers often repeat what they wrap.
#[must_use]
pub fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
        let more = format!(": {cause}");
        if more.len() > 2 && !format!(": {text}").ends_with(&more) {
            text.push_str(&more);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    #[test]
    fn each_cause_is_told_once() {
        let chain = |words: &[&'static str]| {
            let deepest_first = words.iter().rev();
            deepest_first.fold(None, |below, words| Some(Box::new(Said(words, below)))).expect("an error")
        };
        assert_eq!(in_full(&*chain(&["it failed"])), "it failed");
        assert_eq!(in_full(&*chain(&["it failed", "no room", "no room", "errno 28"])), "it failed: no room: errno 28");
        assert_eq!(in_full(&*chain(&["it failed: no room", "no room"])), "it failed: no room");
        assert_eq!(in_full(&*chain(&["errno 28", "errno 2"])), "errno 28: errno 2");
        assert_eq!(in_full(&*chain(&["it failed", ""])), "it failed");
    }
}
