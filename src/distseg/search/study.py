"""A study on disk: what it searches, and an append-only record of all that was asked and told.

Every suggestion is written before its trial starts, and every result before the searcher hears of it. A study that was
killed is resumed by replaying the record into a fresh searcher and scheduler, which so arrive at the state they had.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distseg import __version__, atomic, config
from distseg.config import RunConfig, SearchConfig
from distseg.data.cache import ShardCache
from distseg.data.manifest import ShardFolder
from distseg.errors import ConfigError, HomeError
from distseg.home import Home, unique_name
from distseg.records import (
    CONFIG_FILE,
    STUDY_FILE,
    TRIALS_FOLDER,
    Status,
    StudyInfo,
    TrialRecord,
    now,
    read_json_lines,
)
from distseg.tasks.check import check_task

EVENTS_FILE = "events.jsonl"
SEARCH_FILE = "search.yaml"


@dataclass(frozen=True)
class Event:
    """One line of ``events.jsonl``."""

    kind: Literal["ask", "report", "end"]
    trial_id: str
    overrides: dict[str, Any] | None = None
    """Of an ``ask``."""
    epoch: int | None = None
    """Of a ``report``."""
    score: float | None = None
    """Of a ``report``, and of an ``end`` that has one: the trial's last."""
    status: str | None = None
    """Of an ``end``."""


class Study:
    """An open study; one process writes it."""

    def __init__(self, folder: Path, info: StudyInfo, search: SearchConfig, base: RunConfig) -> None:
        self.folder = folder
        self.info = info
        self.search = search
        self.base = base
        self.events = [Event(**row) for row in read_json_lines(folder / EVENTS_FILE)]
        self._new = False

    @classmethod
    def create(cls, folder: Path, info: StudyInfo, search: SearchConfig, base: RunConfig) -> "Study":
        """A new study, not written yet (see ``begin``); HomeError when the name is taken."""
        if folder.exists():
            raise _taken(folder)
        study = cls(folder, info, search, base)
        study._new = True
        return study

    def begin(self) -> None:
        """Writes the folder of a new study; HomeError when somebody took the name meanwhile. A resumed one has it."""
        if not self._new:
            return
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError as error:
            raise _taken(self.folder) from error
        here = self.search.model_copy(update={"base": CONFIG_FILE})
        atomic.write_text(self.folder / SEARCH_FILE, config.dump(here))
        atomic.write_text(self.folder / CONFIG_FILE, config.dump(self.base))
        atomic.write_text(self.folder / STUDY_FILE, self.info.model_dump_json(indent=1) + "\n")
        self._new = False

    @classmethod
    def resume(cls, folder: Path, search: SearchConfig, base: RunConfig, data_digest: str) -> "Study":
        """An existing study; HomeError when its space, base config or data differ from those given."""
        info = StudyInfo.load(folder)
        saved, saved_base = config.load_search(folder / SEARCH_FILE)
        if info.data_digest != data_digest:
            raise HomeError(
                f"study '{info.name}' was begun on data {info.data_digest[:8]}, got {data_digest[:8]}; start a new one"
            )
        if saved_base != base or saved.space != search.space or saved.search != search.search:
            raise HomeError(f"study '{info.name}' was begun with another config or space; start a new study")
        info = info.model_copy(update={"trials_planned": search.budget.trials})
        atomic.write_text(folder / STUDY_FILE, info.model_dump_json(indent=1) + "\n")
        _drop_torn_line(folder / EVENTS_FILE)
        return cls(folder, info, search, base)

    def trial_folder(self, trial_id: str) -> Path:
        return self.folder / TRIALS_FOLDER / trial_id

    def append(self, event: Event) -> None:
        """Adds an event to the record and makes sure that it is on disk."""
        row = {name: value for name, value in event.__dict__.items() if value is not None}
        with open(self.folder / EVENTS_FILE, "a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.events.append(event)

    def announce(self, trial_id: str, overrides: dict[str, Any]) -> bool:
        """Records a trial that is about to start: a PENDING record in its folder, then the event.

        False, and a FAILED record with the reason, when its overrides make no config: it cannot start.
        """
        status, reason, cfg = Status.PENDING, None, self.base
        try:
            cfg = config.with_overrides(self.base, overrides, f"trial {trial_id}")
        except ConfigError as error:
            status, reason = Status.FAILED, f"{type(error).__name__}: {error}"
        TrialRecord(
            trial_id=trial_id,
            study=self.info.name,
            status=status,
            reason=reason,
            task=cfg.task,
            metric=cfg.eval.metric,
            mode=cfg.eval.mode,
            overrides=overrides,
            architecture=cfg.model.architecture,
            epochs_planned=cfg.train.epochs,
            data=self.info.data,
            data_digest=self.info.data_digest,
            split_digest=self.info.split_digest,
            created_at=now(),
        ).save(self.trial_folder(trial_id))
        self.append(Event("ask", trial_id, overrides=overrides))  # last: whoever finds the event finds a record
        return status is Status.PENDING

    def asked(self) -> dict[str, dict[str, Any]]:
        """Overrides of every trial asked for, in order."""
        return {e.trial_id: e.overrides or {} for e in self.events if e.kind == "ask"}

    def ended(self) -> set[str]:
        """Trials that will not go on."""
        return {e.trial_id for e in self.events if e.kind == "end"}


def _taken(folder: Path) -> HomeError:
    return HomeError(
        f"study '{folder.name}' exists already in {folder.parent}; "
        "go on with it by --resume, or choose another name with --study"
    )


def _drop_torn_line(path: Path) -> None:
    """Cuts off a last line that its killed writer did not finish, so that the next append starts a line."""
    if not path.exists():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def open_study(
    home: Home,
    search_file: Path,
    overrides: Sequence[str],
    data: Path | str,
    *,
    name: str | None = None,
    resume: bool = False,
    trials: int | None = None,
    workers_per_trial: int | None = None,
) -> Study:
    """A new study, or with ``resume`` an existing one, checked as a whole before anything is written.

    ``data``: folder of shards, or its URL.

    ConfigError, DataError or HomeError when the config, the shards or the name are not right.
    """
    assignments = list(overrides)
    if trials is not None:
        assignments.append(f"study.budget.trials={trials}")
    if workers_per_trial is not None:
        assignments.append(f"study.resources.workers_per_trial={workers_per_trial}")
    search, base = config.load_search(search_file, assignments)
    shards = ShardFolder.open(data, ShardCache.of(home))
    manifest = shards.manifest
    check_task(base.task, manifest)
    if resume:
        if name is None:
            raise HomeError("--resume: which study? give its name with --study NAME")
        return Study.resume(home.existing_study(name), search, base, manifest.data_digest)
    info = StudyInfo(
        name=name or unique_name(search_file.stem),
        metric=base.eval.metric,
        mode=base.eval.mode,
        base=Path(search.base).stem,
        trials_planned=search.budget.trials,
        data=str(shards.root),
        data_digest=manifest.data_digest,
        split_digest=manifest.split_digest_of(base.data.fold),
        created_at=now(),
        version=__version__,
    )
    return Study.create(home.study(info.name), info, search, base)
