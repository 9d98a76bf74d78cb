"""What happened in a study, in order: ``events.jsonl``, appended to and never rewritten."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from distseg.records import read_json_lines
from distseg.search.to_disk import ToDisk

EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class Event:
    """One line of ``events.jsonl``."""

    kind: Literal["ask", "report", "lost", "end"]
    """A trial is about to start, validated an epoch, lost its process or a worker, will not go on."""
    trial_id: str
    overrides: dict[str, Any] | None = None
    """Of an ``ask``."""
    epoch: int | None = None
    """Of a ``report``."""
    score: float | None = None
    """Of a ``report``, None where the metric is not a number; of an ``end`` that has one, the trial's last."""
    status: str | None = None
    """Of an ``end``."""
    reason: str | None = None
    """Of a ``lost``."""
    seconds: float | None = field(default=None, compare=False)
    """How long the study has run by then, over all its drivers; the times between them are left out."""


class EventLog:
    """The events of one study, with what they add up to; one process writes it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS_FILE
        self._opened = time.monotonic()
        self.disk = ToDisk()
        self.events: list[Event] = []
        self.asked: dict[str, dict[str, Any]] = {}
        """Overrides of every trial asked for, in order."""
        self.ended: dict[str, str] = {}
        """Status of every trial that will not go on."""
        self.last_score: dict[str, float] = {}
        """Of every trial that has one."""
        self.losses: Counter[str] = Counter()
        """How often each trial was lost since it last finished an epoch."""
        for row in read_json_lines(self._path):
            self._take_in(Event(**row))
        self._before = next((event.seconds for event in reversed(self.events) if event.seconds is not None), 0.0)

    @property
    def seconds(self) -> float:
        """How long the study has run."""
        return self._before + time.monotonic() - self._opened

    def append(self, event: Event) -> None:
        """Adds an event, which then outlives this process and is soon on disk."""
        event = replace(event, seconds=round(self.seconds, 3))
        row = {name: value for name, value in event.__dict__.items() if value is not None}
        with open(self._path, "a") as file:
            file.write(json.dumps(row) + "\n")
        self.disk.soon(self._path)
        self._take_in(event)

    def _take_in(self, event: Event) -> None:
        self.events.append(event)
        name = event.trial_id
        if event.kind == "ask":
            self.asked[name] = event.overrides or {}
        elif event.kind == "report":
            self.losses[name] = 0
            if event.score is not None:
                self.last_score[name] = event.score
        elif event.kind == "lost":
            self.losses[name] += 1
        else:
            self.ended[name] = event.status or ""


def drop_torn_line(folder: Path) -> None:
    """Cuts off a last line that its killed writer did not finish, so that the next append starts a line."""
    path = folder / EVENTS_FILE
    if not path.exists():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
