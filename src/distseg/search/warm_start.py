"""The best trials of an earlier study as the first points of a new one."""

import math
from pathlib import Path
from typing import Any

from distseg import config
from distseg.config import RunConfig, SearchConfig, with_overrides
from distseg.errors import ConfigError, HomeError
from distseg.records import TRIALS_FOLDER, Status, StudyInfo, TrialRecord
from distseg.search.space import applies, base_point, value_at
from distseg.search.study import SEARCH_FILE


def best_points(
    folder: Path, search: SearchConfig, base: RunConfig, data_digest: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The best ``search.startup_trials`` of the study in ``folder``, best first, as points of another search; notes.

    They take the place of the random start of TPE. A point has the earlier trial's value for each field of the new
    space; one that equals the base config or a point before it is left out. The notes name the fields that the earlier
    study searched and this one does not: they stay as the base config has them.
    HomeError when it ran on other data, or none of its trials has the metric; ConfigError for a field that no longer
    exists or a value that it no longer takes.
    """
    info = StudyInfo.load(folder)
    if info.data_digest != data_digest:
        raise HomeError(
            f"--warm-start {info.name}: its trials saw data {info.data_digest[:8]}, this study sees {data_digest[:8]}; "
            "want a study of the same shards"
        )
    earlier, earlier_base = config.load_search(folder / SEARCH_FILE)
    trials = _best_first(folder, base.eval.metric, base.eval.mode)
    if not trials:
        raise HomeError(f"--warm-start {info.name}: none of its trials has {base.eval.metric}; leave it out")
    known = [base_point(search.space, base), *map(dict, search.points)]
    configs = [with_overrides(base, point) for point in known]
    points: list[dict[str, Any]] = []
    for trial in trials:
        if len(points) == search.search.startup_trials:
            break
        source = f"--warm-start {info.name}: trial {trial.trial_id}"
        point = _point(search, with_overrides(earlier_base, trial.overrides, source))
        try:
            made = with_overrides(base, point, source)
        except ConfigError:  # the values clash with what the new base config says elsewhere
            continue
        if made not in configs:
            configs.append(made)
            points.append(point)
    left = sorted(set(earlier.space) - set(search.space))
    notes = [f"warm start: {len(points)} points from study {info.name}"]
    if left:
        notes.append(f"warm start: {info.name} searched {', '.join(left)}, which this study leaves at its base config")
    return points, notes


def _best_first(folder: Path, metric: str, mode: str) -> list[TrialRecord]:
    """Trials that did not fail and have a figure."""
    found = []
    for path in sorted((folder / TRIALS_FOLDER).glob("*")):
        try:
            trial = TrialRecord.load(path)
        except HomeError:  # torn, or no record yet
            continue
        value = trial.metrics.get(metric)
        if trial.status is not Status.FAILED and isinstance(value, float) and math.isfinite(value):
            found.append((value, trial))
    return [trial for _, trial in sorted(found, key=lambda pair: pair[0], reverse=mode == "max")]


def _point(search: SearchConfig, cfg: RunConfig) -> dict[str, Any]:
    """A config as overrides of the fields that a search asks for; those of other branches are left out."""
    point: dict[str, Any] = {}
    for path, dimension in search.space.items():
        if applies(dimension, point):
            point[path] = value_at(cfg, path)
    return point
