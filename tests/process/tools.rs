//! A process that dies while a tool of its agent is at work, with the tool's answer still to come.

use serde_json::json;

use backstop::sim::OutageServer;
use backstop::sim::script::{Answer, Behaviour, Script, When};

use super::house::{Project, Up};
use crate::support::{Play, Stub, response};

/// A model that posts once and then says that it did.
async fn provider(method: &str, url: &str) -> OutageServer {
    let arguments = match method {
        "GET" => ("http_get", json!({ "url": url })),
        _ => ("http_request", json!({ "method": method, "url": url, "body": { "order": 7 } })),
    };
    let script = Script::new(7)
        .rule("call", When::any().turns(0), Behaviour::Answer(Answer::calls("I order it.", [arguments])))
        .rule("done", When::any().turns(1), Behaviour::Answer(Answer::Text("It is ordered.".to_owned())));
    OutageServer::start(script).await.expect("a port")
}

fn project(provider: &OutageServer, shop: &Stub) -> Project {
    let host = shop.url().replace("http://", "");
    let tools = format!("tools: {{ http: {{ hosts: {{ \"{host}\": {{ methods: [GET, POST] }} }} }} }}");
    let types = format!("{tools}\ntask-types:\n  order: {{ effect: mutation }}\n");
    let project = Project::new(&provider.url()).with("task-types:\n", &types);
    project.write(
        "agents/coo.md",
        "---\nname: coo\ndescription: Orders.\nmodel: anthropic/claude-sonnet-5-5\nhandles: [order]\ntools: [http]\n---\nYou order.\n",
    );
    project
}

async fn killed_while(shop: &Stub, up: Up) {
    shop.next_request().await;
    up.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_ordered_is_asked_of_a_person_and_goes_on_from_there() {
    for happened in [true, false] {
        let shop =
            Stub::in_turn(vec![vec![Play::Hang], vec![Play::Send(response(201, &[], "order 7 taken")), Play::Close]])
                .await;
        let provider = provider("POST", &format!("{}/orders", shop.url())).await;
        let project = project(&provider, &shop);
        let up = project.up(&[]);
        let task = up.submit("order", "seven");
        killed_while(&shop, up).await;

        let up = project.up(&[]);
        up.happens(&task, "decided").await;
        let record = up.task(&task).await;
        assert_eq!(
            (&record["state"], &record["letter"]["failure"]["kind"]),
            (&json!("waiting-human"), &json!("outcome_unknown")),
            "{record}"
        );
        assert_eq!(shop.heard().len(), 1, "not sent again");
        let (why, _) = up.reads(&["why", &task]);
        assert!(why.contains("http/request"), "{why}");
        // Answered by somebody who has looked.
        let answer = if happened { "--happened" } else { "--did-not-happen" };
        up.cli_ends(&["task", "outcome", &task, answer, "--note", "asked the shop"], 0);
        up.happens(&task, "done").await;
        let record = up.task(&task).await;
        assert_eq!((&record["state"], &record["answer"]), (&json!("done"), &json!("It is ordered.")), "{record}");
        let heard = shop.heard();
        assert_eq!(heard.len(), if happened { 1 } else { 2 }, "as the person said");
        let keys: Vec<_> = heard.iter().map(|heard| heard.header("idempotency-key")).collect();
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1] && pair[0].is_some()), "{keys:?}");
        // The model was asked for each turn once: what was paid for is kept.
        assert_eq!(provider.requests().len(), 2);
        provider.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_a_killed_process_never_saw_the_end_of_is_taken_again() {
    let shop =
        Stub::in_turn(vec![vec![Play::Hang], vec![Play::Send(response(200, &[], "seven left")), Play::Close]]).await;
    let provider = provider("GET", &format!("{}/stock", shop.url())).await;
    let project = project(&provider, &shop);
    let up = project.up(&[]);
    let task = up.submit("order", "seven");
    killed_while(&shop, up).await;
    let up = project.up(&[]);
    up.happens(&task, "done").await;
    let record = up.task(&task).await;
    assert_eq!((&record["state"], &record["attempt"]), (&json!("done"), &json!(2)), "{record}");
    assert_eq!((shop.heard().len(), provider.requests().len()), (2, 2), "nothing paid for twice");
    provider.shutdown().await;
}
