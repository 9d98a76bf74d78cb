"""What a layout finds in a folder: the samples that are complete, and what is wrong with the rest.

Packing takes a scan only when nothing is wrong (``complete``); the audit goes on with the samples that there are.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from distseg.data.findings import Finding, FindingError, by_code, error
from distseg.data.layouts.base import Corpus, LayoutOptions, RawSample
from distseg.errors import DataError

KEY_BYTES_MAX = 90
"""Bytes of a sample's key in UTF-8; a name in a USTAR archive has 100."""
_KEY = re.compile(r"[^./\\\s]+")  # webdataset takes all after a key's first dot for the member's ending
NO_OPTIONS = LayoutOptions()
PAIR_REMEDY = "complete the pairs or remove what has no partner"
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Scan:
    """A raw data set as its layout finds it."""

    corpus: Corpus
    """With the samples that are complete."""
    findings: tuple[Finding, ...] = ()
    """What the list of files shows: orphans, names, classes."""

    def complete(self) -> Corpus:
        """The corpus, when nothing is missing; DataError with the first error, and how many there are of its kind."""
        errors = [found for found in self.findings if found.severity == "error"]
        if errors:
            first, *others = by_code(errors)[0]
            more = f" (and {len(others)} more)" if others else ""
            raise DataError(f"{first.file}: {first.message}{more}; {first.remedy}")
        return self.corpus


@runtime_checkable
class Remarking(Protocol):
    """A mask source that can be read without error and still not be what was meant."""

    def remarks(self) -> Iterable[Finding]:
        """Warnings and notes on a mask that ``read`` can read."""
        ...


def refuse_class_options(layout: str, options: LayoutOptions, why: str) -> None:
    """DataError when options name classes or an ignore label."""
    given = options.classes if options.ignore_label is None else f"label {options.ignore_label}"
    if given is not None:
        raise DataError(f"layout {layout}: takes no class file and no ignore label ({given}), {why}; leave it out")


def visible_files(folder: Path, *endings: str) -> list[Path]:
    """Files with these endings, sorted; hidden ones (macOS leaves ``._name`` beside each file) are left out."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and not path.name.startswith("."))


def key_of(name: str) -> str:
    """A name as a sample's key: dots and blanks, which a WebDataset key cannot have, become ``-``."""
    return re.sub(r"[.\s]", "-", name)


def fits_a_tar(key: str) -> bool:
    """Whether a sample of this key can be packed."""
    return _KEY.fullmatch(key) is not None and len(key.encode()) <= KEY_BYTES_MAX


def grouping(regex: str | None, default: Callable[[Path], str]) -> Callable[[Path], str]:
    """Function from an image's path to its group: what ``regex`` finds in the stem or, without one, ``default``.

    DataError when ``regex`` is none; the function raises FindingError when it finds nothing in a stem.
    """
    if regex is None:
        return default
    try:
        pattern = re.compile(regex)
    except re.error as problem:
        raise DataError(
            f"group regex '{regex}': not a regular expression ({problem}); want one such as '(.+)_'"
        ) from problem

    def group(image: Path) -> str:
        match = pattern.search(image.stem)
        found = match and (match[1] if pattern.groups else match[0])
        if not found:
            remedy = "widen the expression so that it finds a group in every name"
            raise FindingError(error("no-group", image, f"group regex '{regex}' finds nothing in the name", remedy))
        return found

    return group


def with_unique_keys(samples: Iterable[RawSample]) -> tuple[list[RawSample], list[Finding]]:
    """The first sample of each key, and an error for every other."""
    first: dict[str, RawSample] = {}
    findings = []
    for sample in samples:
        same = first.setdefault(sample.key, sample)
        if same is not sample:
            message = f"its key '{sample.key}' is that of {same.image} too"
            findings.append(error("duplicate-name", sample.image, message, "rename one of the two, or remove it"))
    return list(first.values()), findings
