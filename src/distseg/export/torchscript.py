"""One self-contained TorchScript file: uint8 images in, masks at their own size out.

The network is traced (scripting fails for some architectures), put back into the very ``Predictor`` that validation
ran, and that is scripted and frozen. A network whose tracing does not follow it is scripted instead. torch alone loads
the file.
"""

import hashlib
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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


def to_torchscript(
    predictor: Predictor, network_by: Literal["tracing", "scripting"] = "tracing"
) -> torch.jit.ScriptModule:
    """A frozen script module that does what the predictor does; the predictor itself stays as it was, in eval mode.

    Freezing folds BatchNorm into the convolutions, so logits agree to rounding, not to the bit.
    """
    predictor.eval()
    network = predictor.network
    with warnings.catch_warnings(), torch.no_grad():
        # tracing warns of Python shape checks: the input is padded to the divisor, so they always hold
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", message=".*`torch.jit")
        try:
            if network_by == "tracing":
                # two images: some networks trace a batch of one into a shape that fits no other
                example = torch.zeros(2, 3, *_traced_size(predictor))
                predictor.network = torch.jit.trace(  # type: ignore[no-untyped-call]
                    network, example, check_trace=False
                )
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


def load(path: Path, device: str = "cpu", *, foreign: bool = False) -> LoadedModel:
    """Opens an exported file.

    DataError when it is missing, damaged, carries no manifest of ours, or is not the file that its ``.sha256`` names.
    ``foreign`` takes a TorchScript file without a manifest at its word, that it maps uint8 (B, 3, H, W) to uint8
    (B, H, W) and has ``probabilities``. A TorchScript file is code: these checks tell a damaged or unknown file, not a
    malicious one.
    """
    _want_file(path)
    beside = digest_path(path)
    if beside.exists() and beside.read_text().split()[:1] != [_sha256(path)]:
        raise DataError(f"{path}: differs from the digest in {beside.name}; export it again or copy both files again")
    manifest = manifest_in(path)  # before any of its code is loaded
    if manifest is None and not foreign:
        raise DataError(
            f"{path}: holds no {MANIFEST_NAME}; make it with 'distseg export', or say that you trust it with --foreign"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*`torch.jit")  # deprecated, and works; see README
            if manifest is not None and manifest.task == "instance":
                import torchvision  # noqa: F401  # its operators; other files do without, and it takes a second
            module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise DataError(f"{path}: no TorchScript file ({str(error).splitlines()[0]}); export it again") from error
    return LoadedModel(module, manifest or _manifest_of_foreign(path, module, device))


def manifest_in(path: Path) -> ExportManifest | None:
    """What the file says of itself; None when it says nothing. DataError when it is missing or no TorchScript file."""
    _want_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            inside = [name for name in names if name.endswith(f"/extra/{MANIFEST_NAME}")]
            text = archive.read(inside[0]) if inside else None
            if not any("/code/" in name for name in names):
                raise zipfile.BadZipFile("a zip file without code")
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(f"{path}: no TorchScript file ({error}); export it again") from error
    if text is None:
        return None
    try:
        return ExportManifest.model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"{path}: its {MANIFEST_NAME} is not of this version; make it with 'distseg export'") from error


def _want_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such file; make it with 'distseg export STUDY --out {path.name}'")


def _manifest_of_foreign(path: Path, module: torch.jit.ScriptModule, device: str) -> ExportManifest:
    """The little that trying a file without a manifest tells: its task and the number of its classes."""
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device)
    try:
        with torch.inference_mode():
            masks, channels = module(images), module.probabilities(images).shape[1]
    except (RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError(f"{path}: cannot be called as files of 'distseg export' are ({reason}); wrap it") from error
    if masks.dtype != torch.uint8 or masks.shape != (1, 64, 64):
        raise DataError(f"{path}: gives {masks.dtype} {tuple(masks.shape)} for one image, want uint8 (1, 64, 64)")
    return ExportManifest.bare(tuple(f"class {number}" for number in range(max(2, channels))))


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
