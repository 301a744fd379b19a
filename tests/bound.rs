//! The worst case of every task is known beforehand, from the files of a team alone.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use backstop::bound::{self, Bound};
use backstop::config::{BudgetConfig, Config};
use backstop::definitions::{Purpose, load};
use backstop::task::{Effect, TaskType};
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What a small team of known numbers comes to.
mod arithmetic {
    use std::time::Duration;

    use backstop::agent::Agent;
    use backstop::bound::{Bound, task_type};
    use backstop::config::{BudgetConfig, Config, McpConfig, ProviderConfig, TaskTypeConfig, Timeouts, Verify, Wire};
    use backstop::prices::ModelFacts;
    use backstop::retry::{Backoff, Jitter, RetryPolicy};
    use backstop::task::{AgentName, Effect, Integration, TaskType};
    use backstop::tool::{Probe, Sign, ToolRule};

    const REVIEW: &str = "review";

    fn name(text: &str) -> TaskType {
        TaskType::new(text).expect("a type")
    }

    /// An agent on the model of the same name, which reads 1,000 tokens and writes 100.
    fn agent(of: &str) -> Agent {
        let agent = Agent::new(of, &format!("local/{of}")).expect("an agent");
        Agent { max_output_tokens: 100, ..agent }
    }

    /// Models by name, with the dollars a million tokens cost, in and out.
    fn team(effect: Effect, models: &[(&str, f64)]) -> Config {
        let facts = |dollars: f64| ModelFacts {
            context: Some(1_000),
            usd_per_million_input: Some(dollars),
            usd_per_million_output: Some(dollars),
            ..ModelFacts::default()
        };
        let provider = ProviderConfig {
            self_hosted: true,
            timeouts: Timeouts { total: Duration::from_secs(40), ..Timeouts::default() },
            models: models.iter().map(|(model, dollars)| ((*model).to_owned(), facts(*dollars))).collect(),
            ..ProviderConfig::new(Wire::OpenAi, "http://127.0.0.1:1")
        };
        let said = TaskTypeConfig { effect: Some(effect), ..TaskTypeConfig::default() };
        let retry = RetryPolicy {
            max_deliveries: 2,
            backoff: Backoff::List(vec![Duration::from_secs(1_000)]),
            jitter: Jitter::Around(0.5),
            ack_wait: Duration::from_secs(10),
            park_at_most: Duration::from_secs(20),
        };
        Config::new("t")
            .provider(Integration::new("local").expect("a name"), provider)
            .task_type(name(REVIEW), said)
            .retry(retry)
    }

    fn of(config: &Config) -> Bound {
        task_type(config, &name(REVIEW))
    }

    #[test]
    fn every_factor_is_in_it() {
        let config = team(Effect::ReadOnly, &[("a", 10.0)]).agent(agent("a").handling(REVIEW));
        let bound = of(&config);
        // 4 rounds of 2 + 5 calls; 1000 in and 100 out each, at 10 micro-dollars.
        assert_eq!((bound.calls, bound.tokens, bound.micro_usd), (Some(28), Some(30_800), Some(308_000)));
        // A round: 7 calls of 100 s, 7 times 20 s parked, 1500 s of backoff, 2 leases of 10 s. Three hours between.
        assert_eq!(bound.lasts, Some(Duration::from_secs(4 * (700 + 140 + 1_500 + 20) + 3 * 3_600)));
        assert_eq!(
            bound.path,
            [
                "4 rounds: the first, and one for each of 3 decisions of the CEO",
                "7 calls a round by a: 2 deliveries, 5 spare for calls given back",
                "each call at most 1000 tokens in and 100 out on local/a: $0.011",
                "time of a round with a: 7 calls of 1m40s, 2m20s at closed doors (park-at-most), 25m between deliveries (backoff, or a hold), 20s until dead workers are noticed (ack-wait)",
                "1h before each further round: the longest the CEO lets it wait",
                "not in it: what people or replays send round again, waiting for a free agent, a Retry-After above 5m",
            ]
        );
    }

