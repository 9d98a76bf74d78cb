"""The entry points for ``ray job submit``: what each refuses before it starts anything."""

import runpy
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (REPOSITORY / "jobs").glob("*.py"))


@pytest.mark.parametrize(
    ("name", "words", "option"),
    [
        ("tune_carvana", ["--raw", "here"], "--raw"),
        ("tune_camvid", ["--data", "here"], "--data"),
        ("train", ["configs/smoke.yaml", "--data", "/there", "--home", "here"], "--home"),
    ],
)
def test_relative_paths_are_refused_saying_why(
    name: str, words: list[str], option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", *words])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(REPOSITORY / f"jobs/{name}.py"), run_name="__main__")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"{name}: error: {option}: got the relative path 'here', want an absolute one: a job runs elsewhere\n"
    )


def test_every_job_takes_absolute_paths_alone() -> None:
    """All of them go through the one check; a new one must as well."""
    for name in set(JOBS) - {"kaggle_notebook"}:  # which runs where there is neither Ray nor this package
        text = (REPOSITORY / f"jobs/{name}.py").read_text()
        assert "absolute(" in text or "parse_search_job(" in text, name
        assert "sys.exit(end(" in text, name


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
