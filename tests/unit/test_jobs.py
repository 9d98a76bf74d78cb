"""The entry points for ``ray job submit``: what each refuses before it starts anything, and which options it shares."""

import json
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import ColourIsClass, RedIsObject, exported
from PIL import Image

from distseg.cli import main as cli
from distseg.data.cache import ShardCache
from distseg.predict.decode import Decoders
from distseg.predict.evaluate import Counted, Evaluator, Part
from distseg.predict.pipeline import Finish, Pipeline, Run
from distseg.predict.segmenter import Recipe, Segmenter

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (REPOSITORY / "jobs").glob("*.py"))


def run_job(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> object:
    """Runs ``python jobs/NAME.py WORDS`` in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPOSITORY / f"jobs/{name}.py"), run_name="__main__")
    return end.value.code


def run_command(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    """Runs ``distseg WORDS`` in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["distseg", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize(
    ("name", "words", "option"),
    [
        ("tune_carvana", ["--raw", "here"], "--raw"),
        ("tune_camvid", ["--data", "here"], "--data"),
        ("train", ["configs/smoke.yaml", "--data", "/there", "--home", "here"], "--home"),
        ("submission", ["/m.ts", "--images", "/in", "--out", "/out.csv", "--sample", "here"], "--sample"),
        ("submission", ["/m.ts", "here", "--images", "/in", "--out", "/out.csv"], "here"),
        ("evaluate", ["/m.ts", "--data", "here"], "--data"),
        ("evaluate", ["/m.ts", "--data", "s3://bucket/shards", "--home", "here"], "--home"),
    ],
)
def test_relative_paths_are_refused_saying_why(
    name: str, words: list[str], option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_job(monkeypatch, name, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"{name}: error: {option}: got the relative path 'here', want an absolute one: a job runs elsewhere\n"
    )


def test_every_job_takes_absolute_paths_alone() -> None:
    """All of them go through the one check; a new one must as well."""
    for name in set(JOBS) - {"kaggle_notebook"}:  # which runs where there is neither Ray nor this package
        text = (REPOSITORY / f"jobs/{name}.py").read_text()
        assert any(call in text for call in ("absolute(", "parse_search_job(", "run_as_job(")), name
        assert "sys.exit(end(" in text or "sys.exit(run_as_job(" in text, name


def test_an_exit_code_for_each_end(capsys: pytest.CaptureFixture[str]) -> None:
    from distseg.errors import InputError, TrainingError
    from distseg.on_ray.job import absolute, end

    def failing(error: BaseException) -> str:
        raise error

    assert end("job", lambda: "done") == 0
    assert end("job", lambda: failing(InputError("no"))) == 2
    assert end("job", lambda: failing(TrainingError("nan"))) == 1
    assert end("job", lambda: failing(KeyboardInterrupt())) == 130
    captured = capsys.readouterr()
    assert captured.out == "done\n"
    assert captured.err == "job: error: no\njob: error: nan\njob: interrupted\n"
    absolute({"--data": "s3://bucket/shards", "--home": None, "--raw": Path("/data")})


# The jobs that are commands


@contextmanager
def pipelines_here(recipe: Recipe, finish: Finish[Any], workers: int) -> Iterator[Run[Any]]:
    """In the place of a cluster's."""
    yield Pipeline(Segmenter.open(recipe), finish, Decoders(0))


@contextmanager
def evaluators_here(
    recipe: Recipe, data: Path, split: str, cache: ShardCache, workers: int
) -> Iterator[Callable[[Sequence[Part]], Iterator[Counted]]]:
    """In the place of a cluster's."""
    yield lambda parts: map(Evaluator(recipe, data, split, cache), parts)


def test_a_submission_of_several_classes_is_that_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distseg.on_ray.predict.pipelines", pipelines_here)
    (tmp_path / "in").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"in/{number}.png")
    (tmp_path / "in/1.png").write_bytes(b"no picture")
    (tmp_path / "sample.csv").write_text(
        "id,runs\n" + "".join(f"{n}_{c},\n" for c in ("car", "road") for n in (2, 0, 1))
    )
    words = [exported(ColourIsClass(), tmp_path / "model.ts", ("sky", "road", "car")), "--images", tmp_path / "in"]
    words += ["--sample", tmp_path / "sample.csv", "--row-id", "{stem}_{class}", "--first", 0, "--unreadable", "empty"]
    assert run_command(monkeypatch, "submission", *words, "--out", tmp_path / "command.csv") == 0
    assert run_job(monkeypatch, "submission", *words, "--out", tmp_path / "job.csv", "--workers", 2) == 0
    rows = (tmp_path / "job.csv").read_text()
    assert rows == (tmp_path / "command.csv").read_text()
    assert rows.startswith("id,runs\n2_car,")
    assert "\n1_road,\n" in rows


def test_measuring_is_that_of_the_command(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distseg.on_ray.predict.evaluators", evaluators_here)
    words = [exported(RedIsObject(), tmp_path / "model.ts"), "--data", shards, "--split", "train", "--home", tmp_path]
    assert run_command(monkeypatch, "evaluate", *words, "--json") == 0
    of_command = capsys.readouterr()
    assert run_job(monkeypatch, "evaluate", *words, "--workers", 2) == 0
    of_job = capsys.readouterr()
    note = "note: the training of model.ts saw samples of 'train'; its figure is too good\n"
    assert of_job.err == of_command.err == note
    found, wanted = json.loads(of_job.out), json.loads(of_command.out)
    assert found["samples"] == wanted["samples"] == 8
    assert found["metrics"]["per_class"] == wanted["metrics"]["per_class"]


@pytest.mark.parametrize(
    "words", [["submission", "/m.ts", "--images", "/in", "--out", "/o.csv"], ["evaluate", "/m.ts", "--data", "/s"]]
)
def test_workers_are_wanted(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_job(monkeypatch, *words) == 2
    assert capsys.readouterr().err.startswith(f"{words[0]}: error: --workers: not given, want how many workers")
