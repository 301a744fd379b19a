//! The outage server as others meet it: every wire, every failure, over real loopback.

use backstop::config::ProviderConfig;
use backstop::llm::{Message, Progress, Request};
use backstop::sim::{Behaviour, OutageServer, Script, When};

use crate::provider_stubs::{PATIENT, WIRES, build, config, request};
use crate::provider_tools::{offering, result};

#[tokio::test]
async fn our_own_providers_understand_the_outage_server_on_every_wire() {
    let script = Script::new(1)
        .rule("look", When::any().prompt_has("Look.").turns(0), Behaviour::Loop)
        .rule("down", When::any().prompt_has("Fail."), Behaviour::ErrorMidStream)
        .rule("cut", When::any().prompt_has("Stop."), Behaviour::Truncated);
    let server = OutageServer::start(script).await.expect("a port");
    for wire in WIRES {
        let config = ProviderConfig { timeouts: PATIENT, ..config(wire, &server.base_url(wire)) };
        let provider = build("stub", &config).expect("a sound configuration");
        let ask = async |messages: Vec<Message>| provider.ask(&offering(messages), &Progress::default()).await;
        let reply = ask(vec![Message::user("Look.")]).await.expect("a call");
        assert_eq!(reply.calls.len(), 1, "{wire:?}");
        let told = result(&reply.calls[0].id, &reply.calls[0].name, "fn main() {}", false);
        let said = Message::Assistant { text: reply.text, calls: reply.calls, opaque: reply.opaque };
        let messages = vec![Message::user("Look."), said, Message::Results { results: vec![told] }];
        let reply = ask(messages).await.expect("an answer");
        assert!(reply.text.contains("summary") && reply.usage.input > 0 && reply.usage.output > 0, "{wire:?}");
        let bare = |words: &str| Request { messages: vec![Message::user(words)], ..request() };
        for words in ["Fail.", "Stop."] {
            let failure = provider.ask(&bare(words), &Progress::default()).await.expect_err("a failure");
            assert_eq!(failure.status, Some(200), "{wire:?} {words}");
        }
    }
}
