//! What was said to a model in a delivery, found again in the journal: for people who ask what was different this time.

use crate::conversation::Message;
use crate::journal::Step;
use crate::stand;

/// What the model was told when a delivery first asked it: the system prompt, then the conversation. `None` when the
/// delivery asked none.
#[must_use]
pub fn said(steps: &[Step], fence: u64) -> Option<String> {
    let of_work = |step: &Step| step.ask().is_some_and(|ask| ask.purpose.is_work());
    let first = steps.iter().position(|step| step.fence == fence && of_work(step))?;
    let ask = steps[first].ask()?;
    let before = stand::stand(&steps[..first], fence);
    let system = ask.system.clone().or(before.system).unwrap_or_default();
    let mut text = format!("[system]\n{system}\n");
    let kept = if ask.fresh { Vec::new() } else { before.messages };
    for message in kept.iter().chain(&ask.said) {
        let (who, calls) = match message {
            Message::User { .. } => ("user", &[][..]),
            Message::Assistant { calls, .. } => ("assistant", calls.as_slice()),
            Message::Results { .. } => ("results", &[][..]),
        };
        text.push_str(&format!("[{who}]\n{}\n", message.text()));
        for call in calls {
            text.push_str(&format!("calls {} with {}\n", call.name, call.arguments));
        }
    }
    if let Some(compaction) = &ask.compaction {
        text.push_str(&format!("[{} results of tools were left out so that it fits]\n", compaction.results));
    }
    Some(text)
}

/// The deliveries that asked a model, by their fences, oldest first.
#[must_use]
pub fn deliveries(steps: &[Step]) -> Vec<u64> {
    let mut fences: Vec<u64> = steps.iter().filter(|step| step.ask().is_some()).map(|step| step.fence).collect();
    fences.dedup();
    fences
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doubt::tests::{asks, calls};
    use crate::journal::Outcome;
    use crate::task::Effect;

    #[test]
    fn what_was_said_in_each_delivery_is_found_again() {
        let returned = Outcome::Returned { text: "ok".to_owned(), failed: false, failure: None };
        let steps = [
            asks(1, 1, "Review it.", &[("charge", json!({"amount": 5}))]),
            calls(2, 1, 1, Effect::ReadOnly, Some(returned)),
            asks(3, 2, "Be brief.", &[]),
        ];
        assert_eq!(deliveries(&steps), [1, 2]);
        assert_eq!(said(&steps, 1).as_deref(), Some("[system]\nYou review.\n[user]\nReview it.\n"));
        let second = "[system]\nYou review.\n[user]\nReview it.\n[assistant]\n\ncalls charge with {\"amount\":5}\n[results]\nok\n[user]\nBe brief.\n";
        assert_eq!(said(&steps, 2).as_deref(), Some(second));
        assert_eq!(said(&steps, 3), None);
    }
}
