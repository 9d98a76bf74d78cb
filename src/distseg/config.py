"""Configs: YAML plus ``dotted.path=value`` overrides, checked into frozen pydantic models.

A run config is the whole description of one training run except its data and its name. A search config
names a base run config and the space of overrides around it. Unknown keys are refused with the nearest known one.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from distseg.errors import ConfigError


class Section(BaseModel):
    """A part of a config: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_size(value: Any) -> Any:
    """``128`` and ``WxH`` (the command line's and YAML's way) both become (width, height) in pixels."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if isinstance(value, str):
        parts = value.lower().split("x")
        if len(parts) in (1, 2) and all(part.isdigit() for part in parts):
            return (int(parts[0]), int(parts[-1]))
    return value


PositiveInt = Annotated[int, Field(gt=0)]
Size = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(_as_size)]
"""(width, height) in pixels, written ``128`` or ``WxH``."""


class DataConfig(Section):
    """How shards become batches."""

    input_size: Size | None = None
    """Size at which the network sees images; None: the size stored in the shards."""
    fold: Annotated[int, Field(ge=0)] | None = None
    """Validate on this fold of the manifest and train on the others; None: the manifest's split."""
    tail: Literal["wrap", "drop"] = "wrap"
    """The last global batch of an epoch when samples do not divide: filled from the epoch's start, or left out."""
    shuffle_window: Annotated[int, Field(gt=0, le=64)] = 8
    """Samples are shuffled within this many shards (shards themselves are shuffled over the whole epoch).

    Each process keeps as many shards open, and as many indexes in memory; remote ones cannot leave the node's cache.
    """
    workers: Annotated[int, Field(ge=0)] = 0
    """Loader processes per training worker; 0 decodes in the training process."""
    prefetch: PositiveInt = 2
    """Batches that each loader process prepares ahead."""
    bad_fraction_max: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Fail the run when more than this part of the samples cannot be used."""


class ModelConfig(Section):
    """Which network; the mapping from names to modules stands in ``models/build.py``."""

    architecture: str = "classic_unet"
    """``classic_unet`` (written here), an architecture of segmentation_models_pytorch, or torchvision's DeepLabV3; of
    task instance, a Mask R-CNN (``maskrcnn_...``)."""
    encoder: str | None = None
    """Encoder of an SMP architecture; the others take none."""
    weights: str = "none"
    """``none``, ``imagenet`` (downloads), or the path of a safetensors/pt file with the encoder's weights.

    Of a Mask R-CNN also ``coco`` (downloads), and a path is that of a state dict, or of ``best.pt`` or ``last.pt`` of
    another run: heads for other classes are left out.
    """
    width: PositiveInt = 64
    """Channels of the first block of ``classic_unet``; each deeper block doubles them. Of ``maskrcnn_resnet10_fpn``,
    channels of its pyramid and heads, twice those of its first stage."""
    decoder_channels: tuple[PositiveInt, ...] | None = None
    """Channels of the decoder's blocks, deepest first, where the SMP architecture takes them."""
    frozen_stages: Annotated[int, Field(ge=0)] | None = None
    """Stages of a Mask R-CNN's body that keep their pretrained weights; None: torchvision's number for ``coco`` and
    ``imagenet``, else 0."""
    anchor_sizes: tuple[PositiveInt, ...] | None = None
    """Sides of a Mask R-CNN's anchors in pixels at the input size, finest level first; None: the architecture's."""
    detections_max: PositiveInt = 100
    """Objects that a Mask R-CNN may find in an image."""


class LossConfig(Section):
    """Loss on float32 logits."""

    name: Literal[
        "bce", "cross_entropy", "focal", "dice", "jaccard", "tversky", "lovasz", "bce_dice", "cross_entropy_dice"
    ] = "bce_dice"
    """``bce`` and ``bce_dice`` are binary names, ``cross_entropy`` and ``cross_entropy_dice`` multi-class."""
    dice_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Part of Dice in ``bce_dice`` and ``cross_entropy_dice``; the pixels' term has the rest."""
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    """How much ``focal`` leaves well classified pixels aside."""
    tversky_recall: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Weight of missed pixels in ``tversky``; false ones have the rest. 0.5 is Dice."""
    class_weights: Literal["none", "median_frequency"] = "none"
    """Weights of classes in the pixels' term, from the manifest's pixel counts."""
    boundary_weight: Annotated[float, Field(ge=0)] = 0.0
    """Pixels near a boundary weigh 1 + this in the pixels' term."""
    boundary_reach: PositiveInt = 3
    """How near, in pixels at the input size."""


