"""The model for other runtimes: a ``torch.export`` program, and the ONNX file made of it.

TorchScript is deprecated in torch. A program keeps what it is good for in PyTorch's own tools (AOTInductor,
ExecuTorch); ONNX serves everything else. Both take any number of images of any size and hold a manifest of their own.
"""

import importlib.util
import io
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.passes import move_to_device_pass

from distseg.errors import InputError, ParityError
from distseg.export import parity
from distseg.records import ExportManifest, Parity
from distseg.tasks.predictor import Predictor

_NEEDED_FOR_ONNX = ("onnx", "onnxruntime", "onnxscript")
_MANIFEST_KEY = "distseg.json"


class PortableFile(NamedTuple):
    """A file that agrees with its model; only its manifest is still to be put in."""

    run: parity.Model
    """The file itself, on the CPU."""
    agreement: tuple[Parity, ...]
    content: Callable[[ExportManifest], bytes]
    """What to write."""


class Portable(nn.Module):
    """uint8 (B, 3, H, W) RGB -> (uint8 masks (B, H, W), float32 probabilities (B, C, H, W)).

    One graph for every device and runtime: it resizes in floats, which all of them know, and does not round to grey
    levels, where the last bit of a sum decides (rounded, ONNX Runtime was 0.01 of probability off on a trained network,
    unrounded 5e-4). So the network sees images within a grey level of what the predictor shows it.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        resized = self.predictor.resized_in_floats(images)
        logits = self.predictor.enlarged_logits(resized, images.shape[-2], images.shape[-1])
        return self.predictor.labels_of(logits), self.predictor.probabilities_of(logits)


def to_program(predictor: Predictor) -> ExportedProgram:
    """The whole graph, free in number and size of images; ParityError when torch.export cannot follow the network."""
    predictor.eval()
    # sizes that are no special case: torch.export takes 1 for a constant, and equal numbers for one and the same
    example = torch.zeros(2, 3, 70, 90, dtype=torch.uint8)
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        with torch.no_grad():
            return torch.export.export(Portable(predictor).eval(), (example,), dynamic_shapes=(free,))
    except Exception as error:  # whatever the tracer stumbles over; its types are not public
        reason = " ".join(str(error).split())[:300]
        raise ParityError(f"torch.export cannot follow this network ({reason}); export model.ts alone") from error


def program_file(program: ExportedProgram, predictor: Predictor) -> PortableFile:
    """A ``.pt2`` file that agrees with the predictor on each device of this machine; ParityError when it does not."""
    data = _saved(program, {})

    def run_on(device: str) -> parity.Model:
        return _outputs(move_to_device_pass(torch.export.load(io.BytesIO(data)), device).module())

    def check_on(device: str) -> Parity:
        model = _outputs(Portable(predictor.to(device)).eval())
        return parity.check(model, run_on(device), device=device, what="the torch.export program")

    try:
        agreement = tuple(map(check_on, parity.devices()))
    finally:
        predictor.to("cpu")

    def content(manifest: ExportManifest) -> bytes:
        return _saved(program, {_MANIFEST_KEY: manifest.model_dump_json(indent=1)})

    return PortableFile(run_on("cpu"), agreement, content)


def _saved(program: ExportedProgram, extra_files: dict[str, str]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=extra_files)
    return file.getvalue()


def check_onnx_installed() -> None:
    """InputError when the packages of the extra [onnx] are not here."""
    missing = [name for name in _NEEDED_FOR_ONNX if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--onnx: needs {', '.join(missing)}; install them with pip install 'distseg[onnx]'")


def onnx_file(program: ExportedProgram, predictor: Predictor) -> PortableFile:
    """An ``.onnx`` file with which ONNX Runtime agrees with the predictor on the CPU; ParityError when it does not."""
    import onnx
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter warns of its own deprecations
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["images"], output_names=["masks", "probabilities"]
        )
    assert converted is not None
    proto = converted.model_proto
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))

    def content(manifest: ExportManifest) -> bytes:
        onnx.helper.set_model_props(proto, {_MANIFEST_KEY: manifest.model_dump_json()})
        data: bytes = proto.SerializeToString()
        return data

    model = _outputs(Portable(predictor).eval())
    found = parity.check(model, _outputs(run), what="the ONNX model", rule=parity.ONNX_RULE)
    return PortableFile(_outputs(run), (found,), content)


def _outputs(run: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> parity.Model:
    """Of something that gives masks and probabilities, as `Portable` does."""

    def output(images: torch.Tensor) -> parity.Output:
        masks, probabilities = run(images)
        return parity.Output(masks, probabilities, None)

    return output
