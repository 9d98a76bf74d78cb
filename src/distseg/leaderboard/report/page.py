"""One HTML file that tells a study: self-contained, legible in light and dark, nothing fetched when it is opened."""

import html
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from distseg import __version__
from distseg.leaderboard.render import figure, title_lines, varying_overrides
from distseg.leaderboard.report import figures
from distseg.leaderboard.report.board_table import board_html
from distseg.leaderboard.report.gather import StudyData
from distseg.leaderboard.report.importance import TRIALS_MIN, importances
from distseg.records import LeaderboardRow

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
"""Content-Security-Policy: the browser itself refuses whatever would be fetched."""

_CONTROLS = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
}
"""Of each chart; the buttons that would send it elsewhere are not among them."""


def page(data: StudyData) -> str:
    """The whole document."""
    from plotly.offline import get_plotlyjs

    sections = list(_sections(data))
    name = html.escape(data.board.studies[0].name)
    links = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title, _ in sections)
    body = "\n".join(
        f'<section id="{anchor}"><h2>{title}</h2>\n{inside}</section>' for anchor, title, inside in sections
    )
    css = resources.files(__package__).joinpath("page.css").read_text()
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Study {name}</title>
<style>
{css}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<header>
<h1>Study {name}</h1>
{_summary(data)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
<noscript><p>The charts need JavaScript; tables, pictures and commands do without.</p></noscript>
{body}
</main>
<footer><p class="quiet">Written by distseg {__version__}.</p></footer>
</body>
</html>
"""


def _summary(data: StudyData) -> str:
    board, study, best = data.board, data.board.studies[0], data.board.best
    lines = [text for text, _ in title_lines(board)[1:]]
    if best is None:
        lines.insert(0, f"No trial has a {board.metric} yet.")
    else:
        interval = best.intervals.get(board.metric)
        within = "" if interval is None else f", 95 % interval over groups {interval[0]:.4f} to {interval[1]:.4f}"
        ties = sum(row.tied is True for row in board.rows) - bool(best.tied)
        tied = {0: "No other trial is", 1: "1 other trial is"}.get(ties, f"{ties} other trials are")
        lines.insert(0, f"Best is {best.trial_id} with {board.metric} {figure(best.metrics[board.metric])}{within}.")
        if best.tied is not None:
            lines.insert(1, f"{tied} tied with it.")
    spent = {
        "Epochs": str(sum(row.epochs for row in board.rows)),
        "Images seen": f"{sum(row.images_seen for row in board.rows):,}",
        "CPU hours": f"{sum(row.cpu_hours for row in board.rows):.2f}",
    }
    if gpu_hours := sum(row.gpu_hours for row in board.rows):
        spent["GPU hours"] = f"{gpu_hours:.2f}"
        spent["Energy of the GPUs"] = f"{sum(row.energy_wh for row in board.rows) / 1000:.3f} kWh"
    facts = {
        "Base config": study.base,
        "Data": f"{study.data} (digest {study.data_digest[:8]}, split {study.split_digest[:8]})",
        **spent,
        "Begun": f"{study.created_at}, distseg {study.version}",
    }
    told = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines) + f"<dl>{told}</dl>"


def _sections(data: StudyData) -> Iterator[tuple[str, str, str]]:
    """(anchor, title, HTML)."""
    board, metric = data.board, data.board.metric
    ranked = [row for row in board.rows if row.rank is not None]
    yield "board", "Leaderboard", board_html(board)
    if data.curves:
        words = f"{metric} on the validation split after each epoch; the best trials by name, all others in grey."
        yield "curves", "Learning curves", _chart(figures.learning_curves(data.curves, metric), words)
    if ranked:
        front = figures.pareto(board.rows, metric, board.mode)
        words = (
            f"Each ranked trial's {metric} with its 95 % interval over groups, against what it cost. On the Pareto "
            f"front, cheapest first: {', '.join(row.trial_id for row in front)}; every other trial is no better than "
            "a cheaper one."
        )
        chart = figures.metric_against_cost(board.rows, metric, board.mode)
        yield "cost", "Metric against cost", _chart(chart, words)
    paths = varying_overrides(ranked, with_architecture=True) if len(ranked) > 1 else []
    if paths:
        words = (
            f"Each ranked trial's {metric} against each setting. The diamond is the best; open circles were stopped "
            "early or still run."
        )
        yield "settings", "Hyperparameters", _chart(figures.slices(board.rows, metric, paths), words)
        yield "importance", "Importance", _importance(ranked, metric, paths)
    yield "augmentation", "Adaptive augmentation", _levels(data)
    yield "predictions", "Predictions of the best trial", _picture(data)
    if data.commands:
        yield "commands", "The best trial again", _commands(data)


def _importance(ranked: Sequence[LeaderboardRow], metric: str, paths: Sequence[str]) -> str:
    found = importances(ranked, metric, paths)
    if not found:
        return (
            f"<p>Not told: that takes at least {TRIALS_MIN} ranked trials with a value of the same setting, and more "
            f"trials than values; there are {len(ranked)} ranked trials.</p>"
        )
    words = (
        f"Share of the variance of {metric} over trials that lies between the values of a setting (four bins of a "
        f"number): {', '.join(f'{one.path} {one.share:.0%}' for one in found)}. A bar that ends before its mark is no "
        "more than chance. Main effects alone, in the trials that the search chose."
    )
    return _chart(figures.importance_bars(found), words)


def _levels(data: StudyData) -> str:
    if not data.levels:
        return "<p>No trial used the adaptive policy.</p>"
    words = (
        "How much each trial of the adaptive policy augmented, at the end of each epoch: 0 nothing, 1 all that the "
        "policy has."
    )
    return _chart(figures.augmentation_levels(data.levels), words)


def _picture(data: StudyData) -> str:
    if data.picture is None:
        return "<p>None: a trial draws its pictures when it has validated an epoch.</p>"
    words = html.escape(data.picture.words)
    return f'<figure><img src="{data.picture.data}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def _commands(data: StudyData) -> str:
    assert data.board.best is not None
    parts = [f"<p>Trial {data.board.best.trial_id}; IMAGES is the folder of the images to predict.</p>"]
    for what, command in data.commands:
        parts.append(f"<h3>{what}</h3><pre><code>{html.escape(command)}</code></pre>")
    return "\n".join(parts)


def _chart(chart: Any, words: str) -> str:
    """A figure with its caption, which is also what a screen reader says of it."""
    drawn = chart.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False, config=_CONTROLS)
    caption = html.escape(words)
    return f'<figure><div role="img" aria-label="{caption}">{drawn}</div><figcaption>{caption}</figcaption></figure>'
