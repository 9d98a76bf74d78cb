"""Opening a study: a new one, or one to go on with, checked as a whole before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg import __version__, config
from distseg.data.cache import ShardCache
from distseg.data.manifest import ShardFolder
from distseg.errors import HomeError
from distseg.home import Home, unique_name
from distseg.records import StudyInfo, now
from distseg.search.study import Study
from distseg.search.warm_start import best_points
from distseg.tasks.check import check_task


@dataclass(frozen=True)
class StudyRequest:
    """What a person asks of a study, beside its search file and its data; None leaves it to the file."""

    name: str | None = None
    resume: bool = False
    trials: int | None = None
    workers_per_trial: int | None = None
    random: bool = False
    """Random search: the baseline at the same budget."""
    warm_start: str | None = None
    """Name of the study whose best trials come first."""
    job_id: str | None = None
    """The queue's job that this process runs in: its later attempts resume the study that the first one began."""

    def assignments(self) -> list[str]:
        """What it changes of the search file, as overrides."""
        found = []
        if self.trials is not None:
            found.append(f"study.budget.trials={self.trials}")
        if self.workers_per_trial is not None:
            found.append(f"study.resources.workers_per_trial={self.workers_per_trial}")
        if self.random:
            found.append("study.search.algorithm=random")
        return found


ANEW = StudyRequest()


def open_study(
    home: Home,
    search_file: Path,
    overrides: Sequence[str],
    data: Path | str,
    request: StudyRequest = ANEW,
) -> tuple[Study, list[str]]:
    """A new study, or an existing one to go on with; and what the user should know of it, in lines.

    ``data``: folder of shards, or its URL.
    ConfigError, DataError or HomeError when the config, the shards or the names are not right.
    """
    search, base = config.load_search(search_file, [*overrides, *request.assignments()])
    shards = ShardFolder.open(data, ShardCache.of(home))
    manifest = shards.manifest
    check_task(base.task, manifest)
    stem = f"{search_file.stem}-random" if request.random else search_file.stem
    name = _existing(home, stem, request)
    if name is not None:
        return Study.resume(home.existing_study(name), search, base, manifest.data_digest), []
    notes: list[str] = []
    if request.warm_start is not None:
        folder = home.existing_study(request.warm_start)
        points, notes = best_points(folder, search, base, manifest.data_digest)
        search = search.model_copy(update={"points": (*search.points, *points)})
    info = StudyInfo(
        name=request.name or unique_name(stem),
        metric=base.eval.metric,
        mode=base.eval.mode,
        base=Path(search.base).stem,
        trials_planned=search.budget.trials,
        data=str(shards.root),
        data_digest=manifest.data_digest,
        split_digest=manifest.split_digest_of(base.data.fold),
        warm_start=request.warm_start,
        job_id=request.job_id,
        created_at=now(),
        version=__version__,
    )
    return Study.create(home.study(info.name), info, search, base), notes


def _existing(home: Home, stem: str, request: StudyRequest) -> str | None:
    """Name of the study to go on with; None for a new one. Without a name, a job's own study bears the file's."""
    if request.resume:
        if request.name is None:
            raise HomeError("--resume: which study? give its name with --study NAME")
        return request.name
    if request.job_id is None:
        return None
    for name in reversed(home.study_names()):
        wanted = name == request.name if request.name else name.startswith(f"{stem}-")
        if wanted and StudyInfo.load(home.study(name)).job_id == request.job_id:
            return name
    return None
