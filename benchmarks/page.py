"""The page: what it adds to the model's own time, and whether many uploads at once fail or grow its memory.

    python benchmarks/page.py [--rounds 15] [--parallel 50] [--turns 10]

A ``distseg app`` of its own is asked over HTTP, as a browser asks it, for pictures of 512x512: upload, wait for the
answer, fetch the picture that is shown. ``overhead_ms``: all that, less what the page says that the model took; the
largest and the median of the rounds, one client at a time, for a file of each task with random weights. The claim is
150 ms at most.

``uploads``: so many clients at once, each in a page of its own, turn after turn; all answers must come. Memory
(resident, of the server, looked at after each turn) is compared between the third turn and the last: what comes before
fills caches that are bounded. ``same`` clients keep their pages; ``new`` ones open a page for each upload and close it.
The claim: no failure, and growth of 2 % at most.

Prints one JSON line a figure; exit code 1 when a claim is not held.
"""

import argparse
import http.client
import json
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from distseg.app.samples import draw_samples
from distseg.config import ModelConfig
from distseg.data.codec import resize_image
from distseg.export.instances import script_instances
from distseg.export.torchscript import save, to_torchscript
from distseg.models.build import build_instance_model, build_model
from distseg.predict.pictures import jpeg
from distseg.records import ExportManifest
from distseg.tasks.instance_predictor import InstancePredictor
from distseg.tasks.predictor import Predictor

SIDE = 512
OVERHEAD_MS_MAX = 150.0
GROWTH_MAX = 1.02
SETTLED = 3
CLASSES = {
    "binary": ("background", "car"),
    "multiclass": tuple(f"class {number}" for number in range(12)),
    "instance": ("leaf", "coin", "nut", "bolt"),
}
DENSE: dict[str, Any] = {
    "architecture": "unet",
    "encoder": "tu-mobilenetv3_small_075",
    "decoder_channels": (64, 48, 32, 24, 16),
    "weights": "none",
}


def write_model(task: str, path: Path) -> None:
    torch.manual_seed(0)
    manifest = ExportManifest.bare(CLASSES[task]).model_copy(update={"task": task, "input_size": (SIDE, SIDE)})
    if task == "instance":
        cfg = ModelConfig.model_validate({"architecture": "maskrcnn_resnet10_fpn", "weights": "none"})
        network = build_instance_model(cfg, len(CLASSES[task])).network
        save(script_instances(InstancePredictor(network, input_size=(SIDE, SIDE))), manifest, path)
        return
    built = build_model(ModelConfig.model_validate(DENSE), 1 if task == "binary" else len(CLASSES[task]))
    predictor = Predictor(built.network, input_size=(SIDE, SIDE), divisor=built.divisor, mean=built.mean, std=built.std)
    save(to_torchscript(predictor), manifest, path)


