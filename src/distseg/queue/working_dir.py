"""The folder that a job starts in, zipped into the home at submission: later edits do not change the job."""

import hashlib
import io
import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

from distseg import atomic
from distseg.errors import QueueError

BYTES_MAX = 100 * 2**20
"""Of all files together: data, environments and runs do not belong in it."""
_LEFT_OUT = {
    ".git",
    ".hg",
    ".svn",
    ".venv",
    "__pycache__",
    "node_modules",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
}
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the same files give the same zip, whenever they were written


def zip_folder(folder: Path, store: Path) -> Path:
    """``store/<sha256>.zip`` with the folder's files, of which git ignores none; written once for the same files.

    QueueError when it is no folder, empty, or of more than 100 MiB.
    """
    if not folder.is_dir():
        raise QueueError(f"--working-dir: got {folder}, want a folder")
    names = sorted(_files(folder))
    sizes = {name: (folder / name).stat().st_size for name in names}
    if not names:
        raise QueueError(
            f"--working-dir: {folder} holds no files; leave the option out, or give the folder of the code"
        )
    if (total := sum(sizes.values())) > BYTES_MAX:
        largest = max(sizes, key=lambda name: sizes[name])
        raise QueueError(
            f"--working-dir: {folder} holds {total / 2**20:.0f} MiB, want {BYTES_MAX / 2**20:.0f} at most; "
            f"keep data out of it by .gitignore (largest: {largest}, {sizes[largest] / 2**20:.0f} MiB)"
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (folder / name).stat().st_mode << 16
            archive.writestr(entry, (folder / name).read_bytes())
    data = packed.getvalue()
    path = store / f"{hashlib.sha256(data).hexdigest()[:32]}.zip"
    if not path.exists():
        with atomic.replacing(path) as file:
            file.write(data)
    return path


def _files(folder: Path) -> Iterator[str]:
    """Names below the folder: by git's rules in a work tree, else all but the usual caches. No link to a folder."""
    listed = (
        subprocess.run(
            ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            check=False,
        )
        if _has_git()
        else None
    )
    if listed is not None and listed.returncode == 0:
        yield from (name for name in os.fsdecode(listed.stdout).split("\0") if name and (folder / name).is_file())
        return
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        yield from (str((Path(root) / name).relative_to(folder)) for name in names if (Path(root) / name).is_file())


def _has_git() -> bool:
    from shutil import which

    return which("git") is not None
