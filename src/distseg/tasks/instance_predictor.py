"""Everything around a Mask R-CNN, from uint8 images to boxes, labels, scores and masks at the images' own size.

Validation during training and the exported file run this very class, so what is measured is what is shipped. It holds
nothing that TorchScript cannot compile.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, paste_mask_in_image
from torchvision.models.detection.transform import resize_boxes

from distseg.data.sizes import fitted


class InstancePredictor(nn.Module):
    """Scale to fit, detect, scale back."""

    def __init__(self, network: nn.Module, *, input_size: tuple[int, int] | None) -> None:
        """``input_size``: images are scaled, their shape kept, to just fit into this box (width, height); None: not.

        ``network``: as `build_maskrcnn` makes it.
        """
        super().__init__()
        self.network = network
        self.width, self.height = input_size or (0, 0)

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """uint8 (B, 3, H, W) RGB -> what is found in each image, as `detect` has it."""
        return self.detect(list(images.unbind(0)))

    @torch.jit.export
    def detect(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Images uint8 (3, H, W) RGB of any sizes -> for each, by falling score, N objects.

        ``boxes`` (N, 4) float32: left, top, right, bottom in pixels; ``labels`` (N,) int64 class indices from 0;
        ``scores`` (N,) float32 in [0, 1]; ``masks`` (N, H, W) uint8, 0 or 1. An image is seen by itself: what is found
        in it does not depend on others.
        """
        found: list[dict[str, torch.Tensor]] = []
        for image in images:
            height, width = image.shape[-2], image.shape[-1]
            x = self.fit(image)
            seen = self.raw(x)
            boxes = resize_boxes(seen["boxes"], [x.shape[-2], x.shape[-1]], [height, width])
            found.append(
                {
                    "boxes": boxes,
                    "labels": seen["labels"] - 1,
                    "scores": seen["scores"],
                    "masks": pasted(seen["masks"], boxes, height, width),
                }
            )
        return found

    @torch.jit.export
    def losses(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The five losses by name, scalars; only in training mode.

        Images (3, h, w) float32 in [0, 1] that fit already, targets as `torchvision_target` makes them.
        """
        outputs = self.network(images, targets)
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return outputs[0]  # type: ignore[no-any-return]
        return outputs  # type: ignore[no-any-return]

    @torch.jit.export
    def raw(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the network says of an image (3, h, w) float32 in [0, 1]: its labels from 1, masks (N, 1, 28, 28)."""
        outputs = self.network([image])
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return outputs[1][0]  # type: ignore[no-any-return]
        return outputs[0]  # type: ignore[no-any-return]

    @torch.jit.export
    def fit(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 (3, H, W) -> float32 (3, h, w) in [0, 1] at the size that the network sees."""
        height, width = image.shape[-2], image.shape[-1]
        x = image.float() / 255.0
        if self.width == 0:
            return x
        wide, high = fitted(width, height, self.width, self.height)
        if wide == width and high == height:
            return x
        # antialiased, as the training images shrink (area)
        return F.interpolate(x[None], size=[high, wide], mode="bilinear", align_corners=False, antialias=True)[0]


def pasted(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Masks (N, 1, m, m) in [0, 1], each within its box (N, 4) -> (N, height, width) uint8, 1 from one half up.

    torchvision's own pasting, one mask at a time: all of them as floats would take 100 times the photograph's memory.
    """
    whole = torch.zeros([masks.shape[0], height, width], dtype=torch.uint8, device=masks.device)
    padded, scale = expand_masks(masks.float(), 1)
    corners = expand_boxes(boxes, scale).to(torch.int64)
    for number in range(masks.shape[0]):
        whole[number] = (paste_mask_in_image(padded[number][0], corners[number], height, width) > 0.5).to(torch.uint8)
    return whole