    /// A retry waits for the end of a hold, and may be held again once it is due: parking was counted once.
    #[test]
    fn a_retry_may_wait_behind_a_hold_as_long_as_it_may_be_parked() {
        let patient = |hours: u64| {
            let mut config = team(Effect::ReadOnly, &[("a", 10.0)]).agent(agent("a").handling(REVIEW));
            config.retry.park_at_most = Duration::from_secs(hours * 3_600);
            of(&config).lasts.expect("bounded").as_secs()
        };
        // 4 rounds of 7 calls, each of which may be parked, and one wait between two deliveries.
        assert_eq!(patient(2) - patient(1), 4 * (7 + 1) * 3_600);
    }

    #[test]
    fn with_tools_steps_are_what_counts() {
        let tooled = Agent { tools: vec!["http".to_owned()], max_steps: 50, ..agent("a").handling(REVIEW) };
        let bound = of(&team(Effect::Mutation, &[("a", 10.0)]).agent(tooled));
        assert_eq!((bound.calls, bound.micro_usd), (Some(200), Some(2_200_000)));
        assert_eq!(bound.path[1], "50 calls a round (limits.max-steps) by a");
        // 50 calls; before each, and before 57 answers' tools, 15 min until they are listed; 64 calls of 35 s each time.
        let round = 50 * 100 + 107 * 900 + 57 * 64 * 35 + 140 + 1_500 + 20;
        assert_eq!(bound.lasts, Some(Duration::from_secs(4 * round + 3 * 3_600)));
        assert_eq!(
            bound.path[3],
            "time of a round with a: 50 calls of 1m40s, 1d2h45m until tools are listed (limits.stall each time), 57 times 64 calls of tools (limits.max-tool-calls) of 35s, 2m20s at closed doors (park-at-most), 25m between deliveries (backoff, or a hold), 20s until dead workers are noticed (ack-wait)"
        );
    }

    #[test]
    fn tools_take_as_long_as_each_of_their_calls_may() {
        let lasts = |tools: &[&str], stall: u64, at_once: u32, probe: bool| {
            let sign = |happened: bool| Sign { at: String::new(), is: happened.into() };
            let probe = probe.then(|| Probe {
                tool: "find".to_owned(),
                arguments: serde_json::Map::new(),
                happened: sign(true),
                did_not_happen: sign(false),
            });
            let rule = ToolRule { timeout: Some(Duration::from_secs(95)), probe, ..ToolRule::default() };
            let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
            let stall = Duration::from_secs(stall);
            let agent = Agent { tools, stall, max_steps: 1, max_tool_calls: at_once, ..agent("a").handling(REVIEW) };
            let config = team(Effect::Payment, &[("a", 10.0)]).agent(agent);
            let bank = McpConfig::stdio(["bank-mcp"]).tool("transfer", rule);
            of(&config.mcp(Integration::new("bank").expect("a name"), bank)).lasts.expect("bounded").as_secs()
        };
        // A payment, 1 call, 2 deliveries: 100 s of the call, 140 s parked, 1500 s of backoff, 20 s of leases; 9 lists of
        // tools; the tools of 8 answers.
        let besides = |stall: u64| 100 + 140 + 1_500 + 20 + 9 * stall;
        for (tools, stall, at_once, probe, expected) in [
            (&[][..], 900, 64, false, 600 + 120 + 10),
            (&["http"], 900, 64, false, besides(900) + 8 * 64 * 35),
            (&["mcp:bank/*"], 900, 64, false, besides(900) + 8 * 64 * 100),
            (&["mcp:bank/*"], 900, 2, false, besides(900) + 8 * 2 * 100),
            (&["mcp:bank/*"], 900, 2, true, besides(900) + 8 * 2 * 300),
            (&["mcp:bank/*"], 60, 2, true, besides(60) + 8 * 2 * 300),
            (&["made_in_code"], 900, 2, false, besides(900) + 8 * 2 * 2_700),
        ] {
            assert_eq!(lasts(tools, stall, at_once, probe), expected, "{tools:?} {stall} {at_once} {probe}");
        }
    }

