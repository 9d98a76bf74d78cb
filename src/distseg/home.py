"""Where runs, studies and caches live: one folder that all nodes see (``DISTSEG_HOME``)."""

import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from distseg.errors import HomeError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_SHARD_CACHE_BYTES = 50 * 2**30


class Home:
    """The folders below one home.

    ``runs/RUN`` and ``studies/STUDY/trials/ID`` hold the files of one training run each.
    ``shard_cache``: where a node keeps copies of remote shards, of ``shard_cache_bytes`` at most; by default
    ``cache/shards``, 50 GiB. On a cluster, rather a folder of each node's own disk.
    """

    def __init__(
        self, root: Path, shard_cache: Path | None = None, shard_cache_bytes: int = _SHARD_CACHE_BYTES
    ) -> None:
        self.root = root.expanduser().resolve()
        self.shard_cache = shard_cache.expanduser().resolve() if shard_cache else self.root / "cache" / "shards"
        self.shard_cache_bytes = shard_cache_bytes

    @classmethod
    def from_environment(cls, override: str | None = None) -> "Home":
        """The folder given, else ``DISTSEG_HOME``, else ``~/.distseg``. Called at the command line only.

        ``DISTSEG_SHARD_CACHE`` and ``DISTSEG_SHARD_CACHE_BYTES`` change the cache; HomeError when the latter is no
        number of bytes, and when the home is a file or stands below one.
        """
        cache = os.environ.get("DISTSEG_SHARD_CACHE")
        limit = os.environ.get("DISTSEG_SHARD_CACHE_BYTES") or str(_SHARD_CACHE_BYTES)
        if not limit.isdecimal():
            raise HomeError(f"DISTSEG_SHARD_CACHE_BYTES: got '{limit}', want a whole number of bytes")
        root = Path(override or os.environ.get("DISTSEG_HOME") or "~/.distseg")
        home = cls(root, Path(cache) if cache else None, int(limit))
        for folder in (home.root, *home.root.parents):
            if folder.is_file():
                raise HomeError(f"home {home.root}: {folder} is a file; set DISTSEG_HOME or --home to a folder")
        return home

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def queue(self) -> Path:
        """The queue's store, working directories and logs."""
        return self.root / "queue"

    def run(self, name: str) -> Path:
        """Folder of a run, existing or not; HomeError on a name that is no plain file name."""
        return self.runs / _checked(name, "run")

    def study(self, name: str) -> Path:
        """Folder of a study, existing or not; HomeError on a name that is no plain file name."""
        return self.studies / _checked(name, "study")

    def study_names(self) -> list[str]:
        """Names of all studies, oldest first."""
        named = [folder for folder in self.studies.glob("*") if _NAME.fullmatch(folder.name)]  # none half written
        found = [folder for folder in named if (folder / "study.json").is_file()]
        return [folder.name for folder in sorted(found, key=lambda folder: (folder / "study.json").stat().st_mtime)]

    def existing_study(self, name: str) -> Path:
        """Folder of a study that must exist; HomeError names those that do."""
        folder = self.study(name)
        if not (folder / "study.json").is_file():
            known = ", ".join(self.study_names()[-5:]) or "none yet"
            raise HomeError(f"study '{name}': not found in {self.studies}; studies there: {known}")
        return folder

    def find(self, name: str) -> Path:
        """Folder of a study or, failing that, of a run; HomeError when neither or both exist."""
        study, run = self.study(name), self.run(name)
        found = [folder for folder in (study, run) if folder.is_dir()]
        if len(found) == 2:
            raise HomeError(f"'{name}' names both {study} and {run}; rename one of the two folders")
        if not found:
            raise HomeError(f"'{name}': no such study in {self.studies} nor run in {self.runs}")
        return found[0]


def unique_name(stem: str) -> str:
    """``<stem>-<UTC>-<4 hex>``: a name for a new run or study that nobody else takes."""
    return f"{stem}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def _checked(name: str, kind: str) -> str:
    if not _NAME.fullmatch(name):
        raise HomeError(f"{kind} name '{name}': want letters, digits, '.', '_' or '-', starting with a letter or digit")
    return name
