"""A comparison as Markdown, which reads as well on a terminal."""

from collections.abc import Sequence

from distseg.search.comparison import Comparison, Row

_GROUPS_FEW = 8  # a bootstrap of fewer has few different draws, and is too narrow
_SPLIT = {"val": "Validation groups", "test": "Test groups"}


def markdown(comparison: Comparison) -> str:
    """Title, one line a variant, IoU per class, and what the figures rest on."""
    lines = [f"## {_SPLIT[comparison.split]}: {comparison.metric}", ""]
    if not comparison.rows:
        return "\n".join([*lines, "No training has completed.", *_unusable(comparison)]) + "\n"
    against = comparison.baseline
    head = ["variant", "seeds", "mean", "spread"]
    head += [f"less {against}", "95 % interval", "better seeds"] if against else []
    head += ["best epoch", "last epoch", "train loss", "images", "minutes"]
    lines += _table(head, [_cells(row, against is not None) for row in comparison.rows])
    lines += ["", "IoU per class, mean over seeds:", ""]
    classes = comparison.classes()
    lines += _table(
        ["class", *(row.variant for row in comparison.rows)],
        [[label, *(_figure(row.per_class[label]) for row in comparison.rows)] for label in classes],
    )
    lines += ["", *_notes(comparison), *_unusable(comparison)]
    return "\n".join(lines) + "\n"


def _cells(row: Row, paired: bool) -> list[str]:
    cells = [row.variant, str(len(row.seeds)), _figure(row.mean), _figure(row.spread)]
    if paired:
        interval = "-" if row.interval is None else f"{row.interval[0]:+.4f} to {row.interval[1]:+.4f}"
        difference = "-" if row.difference is None else f"{row.difference:+.4f}"
        cells += [difference, interval, "-" if row.seeds_better is None else f"{row.seeds_better}"]
    cells += [f"{row.best_epoch:.0f}", _figure(row.last), _figure(row.loss)]
    return [*cells, str(row.images_seen), f"{row.seconds / 60:.1f}"]


def _notes(comparison: Comparison) -> list[str]:
    measured = f"{comparison.samples} images of {comparison.groups} group{'s' * (comparison.groups != 1)}"
    notes = [
        f"Measured on {measured}, with each training's best epoch as the validation groups chose it; `last epoch` and "
        "`train loss` are those of the end of training, on validation and training groups. Spread: standard deviation "
        "over seeds."
    ]
    few = comparison.groups < _GROUPS_FEW
    if comparison.baseline is not None and comparison.groups > 1:
        notes.append(
            "Interval: the difference when whole groups are drawn anew, the same for both sides, averaged over seeds."
            + (f" {comparison.groups} groups are few: it spans them, and is no promise for others." if few else "")
        )
    elif comparison.baseline is not None:
        notes.append("With a single group there is no interval over groups; look at the seeds.")
    budget = "Every training saw the same number of images."
    notes.append(budget if comparison.equal_budgets else "The trainings did NOT see the same number of images.")
    return notes


def _unusable(comparison: Comparison) -> list[str]:
    return [
        f"- left out: trial {trial.trial_id} ({trial.variant}, seed {trial.seed}): {trial.reason}"
        for trial in comparison.unusable
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = [f"{'-' * (width - 1)}:" if place else "-" * width for place, width in enumerate(widths)]
    return [_line(head, widths), "|" + "|".join(f" {cell} " for cell in rule) + "|", *(_line(r, widths) for r in rows)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join([first, *others]) + " |"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
