"""``distseg train``: one run, alone, under torchrun, or on Ray Train."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distseg.cli.follow import Follow
    from distseg.home import Home
    from distseg.records import TrialRecord
    from distseg.train.run_folder import RunSpec


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a run.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="E.g. optim.lr=3e-4.")] = None,
    data: Annotated[str, typer.Option(metavar="SHARDS", help="Folder made by 'distseg data pack', or its URL.")] = ...,  # type: ignore[assignment]
    workers: Annotated[int, typer.Option(min=1, help="DDP workers, on Ray Train.")] = 1,
    min_workers: Annotated[
        int | None, typer.Option(min=1, help="Go on with as few when nodes are lost; default: fail.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Without Ray: here, or as one of torchrun's.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="[RUN]", help="Go on with a run; without a name, with the newest of this CONFIG."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    home: Annotated[str | None, typer.Option(metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")] = None,
) -> None:
    """Train one model.

    Example:

        distseg train configs/smoke.yaml --data shards --local train.epochs=4
    """
    from distseg.config import load_run
    from distseg.data.cache import ShardCache
    from distseg.data.manifest import locate
    from distseg.errors import InputError
    from distseg.home import Home, unique_name
    from distseg.train.run_folder import RunSpec

    if local and workers > 1:
        raise InputError(f"--local: got --workers {workers} beside it; use torchrun --nproc-per-node {workers}, or Ray")
    if min_workers is not None and (local or min_workers > workers):
        wanted = f"at most --workers {workers}" if not local else "it without --local, on Ray"
        raise InputError(f"--min-workers: got {min_workers}, want {wanted}")
    cfg = load_run(config, overrides or [])
    folders = Home.from_environment(home)
    name = _resumed(folders, resume, config.stem) if resume is not None else unique_name(config.stem)
    spec = RunSpec(
        config=cfg, data=str(locate(data)), folder=folders.run(name), trial_id=name, cache=ShardCache.of(folders)
    )
    record = _local(spec) if local else _on_ray(spec, workers, min_workers, folders.root / "cache" / "ray")
    if record is not None:
        _show(name, record, spec, as_json)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _leave_at_once()


def _leave_at_once() -> None:
    """Ends one of torchrun's processes without Python's own end, once all is written.

    DDP keeps gloo's threads alive after its group is destroyed; one that asks for Python's lock while Python ends
    aborts the process ("terminate called without an active exception"), and torchrun takes the whole run for failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _resumed(folders: "Home", wanted: str, stem: str) -> str:
    """Name of the run to go on with; HomeError when there is none."""
    from distseg.errors import HomeError

    if wanted:
        if not folders.run(wanted).is_dir():
            raise HomeError(f"run '{wanted}': not found in {folders.runs}; start it without --resume")
        return wanted
    found = sorted(folders.runs.glob(f"{stem}-????????T??????-????"), key=lambda folder: folder.stat().st_mtime)
    if not found:
        raise HomeError(f"--resume: no run '{stem}-...' in {folders.runs}; start one without --resume")
    return found[-1].name


def _local(spec: "RunSpec") -> "TrialRecord | None":
    """Trains in this process; the record on rank 0, None on torchrun's other ranks."""
    from contextlib import nullcontext
    from dataclasses import replace

    from distseg.train.loop import run
    from distseg.train.worker import gather_objects, local_worker

    with local_worker() as worker:
        # torchrun's processes named the run each for itself: rank 0's name counts
        folder = gather_objects(spec.folder)[0]
        spec = replace(spec, folder=folder, trial_id=folder.name)
        with _follow(spec) if worker.rank == 0 else nullcontext():
            record = run(spec, worker)
        return record if worker.rank == 0 else None


def _on_ray(spec: "RunSpec", workers: int, workers_min: int | None, storage: Path) -> "TrialRecord":
    from distseg.data.manifest import ShardFolder
    from distseg.on_ray.session import check_workers, cluster_total, session

    ShardFolder.open(spec.data)  # says what is wrong with it before Ray takes its time to start
    with session(one_run=workers_min is None) as own_ray:
        from distseg.on_ray.train import fit

        cpus = spec.config.train.threads
        gpus = 1 if cluster_total("GPU") else 0
        check_workers(workers_min or workers, cpus, gpus)
        with _follow(spec):
            return fit(
                spec,
                storage=storage,
                workers=workers,
                workers_min=workers_min,
                cpus_per_worker=cpus,
                gpus_per_worker=gpus,
                own_ray=own_ray,
            )


def _follow(spec: "RunSpec") -> "Follow":
    from distseg.cli.follow import Follow

    return Follow(spec.folder, spec.config.train.epochs, spec.config.eval.metric)


def _show(name: str, record: "TrialRecord", spec: "RunSpec", as_json: bool) -> None:
    from distseg.cli.console import print_json, print_table

    if as_json:
        print_json(
            {
                "run": name,
                "metrics": record.metrics,
                "samples": record.samples,
                "seconds": record.seconds,
                "resolution": record.resolution,
                "config": spec.config.model_dump(mode="json"),
            }
        )
        return
    rows = [(key, f"{value:.4f}") for key, value in record.metrics.items() if isinstance(value, float)]
    print_table(f"best epoch: {record.best_epoch} of {record.epochs}", ("metric", "value"), rows)
    on_gpu = f", {60 * record.gpu_hours:.1f} GPU minutes, {record.energy_wh:.1f} Wh" if record.gpu_hours else ""
    typer.echo(f"trained for {record.seconds:.0f} s, {60 * record.cpu_hours:.1f} CPU minutes{on_gpu}")
    typer.echo(f"run folder: {spec.folder}\nexport it:  distseg export {name} --out model.ts")
