"""The page's own pieces of HTML: what the model is, what it found, sentences. Every name in them is escaped."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from urllib.parse import urlencode

from distseg.app.desk import Shown
from distseg.app.upload import Limits
from distseg.predict.answer import Region
from distseg.records import ExportManifest

_TASKS = {
    "binary": "marks one thing in a picture",
    "multiclass": "gives every pixel a class",
    "instance": "finds objects one by one",
}
_SAVED = {"mask.png": "Mask (PNG)", "overlay.png": "Overlay (PNG)", "run_lengths.csv": "Run lengths (CSV)"}
_ROWS_MAX = 100


def heading(name: str, manifest: ExportManifest, device: str) -> str:
    """What the model is and how good it was."""
    classes = manifest.classes[1:] if manifest.task == "binary" else manifest.classes
    facts = [f"{_TASKS[manifest.task]}: {', '.join(classes)}"]
    figure = manifest.metrics.get(manifest.metric)
    if isinstance(figure, float):
        facts.append(f"{manifest.metric} {figure:.3f} on {manifest.samples} validation images")
    if manifest.study:
        facts.append(f"trial {manifest.trial} of {manifest.study}")
    facts.append(f"runs on {device}")
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f'<header class="about"><h1>{escape(name)}</h1><ul>{items}</ul></header>'


def terms(limits: Limits, kept_minutes: int) -> str:
    """What may be sent and what becomes of it."""
    return (
        f'<p class="terms">{limits}. Nothing leaves the computer that serves this page; what you send is deleted there '
        f"within {kept_minutes} minutes.</p>"
    )


def sentence(words: str) -> str:
    """Something that went wrong; empty for nothing."""
    return f'<p class="sentence" role="alert">{escape(words)}</p>' if words else ""


def findings(shown: Shown, threshold: float, opacity: float) -> str:
    """Legend, timing, and links to the files as they are shown."""
    kept = shown.kept
    width, height = kept.answer.size
    if not shown.regions:
        table = '<p class="none">No object has this score.</p>'
    elif shown.regions[0].score is None:
        table = _classes(shown.regions)
    else:
        table = _objects(shown.regions)
    query = urlencode({"threshold": f"{threshold:.2f}", "opacity": f"{opacity:.2f}"})
    source = f"kept/{kept.token}"
    links = "".join(f'<a href="{source}/{what}?{query}" download>{words}</a>' for what, words in _SAVED.items())
    timing = (
        f'<p class="timing">{width} x {height} pixels. The model took <b data-model-ms="{kept.model_ms:.2f}">'
        f'{_milliseconds(kept.model_ms)}</b>, the whole answer <b data-whole-ms="{kept.whole_ms:.2f}">'
        f"{_milliseconds(kept.whole_ms)}</b>.</p>"
    )
    return f'<div class="findings">{table}{timing}<nav class="saved" aria-label="Download">{links}</nav></div>'


def _classes(regions: Sequence[Region]) -> str:
    seen = sorted((each for each in regions if each.share), key=lambda each: -each.share)
    rows = "".join(_row(each, _percents(each.share)) for each in seen)
    if (rest := 1 - sum(each.share for each in regions)) > 0.0005:
        rows += _row(Region(0, "below the threshold", None, rest, None), _percents(rest))
    absent = [escape(each.name) for each in regions if not each.share]
    note = f'<p class="none">Not seen: {", ".join(absent)}.</p>' if absent else ""
    return f"<table><caption>Classes and their share of the pixels</caption><tbody>{rows}</tbody></table>{note}"


def _objects(regions: Sequence[Region]) -> str:
    counts = Counter(each.name for each in regions).most_common()
    summary = ", ".join(f"{count} {escape(name)}" for name, count in counts)
    rows = "".join(_row(each, f"{each.score:.2f}", each.score) for each in regions[:_ROWS_MAX])
    return f"<table><caption>Objects and their scores: {summary}</caption><tbody>{rows}</tbody></table>"


def _row(region: Region, figure: str, part: float | None = None) -> str:
    """Colour, name, bar and figure; the bar is as long as ``part``, by default the region's share."""
    if region.colour is None:
        swatch = '<i class="swatch plain" title="not tinted"></i>'
    else:
        swatch = f'<i class="swatch" style="background: rgb{region.colour}"></i>'
    bar = f'<i class="bar" style="width: {100 * (region.share if part is None else part):.1f}%"></i>'
    return (
        f'<tr><td>{swatch}</td><th scope="row">{escape(region.name)}</th><td class="long">{bar}</td>'
        f'<td class="figure">{figure}</td></tr>'
    )


def _percents(share: float) -> str:
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def _milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
