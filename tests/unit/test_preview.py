"""The picture of a policy: it shows what training gets, and masks where they belong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distseg.augment.examples import examples_of
from distseg.augment.keyed_random import key_seed
from distseg.augment.policies import Augmenter
from distseg.augment.preview import Example, operations_drawn, overlay, preview
from distseg.cli.main import app
from distseg.config import AdaptiveConfig, AugmentConfig
from distseg.data.cache import ShardCache
from distseg.data.synthetic.scenes import write_scenes
from distseg.errors import DataError
from distseg.home import Home

SIZE = 32


def example(key: str = "k") -> Example:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[8:16, 4:12] = 1
    return Example(key, image, (mask,))


def test_overlay_marks_labels_and_nothing_else() -> None:
    one = example()
    picture = overlay(one.image, one.masks, one.unmarked)
    changed = (picture != one.image).any(axis=2)
    assert changed[9:15, 5:11].all()
    assert not changed[one.masks[0] == 0].any()
    assert np.array_equal(overlay(one.image, one.masks, frozenset({0, 1})), one.image)


def test_objects_have_colours_of_their_own() -> None:
    white = np.full((SIZE, SIZE, 3), 255, np.uint8)
    masks = np.zeros((2, SIZE, SIZE), np.uint8)
    masks[0, 2:10, 2:10], masks[1, 20:28, 20:28] = 1, 1
    picture = overlay(white, tuple(masks), frozenset({0}))
    assert picture[5, 5].tolist() != picture[24, 24].tolist() != [255, 255, 255]


def cell(picture: Image.Image, top: int) -> np.ndarray:
    """An image of the first column, shown 7 times as large, at its own size."""
    pixels = np.asarray(picture)[top : top + 224, 6 : 6 + 224]
    return pixels[3::7, 3::7]


def test_sections_show_what_training_gets() -> None:
    one = example()
    cfg = AugmentConfig(policy="all")
    picture = preview([one], cfg, [])
    assert np.array_equal(cell(picture, 32), one.image)
    second = 32 + 2 * 230 + 14 + 32  # a caption, two rows, a margin, a caption
    first_draw, _ = Augmenter(cfg, (SIZE, SIZE))(one.image, one.masks, key_seed(0, 0, "k"), 0.0)
    assert np.array_equal(cell(picture, second), first_draw)
    assert not np.array_equal(first_draw, one.image)


def test_operations_told_are_those_that_were_done() -> None:
    """With flips alone, the picture is flipped exactly where a flip is told."""
    one = example()
    cfg = AugmentConfig(policy="adaptive", operations=("flip",), adaptive=AdaptiveConfig(stack_max=1))
    augmenter = Augmenter(cfg, (SIZE, SIZE))
    told = []
    for seed in range(40):
        image, _ = augmenter(one.image, one.masks, seed, 0.5)
        drawn = operations_drawn(cfg, seed, 0.5)
        assert np.array_equal(image, one.image[:, ::-1] if drawn else one.image)
        told.append(len(drawn))
    assert set(told) == {0, 1}
    assert operations_drawn(AugmentConfig(policy="flip"), 0, 0.5) == []


def test_levels_are_sections() -> None:
    heights = [preview([example()], AugmentConfig(policy="adaptive"), levels).height for levels in ([0.0], [0.0, 0.0])]
    assert heights[1] - heights[0] == 32 + 2 * 230 + 14 + 16  # and a line that says "unchanged"


@pytest.fixture
def cache(home: Home) -> ShardCache:
    return ShardCache.of(home)


def test_examples_of_shards_are_training_samples(shards: Path, cache: ShardCache) -> None:
    examples = examples_of(str(shards), None, 3, None, cache)
    assert len({one.key for one in examples}) == 3
    assert {(one.image.shape, one.masks[0].shape) for one in examples} == {((32, 32, 3), (32, 32))}
    assert examples_of(str(shards), None, 99, (16, 8), cache)[0].image.shape == (8, 16, 3)
    with pytest.raises(DataError, match=r"--layout carvana: .* holds shards"):
        examples_of(str(shards), "carvana", 3, None, cache)


def test_examples_of_raw_data_lie_under_their_masks(shards: Path, cache: ShardCache, tmp_path: Path) -> None:
    raw = examples_of(str(shards.parent / "raw"), None, 3, None, cache)  # layout found by itself
    assert {one.image.shape for one in raw} == {(64, 64, 3)}
    assert len({one.key.rpartition("_")[0] for one in raw}) == 3  # three cars
    write_scenes(tmp_path / "coco", groups=2, views=1, size=(80, 64), seed=0)
    objects = examples_of(str(tmp_path / "coco"), None, 2, None, cache)  # several things on one table, one on the other
    assert [(len(one.masks) > 1, one.image.shape) for one in objects] == [(True, (64, 80, 3)), (False, (64, 80, 3))]
    assert preview(objects, AugmentConfig(policy="nine"), []).width > 400


def test_unknown_data_is_refused(tmp_path: Path, cache: ShardCache) -> None:
    with pytest.raises(DataError, match="is none of carvana, folders, coco"):
        examples_of(str(tmp_path), None, 3, None, cache)


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["augment", "preview", *words])
    return done.exit_code, str(done.exception) if done.exception else done.output


def test_command_writes_the_picture(shards: Path, home: Home, tmp_path: Path) -> None:
    out = tmp_path / "panel.png"
    words = [str(shards), "--policy", "adaptive", "--levels", "0.9,0.1", "--samples", "2", "--out", str(out)]
    code, printed = run(*words, "augment.adaptive.stack_max=2")
    assert (code, f"{out}: 2 samples under policy 'adaptive'" in printed) == (0, True)
    with Image.open(out) as picture:
        assert picture.size[0] == 2 * 230 + 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "flip", "--levels", "0.1"], "policy 'flip' has no levels"),
        (["--policy", "adaptive", "--levels", "0.1,x"], "want numbers with commas"),
        (["--policy", "adaptive", "--levels", "0.1,2"], "want numbers from 0 to 1"),
        (["--policy", "nope"], "augment.policy: got 'nope'"),
        (["--policy", "flip", "optim.lr=1"], "want a field of augment"),
        (["--policy", "flip", "augment.flip.q=1"], "unknown key 'augment.flip.q'"),
    ],
)
def test_command_refuses(words: list[str], message: str, shards: Path, home: Home, tmp_path: Path) -> None:
    out = tmp_path / "panel.png"
    code, printed = run(str(shards), *words, "--out", str(out))
    assert (code, out.exists()) == (1, False)  # typer's runner; `main` makes 2 of an InputError
    assert message in printed
