"""torch, CUDA, and what NVML says of each GPU."""

from dataclasses import dataclass
from typing import Any

from distseg.doctor.finding import Finding, Level, Survey

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of this machine, as NVML has it; the processes of a job may be shown fewer."""

    name: str
    memory_bytes: int
    free_bytes: int
    sliced: bool
    """In MIG mode: programs see slices of it."""


@dataclass(frozen=True, slots=True)
class Torch:
    """What torch was built for and what it can use."""

    version: str
    cuda: str | None
    """Version of CUDA that it was built for; None: for CPUs only."""
    devices: int


def gpus() -> Survey:
    """Everything of this page."""
    driver, cards = _ask_nvml()
    return Survey(findings(_ask_torch(), driver, cards))


def findings(torch: Torch, driver: str | None, cards: list[Gpu]) -> list[Finding]:
    """``driver``: version of the NVIDIA driver; None: there is none."""
    built = f"for CUDA {torch.cuda}" if torch.cuda else "for CPUs only"
    found = [Finding("torch", f"{torch.version}, {built}")]
    if driver is None:
        return [*found, Finding("GPUs", "none", Level.MISSING, "no NVIDIA driver answers: training runs on the CPU")]
    if cards and not torch.devices:
        step = (
            "install the driver that this CUDA needs, or a torch for an older one; look at CUDA_VISIBLE_DEVICES"
            if torch.cuda
            else "install torch with CUDA: pip install --force-reinstall torch"
        )
        found.append(Finding("CUDA", f"torch sees none of {len(cards)}", Level.ERROR, step))
    else:
        found.append(Finding("CUDA", f"torch sees {torch.devices}; driver {driver}"))
    return found + [_described(number, card) for number, card in enumerate(cards)]


def _described(number: int, card: Gpu) -> Finding:
    value = f"{card.name}, {card.memory_bytes / GIB:.0f} GiB, {card.free_bytes / GIB:.0f} free"
    if card.sliced:
        step = "in MIG mode: Ray counts slices as GPUs only where CUDA_VISIBLE_DEVICES lists them (MIG-...)"
        return Finding(f"GPU {number}", value, Level.WARNING, step)
    return Finding(f"GPU {number}", value)


def _ask_torch() -> Torch:
    import torch

    return Torch(torch.__version__, torch.version.cuda, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def _ask_nvml() -> tuple[str | None, list[Gpu]]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None, []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return str(pynvml.nvmlSystemGetDriverVersion()), [_gpu(pynvml, handle) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        sliced = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # before Ampere
        sliced = False
    return Gpu(str(nvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free), sliced)
