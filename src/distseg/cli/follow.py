"""A run's progress on stderr: a bar on a terminal, a line an epoch elsewhere.

It reads the files that rank 0 writes into the run's folder, so it is the same for a run in this process, under torchrun
and on Ray.
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distseg import records

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_POLL_S = 0.5


class Follow:
    """Follows a run from a thread while the ``with`` block lasts."""

    def __init__(self, folder: Path, epochs: int, metric: str) -> None:
        self._folder = folder
        self._epochs = epochs
        self._metric = metric
        self._record_before = _changed_at(folder)
        self._seen = len(records.read_json_lines(folder / records.EPOCHS_FILE))  # a resumed run's are not told again
        self._over = threading.Event()
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task = self._bar.add_task("starting", total=None, rest="") if self._bar else None
        self._print: Callable[[str], object] = (
            self._bar.console.print if self._bar else lambda line: print(line, file=sys.stderr, flush=True)
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Follow":
        if self._bar:
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._bar:
            self._bar.stop()

    def _follow(self) -> None:
        over = named = False
        while not over:
            over = self._over.wait(_POLL_S)
            if not named and _changed_at(self._folder) != self._record_before:
                named = True  # only now: a run that is refused has no name; and before a kill can hide it
                self._print(f"run {self._folder.name} in {self._folder.parent}")
                for note in records.TrialRecord.load(self._folder).notes:
                    self._print(f"note: {note}")
            rows = records.read_json_lines(self._folder / records.EPOCHS_FILE)
            progress = records.Progress.load(self._folder)
            for row in rows[self._seen :]:
                self._print("  ".join([self._epoch_line(row), *_gpu_words(progress)]))
            self._seen = len(rows)
            if self._bar and self._task is not None and progress:
                text = f"epoch {progress.epoch}/{progress.epochs}"
                self._bar.update(
                    self._task, description=text, completed=progress.step, total=progress.steps, rest=_rest(progress)
                )

    def _epoch_line(self, row: dict[str, Any]) -> str:
        score = "" if row["score"] is None else f"{self._metric} {row['score']:.4f}  "
        left = row["seconds"] / row["epoch"] * (self._epochs - row["epoch"])
        return (
            f"epoch {row['epoch']}/{self._epochs}  loss {row['loss']:.4f}  {score}"
            f"{row['images_per_s']:.1f} images/s  {row['seconds']:.0f} s" + (f", {left:.0f} s left" if left else "")
        )


def _changed_at(folder: Path) -> int | None:
    """When a run's record was written last; None before there is one."""
    try:
        return (folder / records.RECORD_FILE).stat().st_mtime_ns
    except OSError:
        return None


def _bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rest]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _rest(progress: records.Progress) -> str:
    """Rate, loss, and what NVML says where there is a GPU."""
    words = [f"{progress.images_per_s:.1f} images/s", f"loss {progress.loss:.4f}"]
    return "  ".join(words + _gpu_words(progress))


def _gpu_words(progress: records.Progress | None) -> list[str]:
    words: list[str] = []
    if progress is None:
        return words
    if progress.gpu_utilisation is not None:
        words.append(f"GPU {progress.gpu_utilisation:.0%}")
    if progress.gpu_memory_bytes is not None:
        words.append(f"{progress.gpu_memory_bytes / 2**30:.1f} GiB")
    if progress.gpu_power_w is not None:
        words.append(f"{progress.gpu_power_w:.0f} W")
    return words
