"""Inference on a Ray cluster: the same bytes as here, in order, whatever happens to the actors."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from models import RedIsObject, exported

from distseg.data.manifest import ShardFolder
from distseg.errors import DataError, DistsegError
from distseg.predict.decode import Decoders, Unreadable
from distseg.predict.evaluate import Counted, Evaluator, Part, evaluate
from distseg.predict.inputs import Job
from distseg.predict.pipeline import Pipeline
from distseg.predict.row_format import RowFormat
from distseg.predict.segmenter import Recipe, Segmenter
from distseg.predict.submission import EncodeRows, write_submission


def dies_once(marker: Path) -> Callable[[], Callable[[int], int]]:
    """Squares numbers; the first process that is given 3 dies, all are killed by 99, and 50 is refused."""

    # a closure travels by value: the other processes do not see this module
    def square(number: int) -> int:
        time.sleep(0.05)
        if number == 50:
            raise DataError("50: refused")
        if number == 99 or (number == 3 and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    return lambda: square


@pytest.mark.ray
def test_a_cluster_answers_as_this_machine_does(tmp_path: Path, shards: Path) -> None:
    from distseg.on_ray.predict import PortionWorker, spread
    from distseg.on_ray.session import session

    draw = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(150):  # three portions
        pixels = cv2.resize(draw.integers(0, 256, (4, 5, 3), np.uint8), ((30, 20), (25, 31))[number % 2])
        cv2.imwrite(str(folder / f"{number:03}.png"), pixels)
    (folder / "077.png").write_bytes(b"no picture")
    images = sorted(folder.iterdir())
    recipe, finish = Recipe(models=(exported(RedIsObject(), tmp_path / "model.ts"),)), EncodeRows(RowFormat())
    here = Pipeline(Segmenter.open(recipe), finish, Decoders(0))
    write_submission(here, images, tmp_path / "here.csv", empty_if_unreadable=True)
    jobs = [Job(path, path.name) for path in images]
    data = ShardFolder.open(shards)
    with session(cpus=2):
        portions = [jobs[:64], jobs[64:128], jobs[128:]]
        there = [result for part in spread(PortionWorker(recipe, finish), portions, 2) for result in part]
        assert there == list(here(jobs))
        assert [number for number, result in enumerate(there) if isinstance(result, Unreadable)] == [77]

        def elsewhere(parts: Sequence[Part]) -> Iterator[Counted]:
            return spread(partial(Evaluator, recipe, data.root, "train"), parts, 2)

        one, many = evaluate(recipe, data, "train"), evaluate(recipe, data, "train", elsewhere=elsewhere, parts=3)
        assert many["samples"] == one["samples"] == 8
        assert many["metrics"].pop("per_class") == one["metrics"].pop("per_class")  # whole numbers, added
        assert many["metrics"] == pytest.approx(one["metrics"], rel=1e-12)

        work = dies_once(tmp_path / "died")
        assert list(spread(work, range(12), 2)) == [number * number for number in range(12)]
        assert (tmp_path / "died").exists()
        with pytest.raises(DataError, match="50: refused") as caught:
            list(spread(work, [1, 50, 2], 2))
        assert "\n" not in str(caught.value)
        with pytest.raises(DistsegError, match=r"part 2 of 3 was lost 3 times \(.*; look at the memory of the nodes"):
            list(spread(work, [1, 99, 2], 1))