class OptimConfig(Section):
    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest L2 norm of the whole gradient; None: no clipping."""


class ScheduleConfig(Section):
    """Learning rate as a pure function of the step."""

    name: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Part of all steps in which the rate rises to its peak."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Rate at the last step, as a part of the peak."""


Fraction = Annotated[float, Field(ge=0, le=1)]
"""A probability, or a part of a whole."""
NonNegative = Annotated[float, Field(ge=0)]


class FlipConfig(Section):
    p: Fraction = 0.5


class CropConfig(Section):
    """A random part of the picture, enlarged to the whole size."""

    p: Fraction = 1.0
    """In policy ``crop``; ``all`` has its own."""
    area_min: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Smallest part of the picture's area that is kept; its sides' ratio changes by up to a quarter."""


class PerspectiveConfig(Section):
    p: Fraction = 1.0
    """In policy ``perspective``; ``all`` has its own."""
    reach: Annotated[float, Field(gt=0, le=0.3)] = 0.08
    """Standard deviation of the corners' shifts at most, as a part of the sides; a quarter of it at least."""


class JitterConfig(Section):
    """Colours, each factor drawn from 1 - x to 1 + x; hue is turned by up to x of the circle."""

    p: Fraction = 1.0
    """In policy ``jitter``; ``all`` has its own."""
    brightness: Fraction = 0.2
    contrast: Fraction = 0.2
    saturation: Fraction = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.03


class AllConfig(Section):
    """Probabilities in policy ``all``; magnitudes are those of the four single policies."""

    flip_p: Fraction = 0.5
    crop_p: Fraction = 0.5
    perspective_p: Fraction = 0.5
    jitter_p: Fraction = 0.5


class FlipsRotateConfig(Section):
    horizontal_p: Fraction = 0.5
    vertical_p: Fraction = 0.5
    rotate_p: Fraction = 0.5
    degrees: Annotated[float, Field(ge=0, le=180)] = 35.0


class NineConfig(Section):
    """Policy ``nine``; lengths are parts of the picture's smaller side."""

    horizontal_p: Fraction = 0.5
    vertical_p: Fraction = 0.5
    rotate90_p: Fraction = 0.5
    """Turns by 90, 180 or 270 degrees; where the picture is not square, by 180."""
    shift_scale_rotate_p: Fraction = 0.5
    shift: Fraction = 0.0625
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    degrees: Annotated[float, Field(ge=0, le=180)] = 45.0
    elastic_p: Fraction = 0.2
    elastic_shift: Annotated[float, Field(ge=0, le=0.2)] = 0.015
    """Root mean square of the elastic displacement."""
    elastic_smoothness: Annotated[float, Field(ge=0.02, le=0.5)] = 0.08
    """Standard deviation of the Gaussian that smooths the displacement."""
    blur_p: Fraction = 0.2
    blur_sigma: NonNegative = 1.5
    """Pixels, at most."""
    noise_p: Fraction = 0.2
    noise_std: Fraction = 0.1
    """Of the range of values, at most."""
    optical_p: Fraction = 0.2
    optical_limit: Fraction = 0.3
    """Radial distortion, barrel or pincushion, at most."""
    grid_p: Fraction = 0.2
    grid_limit: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Change of the cells' sides, at most."""


class QualityConfig(Section):
    """Policy ``quality``: the faults of cameras and files."""

    compression_p: Fraction = 0.5
    jpeg_quality_min: Annotated[int, Field(ge=1, le=100)] = 30
    horizontal_p: Fraction = 0.5
    vertical_p: Fraction = 0.5
    soften_p: Fraction = 0.5
    """Either shrunk and enlarged again or blurred, by even chance."""
    downscale_min: Annotated[float, Field(gt=0, lt=1)] = 0.4
    blur_sigma: NonNegative = 1.5
    """Pixels, at most."""


