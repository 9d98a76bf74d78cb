"""What a search costs beside Ray Tune itself, and what it saves beside a random search.

    python benchmarks/search.py
    python benchmarks/search.py --only trials --trials 200
    python benchmarks/search.py --only replay

Warm: seconds from the end of a one-worker trial, which frees the only slot, to the call of the next one's function.
ASHA stops some trials early, and each at its last epoch.
The claim is 0.5 s at most, for every trial but the first.
Nested: in turns, each with a Ray of its own, a study's first trial of two workers as `distseg tune` runs it, and a
function of Tune that drives a TorchTrainer, both with Ray's defaults. Wall seconds from Tuner.fit to the end of the
first step of the same loop. The claim is a ratio of 0.75 at most.
Trials: in turns, each with a Ray of its own, so many trials that only report one number, as a study (with its record
of every event and trial) and as Tune alone, both with the same sampler, ASHA, loggers and warm processes. Wall
seconds in all. The claim is a ratio of 1.15 at most.
Replay: nothing is trained. The learning curves of every setting of a grid, recorded by a study on real photographs
(benchmarks/curves.yaml), are handed out as the search asks for them. The claim: with a third of the epochs that all
settings take together, ASHA + TPE find a Dice within 0.001 of the best of them, from each of three seeds.
Prints one JSON line a figure.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from distseg import config
from distseg.config import RunConfig, SearchConfig, with_overrides
from distseg.data.layouts import read_corpus
from distseg.data.pack import pack
from distseg.data.synthetic.carvana import write_carvana
from distseg.home import Home
from distseg.records import Status, StudyInfo, TrialRecord, read_json_lines
from distseg.search.events import Event
from distseg.search.start import StudyRequest, open_study
from distseg.search.study import Study
from distseg.train import loop
from distseg.train.run_folder import RunSpec
from distseg.train.step import train_step
from distseg.train.worker import Worker

WORKERS = 2
ONE = "resources.max_concurrent=1"
OnEvent = Callable[[Event], None]
CURVES = Path(__file__).with_name("curves_carvana.json")
BASE = {"model.width": 4, "train.epochs": 1, "train.batch_global": 8, "train.precision": "fp32"}
SEARCH = """
base: base.yaml
space:
  optim.lr: {kind: loguniform, low: 1.0e-4, high: 1.0e-2}
  loss.dice_weight: {kind: uniform, low: 0.1, high: 0.9}
  augment.policy: {kind: choice, values: [none, flip]}
