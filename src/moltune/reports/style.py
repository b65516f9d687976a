"""The style sheet of the HTML report: light and dark, narrow and wide, screen and paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --card: #f4f6f8; --line: #d0d7de;
  --accent: #0b5cad; --warn: #8a4600; --warn-back: #fff4e5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #a3adb8; --paper: #14181d; --card: #1d232a; --line: #38414b; --accent: #79b8ff;
    --warn: #ffc680; --warn-back: #33260f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 48rem; }
.verdict { font-size: 1.15rem; padding: 1rem 1.25rem; background: var(--card); border-left: .35rem solid var(--accent);
  max-width: none; }
.soft, caption, figcaption { color: var(--soft); font-size: .92rem; }
.warnings { background: var(--warn-back); border-left: .35rem solid var(--warn); padding: .75rem 1.25rem; }
.warnings ul { margin: .25rem 0; padding-left: 1.2rem; }
.warnings li { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .95rem; }
caption { text-align: left; padding: .25rem 0 .5rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); white-space: nowrap; }
tbody th { font-weight: 600; }
.wide th[scope=row] { min-width: 10rem; position: sticky; left: 0; background: var(--paper); }
tbody th[scope=rowgroup] { background: var(--card); }
.number { text-align: right; white-space: nowrap; }
.number small { display: block; color: var(--soft); }
tr.model { font-weight: 600; }
.settings td, .settings th { overflow-wrap: anywhere; padding: .2rem .6rem; }
.settings tbody th { font-weight: 400; color: var(--soft); width: 40%; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.25rem;
  align-items: start; }
figure { margin: 0; padding: .75rem; border: 1px solid var(--line); border-radius: .4rem; break-inside: avoid; }
figure img { width: 100%; height: auto; background: #ffffff; border-radius: .25rem; }
details { margin: .75rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .25rem 0; }
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --card: #f4f4f4; --line: #bbb; --warn-back: #fff; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; }
  tr, figure, .verdict, .warnings { break-inside: avoid; }
  .wide { overflow: visible; } }
"""
