"""One self-contained TorchScript file: uint8 images in, masks at their own size out.

The network is traced (scripting fails for some architectures), put back into the very ``Predictor`` that validation
ran, and that is scripted and frozen. torch alone loads the file.
"""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from distseg import atomic
from distseg.errors import DataError
from distseg.records import ExportManifest
from distseg.tasks.predictor import Predictor

MANIFEST_NAME = "distseg.json"


@dataclass(frozen=True)
class LoadedModel:
    """An exported file, ready to run."""

    module: torch.jit.ScriptModule
    """uint8 (B, 3, H, W) RGB -> uint8 (B, H, W); method ``probabilities`` -> float32 (B, C, H, W)."""
    manifest: ExportManifest


def to_torchscript(predictor: Predictor) -> torch.jit.ScriptModule:
    """A frozen script module that does what the predictor does; the predictor itself stays as it was, in eval mode.

    Freezing folds BatchNorm into the convolutions, so logits agree to rounding, not to the bit.
    """
    predictor.eval()
    # two images: some networks trace a batch of one into a shape that fits no other
    example = torch.zeros(2, 3, *_traced_size(predictor))
    network = predictor.network
    with warnings.catch_warnings(), torch.no_grad():
        # tracing warns of Python shape checks: the input is padded to the divisor, so they always hold
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", message=".*`torch.jit")
        predictor.network = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, example, check_trace=False
        )
        try:
            scripted = torch.jit.script(predictor)
            frozen: torch.jit.ScriptModule = torch.jit.freeze(
                scripted.eval(), preserved_attrs=["probabilities", "logits"]
            )
            return frozen
        finally:
            predictor.network = network


def save(module: torch.jit.ScriptModule, manifest: ExportManifest, path: Path) -> None:
    """Writes ``path`` with the manifest inside, and ``path.sha256`` beside it; each appears complete or not at all."""
    with atomic.replacing(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`torch.jit")  # deprecated, and works; see README
        torch.jit.save(module, file, _extra_files={MANIFEST_NAME: manifest.model_dump_json(indent=1)})
    atomic.write_text(digest_path(path), f"{_sha256(path)}  {path.name}\n")


def load(path: Path, device: str = "cpu") -> LoadedModel:
    """Opens an exported file.

    DataError when it is missing, damaged, carries no manifest of ours, or is not the file that its ``.sha256`` names. A
    TorchScript file is code: this check tells a damaged file, not a malicious one.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; make it with 'distseg export STUDY --out {path.name}'")
    beside = digest_path(path)
    if beside.exists() and beside.read_text().split()[:1] != [_sha256(path)]:
        raise DataError(f"{path}: differs from the digest in {beside.name}; export it again or copy both files again")
    extra = {MANIFEST_NAME: ""}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*`torch.jit")  # deprecated, and works; see README
            module = _loaded(path, device, extra)
    except RuntimeError as error:
        raise DataError(f"{path}: no TorchScript file ({str(error).splitlines()[0]}); export it again") from error
    try:
        return LoadedModel(module, ExportManifest.model_validate_json(extra[MANIFEST_NAME]))
    except ValidationError as error:
        raise DataError(f"{path}: holds no {MANIFEST_NAME} of this version; make it with 'distseg export'") from error


def _loaded(path: Path, device: str, extra: dict[str, str]) -> torch.jit.ScriptModule:
    """Fills ``extra``. A detector's operators are torchvision's, which others do without: it takes a second."""
    try:
        return _read(path, device, extra)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torchvision  # noqa: F401

        return _read(path, device, extra)


def _read(path: Path, device: str, extra: dict[str, str]) -> torch.jit.ScriptModule:
    module: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
        str(path), map_location=device, _extra_files=extra
    )
    return module


def digest_path(path: Path) -> Path:
    """``model.ts`` -> ``model.ts.sha256``."""
    return path.with_name(path.name + ".sha256")


def _traced_size(predictor: Predictor) -> tuple[int, int]:
    """(height, width) that the network sees, padded."""
    divisor = predictor.divisor
    height, width = predictor.height or 256, predictor.width or 256
    return height + -height % divisor, width + -width % divisor


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
