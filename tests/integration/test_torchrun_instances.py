"""Task instance on two ranks: the same weights on both, each image measured once, the score that one rank finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import CONFIGS

from distseg import checkpoint
from distseg.config import RunConfig, load_run
from distseg.data.layouts import read_corpus
from distseg.data.manifest import ShardFolder
from distseg.data.pack import pack
from distseg.data.stream import InstanceEvalBatches, open_split
from distseg.data.synthetic.scenes import write_scenes
from distseg.export.build import restore_predictor
from distseg.records import TrialRecord, read_json_lines
from distseg.tasks.instance_scoring import measure_instances
from distseg.train.run_folder import RunSpec

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

EACH_RANK = """
import os, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_torchrun_instances import spec_of
from distseg.train import loop
from distseg.train.worker import local_worker
folder, shards = Path(sys.argv[1]), Path(sys.argv[2])
states = []
create = loop.TrainState.create
loop.TrainState.create = lambda *given: states.append(create(*given)) or states[0]
with local_worker() as worker:
    record = loop.run(spec_of(folder, shards), worker)
    torch.save(
        {"network": states[0].network.state_dict(), "metrics": record.metrics, "samples": record.samples},
        folder / f"rank{worker.rank}.pt",
    )
sys.stdout.flush()
os._exit(0)  # as the command line ends: gloo's threads outlive their group
"""


def spec_of(folder: Path, shards: Path) -> RunSpec:
    words = [
        "data.input_size=48",
        "model.anchor_sizes=[6, 12, 24, 48, 96]",
        "train.epochs=2",
        "train.batch_global=3",  # two images for one rank, one for the other
        "train.micro_batch=1",
        "eval.metric=val_loss",
        "eval.mode=min",
    ]
    return RunSpec(load_run(CONFIGS / "coco_smoke.yaml", words), str(shards), folder, trial_id=folder.name)


def test_two_ranks_agree_and_measure_each_image_once(tmp_path: Path) -> None:
    write_scenes(tmp_path / "raw", groups=2, views=4, size=(80, 64), seed=3)
    pack(read_corpus("coco", tmp_path / "raw"), tmp_path / "shards", size=None, val_fraction=0.4)
    folder = tmp_path / "run"
    folder.mkdir()
    script = tmp_path / "each_rank.py"
    script.write_text(EACH_RANK)
    command = [*TORCHRUN, str(script), str(folder), str(tmp_path / "shards"), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in ranks[0]["network"].items():
        assert torch.equal(value, ranks[1]["network"][name]), name
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    record = TrialRecord.load(folder)
    assert (record.world_size, record.samples) == (2, 3)
    for row in read_json_lines(folder / "epochs.jsonl"):
        assert row["loss"] == pytest.approx(sum(row["losses"].values()), rel=1e-5)

    tree = checkpoint.load(folder / "checkpoints/best.pt")
    shards = ShardFolder.open(tmp_path / "shards")
    predictor = restore_predictor(RunConfig.model_validate(tree["config"]), tree, shards.manifest)
    batches = InstanceEvalBatches(open_split(shards, training=False, fold=None), batch=3, rank=0, world_size=1)
    with torch.inference_mode():
        score, _ = measure_instances(predictor, [batches[0]], shards.manifest, torch.device("cpu"), lambda own: [own])
    for name, value in record.metrics.items():
        if isinstance(value, float):
            assert score.metrics[name] == pytest.approx(value, abs=1e-5), name  # memory was laid out another way
