"""What a person who watches a run sees: ``progress.json`` between epochs, TensorBoard and pictures after them."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from distseg import atomic
from distseg.data.manifest import Manifest
from distseg.records import PANELS_FOLDER, PROGRESS_FILE, Progress
from distseg.tasks.drawing import write_png
from distseg.tasks.predictor import Predictor
from distseg.train.panels import panel
from distseg.train.run_folder import RunSpec
from distseg.train.state import TrainState
from distseg.train.telemetry import GpuMeter

if TYPE_CHECKING:
    from distseg.tasks.instance_predictor import InstancePredictor

_EVERY_S = 1.0


class Watch:
    """Rank 0's reports of one run; on the other ranks nothing is written.

    ``progress.json`` is replaced at most once a second and at the end of every epoch, for followers on any node: a bar,
    a live board.
    """

    def __init__(self, spec: RunSpec, steps_per_epoch: int, steps: int, meter: GpuMeter, rank: int) -> None:
        self._spec = spec
        self._steps_per_epoch = steps_per_epoch
        self._steps = steps
        self._meter = meter
        self._rank = rank
        self._at = time.monotonic()
        self._step_then: int | None = None
        self._board: Any = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.close()

    def step(self, state: TrainState, losses: torch.Tensor) -> None:
        """After every step; ``losses``: (sum, images, ...) of this rank since the ranks last added up."""
        now = time.monotonic()
        if self._rank != 0 or (self._step_then is not None and now - self._at < _EVERY_S):
            return
        steps_per_s = 0.0 if self._step_then is None else (state.step - self._step_then) / (now - self._at)
        loss_sum, images = losses[:2].tolist()  # waits for the GPU: once a second
        self._tell(state, loss_sum / max(images, 1), steps_per_s)
        self._at, self._step_then = now, state.step

    def epoch(
        self,
        state: TrainState,
        predictor: "Predictor | InstancePredictor",
        validation: Iterable[Any],
        manifest: Manifest,
        device: torch.device,
    ) -> None:
        """After every epoch, when its row is in the history: scalars, and a panel when one is due."""
        row = state.history[-1]
        self._tell(state, row["loss"], row["images_per_s"] / self._spec.config.train.batch_global)
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # here: half a second, and the first step does without

            # a run that was killed may have told of this epoch before: that counts no more
            self._board = SummaryWriter(str(self._spec.folder / "tensorboard"), purge_step=row["epoch"])
        scalars = {"loss": row["loss"], "lr": row["lr"], "images_per_s": row["images_per_s"]}
        scalars |= row["losses"] | {name: value for name, value in row["metrics"].items() if isinstance(value, float)}
        if row["augment_level"] is not None:
            scalars["augment_level"] = row["augment_level"]
        for name, value in scalars.items():
            self._board.add_scalar(name, value, row["epoch"])
        for step, level, signal in row["augment_windows"]:
            self._board.add_scalar("augment_level_by_step", level, step)
            if signal is not None:
                self._board.add_scalar("augment_signal_by_step", signal, step)
        if self._panel_due(state, row["epoch"]):
            predictor.eval()
            if isinstance(predictor, Predictor):
                picture = panel(predictor, validation, manifest.ignore_label, device)
            else:
                from distseg.train.instance_panels import instance_panel  # here, as the task's own modules

                picture = instance_panel(predictor, validation, manifest.classes, device)
            state.network.train()
            if picture is not None:
                write_png(picture, self._spec.folder / PANELS_FOLDER / f"epoch-{row['epoch']:04d}.png")
                self._board.add_image("validation", picture, row["epoch"], dataformats="HWC")
        self._board.flush()

    def _tell(self, state: TrainState, loss: float, steps_per_s: float) -> None:
        left = 0 if self._over(state) else self._steps - state.step
        reading = self._meter.read()
        if reading is not None:
            state.gpu_memory_used_bytes = max(state.gpu_memory_used_bytes, reading.memory_bytes)
        progress = Progress(
            step=state.step,
            steps=self._steps,
            epoch=(state.step - 1) // self._steps_per_epoch + 1,
            epochs=self._spec.config.train.epochs,
            loss=loss,
            images_per_s=steps_per_s * self._spec.config.train.batch_global,
            seconds_left=left / steps_per_s if steps_per_s else None,
            gpu_utilisation=None if reading is None else reading.utilisation,
            gpu_memory_bytes=None if reading is None else reading.memory_bytes,
            gpu_power_w=None if reading is None else reading.power_w,
        )
        atomic.write_text(self._spec.folder / PROGRESS_FILE, progress.model_dump_json())

    def _panel_due(self, state: TrainState, epoch: int) -> bool:
        every = self._spec.config.eval.panels_every_epochs
        return self._over(state) or (every is not None and epoch % every == 0)

    def _over(self, state: TrainState) -> bool:
        return state.step == self._steps or state.stopped_early
