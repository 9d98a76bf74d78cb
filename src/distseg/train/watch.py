"""What a person who watches a run sees: ``progress.json`` between epochs, TensorBoard and pictures after them."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch

from distseg import atomic
from distseg.data.manifest import Manifest
from distseg.records import PROGRESS_FILE, Progress
from distseg.tasks.instance_predictor import InstancePredictor
from distseg.tasks.predictor import Predictor
from distseg.train.instance_panels import instance_panel
from distseg.train.panels import panel, write_png
from distseg.train.run_folder import RunSpec
from distseg.train.state import TrainState
from distseg.train.telemetry import GpuMeter

_EVERY_S = 1.0


class Watch:
    """Rank 0's reports of one run; on the other ranks nothing is written.

    ``progress.json`` is replaced at most once a second, for followers on any node: a bar, a live board.
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
        if self._rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._spec.folder / "tensorboard"))
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
        reading = self._meter.read()
        progress = Progress(
            step=state.step,
            steps=self._steps,
            epoch=(state.step - 1) // self._steps_per_epoch + 1,
            epochs=self._spec.config.train.epochs,
            loss=loss_sum / max(images, 1),
            images_per_s=steps_per_s * self._spec.config.train.batch_global,
            seconds_left=(self._steps - state.step) / steps_per_s if steps_per_s else None,
            gpu_utilisation=None if reading is None else reading.utilisation,
            gpu_memory_bytes=None if reading is None else reading.memory_bytes,
            gpu_power_w=None if reading is None else reading.power_w,
        )
        atomic.write_text(self._spec.folder / PROGRESS_FILE, progress.model_dump_json())
        self._at, self._step_then = now, state.step

    def epoch(
        self,
        state: TrainState,
        predictor: Predictor | InstancePredictor,
        validation: Iterable[Any],
        manifest: Manifest,
        device: torch.device,
    ) -> None:
        """After every epoch, when its row is in the history: scalars, and a panel when one is due."""
        row = state.history[-1]
        scalars = {"loss": row["loss"], "lr": row["lr"], "images_per_s": row["images_per_s"]}
        scalars |= row["losses"] | {name: value for name, value in row["metrics"].items() if isinstance(value, float)}
        for name, value in scalars.items():
            self._board.add_scalar(name, value, row["epoch"])
        if self._panel_due(state, row["epoch"]):
            predictor.eval()
            if isinstance(predictor, InstancePredictor):
                picture = instance_panel(predictor, validation, manifest.classes, device)
            else:
                picture = panel(predictor, validation, manifest.ignore_label, device)
            state.network.train()
            if picture is not None:
                write_png(picture, self._spec.folder / "panels" / f"epoch-{row['epoch']:04d}.png")
                self._board.add_image("validation", picture, row["epoch"], dataformats="HWC")
        self._board.flush()

    def _panel_due(self, state: TrainState, epoch: int) -> bool:
        every = self._spec.config.eval.panels_every_epochs
        over = state.step == self._steps or state.stopped_early
        return over or (every is not None and epoch % every == 0)