    #[test]
    fn a_payment_is_one_delivery_and_stays_where_it_is() {
        let config = team(Effect::Payment, &[("a", 10.0), ("b", 1_000.0)])
            .agent(agent("a").handling(REVIEW))
            .agent(agent("b").covering_for("a").expect("a name"));
        let bound = of(&config);
        assert_eq!((bound.calls, bound.micro_usd), (Some(6), Some(66_000)));
        assert_eq!(bound.lasts, Some(Duration::from_secs(600 + 120 + 10)));
        assert_eq!(bound.path[0], "1 round of 1 delivery: a payment is never repeated automatically");
        // Where a tool makes it, asking is repeated like any other.
        let tooled = Agent { tools: vec!["http".to_owned()], ..agent("a").handling(REVIEW) };
        assert_eq!(
            of(&config.agent(tooled)).path[0],
            "1 round of 2 deliveries: asking moves no money, and a payment with a tool is never repeated automatically"
        );
    }

    #[test]
    fn whoever_may_take_it_over_counts_within_three_moves() {
        let chain = |dear: &str| {
            let models = ["a", "b", "c", "d", "e"].map(|of| (of, if of == dear { 100.0 } else { 1.0 }));
            let mut config = team(Effect::ReadOnly, &models).agent(agent("a").handling(REVIEW));
            for (of, from) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d")] {
                config = config.agent(agent(of).covering_for(from).expect("a name"));
            }
            of(&config)
        };
        for (dear, micro_usd) in
            [("a", 3_080_000), ("b", 3_080_000), ("d", 3_080_000), ("e", 30_800), ("nobody", 30_800)]
        {
            assert_eq!(chain(dear).micro_usd, Some(micro_usd), "{dear}");
        }
        assert_eq!(
            chain("d").path[1],
            "7 calls a round by d, which takes over from a and b and c: 2 deliveries, 5 spare for calls given back"
        );
    }

    #[test]
    fn the_dearest_of_its_models_counts_and_an_unknown_price_is_the_dearest_of_all() {
        let falling = |model: &str| {
            let agent = agent("a").handling(REVIEW).falling_back_to(model).expect("a model");
            of(&team(Effect::ReadOnly, &[("a", 10.0), ("b", 20.0)]).agent(agent))
        };
        assert_eq!(falling("local/b").micro_usd, Some(616_000));
        let unknown = falling("local/new");
        // 28 calls of 800000 tokens at 60 and 100 at 270.
        assert_eq!((unknown.calls, unknown.micro_usd), (Some(28), Some(28 * (48_000_000 + 27_000))));
        assert_eq!(
            unknown.path[3..5],
            [
                "the context of local/new is not known: a larger request is not sent",
                "the price of local/new is not known: it is taken for the dearest that is, until providers.local.models says it",
            ]
        );
    }

    #[test]
    fn unlimited_deliveries_are_unbounded_until_a_deadline_and_a_cap_bounds_the_money() {
        let mut config = team(Effect::ReadOnly, &[("a", 10.0)]).agent(agent("a").handling(REVIEW));
        config.retry.max_deliveries = RetryPolicy::UNLIMITED;
        let bound = of(&config);
        assert_eq!((bound.calls, bound.tokens, bound.micro_usd, bound.lasts), (None, None, None, None));
        assert_eq!(bound.path[1], "by a, with unlimited deliveries: unbounded until its deadline");
        config.budget.micro_usd_per_task = Some(5_000_000);
        let bound = of(&config);
        assert_eq!((bound.calls, bound.micro_usd, bound.uncut_micro_usd), (None, Some(5_000_000), None));
        assert!(bound.path.iter().any(|step| step == "cut to $5.00 by budget.max-usd-per-task of the team"));
        let mutation = task_type(
            &config.task_type(name("deploy"), TaskTypeConfig { effect: Some(Effect::Mutation), ..Default::default() }),
            &name("deploy"),
        );
        assert_eq!(mutation.calls, Some(60), "only reads are tried without an end");
    }

    #[test]
    fn caps_on_a_task_cut_when_whoever_gets_it_has_one() {
        let capped = |of_a: Option<u64>, of_b: Option<u64>, of_type: Option<u64>, of_team: Option<u64>| {
            let budget = BudgetConfig { micro_usd_per_task: of_team, ..BudgetConfig::default() };
            let a = Agent { max_micro_usd: of_a, ..agent("a").handling(REVIEW) };
            let b = Agent { max_micro_usd: of_b, ..agent("b").covering_for("a").expect("a name") };
            let mut config = team(Effect::ReadOnly, &[("a", 10.0), ("b", 10.0)]).agent(a).agent(b).budget(budget);
            config.task_types.get_mut(&name(REVIEW)).expect("declared").max_micro_usd = of_type;
            let bound = of(&config);
            assert_eq!(bound.uncut_micro_usd, Some(308_000));
            (bound.micro_usd.expect("bounded"), bound.path.into_iter().find(|step| step.starts_with("cut")))
        };
        for (caps, micro_usd, told) in [
            ((None, None, None, None), 308_000, None),
            ((Some(1_000), None, None, None), 308_000, None),
            (
                (Some(1_000), Some(2_000), None, None),
                2_000,
                Some("cut from $0.31 to $0.002 by limits.max-cost-usd of b"),
            ),
            (
                (Some(1_000), None, None, Some(100_000)),
                100_000,
                Some("cut from $0.31 to $0.10 by budget.max-usd-per-task of the team"),
            ),
            (
                (None, None, Some(50_000), Some(100_000)),
                50_000,
                Some("cut from $0.31 to $0.05 by max-cost-usd of task type review"),
            ),
            ((None, None, None, Some(1_000_000)), 308_000, None),
        ] {
            let (of_a, of_b, of_type, of_team) = caps;
            assert_eq!(capped(of_a, of_b, of_type, of_team), (micro_usd, told.map(str::to_owned)), "{caps:?}");
        }
    }

    #[test]
    fn a_verifier_is_asked_about_every_delivery() {
        let verified = |verify: Option<Verify>| {
            let mut config = team(Effect::ReadOnly, &[("a", 10.0), ("b", 100.0)])
                .agent(agent("a").handling(REVIEW))
                .agent(agent("b"));
            config.task_types.get_mut(&name(REVIEW)).expect("declared").verify = verify;
            of(&config)
        };
        let without = verified(None);
        let within = Duration::from_secs(600);
        let by_agent = Verify::Agent { agent: AgentName::new("b").expect("a name"), prompt: "verify".to_owned() };
        let by_program = Verify::Command { command: vec!["true".to_owned()], within };
        let by_address = Verify::Url { url: "http://127.0.0.1:1".to_owned(), within };
        for (verify, calls, micro_usd, each, told) in [
            (by_agent, 56, 3_388_000, 100, ": 7 calls a round by b: 2 deliveries, 5 spare for calls given back"),
            (by_program, 28, 308_000, 605, " by a program within 10m5s: 1h10m35s in a round"),
            (by_address, 28, 308_000, 605, " by an address within 10m5s: 1h10m35s in a round"),
        ] {
            let bound = verified(Some(verify));
            assert_eq!((bound.calls, bound.micro_usd), (Some(calls), Some(micro_usd)), "{told}");
            let lasts = without.lasts.map(|lasts| lasts + Duration::from_secs(4 * 7 * each));
            assert_eq!(bound.lasts, lasts, "{told}");
            assert_eq!(bound.path[3], format!("every answer is verified{told}"));
        }
    }

    #[test]
    fn a_type_nobody_handles_may_be_given_to_anybody_and_a_team_of_nobody_costs_nothing() {
        let config = team(Effect::ReadOnly, &[("a", 10.0), ("b", 20.0)]);
        assert_eq!((of(&config).calls, of(&config).micro_usd), (Some(0), Some(0)));
        let config = config.agent(agent("a")).agent(agent("b"));
        assert_eq!(of(&config).micro_usd, Some(616_000));
    }
}

