"""Who may import whom, room by room: read off the source, then tried with ray and torch out of reach."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import distseg

PACKAGE = Path(distseg.__file__).parent
JOBS = Path(__file__).resolve().parents[2] / "jobs"

BASE = {"distseg", "errors", "config", "records", "home", "atomic"}
"""Rooms that everybody may use; ``distseg`` is the package's own ``__init__``."""
CORE = {"data", "augment", "models", "tasks", "losses", "metrics", "scores", "checkpoint"}
TENSORS = {"numpy", "torch", "torchvision", "cv2", "PIL"}
NETWORKS = {"segmentation_models_pytorch", "timm", "huggingface_hub", "safetensors"}
BASE_LIBRARIES = {"pydantic", "yaml", "fsspec"}
CORE_LIBRARIES = BASE_LIBRARIES | TENSORS | NETWORKS | {"albumentations", "webdataset", "torchmetrics", "pycocotools"}
ALL = BASE | CORE | {"train", "search", "export", "predict", "leaderboard", "queue"}

# room -> (rooms it may import beside itself, libraries it may import)
RULES: dict[str, tuple[set[str], set[str]]] = {
    **dict.fromkeys(BASE, (BASE, BASE_LIBRARIES)),
    **dict.fromkeys(CORE, (BASE | CORE, CORE_LIBRARIES)),
    "data": (BASE | CORE - {"models"}, CORE_LIBRARIES | {"aiohttp"}),
    "models": (BASE | CORE - {"data"}, CORE_LIBRARIES),
    "scores": (BASE, BASE_LIBRARIES | {"numpy"}),  # numbers from counts: no network, no torch
    "train": (BASE | CORE, CORE_LIBRARIES | {"pynvml", "tensorboard"}),
    "search": (BASE | CORE, CORE_LIBRARIES | {"mlflow"}),
    "export": (BASE | CORE, CORE_LIBRARIES | {"onnx", "onnxruntime", "onnxscript"}),
    "predict": (BASE | CORE | {"export"}, CORE_LIBRARIES),
    "leaderboard": (BASE | {"scores"}, BASE_LIBRARIES | {"numpy", "rich", "plotly"}),
    "queue": (BASE, BASE_LIBRARIES | {"sqlalchemy", "rich"}),
    "doctor": (BASE | {"queue"}, {"torch", "pynvml", "packaging"}),
    "on_ray": (ALL | {"doctor"}, CORE_LIBRARIES | {"ray", "optuna", "rich", "packaging"}),
    "cli": (ALL | {"on_ray", "app", "doctor"}, {"typer", "rich"}),
    "jobs": (ALL | {"on_ray", "cli"}, set()),
    "notebook": (set(), {"torch", "numpy", "cv2", "PIL"}),  # what Kaggle's offline notebooks have; nothing of ours
    "app": (ALL, {"gradio", "fastapi", "uvicorn", "numpy", "PIL"}),  # Gradio brings the next two
}

MODULES = sorted(
    ".".join(["distseg", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)


def room_of(module: str) -> str:
    """``distseg.data.pack`` -> ``data``; the package itself -> ``distseg``."""
    return module.split(".")[1] if "." in module else module


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, inside its functions too; of ``distseg`` itself, the rooms."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: line {node.lineno}: import by the full name"
            if node.module == "distseg":
                names = {alias.name for alias in node.names}
                found |= {f"distseg.{name}" if f"distseg.{name}" in MODULES else "distseg" for name in names}
            else:
                found.add(str(node.module))
    return found


def forbidden_imports(room: str, imported: set[str]) -> set[str]:
    """Those imports that a room may not have."""
    rooms, libraries = RULES[room]
    wrong = set()
    for name in imported:
        top = name.split(".")[0]
        if top == "distseg":
            allowed = room_of(name) in rooms | {room}
        else:
            allowed = top in libraries or top in sys.stdlib_module_names
        if not allowed:
            wrong.add(name)
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_what_its_room_may(module: str) -> None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert room_of(module) in RULES, f"{module}: a room without rules; add it to RULES"
    assert forbidden_imports(room_of(module), imports_of(path)) == set()


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.py")), ids=lambda path: path.name)
def test_jobs_are_thin(path: Path) -> None:
    room = "notebook" if path.name == "kaggle_notebook.py" else "jobs"
    assert forbidden_imports(room, imports_of(path)) == set()


def test_the_rule_sees_forbidden_imports() -> None:
    assert forbidden_imports("data", {"ray.train", "distseg.models.build", "numpy", "os", "distseg.data.order"}) == {
        "ray.train",
        "distseg.models.build",
    }
    assert forbidden_imports("leaderboard", {"torch", "sqlalchemy", "rich.table", "distseg.train.loop"}) == {
        "torch",
        "sqlalchemy",
        "distseg.train.loop",
    }


def import_all(modules: list[str], blocked: str) -> dict[str, str]:
    """Imports modules in one new interpreter where ``blocked`` cannot be imported; those that failed, and why."""
    code = (
        "import importlib, json, sys\n"
        f"sys.modules[{blocked!r}] = None\n"
        "failed = {}\n"
        f"for module in {modules!r}:\n"
        "    try:\n"
        "        importlib.import_module(module)\n"
        "    except Exception as error:\n"
        "        failed[module] = repr(error)\n"
        "print(json.dumps(failed))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return failed


def test_all_but_on_ray_and_cli_import_without_ray() -> None:
    modules = [module for module in MODULES if room_of(module) not in ("on_ray", "cli", "app")]
    assert import_all(modules, blocked="ray") == {}


def test_records_leaderboard_and_queue_import_without_torch() -> None:
    modules = [module for module in MODULES if room_of(module) in BASE | {"leaderboard", "queue"}]
    assert import_all(modules, blocked="torch") == {}


def test_a_blocked_library_is_noticed() -> None:
    assert list(import_all(["json", "distseg.data.manifest"], blocked="pydantic")) == ["distseg.data.manifest"]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("distseg", {"torch", "ray", "numpy", "pydantic"}),
        ("distseg.cli.main", {"torch", "ray", "numpy", "cv2", "pydantic", "sqlalchemy"}),
        ("distseg.train.loop, distseg.export.build, distseg.predict.evaluate", {"torchvision", "timm", "sympy", "ray"}),
    ],
)
def test_imports_quickly(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*{heavy!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
