"""Finds, before a GPU is used, what breaks most training runs: every file of a raw data set is decoded once.

Nothing stops an audit: what is wrong with one file is one finding, and the next file is looked at.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distseg.data.findings import Finding, error, ranked, warning
from distseg.data.layouts import scan_corpus
from distseg.data.layouts.base import Corpus, LayoutOptions, RawSample
from distseg.data.layouts.scan import NO_OPTIONS
from distseg.data.manifest import Split
from distseg.data.sample_checks import Look, look_at
from distseg.errors import DataError

__all__ = ["AuditReport", "Finding", "audit"]

RARE_CLASS = 0.01
"""A class with less than this part of all labelled pixels (or objects) is called rare."""


@dataclass(frozen=True)
class AuditReport:
    """All that was found in one raw data set."""

    images: int
    """Images that have labels and were decoded."""
    findings: tuple[Finding, ...]
    """Errors first, then by code and file."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that keep the data from being packed."""
        return tuple(found for found in self.findings if found.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings that are seldom meant."""
        return tuple(found for found in self.findings if found.severity == "warning")


def audit(
    layout: str,
    source: Path,
    options: LayoutOptions = NO_OPTIONS,
    progress: Callable[[int, int], None] | None = None,
    *,
    workers: int = 1,
) -> AuditReport:
    """Looks at the list of files, at every image with its labels, and at the data set as a whole.

    ``progress`` is called with (images done, images in all). ``workers`` threads decode; the report does not depend on
    them. A folder that is not laid out as ``layout`` at all, or an option that it does not have, is a finding too.
    """
    try:
        scan = scan_corpus(layout, source, options)
    except DataError as problem:
        message = str(problem).removeprefix(f"{source}: ")
        return AuditReport(0, (error("layout", source, message, "nothing else was looked at"),))
    samples = scan.corpus.samples
    looks: list[Look] = []
    with ThreadPoolExecutor(workers) as pool:
        for look in pool.map(partial(look_at, corpus=scan.corpus), samples):
            looks.append(look)
            if progress is not None:
                progress(len(looks), len(samples))
    findings = [
        *scan.findings,
        *(found for look in looks for found in look.findings),
        *_same_images(samples, looks),
        *_leaks(samples),
        *_imbalance(source, scan.corpus, looks),
    ]
    return AuditReport(len(samples), ranked(findings))


def _same_images(samples: Sequence[RawSample], looks: Sequence[Look]) -> Iterator[Finding]:
    first: dict[str, RawSample] = {}
    for sample, look in zip(samples, looks, strict=True):
        if look.sha256 is None:
            continue
        same = first.setdefault(look.sha256, sample)
        if same is not sample:
            message = f"image is the same, byte for byte, as {same.image}"
            if same.group != sample.group:
                message += f", but stands in group '{sample.group}' and not '{same.group}'"
            remedy = "remove one of the two, or training and validation may share it"
            yield warning("duplicate-image", sample.image, message, remedy)


def _leaks(samples: Sequence[RawSample]) -> Iterator[Finding]:
    """For each group on several sides of the folder's own split, a warning at its first image on the second side."""
    sides: dict[str, dict[Split, list[RawSample]]] = {}
    for sample in samples:
        if sample.given_split is not None:
            sides.setdefault(sample.group, {}).setdefault(sample.given_split, []).append(sample)
    for group, by_split in sides.items():
        if len(by_split) > 1:
            counts = ", ".join(f"{split} {len(members)}" for split, members in by_split.items())
            _, second, *_ = by_split.values()
            message = f"group '{group}' is on several sides of the folder's own split ({counts})"
            remedy = "let pack split anew by group, which it does unless told --given-split"
            yield warning("group-in-splits", second[0].image, message, remedy)


def _imbalance(source: Path, corpus: Corpus, looks: Sequence[Look]) -> Iterator[Finding]:
    amounts = sum((look.amounts for look in looks), Counter[int]())
    total, what = sum(amounts.values()), "objects" if corpus.task == "instance" else "labelled pixels"
    if not total:
        return
    for label, name in enumerate(corpus.classes):
        share = amounts[label] / total
        if not share:
            message, remedy = f"class '{name}' has no {what}", "add images that show it, or take it from the classes"
            yield warning("class-absent", source, message, remedy)
        elif share < RARE_CLASS:
            message = f"class '{name}' has {share:.2%} of all {what}"
            yield warning("class-rare", source, message, "weight the classes in the loss, or add images that show it")