class TrivialConfig(Section):
    strength_max: Fraction = 1.0
    """Strengths are drawn evenly from 0 to this; 1 is an operation at its fullest (``augment/operations.py``)."""


class RandAugmentConfig(Section):
    n: PositiveInt = 2
    """Operations per sample, drawn with replacement."""
    m: Annotated[float, Field(ge=0, le=10)] = 5.0
    """Strength of each, in tenths of its fullest."""


class AdaptiveConfig(Section):
    """The controller of ``augment/adaptive.py`` (its rule stands there), and what a level does to a sample."""

    signal: Literal["error", "gap"] = "error"
    """What is held at ``target``: the training error, or its gap to the validation error."""
    error: Literal["loss_ratio", "soft_dice"] = "loss_ratio"
    """Training loss over that of the run's first window, or 1 - soft Dice."""
    target: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """The level rises while the error is below (``gap``: while 1 - training / validation error is above)."""
    dead_band: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The level rests while the signal is nearer to the target than this part of the target."""
    speed: Annotated[float, Field(gt=0)] = 1.0
    """How far the level moves per thousand images seen."""
    start: Fraction = 0.0
    """Level of a run's first windows."""
    max: Fraction = 1.0
    """Highest level."""
    window_images: PositiveInt = 256
    """Images over which the level is constant, in whole batches; nothing is decoded further ahead than this."""
    half_life_images: NonNegative = 256
    """Images after which a measured error has half its weight; 0: no smoothing."""
    probability_max: Fraction = 1.0
    """Part of the samples that are augmented at level 1; at level 0, none."""
    stack_max: Annotated[int, Field(ge=1, le=8)] = 3
    """Most operations on one sample at level 1; at level 0, one."""
    strength_max: Fraction = 1.0
    """Greatest strength of an operation at level 1; at level 0, none."""
    weights: tuple[NonNegative, ...] | None = None
    """Weights of ``augment.operations`` in the draw; None: they open in order as the level rises, drawn evenly."""

    @model_validator(mode="after")
    def _start_within(self) -> "AdaptiveConfig":
        if self.start > self.max:
            raise ValueError(f"start: got {self.start}, want at most max={self.max}")
        return self


class AugmentConfig(Section):
    """Which policy, and the numbers of each; those of other policies than the chosen one are not read."""

    policy: str = "flip"
    """A policy of ``augment/policies.py``."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where warps are computed: in the loader's processes, or by the training worker on its device."""
    fill: Literal["mirror", "blank"] = "mirror"
    """Beyond the border: the picture mirrored, labels too; or grey that has the ignore label."""
    flip: FlipConfig = FlipConfig()
    crop: CropConfig = CropConfig()
    perspective: PerspectiveConfig = PerspectiveConfig()
    jitter: JitterConfig = JitterConfig()
    all: AllConfig = AllConfig()
    flips_rotate: FlipsRotateConfig = FlipsRotateConfig()
    nine: NineConfig = NineConfig()
    quality: QualityConfig = QualityConfig()
    operations: tuple[str, ...] = (
        "flip",
        "brightness",
        "contrast",
        "saturation",
        "hue",
        "shift",
        "scale",
        "rotate",
        "blur",
        "noise",
        "shear",
        "perspective",
        "compression",
        "elastic",
        "grid",
    )
    """What ``trivial``, ``randaugment`` and ``adaptive`` draw from (``augment/operations.py``), gentle ones first."""
    trivial: TrivialConfig = TrivialConfig()
    randaugment: RandAugmentConfig = RandAugmentConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()

    @model_validator(mode="after")
    def _weights_fit(self) -> "AugmentConfig":
        weights = self.adaptive.weights
        if not self.operations:
            raise ValueError("operations: got none, want at least one")
        if weights is not None and (len(weights) != len(self.operations) or not any(weights)):
            raise ValueError(
                f"adaptive.weights: got {len(weights)} for {len(self.operations)} operations, want one each, not all 0"
            )
        return self


