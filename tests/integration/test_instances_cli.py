"""The whole way of a person with annotated objects, by the real commands; small, so nothing is learnt."""

import json
from pathlib import Path

import numpy as np
from commands import CONFIGS, distseg, distseg_json
from PIL import Image
from pycocotools.coco import COCO

WORDS = ("data.input_size=64", "train.epochs=1", "eval.metric=val_loss", "eval.mode=min")


def test_from_annotations_to_objects_found(tmp_path: Path) -> None:
    home, raw, shards, model = (tmp_path / name for name in ("home", "raw", "shards", "model.ts"))
    distseg(home, "data", "synth", "--layout", "coco", "--groups", 3, "--views", 3, "--size", "96x80", "--out", raw)
    distseg(home, "data", "pack", raw, "--layout", "coco", "--size", "original", "--out", shards, "--folds", 3)
    found = distseg_json(home, "train", CONFIGS / "coco_smoke.yaml", *WORDS, "--data", shards, "--local")
    assert found["metrics"]["val_loss"] > 0
    assert "mask_ap50" in found["metrics"]
    distseg(home, "export", found["run"], "--out", model)

    measured = distseg_json(home, "evaluate", model, "--data", shards)
    assert measured["samples"] == found["samples"]
    assert abs(measured["metrics"]["val_loss"] - found["metrics"]["val_loss"]) < 1e-4
    assert measured["metrics"]["mask_ap"] == found["metrics"]["mask_ap"]

    out = tmp_path / "found"
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no picture")
    done = distseg(home, "predict", model, raw / "images", damaged, "--out", out, "--json", code=1)
    assert "not predicted" in done.stderr
    document = json.loads(done.stdout)
    assert [image["id"] for image in document["images"]] == list(range(1, 10))
    assert [each["image"] for each in document["unreadable"]] == [str(damaged)]
    assert [category["name"] for category in document["categories"]] == ["leaf", "coin", "nut", "bolt"]
    for image in document["images"]:
        assert np.asarray(Image.open(out / f"{Path(image['file_name']).stem}.overlay.jpg")).shape == (80, 96, 3)
    results = json.loads((out / "results.json").read_text())
    assert results == document["results"]
    if results:  # pycocotools takes them as they are
        truth = COCO(str(raw / "annotations.json"))
        truth.dataset["categories"] = document["categories"]
        truth.createIndex()
        assert len(truth.loadRes(results).anns) == len(results)

    refused = distseg(home, "predict", model, raw / "images", "--out", out, "--tta", code=2)
    assert refused.stderr.strip().splitlines()[-1].startswith("distseg: error: --tta: ")
    dense = distseg(home, "train", CONFIGS / "smoke.yaml", "--data", shards, "--local", code=2)
    assert "task: got 'binary', but the shards are for 'instance'" in dense.stderr
