"""Raw data sets on disk. A layout is one module with ``scan(source, options) -> Scan``, and one line in ``LAYOUTS``."""

from collections.abc import Callable, Mapping
from pathlib import Path

from distseg.data.layouts import carvana, coco, folders
from distseg.data.layouts.base import Corpus, LayoutOptions
from distseg.data.layouts.scan import NO_OPTIONS, Scan
from distseg.errors import DataError

LAYOUTS: Mapping[str, Callable[[Path, LayoutOptions], Scan]] = {
    "carvana": carvana.scan,
    "folders": folders.scan,
    "coco": coco.scan,
}


def scan_corpus(layout: str, source: Path, options: LayoutOptions = NO_OPTIONS) -> Scan:
    """What ``layout`` finds at ``source``, complete or not.

    DataError on an unknown layout, an option that it does not have, and a folder not laid out so at all.
    """
    if layout not in LAYOUTS:
        raise DataError(f"layout '{layout}': unknown; want one of: {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](source, options)


def read_corpus(layout: str, source: Path, options: LayoutOptions = NO_OPTIONS) -> Corpus:
    """The data set at ``source`` as ``layout`` reads it; DataError as ``scan_corpus``, and when it is not complete."""
    return scan_corpus(layout, source, options).complete()


def guess_layout(source: Path) -> str:
    """The layout in which ``source`` lies; DataError unless there is exactly one that it can be."""
    found = [name for name in LAYOUTS if _lies_so(name, source)]
    if len(found) != 1:
        can_be = f"can be {' or '.join(found)}" if found else f"is none of {', '.join(LAYOUTS)}"
        raise DataError(f"{source}: {can_be}; say which by --layout, or see 'distseg data audit --layout NAME'")
    return found[0]


def _lies_so(layout: str, source: Path) -> bool:
    try:
        return bool(scan_corpus(layout, source).corpus.samples)
    except DataError:
        return False
