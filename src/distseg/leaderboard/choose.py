"""Which run folder a name on the command line means: a run's own, or that of a study's best trial."""

from pathlib import Path

from distseg.errors import HomeError
from distseg.leaderboard.board import read_board
from distseg.records import STUDY_FILE, TRIALS_FOLDER


def trial_folder(folder: Path, trial: str | None = None) -> Path:
    """A run's own folder; of a study that of ``trial``, by default of the best. HomeError when there is none."""
    if not (folder / STUDY_FILE).is_file():
        if trial is not None:
            raise HomeError(f"--trial {trial}: {folder.name} is a run, not a study; leave --trial out")
        return folder
    board = read_board(folder)
    if trial is not None:
        if trial not in {row.trial_id for row in board.rows}:
            known = ", ".join(sorted(row.trial_id for row in board.rows)) or "none yet"
            raise HomeError(f"--trial {trial}: not in study {folder.name}; it has {known}")
        return folder / TRIALS_FOLDER / trial
    if board.best is None:
        raise HomeError(
            f"study {folder.name}: no trial has a {board.metric} yet; see 'distseg leaderboard {folder.name}'"
        )
    return Path(board.best.folder)