class TrainConfig(Section):
    epochs: PositiveInt = 10
    batch_global: PositiveInt = 16
    """Images per optimizer step over all workers together."""
    micro_batch: PositiveInt | None = None
    """Images per forward pass and worker; None: the worker's whole share. Gradients are accumulated."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """``auto``: bf16 where the device computes it natively, else fp32."""
    channels_last: bool = True
    threads: PositiveInt = 1
    """CPU threads per worker; fixed, because results on a CPU depend on it."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an exponential moving average of the weights with this decay per step; it is then what is validated."""
    sync_batchnorm: bool = False
    """BatchNorm over the batches of all GPUs; for small batches per GPU."""
    compile: bool = False
    """torch.compile the network: minutes at the start, faster steps on a GPU."""
    deterministic: bool = False
    """Only deterministic kernels on a GPU; slower. On a CPU results are exact anyway."""
    patience_epochs: PositiveInt | None = None
    """Stop when the metric has not improved for this many epochs; None: train all epochs."""
    checkpoint_steps: PositiveInt | None = None
    """Steps between checkpoints inside an epoch; None: at the end of each epoch only."""
    keep_last: PositiveInt = 1
    """Checkpoints kept besides the best: ``last.pt``, and one per epoch before it."""
    upload: str | None = None
    """fsspec URL of a folder to which checkpoints are copied in the background, e.g. s3://bucket/run.

    A trial's go to STUDY/TRIAL in it.
    """


class EvalConfig(Section):
    batch: PositiveInt = 32
    """Images per forward pass and worker; a Mask R-CNN sees one at a time, so that none hangs on another."""
    metric: str = "dice_mean_per_image"
    """Key of ``metrics`` that chooses ``best.pt`` and ranks trials."""
    mode: Literal["max", "min"] = "max"
    every_epochs: PositiveInt = 1
    """Epochs between validations; the last epoch is always validated."""
    panels_every_epochs: PositiveInt | None = None
    """Epochs between pictures of validation samples (image, truth, prediction, error); None: only of the last."""


class RunConfig(Section):
    """One training run, complete but for its data and its name."""

    task: Literal["binary", "multiclass", "instance"] = "binary"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "RunConfig":
        detects = self.model.architecture.startswith("maskrcnn_")
        if detects != (self.task == "instance"):
            wanted = "a maskrcnn_... with task 'instance', and with no other"
            raise ValueError(
                f"model.architecture: got '{self.model.architecture}' for task '{self.task}', want {wanted}"
            )
        if detects:
            self._check_instance()
            return self
        of_task = {"binary": "cross_entropy", "multiclass": "bce"}[self.task]
        if self.loss.name in (of_task, f"{of_task}_dice"):
            swap = {"bce": "cross_entropy", "cross_entropy": "bce"}[of_task]
            wanted = self.loss.name.replace(of_task, swap)
            raise ValueError(f"loss.name: got '{self.loss.name}' for task '{self.task}', want '{wanted}'")
        architecture, encoder = self.model.architecture, self.model.encoder
        whole = architecture == "classic_unet" or architecture.startswith("tv_")
        if whole and encoder is not None:
            raise ValueError(f"model.encoder: got '{encoder}', but {architecture} takes none; drop it")
        if not whole and encoder is None:
            raise ValueError(f"model.encoder: missing; architecture '{architecture}' needs one")
        return self

    def _check_instance(self) -> None:
        if self.loss != LossConfig():
            raise ValueError("loss: a Mask R-CNN has its own five losses; drop the section")
        if self.model.encoder is not None or self.model.decoder_channels is not None:
            raise ValueError("model: a Mask R-CNN takes neither encoder nor decoder_channels; drop them")
        if self.model.frozen_stages and self.model.weights == "none":
            raise ValueError(
                f"model.frozen_stages: got {self.model.frozen_stages} with model.weights 'none', want 0: stages that "
                "know nothing would never learn"
            )
        if self.augment.adaptive.error == "soft_dice":
            raise ValueError("augment.adaptive.error: got 'soft_dice', which objects do not have; want 'loss_ratio'")
        if self.train.compile:
            raise ValueError("train.compile: a Mask R-CNN's sizes change with every image; drop it")


class When(Section):
    """A condition on another dimension of the space."""

    path: str
    among: tuple[Any, ...]


