//! The fixed parts of the page: how it looks, in light and in dark, and nothing that is fetched from anywhere.

/// The style of the page. Every colour is a variable, said once for light and once for dark.
pub(super) const STYLE: &str = r#"
:root {
  color-scheme: light dark;
  --page: #f7f6f2; --card: #ffffff; --ink: #1d2127; --soft: #5d6570; --line: #dfddd5; --lane: #efede6;
  --fault: #c2413b; --running: #2f6fb2; --waiting: #86b1de; --parked: #e0b04c; --human: #8d63b8;
  --open: #c2413b; --half: #dd9a2b; --gate: #7a869a; --death: #c2413b; --page-mark: #8d63b8;
  --spend: #2b7d6b; --good: #23704f; --good-back: #e0f0e7; --bad: #a52a24; --bad-back: #fbe6e3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1c2026; --ink: #e8e9ea; --soft: #9ca4af; --line: #31373f; --lane: #262b32;
    --fault: #ef7c73; --running: #6aa5e0; --waiting: #3d6b98; --parked: #d9ad55; --human: #b892de;
    --open: #ef7c73; --half: #e8b35a; --gate: #8c98ab; --death: #ef7c73; --page-mark: #b892de;
    --spend: #62bfa8; --good: #7fd0a8; --good-back: #1c3529; --bad: #f5a099; --bad-back: #41211f;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 4px 0 6px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 14px; }
p { margin: 0 0 8px; max-width: 84ch; }
.kicker, .meta { color: var(--soft); font-size: 14px; }
.kicker { text-transform: uppercase; letter-spacing: 0.08em; }
section, .tiles { margin-top: 24px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px; }
.verdict { display: inline-block; margin-top: 14px; padding: 5px 12px; border-radius: 999px; font-weight: 600; font-size: 14px; }
.good { color: var(--good); background: var(--good-back); }
.bad { color: var(--bad); background: var(--bad-back); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.25; letter-spacing: -0.01em; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: 13px; line-height: 1.4; margin-top: 2px; }
.bar { display: flex; height: 22px; border-radius: 6px; overflow: hidden; background: var(--lane); margin: 4px 0 12px; gap: 2px; }
.bar i { display: block; min-width: 3px; }
.keys { display: flex; flex-wrap: wrap; gap: 6px 22px; font-size: 14px; padding: 0; margin: 0; list-style: none; }
.keys i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px; }
.b0 { background: var(--spend); } .b1 { background: var(--waiting); } .b2 { background: var(--running); }
.b3 { background: var(--parked); } .b4 { background: var(--human); }
.scroll { overflow-x: auto; }
.scroll svg { min-width: 820px; width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: var(--soft); }
svg .h { font-size: 13px; font-weight: 600; fill: var(--ink); } svg .strong { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .lane { fill: var(--lane); }
svg .fault { fill: var(--fault); } svg .running { fill: var(--running); } svg .waiting { fill: var(--waiting); }
svg .parked { fill: var(--parked); } svg .human { fill: var(--human); }
svg .open { fill: var(--open); } svg .half { fill: var(--half); } svg .gate { fill: var(--gate); }
svg .death { fill: var(--death); } svg .page { fill: var(--page-mark); }
svg circle.death, svg path.page { stroke: var(--card); stroke-width: 1.2; }
svg .spend { fill: var(--spend); } svg .spend-area { fill: var(--spend); opacity: 0.16; }
svg .spend-line { fill: none; stroke: var(--spend); stroke-width: 2; }
svg .unanswered { fill: var(--fault); }
svg .unanswered-line { fill: none; stroke: var(--fault); stroke-width: 1.6; stroke-dasharray: 5 3; }
svg .hover { fill: transparent; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tr:last-child td { border-bottom: 0; }
code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(360px, 1fr)); gap: 24px; margin-top: 24px; }
.pair section { margin-top: 0; }
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 0 36px; }
footer { color: var(--soft); font-size: 13px; margin-top: 28px; }
@media (max-width: 620px) { main { padding: 24px 14px 48px; } section { padding: 16px; } .pair { grid-template-columns: 1fr; } }
@media print { section, .tile { break-inside: avoid; } }
"#;
