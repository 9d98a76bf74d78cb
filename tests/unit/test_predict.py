"""Prediction: which files, their names, what is written of them; ensembles, flips, tiles; decoders that crash."""

import json
import os
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import Blurred, ColourIsClass, RedIsObject, exported
from PIL import Image, ImageOps

from distseg.cli import main as cli
from distseg.data.codec import Pixels
from distseg.errors import DataError, InputError
from distseg.predict import decode
from distseg.predict.decode import Decoders, Unreadable
from distseg.predict.images import read_image
from distseg.predict.inputs import Job, find_images, named
from distseg.predict.pictures import mask_png
from distseg.predict.pipeline import Answer, Finish, Pipeline
from distseg.predict.segmenter import Recipe, Segmenter, batch_size
from distseg.predict.tiles import margin_of, spans, weights
from distseg.tasks.drawing import overlay, palette

THREE = ("sky", "road", "car")


def photo(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Pixels:
    """Smooth colours, (H, W, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def save(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    """Runs ``distseg WORDS`` in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["distseg", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(RedIsObject(), tmp_path_factory.mktemp("red") / "red.ts")


# Inputs and names


def test_files_folders_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/a.jpg", "x/b.png", "y/deep/c.png", "d[1].png"):
        save(tmp_path / name, photo())
    (tmp_path / "x/notes.txt").touch()
    (tmp_path / "odd.dat").write_bytes((tmp_path / "x/b.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    for words, found in (
        (["x", "odd.dat", "d[1].png", "x/../x/a.jpg"], ["x/a.jpg", "x/b.png", "odd.dat", "d[1].png"]),
        (["**/*.png", "x/*"], ["d[1].png", "x/b.png", "y/deep/c.png", "x/a.jpg"]),
    ):
        assert find_images(words) == [tmp_path / each for each in found]


def test_links_are_images_by_their_own_names(tmp_path: Path) -> None:
    """As tools keep data under version control: both links may lead to one file."""
    save(tmp_path / "store/3f9ab2.png", photo())
    (tmp_path / "cars").mkdir()
    for name in ("car_01.png", "car_02.png"):
        (tmp_path / "cars" / name).symlink_to("../store/3f9ab2.png")
    assert [job.name for job in named(find_images([str(tmp_path / "cars")]))] == ["car_01", "car_02"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("https://host/a.jpg", r"https://host/a.jpg: is a URL, want files, folders or globs; download the image"),
        ("absent.jpg", r"absent.jpg: no such file or folder"),
        ("*.tif", r"\*.tif: matches no image"),
        (".", r"no images; want files that end in"),
    ],
)
def test_inputs_that_are_none(word: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        find_images([word])


def test_names_tell_images_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("x/a.jpg", "y/a.jpg", "x/b.jpg", "x/b.png", "x/c.jpg", "c.jpg_d.png")]
    assert [job.name for job in named(paths)] == ["x_a", "y_a", "b.jpg", "b.png", "c", "c.jpg_d"]


@given(st.lists(st.sampled_from(["a.png", "a.jpg", "x_a.png", "x/a.png", "x/a.jpg", "y/x/a.png"]), unique=True))
def test_names_are_never_shared(paths: Sequence[str]) -> None:
    names = [job.name for job in named([Path("/images") / path for path in paths])]
    assert len(set(names)) == len(names)


# Decoding


def as_png(pixels: Pixels, mode: str) -> Image.Image:
    return Image.fromarray(pixels).convert(mode)


FORMATS: dict[str, Callable[[Path, Pixels], None]] = {
    "grey.png": lambda path, pixels: as_png(pixels, "L").save(path),
    "grey-alpha.png": lambda path, pixels: as_png(pixels, "LA").save(path),
    "palette.png": lambda path, pixels: as_png(pixels, "P").save(path),
    "rgba.png": lambda path, pixels: as_png(pixels, "RGBA").save(path),
    "two-levels.png": lambda path, pixels: as_png(pixels, "1").save(path),
    "cmyk.jpg": lambda path, pixels: as_png(pixels, "CMYK").save(path, quality=95),
    "cmyk.tif": lambda path, pixels: as_png(pixels, "CMYK").save(path),
    "lossless.webp": lambda path, pixels: Image.fromarray(pixels).save(path, lossless=True),
    "a.gif": lambda path, pixels: as_png(pixels, "P").save(path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_read_as_pil_reads_them(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, photo())
    with Image.open(tmp_path / name) as picture:
        wanted = np.asarray(picture.convert("RGB")).astype(int)
    difference = np.abs(read_image(tmp_path / name) - wanted)
    assert difference.max() <= (1 if name == "cmyk.jpg" else 0)  # two ways of rounding ink to light


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_of_16_bits_the_upper_8_count(name: str, tmp_path: Path) -> None:
    grey = np.asarray(as_png(photo(), "L"))
    save(tmp_path / name, grey.astype(np.uint16) * 256 + 200)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_image(tmp_path / name), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_images_upright(orientation: int, ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo()).save(tmp_path / f"a.{ending}", exif=exif)
    with Image.open(tmp_path / f"a.{ending}") as picture:
        wanted = np.asarray(ImageOps.exif_transpose(picture)).astype(int)
    found = read_image(tmp_path / f"a.{ending}")
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1


def test_an_image_of_too_many_pixels_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    header = struct.pack(">IIBBBBB", 40000, 30000, 8, 2, 0, 0, 0)
    pieces = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    whole = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in pieces
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(whole))
    with pytest.raises(DataError, match=r"a\.png: OpenCV refuses it \(.*PIXELS.*\), want at most 2\^30 pixels"):
        read_image(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded as an image \(0 bytes\)"):
        read_image(path)


def test_decoders_read_what_this_process_reads(tmp_path: Path) -> None:
    """In order, of many sizes; those beyond a slot and those that cannot be read among them."""
    sizes = [(20, 10), (900, 700), (31, 57), (30, 30)]  # 900x700x3 is above the megabyte of the smallest slot
    paths = [save(tmp_path / f"{index:02}.png", photo(index, sizes[index % 4])) for index in range(17)]
    paths[5].write_bytes(paths[5].read_bytes()[:40])
    paths.insert(9, tmp_path / "absent.png")

    def all_of(decoders: Decoders, some: Sequence[Path]) -> list[Pixels | Unreadable]:
        return [each if isinstance(each, Unreadable) else each.copy() for each in decoders(some)]

    with Decoders(0) as none, Decoders(2) as two:
        wanted = all_of(none, paths)
        next(iter(two(paths[:4])))  # a caller that stops early leaves nothing behind
        for some in (paths, paths[:1], paths[1:]):
            found = all_of(two, some)
            for one, other in zip(found, wanted[paths.index(some[0]) :], strict=False):
                if isinstance(other, Unreadable):
                    assert one == other
                else:
                    np.testing.assert_array_equal(one, other)
            assert len(found) == len(some)
    assert [number for number, each in enumerate(wanted) if isinstance(each, Unreadable)] == [5, 9]


def test_a_decoder_that_dies_costs_one_image(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{index:02}.png", photo(index)) for index in range(decode._PROBED + 6)]
    at = decode._PROBED + 1  # an odd number: the second decoder's
    paths[at].unlink()
    os.mkfifo(paths[at])  # reading it does not end: the decoder waits there until it is killed
    with Decoders(2) as decoders:
        found = []
        for each in decoders(paths):
            found.append(each if isinstance(each, Unreadable) else each.copy())
            if len(found) == at:
                process = decoders._helpers[1]._process
                threading.Timer(0.2, process.kill).start()
    assert found.pop(at) == Unreadable(paths[at], f"{paths[at]}: its decoder crashed; remove or replace the file")
    for each, path in zip(found, paths[:at] + paths[at + 1 :], strict=True):
        np.testing.assert_array_equal(each, read_image(path))


def test_slots_are_as_large_as_the_images_need(tmp_path: Path) -> None:
    large = save(tmp_path / "large.png", np.zeros((1000, 2000, 3), np.uint8))
    assert decode._slot_bytes([large, tmp_path / "absent.png"]) == 6_000_000


# Pipeline


class Everything(Finish[Answer]):
    wants_probabilities = True
    wants_image = True

    def __call__(self, answer: Answer) -> Answer:
        return answer


def test_answers_in_order_with_all_that_was_asked_for(red: Path, tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{index:02}.png", photo(index, ((8, 6), (9, 5))[index % 2])) for index in range(40)]
    paths[7].write_bytes(b"")
    with Decoders(1) as decoders:
        pipeline = Pipeline(Segmenter.open(Recipe(models=(red,))), Everything(), decoders)
        answers = list(pipeline([Job(path, path.stem) for path in paths]))
    assert isinstance(answers.pop(7), Unreadable)
    paths.pop(7)
    for path, answer in zip(paths, answers, strict=True):
        assert isinstance(answer, Answer)
        assert answer.job.path == path
        image = read_image(path)
        np.testing.assert_array_equal(answer.image, image)
        np.testing.assert_array_equal(answer.labels, image[..., 0] > 127)
        assert answer.probabilities is not None
        np.testing.assert_allclose(answer.probabilities[0], 1 / (1 + np.exp((127.5 - image[..., 0]) / 16)), atol=1e-5)


def test_an_error_while_writing_reaches_the_caller(red: Path, tmp_path: Path) -> None:
    class Full(Finish[None]):
        def __call__(self, answer: Answer) -> None:
            raise OSError("no space left")

    path = save(tmp_path / "a.png", photo())
    pipeline = Pipeline(Segmenter.open(Recipe(models=(red,))), Full(), Decoders(0))
    with pytest.raises(OSError, match="no space left"):
        list(pipeline([Job(path, "a")]))


def test_batches_depend_on_size_and_channels_alone() -> None:
    assert [batch_size(64, 64, 1), batch_size(1280, 1918, 1), batch_size(360, 480, 11), batch_size(9000, 9000, 1)] == [
        *(16, 3, 4, 1)
    ]


# Ensembles and flips


def test_an_ensemble_is_the_mean_of_probabilities(red: Path, tmp_path: Path) -> None:
    other = exported(RedIsObject(threshold=60), tmp_path / "other.ts")
    images = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    each = [Segmenter.open(Recipe(models=(path,))) for path in (red, other)]
    both = Segmenter.open(Recipe(models=(red, other)))
    mean = (each[0].probabilities(images) + each[1].probabilities(images)) / 2
    torch.testing.assert_close(both.probabilities(images), mean)
    assert torch.equal(both.labels(images), (mean[:, 0] > 0.5).to(torch.uint8))
    assert not torch.equal(both.labels(images), each[0].labels(images))


def test_an_ensemble_of_several_classes(tmp_path: Path) -> None:
    paths = tuple(exported(ColourIsClass(), tmp_path / f"{number}.ts", THREE) for number in range(2))
    images = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    segmenter = Segmenter.open(Recipe(models=paths))
    assert segmenter.channels == 3
    assert torch.equal(segmenter.labels(images), Segmenter.open(Recipe(models=paths[:1])).labels(images))
    torch.testing.assert_close(segmenter.probabilities(images).sum(1), torch.ones(2, 9, 7))


def test_models_of_other_classes_are_no_ensemble(red: Path, tmp_path: Path) -> None:
    other = exported(ColourIsClass(), tmp_path / "other.ts", THREE)
    with pytest.raises(InputError, match=r"other.ts: task multiclass with classes sky, road, car, .*red.ts has binary"):
        Segmenter.open(Recipe(models=(red, other)))


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"tile": 100}, r"--tile 100: want a multiple of 32, at least 64"),
        ({"device": "cuda:9"}, r"--device: got 'cuda:9', this machine has cpu"),
        ({"device": "gpu"}, r"--device: got 'gpu', this machine has cpu"),
        ({"models": ()}, r"models: none given"),
    ],
)
def test_recipes_that_cannot_be(recipe: dict[str, object], says: str, red: Path) -> None:
    with pytest.raises(InputError, match=says):
        Segmenter.open(Recipe.model_validate({"models": (red,), **recipe}))


def test_flips_make_the_answer_symmetric(tmp_path: Path) -> None:
    class LeftLeaning(RedIsObject):
        def logits(self, images: torch.Tensor) -> torch.Tensor:
            ramp = torch.linspace(3, -3, images.shape[-1])
            return (images[:, :1].float() - self.threshold) / 16 + ramp

    path = exported(LeftLeaning(), tmp_path / "left.ts")
    images = torch.full((1, 3, 4, 8), 128, dtype=torch.uint8)
    plain, flipped = (Segmenter.open(Recipe(models=(path,), tta=tta)).probabilities(images) for tta in (False, True))
    torch.testing.assert_close(flipped, (plain + plain.flip(-1)) / 2)
    torch.testing.assert_close(flipped, flipped.flip(-1))
    assert not torch.allclose(plain, plain.flip(-1))


# Tiles


@given(st.integers(1, 700), st.sampled_from([64, 96, 128, 256, 320]))
def test_tiles_cover_and_weights_add_up(length: int, tile: int) -> None:
    total = torch.zeros(length)
    found = spans(length, tile)
    for start, end in found:
        assert start % 32 == 0
        assert end - start <= tile
        total[start:end] += weights(start, end, length, tile)
    torch.testing.assert_close(total, torch.ones(length))
    assert (found[0][0], found[-1][1]) == (0, length)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (200, 333), (31, 500), (500, 1), (129, 161)])
