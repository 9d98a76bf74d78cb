"""From uint8 images to labels at their own size: resizing, padding, deciding."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distseg.data.codec import resize_pair
from distseg.models.unet import ClassicUNet
from distseg.tasks.predictor import Predictor

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class Recorder(nn.Module):
    """Red minus a half as the only logit; remembers what it was shown."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return x[:, :1] - 0.5


class TwoChannels(nn.Module):
    """As many logits as there are colours: the class is the brightest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_normalises_with_mean_and_deviation_of_the_unit_range() -> None:
    network = Recorder()
    predictor = Predictor(network, input_size=None, divisor=1, mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.1))
    predictor(torch.tensor([255, 102, 0], dtype=torch.uint8).view(1, 3, 1, 1))
    # (1 - 0.2) / 0.5 = 1.6; (0.4 - 0.4) / 0.25 = 0; (0 - 0.6) / 0.1 = -6
    torch.testing.assert_close(network.seen.flatten(), torch.tensor([1.6, 0.0, -6.0]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("height", "width", "padded"), [(5, 7, (8, 8)), (8, 8, (8, 8)), (9, 16, (16, 16))])
def test_odd_sizes_are_padded_on_the_far_sides_and_cropped_back(
    height: int, width: int, padded: tuple[int, int]
) -> None:
    network = Recorder()
    images = noise(2, 3, height, width)
    logits = Predictor(network, input_size=None, divisor=8, **PLAIN).logits(images)
    assert network.seen.shape == (2, 3, *padded)
    torch.testing.assert_close(network.seen[:, :, :height, :width], images / 255)
    assert network.seen[:, :, height:].abs().sum() + network.seen[:, :, :, width:].abs().sum() == 0
    torch.testing.assert_close(logits, images[:, :1] / 255 - 0.5)


def test_padding_of_both_input_size_and_divisor() -> None:
    network = Recorder()
    logits = Predictor(network, input_size=(20, 12), divisor=16, **PLAIN).logits(noise(1, 3, 30, 50))
    assert network.seen.shape == (1, 3, 16, 32)  # width 20 -> 32, height 12 -> 16
    assert logits.shape == (1, 1, 30, 50)


@pytest.mark.parametrize("size", [(16, 24), (33, 17), (8, 64)])
def test_resizing_is_running_at_the_input_size_and_back_bilinearly(size: tuple[int, int]) -> None:
    images = noise(2, 3, *size)
    whole = Predictor(Recorder(), input_size=(16, 16), divisor=8, **PLAIN)
    inner = Predictor(Recorder(), input_size=None, divisor=8, **PLAIN)
    small = F.interpolate(images.float(), size=[16, 16], mode="bilinear", align_corners=False, antialias=True)
    resized = whole.resized(images)
    assert (resized.float() - small).abs().max() <= 1  # computed in integers: at most the next grey level
    logits = inner.logits(resized)
    wanted = F.interpolate(logits, size=list(size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(whole.logits(images), wanted)


def test_an_image_of_the_input_size_is_not_resampled() -> None:
    images = noise(1, 3, 16, 24)
    resizing = Predictor(Recorder(), input_size=(24, 16), divisor=8, **PLAIN)
    torch.testing.assert_close(resizing.logits(images), images[:, :1] / 255 - 0.5, rtol=0, atol=1e-7)


def test_one_channel_is_decided_at_zero() -> None:
    images = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    images[0, 0, 0] = torch.tensor([0, 127, 128, 255])  # logits -0.5, -0.002, 0.002, 0.5
    predictor = Predictor(Recorder(), input_size=None, divisor=1, **PLAIN)
    labels = predictor(images)
    assert labels.dtype == torch.uint8
    assert labels.tolist() == [[[0, 0, 1, 1]]]
    probabilities = predictor.probabilities(images)
    assert probabilities.shape == (1, 1, 1, 4)
    assert ((probabilities[:, 0] > 0.5) == labels.bool()).all()
    assert probabilities.min() > 0
    assert probabilities.max() < 1


def test_a_logit_of_zero_is_background() -> None:
    predictor = Predictor(nn.Conv2d(3, 1, 1), input_size=None, divisor=1, **PLAIN)
    nn.init.zeros_(predictor.network.weight)
    nn.init.zeros_(predictor.network.bias)
    assert predictor(noise(1, 3, 2, 2)).sum() == 0


def test_several_channels_are_decided_by_the_largest() -> None:
    images = torch.tensor([[255, 0, 0], [0, 200, 10], [1, 2, 3]], dtype=torch.uint8).T.reshape(1, 3, 1, 3)
    predictor = Predictor(TwoChannels(), input_size=None, divisor=1, **PLAIN)
    labels = predictor(images)
    assert labels.dtype == torch.uint8
    assert labels.tolist() == [[[0, 1, 2]]]
    torch.testing.assert_close(predictor.probabilities(images).sum(dim=1), torch.ones(1, 1, 3))


@pytest.mark.parametrize("size", [(37, 53), (16, 16), (100, 3)])
def test_a_u_net_takes_any_size(size: tuple[int, int]) -> None:
    predictor = Predictor(ClassicUNet(1, 4), input_size=None, divisor=ClassicUNet.DIVISOR, **PLAIN).eval()
    with torch.inference_mode():
        labels = predictor(noise(2, 3, *size))
    assert labels.shape == (2, *size)
    assert set(labels.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("scale", [3, 4])
def test_packed_small_or_given_full_size_the_prediction_is_the_same(scale: int) -> None:
    """Packing shrinks by area, the predictor by antialiased bilinear weights: a smooth picture comes out alike."""
    y, x = (np.mgrid[: 256 * scale, : 384 * scale] + 0.5) / scale
    distance = np.hypot(x - 192, y - 128)  # from the centre, in pixels as packed
    picture = np.repeat((255 / (1 + np.exp((distance - 100) / 4))).round()[:, :, None], 3, axis=2).astype(np.uint8)
    truth = (picture[:, :, 0] > 127).astype(np.uint8)
    packed, packed_truth = resize_pair(picture, truth, (384, 256))
    network = Recorder()
    predictor = Predictor(network, input_size=(384, 256), divisor=32, **PLAIN)
    stored = predictor(torch.from_numpy(packed).permute(2, 0, 1)[None])[0].numpy()
    full = predictor(torch.from_numpy(picture).permute(2, 0, 1)[None])[0].numpy()
    assert np.abs(255 * network.seen[0].permute(1, 2, 0).numpy() - packed).max() <= 2  # grey levels of 255
    assert abs(dice(full, truth) - dice(stored, packed_truth)) < 0.002  # as promised
    assert dice(full, truth) > 0.99


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # deprecated, and works
@pytest.mark.parametrize("input_size", [None, (20, 12)])
def test_torchscript_gives_the_same(input_size: tuple[int, int] | None) -> None:
    predictor = Predictor(TwoChannels(), input_size=input_size, divisor=16, **PLAIN)
    images = noise(2, 3, 17, 30)
    scripted = torch.jit.script(predictor)
    torch.testing.assert_close(scripted.probabilities(images), predictor.probabilities(images))
    assert torch.equal(scripted(images), predictor(images))
