//! The files `init` writes and the teams of shipped scenarios: the same that stand in this repository, so that what is
//! shipped is what is tested.

/// The files `init` writes: path and content.
#[must_use]
pub fn templates() -> &'static [(&'static str, &'static str)] {
    &[
        ("backstop.yaml", include_str!("../../backstop.yaml")),
        ("agents/ceo.md", include_str!("../../agents/ceo.md")),
        ("agents/cto.md", include_str!("../../agents/cto.md")),
        ("agents/cso.md", include_str!("../../agents/cso.md")),
        ("agents/backend.md", include_str!("../../agents/backend.md")),
        ("agents/frontend.md", include_str!("../../agents/frontend.md")),
        ("agents/marketing.md", include_str!("../../agents/marketing.md")),
        ("agents/devops.md", include_str!("../../agents/devops.md")),
        ("prompts/_reassigned.md", include_str!("../../prompts/_reassigned.md")),
        ("prompts/_rejected.md", include_str!("../../prompts/_rejected.md")),
        ("prompts/blog-post.md", include_str!("../../prompts/blog-post.md")),
        ("prompts/code-review.md", include_str!("../../prompts/code-review.md")),
        ("prompts/page.md", include_str!("../../prompts/page.md")),
        ("prompts/send-email.md", include_str!("../../prompts/send-email.md")),
        ("prompts/task.md", include_str!("../../prompts/task.md")),
        ("prompts/triage.md", include_str!("../../prompts/triage.md")),
        ("prompts/verify.md", include_str!("../../prompts/verify.md")),
        ("schemas/blog_post.json", include_str!("../../schemas/blog_post.json")),
        ("schemas/charge.json", include_str!("../../schemas/charge.json")),
        ("schemas/code_review.json", include_str!("../../schemas/code_review.json")),
        ("schemas/deploy.json", include_str!("../../schemas/deploy.json")),
        ("schemas/email.json", include_str!("../../schemas/email.json")),
        ("scenarios/anthropic-outage.yaml", include_str!("../../scenarios/anthropic-outage.yaml")),
        ("scenarios/friday-night.yaml", include_str!("../../scenarios/friday-night.yaml")),
        (".env.example", include_str!("init/env.example")),
        (".gitignore", include_str!("init/gitignore")),
        ("AGENTS.md", include_str!("init/AGENTS.md")),
    ]
}

/// Files of a team, each its path and its content.
type Files = &'static [(&'static str, &'static str)];

/// The teams that shipped scenarios bring along: the path under which a scenario names one, and its files.
pub(super) const TEAMS: &[(&str, Files)] = &[
    (
        "teams/alone",
        &[
            ("backstop.yaml", include_str!("../../scenarios/teams/alone/backstop.yaml")),
            ("agents/fixer.md", include_str!("../../scenarios/teams/alone/agents/fixer.md")),
            ("agents/reviewer.md", include_str!("../../scenarios/teams/alone/agents/reviewer.md")),
        ],
    ),
    (
        "teams/quick",
        &[
            ("backstop.yaml", include_str!("../../scenarios/teams/quick/backstop.yaml")),
            ("agents/answerer.md", include_str!("../../scenarios/teams/quick/agents/answerer.md")),
            ("agents/writer.md", include_str!("../../scenarios/teams/quick/agents/writer.md")),
        ],
    ),
];
