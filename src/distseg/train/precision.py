"""Which number format a device computes in."""

import torch

from distseg.errors import ConfigError


def resolve_precision(wanted: str, device: torch.device) -> str:
    """``auto`` -> ``bf16`` where the device computes it natively, else ``fp32``; ConfigError on fp16 without a GPU."""
    if wanted == "fp16" and device.type != "cuda":
        raise ConfigError("train.precision: got fp16, which needs a GPU; want auto, bf16 or fp32")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of a precision."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
