"""What NVML says of a worker's GPU. Where there is none, there is nothing to say."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch


@dataclass(frozen=True)
class GpuReading:
    """One look at a GPU."""

    utilisation: float
    """Part of the last sampling period in which a kernel ran, in [0, 1]."""
    memory_bytes: int
    """In use on the device, by all processes."""
    power_w: float


class GpuMeter:
    """Reads a GPU through NVML; for a CPU, or without NVML, every reading is None and the energy 0."""

    def __init__(self, device: torch.device) -> None:
        self._nvml, self._handle = _open(device)
        self._energy_start_mj = self._energy_mj()

    def read(self) -> GpuReading | None:
        if self._nvml is None:
            return None
        try:
            return GpuReading(
                utilisation=self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100,
                memory_bytes=int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used),
                power_w=self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000,
            )
        except self._nvml.NVMLError:  # some readings do not exist on some GPUs, MIG slices among them
            return None

    def energy_wh(self) -> float:
        """Energy of the whole device since this meter was made, in watt-hours."""
        return (self._energy_mj() - self._energy_start_mj) / 3.6e6

    def _energy_mj(self) -> int:
        if self._nvml is None:
            return 0
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError:  # before Volta
            return 0


def _open(device: torch.device) -> tuple[ModuleType | None, Any]:
    if device.type != "cuda":
        return None, None
    import pynvml

    try:
        pynvml.nvmlInit()
        # by UUID: CUDA_VISIBLE_DEVICES, which Ray sets, renumbers torch's devices but not NVML's
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        return None, None
