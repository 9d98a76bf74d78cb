"""What a person names on the command line, as images and the names of what is made of them."""

import glob
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg.errors import DataError, InputError
from distseg.predict.images import IMAGE_ENDINGS, list_images

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Job:
    """One image to work on."""

    path: Path
    name: str
    """What its results are called: no other job of the run has it."""


def find_images(words: Sequence[str]) -> list[Path]:
    """Files, folders (the images directly inside) and globs (``**`` goes deeper) -> images, each once, in this order.

    Paths are absolute. A link is an image of its own, by its own name: data sets under version control are all links.
    A file that is named is taken whatever its ending. InputError on a URL; DataError on what is not there or holds no
    image.
    """
    return list(dict.fromkeys(Path(os.path.abspath(path)) for word in words for path in _named_by(word)))


def named(paths: Sequence[Path]) -> list[Job]:
    """Images, by absolute paths, with names: the stem where no other has it, else with its ending, else with folders.

    ``a.jpg`` -> ``a``; ``a.jpg`` beside ``a.png`` -> ``a.jpg`` and ``a.png``; ``x/a.jpg`` and ``y/a.jpg`` -> ``x_a``
    and ``y_a``. InputError when nothing of this tells two images apart.
    """
    deepest = max((len(path.parts) for path in paths), default=0)
    ways: list[Callable[[Path], str]] = [lambda path: path.stem, lambda path: path.name]
    for depth in range(2, deepest + 1):
        ways.append(lambda path, depth=depth: "_".join(path.with_suffix("").parts[-depth:]))  # type: ignore[misc]
        ways.append(lambda path, depth=depth: "_".join(path.parts[-depth:]))  # type: ignore[misc]
    names: dict[Path, str] = {}
    left = list(paths)
    for way in ways:
        by_name: dict[str, list[Path]] = defaultdict(list)
        for path in left:
            by_name[way(path)].append(path)
        taken = set(names.values())
        for name, sharing in by_name.items():
            if len(sharing) == 1 and name not in taken:
                names[sharing[0]] = name
        left = [path for path in left if path not in names]
        if not left:
            return [Job(path, names[path]) for path in paths]
    raise InputError(f"{left[0]}: no name tells it from another image; predict them into separate folders")


def _named_by(word: str) -> list[Path]:
    if _URL.match(word):
        raise InputError(f"{word}: is a URL, want files, folders or globs; download the image and give its path")
    path = Path(word)
    if path.is_dir():
        return list_images(path)
    if path.is_file():
        return [path]
    if not _GLOB.search(word):
        raise DataError(f"{word}: no such file or folder; give images, folders of images, or globs")
    matches = (Path(match) for match in sorted(glob.glob(word, recursive=True)))
    found = [match for match in matches if match.suffix.lower() in IMAGE_ENDINGS and match.is_file()]
    if not found:
        raise DataError(f"{word}: matches no image; want files that end in {', '.join(IMAGE_ENDINGS)}")
    return found
