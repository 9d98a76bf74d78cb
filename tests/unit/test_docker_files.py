"""``docker/``: what is pinned, who runs it, what stays out of the images, how the compose file fits together."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PINNED = re.compile(r"[a-z/]+:\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}")


def stages() -> dict[str, list[str]]:
    """Instructions of each stage of the Dockerfile by its name, FROM included."""
    found: dict[str, list[str]] = {}
    for line in DOCKERFILE.splitlines():
        if line.startswith("FROM "):
            name = line.split(" AS ")[1]
            found[name] = []
        if line and not line.startswith("#"):
            found[name].append(" ".join(line.split()))
    return found


def lineage(name: str) -> list[str]:
    """Instructions that make an image, oldest first."""
    own = stages()[name]
    parent = own[0].split()[1]
    return (lineage(parent) if parent in stages() else []) + own


def test_every_foreign_image_is_pinned() -> None:
    bases = [lines[0].split()[1] for lines in stages().values()]
    foreign = [base for base in bases if base not in stages()]
    foreign += [service["image"] for service in SERVICES.values() if "build" not in service]
    assert len(foreign) == 2  # Python and PostgreSQL
    for image in foreign:
        assert PINNED.fullmatch(image), image


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_holds_no_build_tools_and_runs_as_nobody_special(target: str) -> None:
    lines = lineage(target)
    assert not [line for line in lines if re.search(r"apt-get|\buv\b|hatchling|/wheel", line)]
    assert [line for line in lines if "pip uninstall" in line]
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER ${UID}:${GID}"]  # a number: Kubernetes cannot tell what a name stands for
    after = lines[lines.index(users[0]) :]
    assert not [line for line in after if line.startswith(("RUN", "ADD"))]
    copied = [line.split()[-1] for line in after if line.startswith("COPY")]
    assert copied == ["/opt/distseg/venv"]
    settings = " ".join(line for line in lines if line.startswith("ENV"))
    assert "RAY_AUTH_MODE=token" in settings
    assert "RAY_USAGE_STATS_ENABLED=0" in settings
    assert not re.search(r"(?i)token=(?!\")|password|secret", settings.replace("RAY_AUTH_MODE=token", ""))


def test_packages_are_checked_by_their_hashes() -> None:
    installs = [part for line in DOCKERFILE.splitlines() for part in line.split("&&") if "uv pip install" in part]
    assert len(installs) == 6
    for install in installs:
        hashed = "--require-hashes --no-build" in install
        own = "--offline /wheel/*.whl" in install
        torch_for_cpus = "--torch-backend cpu" in install and "-r torch.txt" in install
        assert hashed or own or torch_for_cpus, install
    uv = re.search(r"^UV_VERSION := (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert uv is not None
    assert f"uv=={uv[1]} " in DOCKERFILE


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    allowed = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    sources = [
        source
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert sorted(sources) == sorted(allowed)
    for source in sources:
        assert (REPOSITORY / source).exists(), source


def cut(*options: str, lock: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(DOCKER / "requirements.py"), *options],
        input=(REPOSITORY / "requirements.lock").read_text() if lock is None else lock,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def names(text: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))


EXTRAS = ("--extras", "app,onnx,report,postgres,s3,gcs")


def test_images_leave_development_tools_out_and_nothing_else() -> None:
    whole = names((REPOSITORY / "requirements.lock").read_text())
    text = cut(*EXTRAS).stdout
    kept = names(text)
    assert {"torch", "ray", "sqlalchemy", "psycopg", "gradio", "numpy", "nvidia-nccl-cu13"} <= kept
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    tools = {
        re.split("[^A-Za-z0-9-]", requirement)[0].lower() for requirement in project["optional-dependencies"]["dev"]
    }
    assert tools - kept == tools
    assert len(kept) > 0.8 * len(whole)
    requirements = re.findall(r"^\S+==.*(?:\n .*)*", text, re.MULTILINE)
    assert all("--hash=sha256:" in requirement for requirement in requirements)


def test_the_image_for_cpus_holds_no_cuda() -> None:
    kept = names(cut(*EXTRAS, "--without-cuda").stdout)
    assert not {name for name in kept if name.startswith(("nvidia-", "cuda-", "torch", "triton"))} - {
        "nvidia-ml-py",
        "torchmetrics",
    }
    assert {"sympy", "networkx", "filelock"} <= kept  # PyTorch's other needs


def test_a_cut_follows_who_needs_whom() -> None:
    lock = """# made by hand
hatchling==1.0 \\
    --hash=sha256:aa
    # via distseg (pyproject.toml)
pluggy==1.0 ; python_version < '3.12' \\
    --hash=sha256:bb
    # via
    #   hatchling
    #   pytest
pluggy==2.0 ; python_version >= '3.12' \\
    --hash=sha256:cc
    # via hatchling
pytest==9.0 \\
    --hash=sha256:dd
    # via distseg (pyproject.toml)
"""
    assert cut("--only", "hatchling", lock=lock).stdout == lock[lock.index("hatchling") : lock.index("pytest==")]
    assert "does not hold albumentations" in cut(lock=lock).stderr
    assert "got 'gpu', want some of app, dev," in cut("--extras", "gpu").stderr


def test_compose_starts_a_cluster_with_its_queue() -> None:
    assert {*SERVICES} == {"head", "worker-1", "worker-2", "dispatcher", "postgres"}
    roles = {name: service["command"][0] for name, service in SERVICES.items() if "command" in service}
    assert roles == {"head": "head", "worker-1": "worker", "worker-2": "worker", "dispatcher": "serve"}
    waits = {name: set(service.get("depends_on", ())) for name, service in SERVICES.items()}
    assert waits["dispatcher"] == {"head", "postgres"}
    assert waits["worker-1"] == waits["worker-2"] == {"head"}
    for service in SERVICES.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[needed]
    homes = [service["volumes"] for name, service in SERVICES.items() if name != "postgres"]
    assert homes == [["home:/shared/distseg"]] * 4  # every node sees it


def test_compose_keeps_secrets_in_files_and_ports_on_this_machine() -> None:
    assert {name: secret["file"] for name, secret in COMPOSE["secrets"].items()} == {
        "ray_token": "./secrets/ray_token",
        "postgres_password": "./secrets/postgres_password",
    }
    assert "/docker/secrets/" in (REPOSITORY / ".gitignore").read_text().splitlines()
    for name, service in SERVICES.items():
        assert set(service["secrets"]) <= set(COMPOSE["secrets"])
        for variable, value in service.get("environment", {}).items():
            secret = re.search("(?i)password|token|secret", variable)
            assert not secret or value.startswith("/run/secrets/"), variable
            assert not re.search("://[^/@]*:[^/@]*@", value), variable  # a password in an address
        assert service.get("ports", ["127.0.0.1:"])[0].startswith("127.0.0.1:"), name
        if name != "postgres":
            assert service["cap_drop"] == ["ALL"]
            assert "privileged" not in service


def test_the_gpu_file_changes_images_and_devices_alone() -> None:
    over = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())["services"]
    assert set(over) == set(SERVICES) - {"postgres"}
    for service in over.values():
        assert service["build"]["target"] == "cuda"
        assert set(service) <= {"image", "build", "deploy"}
