//! The scenarios that come with the program: the same files that stand in this repository.

/// Every one of them: its name and its text, in the order of `sim ls`. A new one is a line here.
pub const SHIPPED: &[(&str, &str)] = &[
    ("anthropic-outage", include_str!("../../scenarios/anthropic-outage.yaml")),
    ("agreement", include_str!("../../scenarios/agreement.yaml")),
    ("demo", include_str!("../../scenarios/demo.yaml")),
];

/// The text of a shipped scenario; its name may be written with `.yaml`.
#[must_use]
pub fn named(name: &str) -> Option<(&'static str, &'static str)> {
    let name = name.strip_suffix(".yaml").unwrap_or(name);
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_scenario_is_sound_and_says_what_it_shows() {
        for (name, text) in SHIPPED {
            let loaded = crate::definitions::scenario_text(&format!("{name}.yaml"), text, None);
            let loaded = loaded.unwrap_or_else(|problems| panic!("{name}: {:#?}", problems.errors));
            assert_eq!(loaded.scenario.name, *name);
            assert!(!loaded.scenario.about.is_empty() && !loaded.scenario.assertions.is_empty(), "{name}");
            assert_eq!(named(&format!("{name}.yaml")), Some((*name, *text)));
        }
        assert_eq!(named("nothing"), None);
    }
}