class Dimension(Section):
    """One searched field. ``choice`` takes ``values``; the others take ``low`` and ``high`` (both included)."""

    kind: Literal["choice", "uniform", "loguniform", "int"]
    values: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    when: When | None = None
    """Search this field only in trials where another, earlier field has one of these values."""

    @model_validator(mode="after")
    def _complete(self) -> "Dimension":
        if self.kind == "choice":
            if not self.values or self.low is not None or self.high is not None:
                raise ValueError("choice: want a non-empty list 'values' and neither low nor high")
        elif self.values is not None or self.low is None or self.high is None or self.low > self.high:
            raise ValueError(f"{self.kind}: want low <= high and no 'values', got low={self.low} high={self.high}")
        elif self.kind == "loguniform" and self.low <= 0:
            raise ValueError(f"loguniform: want low > 0, got {self.low}")
        return self


class SearchAlgorithm(Section):
    algorithm: Literal["tpe", "random"] = "tpe"
    startup_trials: PositiveInt = 5
    """Trials drawn at random before TPE models them."""
    scheduler: Literal["asha", "none"] = "asha"
    grace_epochs: PositiveInt = 1
    """First rung: epochs that every trial gets."""
    reduction: Annotated[float, Field(gt=1)] = 3
    """ASHA keeps about one in this many at each rung."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Budget(Section):
    """Whichever comes first ends the study."""

    trials: PositiveInt = 10
    hours: Annotated[float, Field(gt=0)] | None = None
    """Of running; the time between an interruption and the resume is not counted."""
    target: float | None = None
    """Value of the metric that is good enough."""


class Resources(Section):
    workers_per_trial: PositiveInt = 1
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """A fraction lets several trials of one worker share a GPU."""
    max_concurrent: PositiveInt | None = None
    """At most this many trials at once; None: as many as the cluster holds."""
    keep_best: PositiveInt = 5
    """Checkpoints of this many ended trials, the best ones, stay on disk; figures, logs and pictures of all."""

    @model_validator(mode="after")
    def _gpus_can_be_held(self) -> "Resources":
        gpus = self.gpus_per_worker
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_worker: got {gpus:g}, want a fraction of one GPU or a whole number")
        if 0 < gpus < 1 and self.workers_per_trial > 1:
            raise ValueError(
                f"gpus_per_worker: got {gpus:g} for {self.workers_per_trial} workers_per_trial, want a whole number: "
                "NCCL takes each GPU only once in a trial"
            )
        return self


class SearchConfig(Section):
    """A study: a base run and the overrides to try around it."""

    base: str
    """Path of the base run config, relative to the search file."""
    space: dict[str, Dimension]
    points: tuple[dict[str, Any], ...] = ()
    """Overrides tried right after the base config itself, in this order."""
    search: SearchAlgorithm = SearchAlgorithm()
    budget: Budget = Budget()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _conditions_look_back(self) -> "SearchConfig":
        seen: set[str] = set()
        for path, dimension in self.space.items():
            if dimension.when is not None and dimension.when.path not in seen:
                raise ValueError(
                    f"space.{path}.when.path: '{dimension.when.path}' is not an earlier field of the space"
                )
            seen.add(path)
        return self


Config = TypeVar("Config", bound=Section)

_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    """YAML in which ``3e-4`` is a number: PyYAML follows YAML 1.1, where that is a string."""


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that ``_Loader`` would take for numbers."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A run config from YAML with ``a.b=value`` overrides; ConfigError on anything that is not right."""
    return _load(path, overrides, RunConfig)


def load_search(path: Path, overrides: Sequence[str] = ()) -> tuple[SearchConfig, RunConfig]:
    """A search config and its base run.

    Overrides whose path begins with ``study.`` change the search file, all others the base config.
    Every point and every field of the space is tried against the base config, so that a misspelt path or a value
    out of range fails here and not in the seventh trial.
    """
    of_study = [item.removeprefix("study.") for item in overrides if item.startswith("study.")]
    of_base = [item for item in overrides if not item.startswith("study.")]
    search = _load(path, of_study, SearchConfig)
    base = load_run(path.parent / search.base, of_base)
    known = known_paths(RunConfig)
    for dotted in [*search.space, *(dotted for point in search.points for dotted in point)]:
        if dotted not in known:
            raise ConfigError(f"{path}: space: unknown field '{dotted}'{_nearest(dotted, known)}")
    for dotted, dimension in search.space.items():
        _check_dimension(base, dotted, dimension, f"{path}: space")
    for point in search.points:
        with_overrides(base, point, source=str(path))
    return search, base