def test_tiles_equal_the_whole_for_a_network_that_sees_no_farther_than_the_margin(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """Everywhere: at an inner edge the margin does not count, at the image's edge tile and whole see the same."""
    path = exported(Blurred(reach=margin_of(64)), tmp_path / "blurred.ts")
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole, tiled = (Segmenter.open(Recipe(models=(path,), tile=tile)) for tile in (None, 64))
    torch.testing.assert_close(tiled.probabilities(images), whole.probabilities(images), rtol=0, atol=1e-5)
    unsure = (whole.probabilities(images)[:, 0] - 0.5).abs() < 1e-5
    assert ((tiled.labels(images) == whole.labels(images)) | unsure).all()


def test_tiles_blend_where_a_network_sees_farther(tmp_path: Path) -> None:
    """No seam: along a row the step between neighbours is nowhere much larger than in the whole image."""
    path = exported(Blurred(reach=24), tmp_path / "blurred.ts")
    images = torch.from_numpy(photo(3, (256, 256)).copy())[None].permute(0, 3, 1, 2)
    whole, tiled = (
        Segmenter.open(Recipe(models=(path,), tile=tile)).probabilities(images)[0, 0, 100:150, 100:150]
        for tile in (None, 128)
    )
    assert not torch.allclose(whole, tiled, atol=1e-4)
    assert tiled.diff(dim=1).abs().max() < 3 * whole.diff(dim=1).abs().max() + 0.02


def test_memory_of_tiles_does_not_depend_on_the_height(tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    def probabilities(images: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(images.shape))
        return images[:, :1].float() / 255

    from distseg.predict.tiles import strips

    image = torch.randint(0, 256, (3, 1000, 100), dtype=torch.uint8)
    found = list(strips(probabilities, image, tile=64, batch=2))
    assert max(strip.shape[1] for strip in found) <= 64
    assert all(shape[0] <= 2 and shape[2] <= 64 and shape[3] <= 64 for shape in shapes)
    torch.testing.assert_close(torch.cat(found, dim=1), image[:1].float() / 255)


# What is written


def test_masks_are_read_back_as_labels() -> None:
    import io

    labels = np.random.default_rng(0).integers(0, 3, (7, 13), np.uint8)
    picture = Image.open(io.BytesIO(mask_png(labels, classes=3)))
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), labels)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), palette()[labels])
    picture = Image.open(io.BytesIO(mask_png(labels % 2, classes=2)))
    np.testing.assert_array_equal(np.asarray(picture), labels % 2)
    np.testing.assert_array_equal(np.asarray(picture.convert("L")), labels % 2 * 255)