search: {startup_trials: 10}
"""


def say(figure: str, **values: Any) -> None:
    print(json.dumps({"figure": figure, **values}), flush=True)


def quiet(*_: Any) -> None:
    """Follows a study without a word."""


def new_study(folder: Path, *overrides: str) -> Study:
    """A study of a tiny network on a few make-believe photographs, in a folder of its own."""
    (folder / "base.yaml").write_text(config.dump(with_overrides(RunConfig(), BASE)))
    (folder / "search.yaml").write_text(SEARCH)
    if not (folder / "shards").exists():
        write_carvana(folder / "raw", groups=3, views=4, size=(64, 64))
        pack(read_corpus("carvana", folder / "raw"), folder / "shards", size=(32, 32), val_fraction=0.34)
    request = StudyRequest(name="s")
    return open_study(Home(folder / "home"), folder / "search.yaml", overrides, folder / "shards", request)[0]


def run_study(study: Study, trial: Callable[..., None], on_event: OnEvent = quiet) -> float:
    """Seconds that a study takes with another function in its trials, Ray being up."""
    from distseg.on_ray import tune
    from distseg.on_ray.session import session

    vars(tune)["train_trial"] = trial
    with session(cpus=WORKERS):
        begun = time.perf_counter()
        tune.search(study, on_event, quiet)
        return time.perf_counter() - begun


# Warm


def marked_trial(trial: dict[str, Any], study: dict[str, Any]) -> None:
    from distseg.on_ray.tune import train_trial

    folder = study["folder"] / "trials" / trial["trial_id"]
    (folder / "begun").write_text(str(time.time()))
    train_trial(trial, study)


def warm_starts(trials: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        study = new_study(Path(name), "train.epochs=3", *[f"study.{each}" for each in (f"budget.trials={trials}", ONE)])
        ended: dict[str, float] = {}
        run_study(study, marked_trial, lambda event: ended.setdefault(f"{event.trial_id} {event.kind}", time.time()))
        folders = sorted(study.folder.glob("trials/*"))
        begun = {folder.name: float((folder / "begun").read_text()) for folder in folders}
        early = sum(TrialRecord.load(folder).status is Status.PRUNED for folder in folders)
    gaps = [begun[later.name] - ended[f"{earlier.name} end"] for earlier, later in itertools.pairwise(folders)]
    assert len(gaps) == trials - 1
    longest = max(gaps)
    found = {"median_s": round(float(np.median(gaps)), 3), "max_s": round(longest, 3)}
    say("warm_start", **found, bound_s=0.5, held=longest <= 0.5, trials=trials, stopped_early=early)


# Nested


def mark_and_train(spec: RunSpec, worker: Worker, marks: Path) -> None:
    """Rank 0 writes down when its first step was over."""

    def marked(*given: Any) -> torch.Tensor:
        sums = train_step(*given)
        if worker.rank == 0 and not marks.exists():
            marks.write_text(str(time.time()))
        return sums

    vars(loop)["train_step"] = marked
    loop.run(spec, worker)


def nested_ours(folder: Path) -> float:
    from distseg.on_ray import train, tune
    from distseg.on_ray.session import session

    study = new_study(folder, "study.budget.trials=1", f"study.resources.workers_per_trial={WORKERS}")
    train_trial, marks = tune.train_trial, folder / "marks"

    def train_worker(spec: RunSpec) -> None:
        mark_and_train(spec, train.TrainWorker(), marks)

    def trial(trial: dict[str, Any], study: dict[str, Any]) -> None:
        vars(train)["_train_worker"] = train_worker
        train_trial(trial, study)

    vars(tune)["train_trial"] = trial
    with session(cpus=WORKERS):
        begun = time.time()
        tune.search(study, quiet, quiet)
    return float(marks.read_text()) - begun


def nested_stock(folder: Path) -> float:
    import ray
    import ray.train.torch
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    study, marks = new_study(folder), folder / "marks"
    spec = RunSpec(study.base, study.info.data, folder / "run", trial_id="run")

    def train_worker(given: dict[str, Any]) -> None:
        from distseg.on_ray.train import TrainWorker

        mark_and_train(spec, TrainWorker(), marks)

    def drive(given: dict[str, Any]) -> None:
        ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config=given,
            scaling_config=ray.train.ScalingConfig(num_workers=WORKERS),
            run_config=ray.train.RunConfig(storage_path=str(folder / "train"), callbacks=[TuneReportCallback()]),
        ).fit()

    ray.init(address="local", num_cpus=WORKERS, log_to_driver=False)
    begun = time.time()
    tuner = tune.Tuner(
        tune.with_resources(drive, {"memory": 1.0}),  # with a CPU, it would wait for ever for the second one
        tune_config=tune.TuneConfig(num_samples=1),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    )
    tuner.fit()
    ray.shutdown()
    return float(marks.read_text()) - begun


# Trials


def trivial(trial: dict[str, Any], study: dict[str, Any]) -> None:
    from ray import tune

    score = -abs(trial["overrides"]["optim.lr"] - 0.003)
    folder = study["folder"] / "trials" / trial["trial_id"]
    done = {"status": Status.COMPLETED, "metrics": {"dice_mean_per_image": score}, "epochs": 1}
    TrialRecord.load(folder).model_copy(update=done).save(folder)
    tune.report({"epoch": 1, "score": score})


def trivial_stock(given: dict[str, Any]) -> None:
    from ray import tune

    tune.report({"epoch": 1, "score": -abs(given["optim.lr"] - 0.003)})


def stock_space(trial: Any) -> None:
    """The space of ``SEARCH``, as a user of Optuna writes it."""
    trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True)
    trial.suggest_float("loss.dice_weight", 0.1, 0.9)
    trial.suggest_categorical("augment.policy", ["none", "flip"])


def trials_ours(folder: Path, trials: int) -> float:
    return run_study(new_study(folder, f"study.budget.trials={trials}"), trivial)


def trials_stock(folder: Path, trials: int) -> float:
    import ray
    from ray import tune
    from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from distseg.on_ray.suggestions import sampler_of

    search = new_study(folder).search

    ray.init(address="local", num_cpus=WORKERS, log_to_driver=False)
    begun = time.perf_counter()
    tune.Tuner(
        tune.with_resources(trivial_stock, {"CPU": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(space=stock_space, metric="score", mode="max", sampler=sampler_of(search)),
            scheduler=ASHAScheduler(time_attr="epoch", metric="score", mode="max"),
            num_samples=trials,
            max_concurrent_trials=WORKERS,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder / "tune"),
            verbose=0,
            callbacks=[JsonLoggerCallback(), CSVLoggerCallback()],  # type: ignore[no-untyped-call]
        ),
    ).fit()
    seconds = time.perf_counter() - begun
    ray.shutdown()
    return seconds


SIDES: dict[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "nested": (nested_ours, nested_stock),
    "trials": (trials_ours, trials_stock),
}


def compare(what: str, rounds: int, bound: float, **options: int) -> None:
    """Ours and stock in turns, each in a new process; seconds of both and the median of the rounds' ratios."""
    seconds: dict[str, list[float]] = {"ours": [], "stock": []}
    for number in range(rounds):
        for side in ("ours", "stock") if number % 2 else ("stock", "ours"):
            with tempfile.TemporaryDirectory() as name:
                words = [sys.executable, __file__, "--side", f"{what}-{side}", "--folder", name]
                words += [word for key, value in options.items() for word in (f"--{key}", str(value))]
                done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            seconds[side].append(float(done.stdout.splitlines()[-1]))
            print(f"{what} {side}: {seconds[side][-1]:.2f} s", file=sys.stderr)
    ratios = np.sort(np.divide(seconds["ours"], seconds["stock"]))
    medians = {f"{side}_s": round(float(np.median(each)), 2) for side, each in seconds.items()}
    found = {"ratio": np.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}
    rounded = {name: round(float(value), 3) for name, value in found.items()}
    say(what, **medians, **rounded, bound=bound, held=rounded["ratio"] <= bound, rounds=rounds, **options)


