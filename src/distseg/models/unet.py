"""The classic U-Net, from scratch (Ronneberger et al. 2015, with BatchNorm and same-size convolutions)."""

import torch
from torch import nn


def _double_convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two times 3x3 convolution, BatchNorm, ReLU; height and width stay."""
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        layers += [
            nn.Conv2d(channels, channels_out, kernel_size=3, padding=1, bias=False),  # BatchNorm has the bias
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class ClassicUNet(nn.Module):
    """Four encoder blocks with max pooling, a bottleneck, four decoder blocks with transposed convolution and skips.

    (B, 3, H, W) float32 -> logits (B, ``channels_out``, H, W); H and W are multiples of 16.
    ``width``: channels of the first block (64 in the paper); each deeper block doubles them.
    """

    DIVISOR = 16

    def __init__(self, channels_out: int, width: int = 64) -> None:
        super().__init__()
        widths = [width * 2**depth for depth in range(4)]
        self.encoders = nn.ModuleList(
            _double_convolution(channels_in, channels)
            for channels_in, channels in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = _double_convolution(widths[-1], 2 * widths[-1])
        self.upsamplers = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, kernel_size=2, stride=2) for c in widths[::-1])
        self.decoders = nn.ModuleList(_double_convolution(2 * c, c) for c in widths[::-1])
        self.head = nn.Conv2d(width, channels_out, kernel_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        skips = []
        x = images
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        for upsampler, decoder, skip in zip(self.upsamplers, self.decoders, reversed(skips), strict=True):
            x = decoder(torch.cat([skip, upsampler(x)], dim=1))
        logits: torch.Tensor = self.head(x)
        return logits
