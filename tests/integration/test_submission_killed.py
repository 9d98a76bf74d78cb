"""``distseg submission`` under SIGKILL: what is run again ends with the bytes of a run left alone."""

from pathlib import Path

import cv2
import numpy as np
from commands import DISTSEG, distseg, kill, start, wait_for
from models import RedIsObject, exported

IMAGES = 1200


def test_killed_and_run_again(tmp_path: Path) -> None:
    folder, model = tmp_path / "images", exported(RedIsObject(), tmp_path / "model.ts")
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = cv2.resize(draw.integers(0, 256, (6, 8, 3), np.uint8), ((200, 150), (160, 170))[number % 3 == 0])
        cv2.imwrite(str(folder / f"{number:04}.jpg"), pixels)
    words = ["submission", str(model), "--images", str(folder), "--out"]
    distseg(tmp_path, *words, tmp_path / "whole.csv")
    out, aside = tmp_path / "out.csv", tmp_path / ".out.csv.unfinished"
    kept = 0
    for _ in range(2):
        process = start(tmp_path, [*DISTSEG, *words, str(out)])
        wait_for(lambda kept=kept: aside.exists() and aside.stat().st_size > kept + 20_000, process)  # type: ignore[misc]
        kill(process)  # and its decoders are gone, too
        assert not out.exists()
        assert aside.stat().st_size > kept
        kept = aside.stat().st_size
    done = distseg(tmp_path, *words, out)
    assert f"{out}: goes on, " in done.stderr
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len(out.read_text().splitlines()) == IMAGES + 1
    assert not aside.exists()
