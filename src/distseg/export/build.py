"""From a run's best checkpoint to an exported file whose metrics were measured on the file itself."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distseg import __version__, atomic, checkpoint, records
from distseg.config import RunConfig
from distseg.data.cache import ShardCache
from distseg.data.manifest import Manifest, ShardFolder
from distseg.data.stream import EvalBatches, batch_loader, open_split
from distseg.errors import DataError, HomeError, InputError, ParityError
from distseg.export import parity
from distseg.export.portable import onnx_file, program_file, to_program
from distseg.export.torchscript import load, save, to_torchscript
from distseg.models.build import build_instance_model, build_model
from distseg.records import ExportManifest, Parity, Score, TrialRecord
from distseg.tasks.dense import channels_out
from distseg.tasks.predictor import Predictor
from distseg.tasks.scoring import measure

if TYPE_CHECKING:  # it takes torchvision, which takes four seconds; only detectors need it
    from distseg.tasks.instance_predictor import InstancePredictor


def export(
    folder: Path,
    out: Path,
    cache: ShardCache | None = None,
    *,
    onnx: Path | None = None,
    program: Path | None = None,
) -> ExportManifest:
    """Exports ``best.pt`` of a run's folder to ``out``; ParityError, and no file, when it does not follow the model.

    The metrics in the manifest are computed from the exported file on the validation samples of the run's own data;
    ``cache`` takes copies of its shards if they stand behind a URL. ``onnx`` and ``program`` (of torch.export) are
    written beside it, each with a manifest of what was found of it. Returns the manifest of ``out``.
    """
    record = TrialRecord.load(folder)
    if record.checkpoint is None:
        raise HomeError(f"{folder}: trial {record.trial_id} is {record.status} without a checkpoint; choose another")
    best = folder / record.checkpoint
    tree = checkpoint.load(best)
    cfg = RunConfig.model_validate(tree["config"])
    shards = ShardFolder.open(record.data, cache)
    if shards.manifest.data_digest != record.data_digest:
        raise DataError(
            f"{shards.root}: holds data {shards.manifest.data_digest[:8]}, trial {record.trial_id} was trained on "
            f"{record.data_digest[:8]}; bring the old shards back, or train again"
        )
    predictor = restore_predictor(cfg, tree, shards.manifest)
    if not isinstance(predictor, Predictor) and (onnx is not None or program is not None):
        option = "--onnx" if onnx is not None else "--program"
        raise InputError(f"{option}: a Mask R-CNN is exported as TorchScript alone; drop it")
    mean, std, divisor = _input_of(predictor)
    manifest = ExportManifest(
        task=cfg.task,
        classes=shards.manifest.classes,
        input_size=(predictor.width, predictor.height) if predictor.width else None,
        resolution=record.resolution,
        mean=mean,
        std=std,
        divisor=divisor,
        metric=record.metric,
        metrics={},
        samples=0,
        trial=record.trial_id,
        study=record.study,
        overrides=record.overrides,
        config=tree["config"],
        data_digest=record.data_digest,
        split_digest=record.split_digest,
        checkpoint_sha256=checkpoint.sha256(best),
        parity=(),
        versions={"distseg": __version__, "torch": torch.__version__},
        created_at=records.now(),
    )
    with tempfile.TemporaryDirectory(prefix="distseg-export-") as aside:
        draft = Path(aside) / "model.ts"
        if isinstance(predictor, Predictor):
            module, agreement = _compiled(predictor, manifest, draft)
        else:
            module, agreement = _compiled_detector(predictor, manifest, draft, shards)
        manifest = manifest.of_file(score_file(draft, shards, cfg.data.fold), agreement)
    beside: dict[Path, bytes] = {}  # written once all have passed their check
    if isinstance(predictor, Predictor) and (onnx is not None or program is not None):
        exported = to_program(predictor)
        for path, made_of in ((onnx, onnx_file), (program, program_file)):
            if path is not None:
                file = made_of(exported, predictor)
                score = score_labels(_labels_of(file.run), shards, cfg.data.fold)
                beside[path] = file.content(manifest.of_file(score, file.agreement))
    for path, data in beside.items():
        with atomic.replacing(path) as opened:
            opened.write(data)
    save(module, manifest, out)
    return manifest


def _compiled_detector(
    predictor: "InstancePredictor", manifest: ExportManifest, draft: Path, shards: ShardFolder
) -> tuple[torch.jit.ScriptModule, tuple[Parity, ...]]:
    """As `_compiled`, tried on the first validation photographs too."""
    from distseg.export.instances import check_instances, photographs_of, script_instances

    module = script_instances(predictor)
    save(module, manifest, draft)
    photographs = photographs_of(shards, RunConfig.model_validate(manifest.config).data.fold)
    try:
        return module, tuple(
            check_instances(predictor.to(device), load(draft, device).module, photographs, device)
            for device in parity.devices()
        )
    finally:
        predictor.to("cpu")


def _compiled(
    predictor: Predictor, manifest: ExportManifest, draft: Path
) -> tuple[torch.jit.ScriptModule, tuple[Parity, ...]]:
    """The module that follows the predictor, saved at ``draft``, and how closely; ParityError when none does."""
    try:
        module = to_torchscript(predictor)
        save(module, manifest, draft)
        return module, _parity_of_file(predictor, draft)
    except (ParityError, RuntimeError) as traced:  # a network that decides by its input cannot be traced
        try:
            module = to_torchscript(predictor, "scripting")
        except RuntimeError:
            raise traced from None
        save(module, manifest, draft)
        return module, _parity_of_file(predictor, draft)


def _parity_of_file(predictor: Predictor, path: Path) -> tuple[Parity, ...]:
    """On each device of this machine, in fp32 and bf16."""
    try:
        return tuple(
            parity.check(
                parity.eager(predictor.to(device)),
                _all_outputs(load(path, device).module),
                device=device,
                precision=precision,
            )
            for device in parity.devices()
            for precision in parity.RULES
        )
    finally:
        predictor.to("cpu")


def _all_outputs(module: torch.jit.ScriptModule) -> parity.Model:
    return lambda images: parity.Output(module(images), module.probabilities(images), module.logits(images))


def _labels_of(run: parity.Model) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: run(images).masks


def restore_predictor(cfg: RunConfig, tree: dict[str, Any], data: Manifest) -> "Predictor | InstancePredictor":
    """The trained model of a checkpoint, in eval mode on the CPU."""
    if cfg.task == "instance":
        from distseg.tasks.instance_predictor import InstancePredictor

        network = build_instance_model(cfg.model, len(data.classes), tree["network"]).network
        network.load_state_dict(tree["network"])
        return InstancePredictor(network, input_size=cfg.data.input_size or data.size).eval()
    model = cfg.model.model_copy(update={"weights": "none"})  # the checkpoint holds the weights
    built = build_model(model, channels_out(cfg.task, len(data.classes)))
    built.network.load_state_dict(tree["network"])
    predictor = Predictor(
        built.network,
        input_size=cfg.data.input_size or data.size,
        divisor=built.divisor,
        mean=tree.get("mean", built.mean),
        std=tree.get("std", built.std),
    )
    return predictor.eval()


def score_file(path: Path, shards: ShardFolder, fold: int | None, batch: int = 16) -> Score:
    """Metrics of a TorchScript file on the validation samples; DataError when one of them cannot be used."""
    module = load(path).module
    if shards.manifest.task == "instance":
        from distseg.export.instances import score_instance_file

        return score_instance_file(module, shards, fold)
    return score_labels(module, shards, fold, batch)


def score_labels(
    predict: Callable[[torch.Tensor], torch.Tensor], shards: ShardFolder, fold: int | None, batch: int = 16
) -> Score:
    """As `score_file`, of anything that maps uint8 (B, 3, H, W) to labels uint8 (B, H, W) on the CPU."""
    reader = open_split(shards, training=False, fold=fold)
    batches = EvalBatches(reader, batch=batch, rank=0, world_size=1)
    loader = batch_loader(batches, range(len(batches)), workers=0, prefetch=1, pin=False)
    with torch.inference_mode():
        score, bad = measure(predict, loader, shards.manifest, torch.device("cpu"), lambda sums: sums)
    if bad:
        raise DataError(f"{shards.root}: {len(bad)} samples cannot be used, first {bad[0].key}: {bad[0].reason}")
    return score


def _input_of(
    predictor: "Predictor | InstancePredictor",
) -> tuple[tuple[float, float, float], tuple[float, float, float], int]:
    """Mean and deviation of the pixels 0..1 that the network wants, and what it wants sides to be multiples of."""
    if isinstance(predictor, Predictor):
        return _per_channel(predictor.mean), _per_channel(predictor.std), predictor.divisor
    transform: Any = predictor.network.transform
    return tuple(transform.image_mean), tuple(transform.image_std), transform.size_divisible


def _per_channel(buffer: torch.Tensor) -> tuple[float, float, float]:
    """A buffer (1, 3, 1, 1) for pixels 0..255 as three numbers for pixels 0..1."""
    red, green, blue = (buffer.flatten() / 255).tolist()
    return red, green, blue
