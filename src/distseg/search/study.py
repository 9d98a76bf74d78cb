"""A study on disk: what it searches, and an append-only record of all that was asked and told.

Every suggestion is written before its trial starts, and every result before the searcher hears of it. A study that was
killed is resumed by replaying the record into a fresh searcher and scheduler, which so arrive at the state they had.
"""

import fcntl
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from distseg import atomic, config
from distseg.config import RunConfig, SearchConfig
from distseg.errors import ConfigError, HomeError
from distseg.records import (
    CONFIG_FILE,
    RECORD_FILE,
    STUDY_FILE,
    TRIALS_FOLDER,
    Status,
    StudyInfo,
    TrialRecord,
    now,
)
from distseg.search.events import Event, EventLog, drop_torn_line

SEARCH_FILE = "search.yaml"
_LOCK_FILE = "lock"


class Study:
    """An open study; one process writes it."""

    def __init__(self, folder: Path, info: StudyInfo, search: SearchConfig, base: RunConfig) -> None:
        self.folder = folder
        self.info = info
        self.search = search
        self.base = base
        self.log = EventLog(folder)
        self._new = False
        self._lock: int | None = None

    @classmethod
    def create(cls, folder: Path, info: StudyInfo, search: SearchConfig, base: RunConfig) -> "Study":
        """A new study, not written yet (see ``begin``); HomeError when the name is taken."""
        if folder.exists():
            raise _taken(folder)
        study = cls(folder, info, search, base)
        study._new = True
        return study

    @classmethod
    def resume(cls, folder: Path, search: SearchConfig, base: RunConfig, data_digest: str) -> "Study":
        """An existing study; HomeError when its space, points, base config or data differ from those given.

        Budget and resources may differ.
        """
        info = StudyInfo.load(folder)
        saved, saved_base = config.load_search(folder / SEARCH_FILE)
        if info.data_digest != data_digest:
            raise HomeError(
                f"study '{info.name}' was begun on data {info.data_digest[:8]}, got {data_digest[:8]}; start a new one"
            )
        pairs = {
            "base config": (saved_base, base),
            "space": (saved.space, search.space),
            "search": (saved.search, search.search),
            "points": (saved.points[: len(search.points)], search.points),  # those of a warm start follow them
        }
        others = [name for name, (begun, given) in pairs.items() if begun != given]
        if others:
            raise HomeError(
                f"study '{info.name}' was begun with another {', '.join(others)}; "
                f"see {folder / SEARCH_FILE}, give the same, or start a new study"
            )
        search = saved.model_copy(update={"budget": search.budget, "resources": search.resources})
        return cls(folder, info.model_copy(update={"trials_planned": search.budget.trials}), search, base)

    def begin(self) -> None:
        """Writes a new study's folder, brings a resumed one's up to date, and keeps others off until ``end``.

        HomeError when somebody took the name meanwhile, or is running the study.
        """
        if self._new:
            self._write_folder()
            self._new = False
        self._lock = os.open(self.folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT)  # a killed process's lock goes with it
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.end()
            raise HomeError(
                f"study '{self.info.name}' is running already; follow it by 'distseg leaderboard --watch'"
            ) from None
        here = self.search.model_copy(update={"base": CONFIG_FILE})
        atomic.write_text(self.folder / SEARCH_FILE, config.dump(here))
        atomic.write_text(self.folder / STUDY_FILE, self.info.model_dump_json(indent=1) + "\n")
        drop_torn_line(self.folder)
        self.log = EventLog(self.folder)  # as it is now that nobody else writes it

    def end(self) -> None:
        """Lets others go on with the study, all of which is on disk."""
        self.log.disk.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write_folder(self) -> None:
        """The whole folder at once: a driver killed meanwhile leaves no half of one under the study's name."""
        aside = self.folder.with_name(f".{self.folder.name}-{secrets.token_hex(4)}")
        aside.mkdir(parents=True)
        here = self.search.model_copy(update={"base": CONFIG_FILE})
        (aside / SEARCH_FILE).write_text(config.dump(here))
        (aside / CONFIG_FILE).write_text(config.dump(self.base))
        (aside / STUDY_FILE).write_text(self.info.model_dump_json(indent=1) + "\n")
        try:
            os.rename(aside, self.folder)
        except OSError as error:
            shutil.rmtree(aside)
            raise _taken(self.folder) from error

    def trial_folder(self, trial_id: str) -> Path:
        return self.folder / TRIALS_FOLDER / trial_id

    def announce(self, trial_id: str, overrides: dict[str, Any]) -> bool:
        """Records a trial that is about to start: a PENDING record in its folder, then the event.

        False, and a FAILED record with the reason, when its overrides make no config: it cannot start.
        """
        record = self._first_record(trial_id, overrides)
        record.save(self.trial_folder(trial_id), wait=False)
        self.log.disk.soon(self.trial_folder(trial_id) / RECORD_FILE)
        self.log.append(Event("ask", trial_id, overrides=overrides))  # last: whoever finds the event finds a record
        return record.status is Status.PENDING

    def announce_again(self, trial_id: str) -> TrialRecord:
        """Writes the record that an announced trial began with in the place of one that cannot be read."""
        record = self._first_record(trial_id, self.log.asked[trial_id])
        record.save(self.trial_folder(trial_id))
        return record

    def _first_record(self, trial_id: str, overrides: dict[str, Any]) -> TrialRecord:
        status, reason, cfg = Status.PENDING, None, self.base
        try:
            cfg = config.with_overrides(self.base, overrides, f"trial {trial_id}")
        except ConfigError as error:
            status, reason = Status.FAILED, f"{type(error).__name__}: {error}"
        return TrialRecord(
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
        )


def _taken(folder: Path) -> HomeError:
    return HomeError(
        f"study '{folder.name}' exists already in {folder.parent}; "
        "go on with it by --resume, or choose another name with --study"
    )