def test_overlays_leave_the_background_alone() -> None:
    image, labels = photo(), np.zeros((30, 40), np.uint8)
    labels[5:20, 5:20] = 1
    drawn = overlay(image, labels, classes=2)
    np.testing.assert_array_equal(drawn[labels == 0], image[labels == 0])
    assert (drawn[labels == 1] != image[labels == 1]).any(axis=1).all()


def test_the_command_writes_masks_overlays_and_probabilities(
    red: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [save(tmp_path / "in" / f"{index}.png", photo(index)) for index in range(3)]
    images[1].write_bytes(b"no picture")
    out = tmp_path / "out"
    options = ("--overlay", "--probabilities", "--tta", "--json")
    assert run(monkeypatch, "predict", red, tmp_path / "in", "--out", out, *options) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["unreadable"] == [
        {
            "image": str(images[1]),
            "reason": f"{images[1]}: cannot be decoded as an image (10 bytes); replace or remove the file",
        }
    ]
    assert printed.err.splitlines()[-1].startswith(f"not predicted: {images[1]}: cannot be decoded")
    endings = ("overlay.jpg", "png", "probabilities.npy")
    assert sorted(path.name for path in out.iterdir()) == [
        f"{index}.{ending}" for index in (0, 2) for ending in endings
    ]
    with Image.open(out / "2.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), photo(2)[..., 0] > 127)
    assert (np.load(out / "2.probabilities.npy").dtype, np.load(out / "2.probabilities.npy").shape) == (
        np.float16,
        (1, 30, 40),
    )
    with Image.open(out / "2.overlay.jpg") as picture:
        assert picture.size == (40, 30)


def test_no_image_is_replaced_by_its_mask(
    red: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = save(tmp_path / "a.png", photo())
    before = image.read_bytes()
    assert run(monkeypatch, "predict", red, image, "--out", tmp_path) == 2
    assert "a.png would replace an image; give another folder" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_an_ensemble_and_tiles_on_the_command_line(red: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = save(tmp_path / "in/a.jpg", photo(1, (200, 150)))
    other = exported(RedIsObject(threshold=60), tmp_path / "other.ts")
    code = run(monkeypatch, "predict", red, image, "--out", tmp_path / "out", "--ensemble", other, "--tile", 64)
    assert code == 0
    pixels = torch.from_numpy(read_image(image))[None].permute(0, 3, 1, 2)
    wanted = Segmenter.open(Recipe(models=(red, other))).labels(pixels)[0].numpy()
    with Image.open(tmp_path / "out/a.png") as picture:
        assert (np.asarray(picture) == wanted).mean() > 0.999


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_files_of_others_are_run_when_told_so(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in/a.png", photo(1))
    foreign, ours = tmp_path / "foreign.ts", exported(RedIsObject(), tmp_path / "ours.ts")
    torch.jit.save(torch.jit.script(RedIsObject()), str(foreign))
    commands = {
        "predict": ("--out", tmp_path / "masks"),
        "submission": ("--images", tmp_path / "in", "--out", tmp_path / "out.csv"),
        "evaluate": ("--data", shards, "--json"),
    }
    for command, words in commands.items():
        images = [tmp_path / "in/a.png"] if command == "predict" else []
        assert run(monkeypatch, command, foreign, *images, *words) == 2
        assert "holds no distseg.json; make it with 'distseg export', or say" in capsys.readouterr().err
        assert run(monkeypatch, command, foreign, *images, *words, "--foreign") == 0
    figures = json.loads(capsys.readouterr().out)["metrics"]
    assert run(monkeypatch, "evaluate", ours, *commands["evaluate"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == figures
    with Image.open(tmp_path / "masks/a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), photo(1)[..., 0] > 127)


def test_several_models_on_the_command_line_of_a_submission(
    red: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in/a.png", photo(1))
    sample = tmp_path / "sample.csv"
    sample.write_text("id,runs\na.png,\n")
    other = exported(RedIsObject(threshold=60), tmp_path / "other.ts")
    words = ("--images", tmp_path / "in", "--out", tmp_path / "out.csv", "--profile", "column-major")
    assert run(monkeypatch, "submission", red, other, *words, "--sample", sample, "--tta", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(tmp_path / "out.csv"), "images": 1, "rows": 1}
    assert (tmp_path / "out.csv").read_text().startswith("id,runs\na.png,")
    truth = tmp_path / "truth"
    pixels = torch.from_numpy(read_image(tmp_path / "in/a.png"))[None].permute(0, 3, 1, 2)
    save(truth / "a.png", Segmenter.open(Recipe(models=(red, other))).labels(pixels)[0].numpy() * 255)
    assert run(monkeypatch, "score", tmp_path / "out.csv", "--truth", truth, "--profile", "column-major", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dice_mean_per_image"] == 1
    for wrong, says in (
        ("--profile=x", "want one of carvana"),
        ("--columns=a", "want two names"),
        ("--labels=x", "class indices"),
    ):
        assert run(monkeypatch, "submission", red, *words[:4], wrong) == 2
        assert says in capsys.readouterr().err


def test_bad_input_is_one_line(red: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "predict", red, "http://host/a.jpg", "--out", "out") == 2
    assert capsys.readouterr().err.startswith("distseg: error: http://host/a.jpg: is a URL")
    with pytest.raises(DataError):
        find_images(["absent"])
