"""The charts of a report. Text and grid lines take the page's colours, so that they are legible in light and dark."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from distseg.leaderboard.rank import number
from distseg.leaderboard.render import setting
from distseg.leaderboard.report.gather import Curve, Levels
from distseg.leaderboard.report.importance import Importance
from distseg.records import LeaderboardRow, Status

BEST, OTHERS, FAINT = "#d9730d", "#2f86c8", "#8a8f98"
"""At least 3:1 against a white and against a near-black page (WCAG 2, graphics)."""
_COLOURS = (BEST, OTHERS, "#1d9a6c", "#b05fb8", "#b8890b")
"""Of the curves that have a name in the legend."""
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""So that colour is not all that tells them apart."""
_LOG_FROM = 5.0
"""An axis whose greatest value is this many times its least is logarithmic."""
_VALUES_FEW = 4
"""A hyperparameter with this many different numbers or fewer stands as categories."""
_SLICE_COLUMNS = 3


def learning_curves(curves: Sequence[Curve], metric: str) -> go.Figure:
    """The best few by name, all others in grey."""
    figure = _figure(height=420)
    named = sorted((curve for curve in curves if curve.row.rank is not None), key=lambda curve: curve.row.rank or 0)
    named = named[: len(_COLOURS)]
    others = [curve for curve in curves if curve not in named]
    if others:
        x: list[int | None] = []
        y: list[float | None] = []
        text: list[str | None] = []
        for curve in others:  # one trace, with gaps: a thousand traces are slow to draw
            x += [*curve.epochs, None]
            y += [*curve.figures, None]
            text += [f"{curve.row.trial_id} {curve.row.status.lower()}"] * len(curve.epochs) + [None]
        line = {"color": FAINT, "width": 1}
        figure.add_scatter(
            x=x,
            y=y,
            text=text,
            mode="lines+markers",
            name="others",
            line=line,
            marker={"size": 4},
            hoverinfo="text+x+y",
        )
    for curve, colour, dash in reversed(list(zip(named, _COLOURS, _DASHES, strict=False))):
        figure.add_scatter(
            x=curve.epochs,
            y=curve.figures,
            mode="lines+markers",
            name=f"{curve.row.rank}  {curve.row.trial_id}",
            line={"color": colour, "dash": dash, "width": 2.5},
        )
    figure.update_layout(legend={"title": {"text": "rank, trial"}, "traceorder": "reversed"})
    figure.update_xaxes(title="epoch", dtick=1 if max((max(c.epochs) for c in curves), default=0) <= 20 else None)
    figure.update_yaxes(title=metric)
    return figure


def pareto(rows: Sequence[LeaderboardRow], metric: str, mode: str) -> list[LeaderboardRow]:
    """Ranked rows that no cheaper one equals or beats, cheapest first."""
    sign = 1 if mode == "max" else -1
    found: list[LeaderboardRow] = []
    hours, _ = _hours(rows)
    ranked = [row for row in rows if row.rank is not None]
    for row in sorted(ranked, key=lambda row: (hours(row), -sign * row.metrics[metric])):
        if not found or sign * row.metrics[metric] > sign * found[-1].metrics[metric]:
            found.append(row)
    return found


def _hours(rows: Sequence[LeaderboardRow]) -> tuple[Callable[[LeaderboardRow], float], str]:
    """What a trial cost, and of what: of GPUs where any trial held one, else of CPUs."""
    if any(row.gpu_hours for row in rows):
        return lambda row: row.gpu_hours, "GPU"
    return lambda row: row.cpu_hours, "CPU"


def metric_against_cost(rows: Sequence[LeaderboardRow], metric: str, mode: str) -> go.Figure:
    """Every ranked trial with its 95 % interval, and the Pareto front."""
    figure = _figure(height=420)
    ranked = [row for row in rows if row.rank is not None]
    hours, device = _hours(rows)
    longest = max(map(hours, ranked))
    unit, per_hour = ("seconds", 3600) if longest < 0.05 else ("minutes", 60) if longest < 2 else ("hours", 1)
    costs = [per_hour * hours(row) for row in ranked]
    figures = [row.metrics[metric] for row in ranked]
    ends = [row.intervals.get(metric, (value, value)) for row, value in zip(ranked, figures, strict=True)]
    figure.add_scatter(
        x=costs,
        y=figures,
        mode="markers",
        name="trials",
        text=[f"{row.trial_id} {row.status.lower()}, rank {row.rank}" for row in ranked],
        hoverinfo="text+x+y",
        marker={"color": OTHERS, "size": 8},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [high - value for (_, high), value in zip(ends, figures, strict=True)],
            "arrayminus": [value - low for (low, _), value in zip(ends, figures, strict=True)],
            "thickness": 1,
            "width": 0,
            "color": FAINT,
        },
    )
    front = pareto(rows, metric, mode)
    figure.add_scatter(
        x=[per_hour * hours(row) for row in front],
        y=[row.metrics[metric] for row in front],
        mode="lines+markers+text",
        name="Pareto front",
        text=[row.trial_id for row in front],
        textposition="top left",
        hoverinfo="text+x+y",
        line={"color": BEST, "shape": "hv", "width": 2},
        marker={"symbol": "diamond", "size": 11},
    )
    wide = [cost for cost in costs if cost > 0]
    figure.update_xaxes(
        title=f"{device} {unit}",
        type="log" if len(wide) == len(costs) and max(wide) >= _LOG_FROM * min(wide) else "linear",
    )
    figure.update_yaxes(title=metric)
    figure.update_layout(legend={"orientation": "h", "y": 1.1})
    return figure