/// The shipped team, read where no key is set.
fn shipped() -> Config {
    let nowhere = |name: &str| name.starts_with("BACKSTOP_SYSTEM").then(|| "/nonexistent".to_owned());
    load(Path::new(ROOT), &nowhere, Purpose::Bound).expect("sound").config
}

fn of(config: &Config, task_type: &str) -> Bound {
    bound::task_type(config, &TaskType::new(task_type).expect("a type"))
}

#[test]
fn a_review_of_the_shipped_team() {
    let bound = of(&shipped(), "code_review");
    // 4 rounds of 3 + 5 calls; the dearest is claude-opus-5-5: a million tokens into the cache at 5, 8000 out at 20.
    assert_eq!((bound.effect, bound.calls), (Effect::ReadOnly, Some(32)));
    assert_eq!((bound.uncut_micro_usd, bound.micro_usd), (Some(32 * 5_160_000), Some(10_000_000)));
    // The longest context is gemini-3.8-flash's, to which backend falls back.
    assert_eq!(bound.tokens, Some(32 * (1_048_576 + 8_000)));
    // A round: 8 calls of 11 min, 8 times 7.5 min parked, waits of 7.5 min twice, 3 leases of 5 min; 3 hours between.
    assert_eq!(bound.lasts, Some(Duration::from_secs(4 * (88 + 60 + 15 + 15) * 60 + 3 * 3_600)));
    assert_eq!(
        bound.path,
        [
            "4 rounds: the first, and one for each of 3 decisions of the CEO",
            "8 calls a round by cto: 3 deliveries, 5 spare for calls given back",
            "each call at most 1000000 tokens in and 8000 out on anthropic/claude-opus-5-5: $5.16",
            "cut from $165.12 to $10.00 by budget.max-usd-per-task of the team",
            "time of a round with cto: 8 calls of 11m, 1h at closed doors (park-at-most), 15m between deliveries (backoff, or a hold), 15m until dead workers are noticed (ack-wait)",
            "1h before each further round: the longest the CEO lets it wait",
            "not in it: what people or replays send round again, waiting for a free agent, a Retry-After above 5m",
        ]
    );
}

