"""Finds, before a GPU is used, what breaks most training runs: every file of a raw data set is decoded once.

Nothing stops an audit: what is wrong with one file is one finding, and the next file is looked at.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distseg.data.crew import Elsewhere, Progress, Run, crew, nothing
from distseg.data.findings import Finding, error, ranked, warning
from distseg.data.layouts import scan_corpus
from distseg.data.layouts.base import Corpus, LayoutOptions, RawSample
from distseg.data.layouts.scan import KEY_BYTES_MAX, NO_OPTIONS, Scan, fits_a_tar
from distseg.data.manifest import Split
from distseg.data.sample_checks import look_at
from distseg.errors import DataError

__all__ = ["AuditReport", "Finding", "audit", "audit_scan"]

RARE_CLASS = 0.01
"""A class with less than this part of all labelled pixels (or objects) is called rare."""
_SAMPLES_PER_TASK = 64


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


@dataclass(frozen=True)
class _LookTask:
    """Samples to be looked at."""

    samples: Sequence[RawSample]
    corpus: Corpus
    """Theirs, without its samples."""


@dataclass(frozen=True)
class _Seen:
    """What the samples of a task show."""

    findings: list[Finding]
    amounts: Counter[int]
    """As in `Look`, of all of them."""
    sha256: list[str | None]
    """Of each one's image."""


def audit(
    layout: str,
    source: Path,
    options: LayoutOptions = NO_OPTIONS,
    progress: Progress | None = None,
    *,
    workers: int = 1,
) -> AuditReport:
    """Looks at the list of files, at every image with its labels, and at the data set as a whole.

    ``progress`` is called with (images done, images in all). ``workers`` processes decode; the report does not depend
    on them. A folder that is not laid out as ``layout`` at all, or an option that it does not have, is a finding too.
    """
    try:
        scan = scan_corpus(layout, source, options)
    except DataError as problem:
        message = str(problem).removeprefix(f"{source}: ")
        return AuditReport(0, (error("layout", source, message, "nothing else was looked at"),))
    with crew(workers, None) as elsewhere:
        return audit_scan(scan, source, progress, elsewhere)


def audit_scan(
    scan: Scan, source: Path, progress: Progress | None = None, elsewhere: Elsewhere | None = None
) -> AuditReport:
    """What `audit` finds in a folder ``source`` that has been scanned; ``elsewhere`` decodes, if given."""
    samples = scan.corpus.samples
    shared = replace(scan.corpus, samples=())
    parts = range(0, len(samples), _SAMPLES_PER_TASK)
    tasks = [_LookTask(samples[first : first + _SAMPLES_PER_TASK], shared) for first in parts]
    findings = [*scan.findings, *_bad_names(samples)]
    amounts: Counter[int] = Counter()
    sha256: list[str | None] = []
    for seen in Run(elsewhere, len(samples), progress)(_look, tasks):
        findings += seen.findings
        amounts += seen.amounts
        sha256 += seen.sha256
    findings += (*_same_images(samples, sha256), *_leaks(samples), *_imbalance(source, shared, amounts))
    return AuditReport(len(samples), ranked(findings))


def _look(task: _LookTask, advance: Callable[[], None] = nothing) -> _Seen:
    seen = _Seen([], Counter(), [])
    for sample in task.samples:
        look = look_at(sample, task.corpus)
        seen.findings.extend(look.findings)
        seen.amounts.update(look.amounts)
        seen.sha256.append(look.sha256)
        advance()
    return seen


def _bad_names(samples: Sequence[RawSample]) -> Iterator[Finding]:
    for sample in samples:
        if not fits_a_tar(sample.key):
            message = f"its key '{sample.key}' cannot be the name of a sample in a shard"
            remedy = f"rename it: without dots, slashes and blanks, {KEY_BYTES_MAX} bytes at most"
            yield error("bad-name", sample.image, message, remedy)


def _same_images(samples: Sequence[RawSample], sha256: Sequence[str | None]) -> Iterator[Finding]:
    first: dict[str, RawSample] = {}
    for sample, digest in zip(samples, sha256, strict=True):
        if digest is None:
            continue
        same = first.setdefault(digest, sample)
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


def _imbalance(source: Path, corpus: Corpus, amounts: Counter[int]) -> Iterator[Finding]:
    total, what = amounts.total(), "objects" if corpus.task == "instance" else "labelled pixels"
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
