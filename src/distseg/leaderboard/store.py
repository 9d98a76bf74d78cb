"""A study's folder as it is read: ``study.json`` and one ``trials/ID/record.json`` a trial.

Reading takes no lock: records are replaced whole, so a reader sees the one before or the one after.
"""

import os
from pathlib import Path
from typing import NamedTuple

from distseg.errors import HomeError
from distseg.records import RECORD_FILE, TRIALS_FOLDER, Status, TrialRecord


class Trial(NamedTuple):
    """A record and where it stands."""

    record: TrialRecord
    folder: Path
    """Absolute path of the trial's files."""
    study: str
    """Name of the study's folder."""


class Stamp(NamedTuple):
    """What changes when a file is replaced: equal stamps, equal contents."""

    inode: int
    changed_ns: int
    size: int

    @classmethod
    def of(cls, path: Path) -> "Stamp | None":
        """None when there is no such file."""
        try:
            stat = os.stat(path)
        except OSError:
            return None
        return cls(stat.st_ino, stat.st_mtime_ns, stat.st_size)


class Store:
    """One study's trials, read again and again: only records that have changed are opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[Stamp, Trial]] = {}

    def trials(self) -> list[Trial]:
        """All trials in the order of their names; empty before the first.

        A record that cannot be used is a FAILED one with the reason: a board never loses a row nor breaks on one.
        Folders without a record are not trials yet.
        """
        root = self.folder / TRIALS_FOLDER
        names = sorted(os.listdir(root)) if root.is_dir() else []
        found: dict[str, tuple[Stamp, Trial]] = {}
        for name in names:
            stamp = Stamp.of(root / name / RECORD_FILE)
            if stamp is None:
                continue
            known = self._known.get(name)
            if known is not None and known[0] == stamp:
                found[name] = known
            else:
                found[name] = stamp, Trial(_record(root / name), root / name, self.folder.name)
        self._known = found
        return [trial for _, trial in found.values()]


def records(study_folder: Path) -> list[TrialRecord]:
    """The records of all trials of a study, see ``Store.trials``."""
    return [trial.record for trial in Store(study_folder).trials()]


def _record(folder: Path) -> TrialRecord:
    try:
        record = TrialRecord.load(folder)
    except HomeError:
        return _unusable(folder.name, f"{RECORD_FILE} is torn")
    except OSError as error:
        return _unusable(folder.name, f"{RECORD_FILE} cannot be read ({error.strerror})")
    if record.trial_id != folder.name:  # a copied folder: two rows must not bear one name
        return _unusable(folder.name, f"{RECORD_FILE} is that of trial {record.trial_id}")
    return record


def _unusable(trial_id: str, reason: str) -> TrialRecord:
    return TrialRecord(
        trial_id=trial_id,
        status=Status.FAILED,
        reason=reason,
        task="",
        metric="",
        mode="",
        architecture="",
        epochs_planned=0,
        data="",
        data_digest="",
        split_digest="",
        created_at="",
    )