def with_overrides(base: RunConfig, overrides: Mapping[str, Any], source: str = "overrides") -> RunConfig:
    """The base config with dotted paths replaced, checked as a whole."""
    tree = base.model_dump(mode="python")
    for dotted, value in overrides.items():
        _set(tree, dotted, value, source, RunConfig)
    return _check(tree, source, RunConfig)


def as_assignments(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as the words to type after ``distseg train CONFIG``."""
    return [f"{dotted}={_as_word(value)}" for dotted, value in overrides.items()]


def parse_assignment(item: str) -> tuple[str, Any]:
    """``optim.lr=3e-4`` -> its dotted path and its value; ConfigError on anything else."""
    dotted, equals, word = item.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"override '{item}': want key=value, e.g. optim.lr=3e-4")
    try:
        return dotted, yaml.load(word, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"override '{item}': value is not YAML") from error


def dump(config: Section) -> str:
    """YAML that loads back to an equal config."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)


def known_paths(model: type[Section], prefix: str = "") -> list[str]:
    """Dotted paths of all leaves of a config model."""
    paths = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            paths += known_paths(kind, f"{prefix}{name}.")
        else:
            paths.append(prefix + name)
    return paths


def _as_word(value: Any) -> str:
    word = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=math.inf)
    return word.removesuffix("...\n").strip()


def _load(path: Path, overrides: Sequence[str], model: type[Config]) -> Config:
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: got {type(tree).__name__}, want a mapping of config keys")
    for item in overrides:
        _set(tree, *parse_assignment(item), f"override '{item}'", model)
    return _check(tree, str(path), model)


def _set(tree: dict[str, Any], dotted: str, value: Any, source: str, model: type[Section]) -> None:
    *parents, leaf = dotted.split(".")
    node = tree
    for name in parents:
        below = node.setdefault(name, {})
        if not isinstance(below, dict):
            raise ConfigError(
                f"{source}: '{name}' is {below!r} there, want a mapping of keys, so '{dotted}' has no place"
            )
        node = below
    node[leaf] = value


def _check(tree: dict[str, Any], source: str, model: type[Config]) -> Config:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        dotted = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{source}: unknown key '{dotted}'{_nearest(dotted, known_paths(model))}") from None
        message = first["msg"].removeprefix("Value error, ")
        got = f", got {first['input']!r}" if dotted and first["type"] != "missing" else ""
        raise ConfigError(f"{source}: {dotted + ': ' if dotted else ''}{message}{got}") from None


def _check_dimension(base: RunConfig, dotted: str, dimension: Dimension, source: str) -> None:
    """ConfigError when the field itself cannot take some value of its dimension, whatever the other fields are."""
    if dimension.values is not None:
        values: Sequence[Any] = dimension.values
    else:
        assert dimension.low is not None and dimension.high is not None  # Dimension checks it
        inside = dimension.low if dimension.kind == "int" else dimension.low + (dimension.high - dimension.low) / math.e
        values = (dimension.low, inside, dimension.high)
    for value in values:
        tree = base.model_dump(mode="python")
        _set(tree, dotted, value, source, RunConfig)
        try:
            RunConfig.model_validate(tree)
        except ValidationError as error:
            for found in error.errors():  # a clash with other fields has no place: a condition may rule it out
                if found["loc"]:
                    raise ConfigError(f"{source}.{dotted}: {found['msg']}, got {found['input']!r}") from None


def _nearest(dotted: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
    if not close:  # a right leaf under a wrong parent, or the other way round
        leaves = [path for path in known if path.rpartition(".")[2] == dotted.rpartition(".")[2]]
        close = leaves[:1]
    return f"; did you mean '{close[0]}'?" if close else f"; known keys: {', '.join(known)}"
