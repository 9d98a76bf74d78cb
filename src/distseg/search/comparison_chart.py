"""A comparison as a picture of bars, drawn with nothing but Pillow: no browser, no plotting library."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from distseg.search.comparison import Comparison

_COLOURS = (
    "#8c8c8c",
    "#4477aa",
    "#66ccee",
    "#228833",
    "#ccbb44",
    "#ee6677",
    "#aa3377",
    "#bb5566",
    "#004488",
    "#ddaa33",
)
"""Paul Tol's, told apart by colour-blind eyes too; the first is grey, for a baseline."""
_INK, _FAINT, _PAPER = "#222222", "#dddddd", "#ffffff"
_TEXT, _TITLE = 22, 30  # pixels
_LEFT, _RIGHT, _GAP = 200, 110, 46
_PLOT_WIDTH = 1100
_BAR = 40
_CLASS_BAR = 16


@dataclass(frozen=True)
class _Bar:
    label: str
    colour: str
    value: float
    whisker: tuple[float, float] | None = None
    dots: tuple[float, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    def x(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return _LEFT + _PLOT_WIDTH * min(1.0, max(0.0, part))

    def ticks(self) -> list[float]:
        step = 10 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= 7)
        first = math.ceil(self.low / step - 1e-9)
        return [step * place for place in range(first, math.floor(self.high / step + 1e-9) + 1)]


def bar_chart(comparison: Comparison, title: str) -> Image.Image:
    """RGB picture: the metric with a dot for each seed, the differences to the baseline, IoU per class.

    All bars begin at zero, so that lengths can be compared. Empty panels are left out.
    """
    rows = comparison.rows
    colours = {row.variant: _COLOURS[place % len(_COLOURS)] for place, row in enumerate(rows)}
    means = [_Bar(r.variant, colours[r.variant], r.mean, dots=r.by_seed, text=f"{r.mean:.4f}") for r in rows]
    differences = [
        _Bar(r.variant, colours[r.variant], r.difference, r.interval, text=f"{r.difference:+.4f}")
        for r in rows
        if r.difference is not None
    ]
    panels = [_panel(f"{comparison.metric}: mean over seeds, a dot each", [means], _BAR, lambda low, high: (low, 1.0))]
    if differences:
        note = "95 % interval over groups" if any(bar.whisker for bar in differences) else "one group: no interval"
        panels.append(_panel(f"Difference to {comparison.baseline}, {note}", [differences], _BAR, _with_room))
    classes = [
        [
            _Bar(label if place == 0 else "", colours[row.variant], rate, _around(rate, row.per_class_spread[label]))
            for place, row in enumerate(rows)
            if (rate := row.per_class[label]) is not None
        ]
        for label in comparison.classes()
    ]
    panels.append(
        _panel("IoU per class, with the spread over seeds", classes, _CLASS_BAR, lambda low, high: (low, 1.0))
    )
    return _stacked(title, colours, panels)


def _around(value: float, spread: float | None) -> tuple[float, float] | None:
    return None if spread is None else (value - spread, value + spread)


def _with_room(low: float, high: float) -> tuple[float, float]:
    room = 0.1 * max(high - low, 1e-3)
    return low - room * (low < 0), high + room * (high > 0 or low == high)


def _panel(
    title: str, groups: Sequence[Sequence[_Bar]], bar: int, limits: Callable[[float, float], tuple[float, float]]
) -> Image.Image:
    """Horizontal bars, groups of them with a space between."""
    groups = [group for group in groups if group]
    bars = [bar for group in groups for bar in group]
    reach = [0.0, *(v for b in bars for v in (b.value, *(b.whisker or ()), *b.dots) if math.isfinite(v))]
    axis = _Axis(*limits(min(reach), max(reach)))
    top = _TITLE + 24
    height = top + len(bars) * (bar + 4) + len(groups) * 14 + _TEXT + 20
    picture = Image.new("RGB", (_LEFT + _PLOT_WIDTH + _RIGHT, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((20, 4), title, _INK, _font(_TEXT + 2))
    bottom = height - _TEXT - 14
    for tick in axis.ticks():
        draw.line([(axis.x(tick), top - 4), (axis.x(tick), bottom)], _FAINT, 2)
        draw.text((axis.x(tick), bottom + 4), f"{tick:.4g}", _INK, _font(_TEXT - 4), anchor="ma")
    y = float(top)
    for group in groups:
        for one in group:
            _draw_bar(draw, axis, one, y, bar)
            y += bar + 4
        y += 14
    draw.line([(axis.x(0), top - 4), (axis.x(0), bottom)], _INK, 2)
    return picture


def _draw_bar(draw: ImageDraw.ImageDraw, axis: _Axis, bar: _Bar, y: float, height: int) -> None:
    middle = y + height / 2
    left, right = sorted((axis.x(0), axis.x(bar.value)))
    draw.rectangle((left, y, max(right, left + 1), y + height), bar.colour)
    end = right
    if bar.whisker is not None:
        low, high = (axis.x(edge) for edge in bar.whisker)
        draw.line([(low, middle), (high, middle)], _INK, 3)
        for edge in (low, high):
            draw.line([(edge, middle - height / 4), (edge, middle + height / 4)], _INK, 3)
        end = max(end, high)
    for dot in bar.dots:
        x = axis.x(dot)
        draw.ellipse((x - 5, middle - 5, x + 5, middle + 5), _PAPER, _INK, 2)
        end = max(end, x + 5)
    if bar.label:
        draw.text((_LEFT - 12, middle), bar.label, _INK, _font(_TEXT), anchor="rm")
    if bar.text:
        draw.text((end + 10, middle), bar.text, _INK, _font(_TEXT), anchor="lm")


def _stacked(title: str, colours: dict[str, str], panels: Sequence[Image.Image]) -> Image.Image:
    width = max(panel.width for panel in panels)
    head = _TITLE + _TEXT + 60
    picture = Image.new("RGB", (width, head + sum(panel.height + _GAP for panel in panels)), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((20, 16), title, _INK, _font(_TITLE))
    x = 20.0
    for name, colour in colours.items():
        draw.rectangle((x, head - _TEXT - 14, x + _TEXT, head - 14), colour)
        draw.text((x + _TEXT + 8, head - _TEXT / 2 - 14), name, _INK, _font(_TEXT), anchor="lm")
        x += _TEXT + 40 + draw.textlength(name, _font(_TEXT))
    y = head + 10
    for panel in panels:
        picture.paste(panel, (0, y))
        y += panel.height + _GAP
    return picture


def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, so that no font need be installed."""
    return ImageFont.load_default(pixels)
