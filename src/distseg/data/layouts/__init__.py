"""Raw data sets on disk. A layout is one module with ``read(source) -> Corpus``, and one line in ``LAYOUTS``."""

from collections.abc import Callable, Mapping
from pathlib import Path

from distseg.data.layouts import carvana
from distseg.data.layouts.base import Corpus
from distseg.errors import DataError

LAYOUTS: Mapping[str, Callable[[Path], Corpus]] = {
    "carvana": carvana.read,
}


def read_corpus(layout: str, source: Path) -> Corpus:
    """The data set at ``source`` as ``layout`` reads it; DataError on an unknown layout or a folder not laid out so."""
    if layout not in LAYOUTS:
        raise DataError(f"layout '{layout}': unknown; want one of: {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](source)
