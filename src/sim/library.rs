//! The scenarios that are shipped: the same files that stand in `scenarios/`, so that what is shipped is what is tested.

/// Every shipped scenario: its name and its text, in the order in which they are listed.
#[must_use]
pub fn shipped() -> &'static [(&'static str, &'static str)] {
    &[
        ("anthropic-outage", include_str!("../../scenarios/anthropic-outage.yaml")),
        ("demo", include_str!("../../scenarios/demo.yaml")),
    ]
}

/// The text of the shipped scenario of this name.
#[must_use]
pub fn text(name: &str) -> Option<&'static str> {
    shipped().iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
