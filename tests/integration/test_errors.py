"""Bad input through the real command line: exit code 2, one clear line on stderr, nothing written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import CONFIGS, distseg

from distseg.cli import main as cli
from distseg.data.manifest import ShardFolder
from distseg.home import Home
from distseg.records import Status, TrialRecord

SMOKE, SEARCH = str(CONFIGS / "smoke.yaml"), str(CONFIGS / "search/smoke.yaml")
TINY = ["model.width=2", "train.epochs=1", "train.batch_global=4"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    """The one line that ``distseg WORDS`` answers with."""
    monkeypatch.setattr(sys, "argv", ["distseg", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    assert end.value.code == code, printed.err
    assert printed.out == ""
    *before, line = printed.err.splitlines()
    assert line.startswith("distseg: error: ")
    assert all(said.startswith("run ") for said in before[:1]), printed.err  # the name of a run that had begun
    assert len(before) <= (1 if code == 1 else 0), printed.err
    return line.removeprefix("distseg: error: ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "absent.yaml"], "absent.yaml: cannot be read (No such file or directory); give the path of a YAML"),
        (["train", SMOKE, "optm.lr=1"], "unknown key 'optm'; did you mean 'optim.lr'?"),
        (["train", SMOKE, "optim.lr"], "override 'optim.lr': want key=value, e.g. optim.lr=3e-4"),
        (["train", SMOKE, "train.epochs=0"], "train.epochs: Input should be greater than 0, got 0"),
        (["train", SMOKE, "model.architecture=unet"], "model.encoder: missing; architecture 'unet' needs one"),
        (["train", SMOKE, "--local", "--workers", "2"], "--local: got --workers 2 beside it; use torchrun"),
        (["train", SMOKE, "--local", "augment.policy=flop"], "augment.policy: got 'flop', want one of none, flip"),
        (["train", SMOKE, "--local", "eval.metric=dice"], "eval.metric: got 'dice', want one of dice_mean_per_image"),
        (["train", SMOKE, "--local", "data.fold=9"], "data.fold=9: "),
        (["train", SMOKE, "--local", "model.architecture=unnet", "model.encoder=x"], "did you mean 'unet'?"),
        (["train", SMOKE, "--local", "--resume"], "--resume: no run 'smoke-...' in "),
        (["train", SMOKE, "--local", "--resume", "absent"], "run 'absent': not found in "),
        (["train", SMOKE, "--local", "--resume", "../up"], "run name '../up': want letters, digits"),
        (["tune", "absent.yaml"], "absent.yaml: cannot be read"),
        (["tune", SMOKE], "smoke.yaml: base: Field required"),
        (["tune", SEARCH, "optm.lr=1"], "unknown key 'optm'"),
        (["tune", SEARCH, "study.budgt.trials=1"], "unknown key 'budgt'"),
        (["tune", SEARCH, "--study", "a b"], "study name 'a b': want letters, digits"),
        (["tune", SEARCH, "--study", "absent", "--resume"], "study 'absent': not found in "),
        (["tune", SEARCH, "--resume"], "--resume: which study? give its name with --study NAME"),
    ],
)
def test_a_run_or_a_study_that_cannot_be(
    words: list[str],
    line: str,
    home: Home,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert line in refused(monkeypatch, capsys, *words, "--data", shards)
    assert not home.root.exists()


@pytest.mark.parametrize("command", [["train", SMOKE, "--local"], ["train", SMOKE], ["tune", SEARCH]])
@pytest.mark.parametrize("content", [None, "", "{}", '{"format_version": 9}', '{"format_version": 1}', "[]"])
def test_shards_that_are_none(
    command: list[str],
    content: str | None,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "shards"
    if content is not None:
        folder.mkdir()
        (folder / "manifest.json").write_text(content)
    line = refused(monkeypatch, capsys, *command, "--data", folder)
    assert str(folder) in line
    assert line.endswith(("make shards with 'distseg data pack'", "pack the data again"))
    assert not home.root.exists()


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished run."""
    root = tmp_path_factory.mktemp("home")
    distseg(root, "train", SMOKE, *TINY, "--data", shards, "--local")
    return root


def only_run(root: Path) -> Path:
    (folder,) = (root / "runs").iterdir()
    return folder