class Client:
    """One page, as its browser talks to the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._session = secrets.token_hex(6)
        config = json.loads(self._ask("GET", "/config"))
        image = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "image")
        self._move = next(each["id"] for each in config["dependencies"] if [image, "change"] in each["targets"])
        self._beat: http.client.HTTPConnection | None = None

    def open(self) -> None:
        """Holds the line by which the server knows that the page is open."""
        self._beat = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        self._beat.request("GET", f"/gradio_api/heartbeat/{self._session}")
        self._beat.getresponse().fp.readline()

    def close(self) -> None:
        if self._beat is not None:
            self._beat.close()

    def answer(self, image: bytes) -> tuple[float, float]:
        """(milliseconds from the upload to the picture, those that the page says the model took)."""
        started = time.perf_counter()
        edge = secrets.token_hex(16)
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="x.jpg"\r\n'
        form = head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + image + f"\r\n--{edge}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
        path = json.loads(self._ask("POST", "/gradio_api/upload", form, kind))[0]
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, 0.5, 0.5]
        body = {"data": data, "fn_index": self._move, "session_hash": self._session}
        self._ask("POST", "/gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"})
        picture, findings, sentence = self._result()
        assert not sentence, sentence
        shown = self._ask(
            "GET", picture["url"] if picture["url"].startswith("/") else f"/gradio_api/file={picture['path']}"
        )
        assert shown[:2] == b"\xff\xd8", "no JPEG"
        took = 1000 * (time.perf_counter() - started)
        return took, float(re.findall(r'data-model-ms="([\d.]+)"', findings)[0])

    def _result(self) -> list[Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        connection.request("GET", f"/gradio_api/queue/data?session_hash={self._session}")
        with connection.getresponse() as events:
            for line in events:
                if line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    if event["msg"] == "process_completed":
                        assert event["success"], event
                        return list(event["output"]["data"])
        raise AssertionError("no answer")

    def _ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        connection.request(method, path, body, headers or {})
        with connection.getresponse() as answer:
            content = answer.read()
            assert answer.status == 200, (path, answer.status, content[:500])
        return content


@contextmanager
def page(model: Path) -> Iterator[tuple[int, int]]:
    """(port, process) of a page that serves this file."""
    command = [sys.executable, "-m", "distseg.cli.main", "app", str(model), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        yield int(re.findall(r":(\d+) ", line)[0]), server.pid
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def pictures(task: str) -> list[bytes]:
    return [jpeg(resize_image(pixels, (SIDE, SIDE))) for _, pixels in draw_samples(task)]


def resident_mb(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def overhead(task: str, port: int, rounds: int) -> bool:
    images, client = pictures(task), Client(port)
    for image in images:
        client.answer(image)
    took = [client.answer(images[number % len(images)]) for number in range(rounds)]
    beside = [whole - model for whole, model in took]
    line = {
        "figure": f"overhead_ms {task}",
        "median": round(statistics.median(beside), 1),
        "largest": round(max(beside), 1),
        "model_ms": round(statistics.median(model for _, model in took), 1),
        "rounds": rounds,
        "target": OVERHEAD_MS_MAX,
        "held": max(beside) <= OVERHEAD_MS_MAX,
    }
    print(json.dumps(line), flush=True)
    return bool(line["held"])


def uploads(port: int, process: int, parallel: int, turns: int, new: bool) -> bool:
    images = pictures("binary")
    clients = [Client(port) for _ in range(parallel)]
    memory, failed, slowest = [], 0, 0.0

    def one(number: int) -> float:
        client = Client(port) if new else clients[number]
        if new:
            client.open()
        try:
            return client.answer(images[number % len(images)])[0]
        finally:
            client.close()

    with ThreadPoolExecutor(parallel) as pool:
        for _ in range(turns):
            for answered in [pool.submit(one, number) for number in range(parallel)]:
                if error := answered.exception():
                    failed += 1
                    print(repr(error)[:300], file=sys.stderr)
                else:
                    slowest = max(slowest, answered.result())
            memory.append(min(resident_mb(process) for _ in range(10) if time.sleep(0.5) is None))  # at rest
    growth = memory[-1] / memory[SETTLED - 1]
    line = {
        "figure": f"uploads by {'new' if new else 'the same'} clients",
        "parallel": parallel,
        "turns": turns,
        "failed": failed,
        "slowest_s": round(slowest / 1000, 2),
        "resident_mb": [round(each) for each in memory],
        "growth": round(growth, 4),
        "target": GROWTH_MAX,
        "held": failed == 0 and growth <= GROWTH_MAX,
    }
    print(json.dumps(line), flush=True)
    return bool(line["held"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--parallel", type=int, default=50)
    parser.add_argument("--turns", type=int, default=10)
    options = parser.parse_args()
    held = []
    with tempfile.TemporaryDirectory() as folder:
        for task in CLASSES:
            model = Path(folder) / f"{task}.ts"
            write_model(task, model)
            with page(model) as (port, process):
                held.append(overhead(task, port, options.rounds))
                if task == "binary":
                    held.append(uploads(port, process, options.parallel, options.turns, new=False))
                    held.append(uploads(port, process, options.parallel, options.turns, new=True))
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
