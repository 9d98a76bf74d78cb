"""Two ranks without Ray: torchrun, gloo, and a rank that is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import CONFIGS, descendants, start, wait_for

from distseg import checkpoint, config
from distseg.records import Status, TrialRecord, read_json_lines
from distseg.tasks import dense
from distseg.train.loop import run
from distseg.train.run_folder import RunSpec
from distseg.train.worker import LocalWorker

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
OVERRIDES = [  # 8 samples: 3 steps an epoch, and an augmentation level that is decided anew every second one
    "model.width=2",
    "train.batch_global=3",
    "train.checkpoint_steps=1",
    "augment.policy=adaptive",
    "augment.adaptive.start=0.3",
    "augment.adaptive.window_images=6",
    "augment.adaptive.target=0.98",
    "augment.adaptive.dead_band=0.0",
    "augment.adaptive.speed=40",
]

EPOCHS = 12

# What each rank ends with. GroupNorm looks at one image at a time, BatchNorm at a rank's share of the batch, so only
# with the former can one rank and two agree.
EACH_RANK = """
import sys, torch
from dataclasses import asdict
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[4])))
from test_torchrun import spec_of, without_batch_norm
from distseg.tasks import dense
from distseg.train import loop
from distseg.train.worker import local_worker
kind, folder, shards = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
if kind == "group":
    dense.build_model = without_batch_norm(dense.build_model)
states = []
create = loop.TrainState.create
loop.TrainState.create = lambda *given: states.append(create(*given)) or states[0]
with local_worker() as worker:
    record = loop.run(spec_of(folder, shards), worker)
    torch.save(
        {
            "network": states[0].network.state_dict(),
            "samples": record.samples,
            "metrics": record.metrics,
            "course": asdict(states[0].course),
        },
        folder / f"rank{worker.rank}.pt",
    )
"""


def spec_of(folder: Path, shards: Path) -> RunSpec:
    cfg = config.load_run(CONFIGS / "smoke.yaml", [*OVERRIDES, "train.epochs=2", "train.micro_batch=1"])
    return RunSpec(cfg, str(shards), folder, trial_id=folder.name)


def without_batch_norm(build):  # type: ignore[no-untyped-def]
    """A ``build_model`` that puts GroupNorm in the place of BatchNorm."""

    def build_model(cfg, channels_out):  # type: ignore[no-untyped-def]
        built = build(cfg, channels_out)
        for module in list(built.network.modules()):
            for name, child in module.named_children():
                if isinstance(child, torch.nn.BatchNorm2d):
                    setattr(module, name, torch.nn.GroupNorm(1, child.num_features))
        return built

    return build_model


def two_ranks(kind: str, folder: Path, shards: Path) -> list[dict]:
    """What both ranks end with."""
    script = folder.parent / "each_rank.py"
    script.write_text(EACH_RANK)
    words = [kind, folder, shards, Path(__file__).parent]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path])}
    subprocess.run([*TORCHRUN, script, *words], check=True, env=environment)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_do_what_one_does(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three: ranks have one image and two, in one and in two micro-batches."""
    ranks = two_ranks("group", tmp_path / "two", shards)
    monkeypatch.setattr(dense, "build_model", without_batch_norm(dense.build_model))
    alone = spec_of(tmp_path / "one", shards)
    record = run(alone, LocalWorker(0, 1, torch.device("cpu")))
    last = checkpoint.load(alone.folder / "checkpoints/last.pt")["network"]
    assert ranks[0]["course"] == ranks[1]["course"]
    for name, weight in last.items():
        assert torch.equal(ranks[0]["network"][name], ranks[1]["network"][name]), name
        torch.testing.assert_close(ranks[0]["network"][name], weight, rtol=0, atol=1e-5)
    rows = [read_json_lines(tmp_path / name / "epochs.jsonl") for name in ("one", "two")]
    for one, two in zip(*rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert two["score"] == pytest.approx(one["score"], abs=2e-3)  # a pixel on the threshold may fall to either side
        assert two["samples"] == one["samples"] == 4  # each validated once, by one of the ranks
        assert two["augment_level"] == one["augment_level"]
        for (step, level, measured), window in zip(one["augment_windows"], two["augment_windows"], strict=True):
            assert window == [step, level, pytest.approx(measured, abs=1e-4)]
    assert {row["augment_level"] for row in rows[0]} != {0.0}
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    assert record.samples == ranks[0]["samples"] == ranks[1]["samples"]
    assert TrialRecord.load(tmp_path / "two").world_size == 2


def command(shards: Path, *words: str) -> list[str]:
    # after "--", or torchrun takes --local for an abbreviation of one of its own options
    train = [
        *TORCHRUN,
        "-m",
        "--",
        "distseg.cli.main",
        "train",
        str(CONFIGS / "smoke.yaml"),
        *OVERRIDES,
        f"train.epochs={EPOCHS}",
    ]
    return [*train, "--local", "--data", str(shards), *words]


def rank_process(torchrun: int, rank: int) -> int | None:
    """Process id of one of torchrun's ranks."""
    for pid in descendants(torchrun):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"RANK=%d" % rank in environment:
            return pid
    return None


def only_run(home: Path) -> Path:
    (folder,) = (home / "runs").iterdir()
    return folder


def test_killed_ranks_and_resumes_equal_a_run_left_alone(shards: Path, tmp_path: Path, left_alone: dict) -> None:
    """First the rank that writes nothing is killed, then the one that writes."""
    home, resume = tmp_path / "home", []
    for rank, epochs in ((1, 2), (0, 6)):
        process = start(home, command(shards, *resume))
        wait_for(lambda n=epochs: any(len(read_json_lines(p)) >= n for p in home.glob("runs/*/epochs.jsonl")), process)
        pid = rank_process(process.pid, rank)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=60) != 0
        folder = only_run(home)
        record = TrialRecord.load(folder)
        assert record.epochs < EPOCHS
        assert record.status in (Status.RUNNING, Status.INTERRUPTED)  # rank 0 may have noticed
        resume = ["--resume", folder.name]

    done = subprocess.run(command(shards, *resume), env=os.environ | {"DISTSEG_HOME": str(home)})
    assert done.returncode == 0
    assert only_run(home) == folder
    record, tree = TrialRecord.load(folder), checkpoint.load(folder / "checkpoints/last.pt")
    assert (record.status, record.epochs, record.world_size, record.reason) == (Status.COMPLETED, EPOCHS, 2, None)
    assert [n for n, value in left_alone["network"].items() if not torch.equal(value, tree["network"][n])] == []
    assert [row["loss"] for row in tree["history"]] == [row["loss"] for row in left_alone["history"]]
    assert [row["metrics"] for row in tree["history"]] == [row["metrics"] for row in left_alone["history"]]
    levels = [(row["augment_level"], row["augment_windows"]) for row in left_alone["history"]]
    assert [(row["augment_level"], row["augment_windows"]) for row in tree["history"]] == levels
    assert len({level for level, _ in levels}) > 2


@pytest.fixture(scope="module")
def left_alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The last checkpoint of a run of two ranks that nobody killed."""
    home = tmp_path_factory.mktemp("left-alone")
    subprocess.run(command(shards), check=True, env=os.environ | {"DISTSEG_HOME": str(home)})
    assert TrialRecord.load(only_run(home)).world_size == 2
    return checkpoint.load(only_run(home) / "checkpoints/last.pt")