def test_a_resume_that_is_refused_leaves_the_run_as_it_was(
    finished: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTSEG_HOME", str(finished))
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    words = ["train", SMOKE, *TINY, "seed=5", "--data", shards, "--local"]
    for resume in (["--resume"], ["--resume", only_run(finished).name]):
        line = refused(monkeypatch, capsys, *words, *resume)
        assert "last.pt: belongs to another config (seed: saved 0, now 5); resume with the same config" in line
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_the_newest_is_of_this_config(
    finished: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of ``smoke.yaml`` are none of ``smok.yaml``, nor are those of ``smoke-large.yaml`` its own."""
    root = tmp_path / "home"
    run = only_run(finished)
    shutil.copytree(run, root / "runs" / run.name.replace("smoke", "smoke-large"))
    monkeypatch.setenv("DISTSEG_HOME", str(root))
    assert "no run 'smoke-...'" in refused(monkeypatch, capsys, "train", SMOKE, "--data", shards, "--local", "--resume")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["export", "absent", "--out", "OUT"], "'absent': no such study in "),
        (["export", "a/b", "--out", "OUT"], "study name 'a/b': want letters"),
        (["export", "RUN", "--trial", "0001", "--out", "OUT"], "is a run, not a study; leave --trial out"),
        (["evaluate", "absent.ts", "--data", "SHARDS"], "absent.ts: no such file; make it with 'distseg export"),
        (["evaluate", "SMOKE", "--data", "SHARDS"], "smoke.yaml: no TorchScript file"),
        (["leaderboard", "absent"], "study 'absent': not found in "),
        (["leaderboard"], "no study yet; start one with 'distseg tune"),
    ],
)
def test_what_is_not_there(
    words: list[str],
    line: str,
    finished: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DISTSEG_HOME", str(finished))
    values = {"RUN": only_run(finished).name, "OUT": tmp_path / "m.ts", "SHARDS": shards, "SMOKE": SMOKE}
    assert line in refused(monkeypatch, capsys, *[values.get(word, word) for word in words])
    assert not (tmp_path / "m.ts").exists()


def test_an_export_to_a_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTSEG_HOME", str(finished))
    line = refused(monkeypatch, capsys, "export", only_run(finished).name, "--out", tmp_path)
    assert line == f"--out {tmp_path}: is a folder; give the path of a file, such as {tmp_path / 'model.ts'}"
    assert list(tmp_path.iterdir()) == []


def test_an_export_whose_shards_are_gone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "home"
    shutil.copytree(finished, root)
    folder = only_run(root)
    TrialRecord.load(folder).model_copy(update={"data": str(tmp_path / "gone")}).save(folder)
    monkeypatch.setenv("DISTSEG_HOME", str(root))
    line = refused(monkeypatch, capsys, "export", folder.name, "--out", tmp_path / "m.ts")
    assert line.startswith(f"{tmp_path / 'gone'}/manifest.json: cannot be read")
    assert line.endswith("make shards with 'distseg data pack'")


def test_damaged_data_is_a_failed_run_and_exit_code_1(
    home: Home, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found while training, so the run is there, with its reason."""
    bad = shutil.copytree(shards, tmp_path / "bad")
    for shard in ShardFolder.open(bad).manifest.shards:
        path = bad / shard.name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = refused(monkeypatch, capsys, "train", SMOKE, *TINY, "--data", bad, "--local", code=1)
    assert "of 12 samples cannot be used, more than data.bad_fraction_max=0.01; first: shard train-" in line
    assert "look at all of them with 'distseg data verify'" in line
    record = TrialRecord.load(only_run(home.root))
    assert record.status is Status.FAILED
    assert str(record.reason).removeprefix("TrainingError: ") in line


def test_a_home_that_cannot_be_written(shards: Path, tmp_path: Path) -> None:
    """A file stands where the home should be."""
    (tmp_path / "home").write_text("")
    command = [sys.executable, "-m", "distseg.cli.main", "train", SMOKE, *TINY, "--data", str(shards), "--local"]
    done = subprocess.run(
        command, env=os.environ | {"DISTSEG_HOME": str(tmp_path / "home")}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "home") in done.stderr
