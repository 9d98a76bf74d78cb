"""Which run folder a name on the command line means: a run's own, or that of a study's best trial."""

from pathlib import Path

from distseg.errors import HomeError
from distseg.leaderboard.rank import rank
from distseg.leaderboard.store import records
from distseg.records import STUDY_FILE, TRIALS_FOLDER, StudyInfo


def trial_folder(folder: Path, trial: str | None = None) -> Path:
    """A run's own folder; of a study that of ``trial``, by default of the best. HomeError when there is none."""
    if not (folder / STUDY_FILE).is_file():
        if trial is not None:
            raise HomeError(f"--trial {trial}: {folder.name} is a run, not a study; leave --trial out")
        return folder
    trials = records(folder)
    if trial is not None:
        if trial not in {record.trial_id for record in trials}:
            known = ", ".join(record.trial_id for record in trials) or "none yet"
            raise HomeError(f"--trial {trial}: not in study {folder.name}; it has {known}")
        return folder / TRIALS_FOLDER / trial
    study = StudyInfo.load(folder)
    best = next((row for row in rank(trials, study.metric, study.mode, folder) if row.rank == 1), None)
    if best is None:
        raise HomeError(
            f"study {folder.name}: no trial has a {study.metric} yet; see 'distseg leaderboard {folder.name}'"
        )
    return folder / TRIALS_FOLDER / best.trial_id
