"""The model for other runtimes: a ``torch.export`` program, and the ONNX file made of it.

TorchScript is deprecated in torch. A program keeps what it is good for in PyTorch's own tools (AOTInductor,
ExecuTorch); ONNX serves everything else. Both take any number of images of any size and hold the export manifest.
"""

import importlib.util
import io
import warnings

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from distseg.errors import InputError, ParityError
from distseg.export import parity
from distseg.records import ExportManifest
from distseg.tasks.predictor import Predictor

_NEEDED_FOR_ONNX = ("onnx", "onnxruntime", "onnxscript")
_MANIFEST_KEY = "distseg.json"


class Portable(nn.Module):
    """uint8 (B, 3, H, W) RGB -> (uint8 masks (B, H, W), float32 probabilities (B, C, H, W))."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.predictor.resized_logits(images)
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


def program_bytes(program: ExportedProgram, predictor: Predictor, manifest: ExportManifest) -> bytes:
    """The content of a ``.pt2`` file that agrees with the predictor; ParityError when it does not."""
    saved = io.BytesIO()
    torch.export.save(program, saved, extra_files={_MANIFEST_KEY: manifest.model_dump_json(indent=1)})
    saved.seek(0)
    run = torch.export.load(saved).module()

    def output(images: torch.Tensor) -> parity.Output:
        masks, probabilities = run(images)
        return parity.Output(masks, probabilities, None)

    parity.check(predictor, output, what="the torch.export program")
    return saved.getvalue()


def check_onnx_installed() -> None:
    """InputError when the packages of the extra [onnx] are not here."""
    missing = [name for name in _NEEDED_FOR_ONNX if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--onnx: needs {', '.join(missing)}; install them with pip install 'distseg[onnx]'")


def onnx_bytes(program: ExportedProgram, predictor: Predictor, manifest: ExportManifest) -> bytes:
    """The content of an ``.onnx`` file on which ONNX Runtime agrees with the predictor, else ParityError."""
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter warns of its own deprecations
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["images"], output_names=["masks", "probabilities"]
        )
    assert converted is not None
    converted.model.metadata_props[_MANIFEST_KEY] = manifest.model_dump_json()
    data: bytes = converted.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> parity.Output:
        masks, probabilities = session.run(None, {"images": images.numpy()})
        return parity.Output(torch.from_numpy(masks), torch.from_numpy(probabilities), None)

    parity.check(predictor, run, what="the ONNX model", rule=parity.ONNX_RULE)
    return data
