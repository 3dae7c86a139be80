"""Writes a report as one self-contained HTML page."""

import base64
from collections.abc import Sequence
from html import escape

from cljax.errors import printable
from cljax.report import plot
from cljax.report.cells import FOOTNOTES, LEFT_COLUMNS, cells, group_title, grouped
from cljax.report.runs import Mark, RunRecord

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1f2328;
  background: #fff; margin: 2.5rem auto; max-width: 1280px; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.lead, footer { color: #59636e; } .lead { margin: 0 0 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .7rem; text-align: right; vertical-align: top; }
th { font-size: .8rem; font-weight: 600; color: #59636e; vertical-align: bottom;
  border-bottom: 2px solid #d1d9e0; }
td { border-bottom: 1px solid #eaeef2; white-space: nowrap; }
.left { text-align: left; } td.marks { white-space: normal; min-width: 11rem; }
tr.group td { background: #f6f8fa; font-weight: 600; text-align: left; }
td.learner { font-weight: 600; white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
td.published { color: #59636e; }
.badge { display: inline-block; border-radius: 1em; padding: 0 .65em; font-size: .8rem;
  font-weight: 600; }
.badge.setting { background: #fff1c2; color: #7a4b00; }
.badge.unfinished { background: #ffdedb; color: #a40e26; }
.badge.seeds { background: #e6eaef; color: #424a53; }
.detail { font-size: .8rem; color: #59636e; }
img { max-width: 100%; height: auto; display: block; }
footer { font-size: .85rem; margin-top: 2.2rem; border-top: 1px solid #d1d9e0; }
footer ul, details { margin: .8rem 0; padding-left: 1.2rem; } details { padding: 0; }
details td { white-space: normal; text-align: left; font-size: .85rem; overflow-wrap: anywhere; }
@media (max-width: 1000px) {
  body { margin: 1.2rem auto; padding: 0 .8rem; font-size: 14px; }
  th, td { padding: .35rem .36rem; }
  .time { display: none; } td.marks { min-width: 7rem; }
}
"""


def page(runs: Sequence[RunRecord]) -> str:
    """Makes the page: a table with badges for marks, curves, definitions of numbers, versions."""
    picture = plot.draw(runs)
    shown = ""
    if picture:
        data = base64.b64encode(picture).decode()
        text = "accuracy on seen classes over the number of seen classes"
        shown = f'<h2>Accuracy curves</h2>\n<img alt="{text}" src="data:image/png;base64,{data}">\n'
    many = f"{len(runs)} runs" if len(runs) > 1 else "1 run"
    marked = sum(bool(run.marks) for run in runs)
    lead = f"{many}, {marked or 'none'} of them with a caveat" if len(runs) > 1 else many
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison of {many}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Comparison of runs</h1>
<p class="lead">Class-incremental learning: {lead}.</p>
{_table(runs)}
{shown}<footer>
<ul>
{"".join(f"<li>{_text(note)}</li>{chr(10)}" for note in FOOTNOTES)}</ul>
{_origins(runs)}
</footer>
</body>
</html>
"""


def _table(runs):
    hidden = ("data set", "tasks", "device")  # group titles and the footer have them
    names = [name for name in cells(runs[0]) if name not in hidden]
    head = "".join(_cell("th", name, name) for name in names)
    rows = []
    for group in grouped(runs):
        line = _text(group_title(group[0]))
        rows.append(f'<tr class="group"><td colspan="{len(names)}">{line}</td></tr>')
        for run in group:
            row = {name: _text(text) for name, text in cells(run).items()}
            row["marks"] = "<br>".join(map(_badge, run.marks))
            rows.append(f"<tr>{''.join(_cell('td', name, row[name]) for name in names)}</tr>")
    lines = "\n".join(rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n{lines}\n</table></div>'


def _cell(tag, name, content):
    classes = ["left"] if name in LEFT_COLUMNS else []
    classes.append(name.partition(" (")[0].replace(" ", "-"))
    return f'<{tag} class="{" ".join(classes)}">{content}</{tag}>'


def _badge(mark: Mark):
    detail = f' <span class="detail">{_text(mark.detail)}</span>' if mark.detail else ""
    return f'<span class="badge {mark.category}">{_text(mark.kind)}</span>{detail}'


def _text(name: object) -> str:
    """Writes text, such as a name, so that a browser shows it as it is."""
    return escape(printable(name))


def _origins(runs):
    """Lists workdir, device and versions of each run."""
    rows = "\n".join(
        f"<tr><td>{_text(run.workdir)}</td><td>{_text(f'{run.name}, {group_title(run)}')}"
        f"</td><td>{_text(', '.join(map(str, run.seeds)))}</td>"
        f"<td>{_text(run.device) or '-'}</td>"
        f"<td>{_text(', '.join(' '.join(pair) for pair in run.versions)) or '-'}</td></tr>"
        for run in runs
    )
    names = ("workdir", "run", "seeds", "device", "versions")
    head = "".join(f'<th class="left">{name}</th>' for name in names)
    return (
        "<details><summary>Workdirs, devices and versions</summary>\n"
        f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div></details>'
    )
