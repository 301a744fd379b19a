//! The scenarios that come with the program: the same files that stand in `scenarios/`, so that what is shipped is what is tested.

/// Every one of them: its name and its text, in the order of `sim ls`. A new one is a line here.
pub const SHIPPED: &[(&str, &str)] = &[
    ("anthropic-outage", include_str!("../../scenarios/anthropic-outage.yaml")),
    ("blip-90s", include_str!("../../scenarios/blip-90s.yaml")),
    ("primary-down-10m", include_str!("../../scenarios/primary-down-10m.yaml")),
    ("primary-down-2h-no-fallback", include_str!("../../scenarios/primary-down-2h-no-fallback.yaml")),
    ("rate-limit-storm", include_str!("../../scenarios/rate-limit-storm.yaml")),
    ("brown-out", include_str!("../../scenarios/brown-out.yaml")),
    ("flapping", include_str!("../../scenarios/flapping.yaml")),
    ("key-revoked", include_str!("../../scenarios/key-revoked.yaml")),
    ("quota-out", include_str!("../../scenarios/quota-out.yaml")),
    ("bad-answers", include_str!("../../scenarios/bad-answers.yaml")),
    ("process-kill", include_str!("../../scenarios/process-kill.yaml")),
    ("disk-full", include_str!("../../scenarios/disk-full.yaml")),
    ("ceo-kill", include_str!("../../scenarios/ceo-kill.yaml")),
    ("pager-down", include_str!("../../scenarios/pager-down.yaml")),
    ("friday-night", include_str!("../../scenarios/friday-night.yaml")),
    ("thirty-days", include_str!("../../scenarios/thirty-days.yaml")),
    ("agreement", include_str!("../../scenarios/agreement.yaml")),
    ("demo", include_str!("../../scenarios/demo.yaml")),
    ("genbrain-fleet", include_str!("../../scenarios/genbrain-fleet.yaml")),
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
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        for entry in std::fs::read_dir(folder).expect("shipped") {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
            let scenario = path.extension().is_some_and(|extension| extension == "yaml");
            assert!(!scenario || named(&name).is_some(), "{name} is not listed");
        }
    }
}
