//! Several tasks as one: there are no workflows, and what that leaves undone is said case by case.

use serde::Deserialize;

use crate::support::Roll;

#[derive(Deserialize)]
struct Table {
    case: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
}

const CASES: &str = include_str!("conformance/saga.toml");

#[test]
fn no_saga_is_played() {
    let table: Table = toml::from_str(CASES).expect("the table");
    let mut roll = Roll::of("saga", CASES);
    for case in &table.case {
        roll.not_played(&case.id, "there are no workflows");
    }
    roll.complete();
}