def slices(rows: Sequence[LeaderboardRow], metric: str, paths: Sequence[str]) -> go.Figure:
    """The metric against each hyperparameter, a small chart each."""
    lines = math.ceil(len(paths) / _SLICE_COLUMNS)
    figure = make_subplots(rows=lines, cols=_SLICE_COLUMNS, shared_yaxes=True, vertical_spacing=0.3 / lines)
    ranked = [row for row in rows if row.rank is not None]
    for place, path in enumerate(paths):
        at: dict[str, Any] = {"row": place // _SLICE_COLUMNS + 1, "col": place % _SLICE_COLUMNS + 1}
        shown = [row for row in ranked if path in row.overrides]
        numbers = [number(row.overrides[path]) for row in shown]
        numeric = None not in numbers and len({*numbers}) > _VALUES_FEW
        figure.add_scatter(
            **at,
            x=numbers if numeric else [setting(row, path) for row in shown],
            y=[row.metrics[metric] for row in shown],
            text=[f"{row.trial_id} {row.status.lower()}, rank {row.rank}" for row in shown],
            hoverinfo="text+x+y",
            mode="markers",
            showlegend=False,
            marker={
                "color": [BEST if row.rank == 1 else OTHERS for row in shown],
                "size": [13 if row.rank == 1 else 8 for row in shown],
                "symbol": [_symbol(row) for row in shown],
                "line": {"width": 1.5, "color": [BEST if row.rank == 1 else OTHERS for row in shown]},
            },
        )
        told = [value for value in numbers if value is not None]
        log = numeric and min(told) > 0 and max(told) >= _LOG_FROM * min(told)
        kind = "log" if log else "linear" if numeric else "category"
        figure.update_xaxes(**at, title=path, type=kind, automargin=True)
        if log:
            ticks = [digit * 10.0**power for power in range(-12, 12) for digit in (1, 2, 5)]
            figure.update_xaxes(**at, tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
        if not numeric:
            order = sorted(shown, key=lambda row: (number(row.overrides[path]) or 0.0, setting(row, path)))
            names = [setting(row, path) for row in order]
            figure.update_xaxes(**at, categoryorder="array", categoryarray=list(dict.fromkeys(names)))
        if at["col"] == 1:
            figure.update_yaxes(**at, title=metric)
    return _styled(figure, height=110 + 250 * lines)


def importance_bars(found: Sequence[Importance]) -> go.Figure:
    """A bar each, and a mark where chance alone ends."""
    figure = _figure(height=110 + 42 * len(found))
    names = [one.path for one in found]
    figure.add_bar(
        x=[one.share for one in found], y=names, orientation="h", name="share of the variance", marker={"color": OTHERS}
    )
    figure.add_scatter(
        x=[one.chance for one in found],
        y=names,
        mode="markers",
        name="chance alone, 1 time in 20",
        marker={"symbol": "line-ns-open", "size": 20, "color": BEST, "line": {"width": 3}},
    )
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(legend={"orientation": "h", "y": 1.25})
    return figure


def augmentation_levels(levels: Sequence[Levels]) -> go.Figure:
    """The adaptive level of each trial over the images that it has seen."""
    figure = _figure(height=360)
    for place, one in enumerate(sorted(levels, key=lambda one: one.row.rank or math.inf)):
        best = one.row.rank == 1
        named = place < len(_COLOURS)
        figure.add_scatter(
            x=one.images,
            y=one.levels,
            mode="lines+markers",
            name=f"{one.row.rank or '-'}  {one.row.trial_id}",
            showlegend=named,
            line={"color": _COLOURS[place] if named else FAINT, "dash": _DASHES[place] if named else "solid"},
            opacity=1 if best or named else 0.6,
        )
    figure.update_xaxes(title="images seen")
    figure.update_yaxes(title="level", range=[-0.02, 1.02])
    figure.update_layout(showlegend=True, legend={"title": {"text": "rank, trial"}})
    return figure


def _symbol(row: LeaderboardRow) -> str:
    if row.rank == 1:
        return "diamond"
    return "circle" if row.status is Status.COMPLETED else "circle-open"


def _figure(height: int) -> go.Figure:
    return _styled(go.Figure(), height)


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 70, "r": 20, "t": 30, "b": 60},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": FAINT, "activecolor": OTHERS},
    )
    figure.update_xaxes(gridcolor=FAINT, zeroline=False, showline=True, linecolor=FAINT, title_standoff=8)
    figure.update_yaxes(gridcolor=FAINT, zeroline=False, title_standoff=8)
    return figure