#[test]
fn a_payment_of_the_shipped_team() {
    let bound = of(&shipped().budget(BudgetConfig::default()), "charge_card");
    assert_eq!((bound.effect, bound.calls), (Effect::Payment, Some(6)));
    assert_eq!((bound.micro_usd, bound.tokens), (Some(6 * 5_160_000), Some(6 * 1_056_576)));
    assert_eq!(bound.lasts, Some(Duration::from_secs((66 + 45 + 5) * 60)));
    assert_eq!(bound.path[0], "1 round of 1 delivery: a payment is never repeated automatically");
}

/// The command in a directory; exit code, stdout and stderr.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    let output = command.args(arguments).env_clear().stdin(Stdio::null()).output().expect("the binary runs");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
    (output.status.code(), stdout, stderr)
}

#[test]
fn the_command_needs_no_team_and_no_key() {
    let (code, stdout, stderr) = run(&["bound", ROOT, "--type", "charge_card"]);
    assert_eq!(code, Some(0), "{stderr}");
    let row: Vec<&str> = stdout.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(row, ["charge_card", "payment", "6", "6339456", "$10.00", "1h56m"]);
    assert!(stdout.contains("\n  1 round of 1 delivery"), "{stdout}");
    let (code, stdout, _) = run(&["bound", ROOT, "-o", "json"]);
    let json: Value = serde_json::from_str(&stdout).expect("json");
    let types = json["items"].as_array().expect("items");
    assert_eq!((code, types.len()), (Some(0), shipped().task_types.len()));
    let review = types.iter().find(|bound| bound["task_type"] == "code_review").expect("a review");
    assert_eq!((&review["calls"], &review["micro_usd"]), (&32.into(), &10_000_000.into()));
    assert_eq!(review["lasts_s"], 53_520);
}

#[test]
fn the_command_refuses_files_that_are_not_sound() {
    let (code, stdout, stderr) = run(&["bound", "/nonexistent"]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    assert!(stderr.contains("try: backstop check"), "{stderr}");
}