# Replay


def collect(folder: Path) -> None:
    """Prints the learning curves of a finished study."""
    info = StudyInfo.load(folder)
    search, base = config.load_search(folder / "search.yaml")
    curves = []
    for path in sorted(folder.glob("trials/*")):
        record = TrialRecord.load(path)
        scores = [round(row["score"], 5) for row in read_json_lines(path / "epochs.jsonl")]
        if record.status is not Status.COMPLETED or len(scores) != base.train.epochs:
            raise SystemExit(f"{path}: {record.status} after {len(scores)} epochs; want whole curves")
        curve = {"overrides": record.overrides, "scores": scores}
        if curve not in curves:  # a setting that was drawn twice ends as it did before
            curves.append(curve)
    space = {name: dimension.model_dump(exclude_none=True) for name, dimension in search.space.items()}
    grid = [
        dict(zip(space, each, strict=True)) for each in itertools.product(*[one["values"] for one in space.values()])
    ]
    found = [curve["overrides"] for curve in curves]
    if missing := [each for each in grid if each not in found]:
        raise SystemExit(
            f"{folder}: lacks {len(missing)} of {len(grid)} settings; go on with more --trials and --resume"
        )
    about = {"metric": info.metric, "data_digest": info.data_digest, "epochs": base.train.epochs}
    rows = ",\n".join(json.dumps(curve) for curve in curves)
    print(f'{{"about": {json.dumps(about)},\n"space": {json.dumps(space)},\n"curves": [\n{rows}\n]}}')


