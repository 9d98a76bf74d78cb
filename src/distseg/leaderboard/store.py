"""A study's folder as it is read: ``study.json`` and one ``trials/ID/record.json`` a trial.

Reading takes no lock: records are replaced whole, so a reader sees the one before or the one after.
"""

from pathlib import Path

from distseg.errors import HomeError
from distseg.records import RECORD_FILE, TRIALS_FOLDER, Status, TrialRecord


def records(study_folder: Path) -> list[TrialRecord]:
    """All trials of a study in the order of their names; empty before the first.

    A record that cannot be used is a FAILED one with the reason: a board never loses a row nor breaks on one. Folders
    without a record are not trials yet.
    """
    folders = sorted((study_folder / TRIALS_FOLDER).glob("*"))
    return [_record(folder) for folder in folders if (folder / RECORD_FILE).is_file()]


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
