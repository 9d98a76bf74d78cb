"""Raw data packed once for all jobs of a home that want them so."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from distseg import config
from distseg.data.layouts.base import Corpus
from distseg.data.manifest import MANIFEST_FILE
from distseg.data.pack import pack
from distseg.errors import ConfigError
from distseg.home import Home


def input_size(search_file: Path, overrides: Sequence[str]) -> tuple[int, int]:
    """The base config's ``data.input_size``; ConfigError when it leaves that to the shards."""
    _, base = config.load_search(search_file, overrides)
    if base.data.input_size is None:
        raise ConfigError(f"{search_file}: data.input_size is missing in its base config; the raw data is packed at it")
    return base.data.input_size


def packed_once(
    home: Home,
    raw: Corpus,
    folder: Path,
    files: Iterable[Path],
    size: tuple[int, int] | None,
    write: Callable[[str], None],
    *,
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
) -> Path:
    """Shards of the raw folder; those of an earlier job where neither the files nor what is asked have changed."""
    at = "original" if size is None else f"{size[0]}x{size[1]}"
    name = f"{raw.layout}-{at}-{_fingerprint(folder, files, val_fraction, test_fraction)}"
    shards = home.root / "shards" / name
    if not (shards / MANIFEST_FILE).exists():
        write(f"packing {len(raw.samples)} photographs at {at} size: {shards}")
        pack(raw, shards, size=size, val_fraction=val_fraction, test_fraction=test_fraction)
    return shards


def _fingerprint(folder: Path, files: Iterable[Path], *fractions: float) -> str:
    """Short digest of the folder's path, the names, sizes and times of change of its files, and the fractions."""
    digest = hashlib.sha256(f"{folder.resolve()} {fractions}".encode())
    for path in sorted(path for path in files if path.is_file()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:8]