def replay(recorded: dict[str, Any], settings: dict[str, Any], epochs: int, folder: Path) -> tuple[float, int, int]:
    """(best score, epochs spent, trials begun) of a search that may spend so many epochs."""
    from distseg.on_ray.schedulers import scheduler_of
    from distseg.on_ray.searcher import RecordedSearcher

    curves = {json.dumps(row["overrides"], sort_keys=True): row["scores"] for row in recorded["curves"]}
    length = recorded["about"]["epochs"]
    first = recorded["curves"][0]["overrides"]  # the base config's
    base = with_overrides(
        RunConfig(), {"model.architecture": "unet", "model.encoder": "", "train.epochs": length, **first}
    )
    budget = {"trials": 10**6}
    search = SearchConfig.model_validate({"base": "", "space": recorded["space"], "search": settings, "budget": budget})
    nothing = dict.fromkeys(("data", "data_digest", "split_digest", "created_at", "version"), "")
    info = StudyInfo(
        name="replay", metric=recorded["about"]["metric"], mode="max", base="", trials_planned=1, **nothing
    )
    study = Study.create(folder, info, search, base)
    study.begin()
    scheduler = scheduler_of(search, base, "max")
    searcher = RecordedSearcher(study, scheduler, quiet)
    best, spent, begun = 0.0, 0, 0
    while spent < epochs:
        tune_id = str(begun)
        trial: Any = searcher.suggest(tune_id)
        begun += 1
        known: Any = SimpleNamespace(trial_id=tune_id, config=trial)
        scheduler.on_trial_add(None, known)  # type: ignore[arg-type]
        for epoch, score in enumerate(curves[json.dumps(trial["overrides"], sort_keys=True)], start=1):
            spent += 1
            best = max(best, score)
            result = {"epoch": epoch, "score": score, "training_iteration": epoch}
            decision = scheduler.on_trial_result(None, known, result)  # type: ignore[arg-type]
            if decision == "STOP" or epoch == length or spent == epochs:
                searcher.on_trial_complete(tune_id, result)
                break
            searcher.on_trial_result(tune_id, result)
    study.end()
    return best, spent, begun


def compare_replays(seeds: int) -> None:
    if not CURVES.exists():
        raise SystemExit(f"{CURVES}: missing; record it as benchmarks/curves.yaml says")
    recorded = json.loads(CURVES.read_text())
    length, settings = recorded["about"]["epochs"], len(recorded["curves"])
    full = settings * length
    best = max(max(curve["scores"]) for curve in recorded["curves"])
    lines = []
    with tempfile.TemporaryDirectory() as name:
        for seed in range(seeds):
            for label, algorithm, scheduler in (("asha_tpe", "tpe", "asha"), ("random", "random", "none")):
                chosen = {"algorithm": algorithm, "scheduler": scheduler, "seed": seed}
                found, spent, begun = replay(recorded, chosen, full // 3, Path(name) / f"{label}-{seed}")
                row = {"search": label, "seed": seed, "best": found, "short_by": round(best - found, 5)}
                lines.append(row | {"epochs": spent, "trials": begun})
    held = all(row["short_by"] <= 0.001 for row in lines if row["search"] == "asha_tpe")
    for row in lines:
        say("replay_run", **row)
    say("replay", full_best=best, full_epochs=full, settings=settings, bound=0.001, held=held, seeds=seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("warm", "nested", "trials", "replay"))
    parser.add_argument("--trials", type=int, default=1000, help="trivial ones")
    parser.add_argument("--rounds", type=int, default=3, help="of nested starts")
    parser.add_argument("--seeds", type=int, default=3, help="of replays")
    parser.add_argument("--collect", type=Path, metavar="STUDY", help="print the learning curves of a study's folder")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    if options.collect:
        collect(options.collect)
        return
    if options.side:
        what, _, side = options.side.partition("-")
        given = {"trials": options.trials} if what == "trials" else {}
        print(SIDES[what][side == "stock"](options.folder, **given))
        return
    wanted = [options.only] if options.only else ["warm", "nested", "trials", "replay"]
    if "warm" in wanted:
        warm_starts(trials=10)
    if "nested" in wanted:
        compare("nested", options.rounds, bound=0.75)
    if "trials" in wanted:
        compare("trials", 1, bound=1.15, trials=options.trials)
    if "replay" in wanted:
        compare_replays(options.seeds)


if __name__ == "__main__":
    main()
