"""From an uploaded file to what the page shows, and again at another threshold; knows nothing of web pages.

The last answers are kept, one for each open page, up to so many bytes; the longest unused go first.
"""

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

from distseg.app.upload import Limits, decode_upload
from distseg.data.codec import Pixels, resize_image
from distseg.errors import InputError
from distseg.predict.answer import Answer, Answerer, Region
from distseg.predict.pictures import jpeg, png

KEPT_BYTES = 512 << 20
SHOWN_SIDE = 1280
"""Longest side in pixels of the picture on the page; files to download have the image's own size."""
_FILES = {"mask.png": "image/png", "overlay.png": "image/png", "run_lengths.csv": "text/csv; charset=utf-8"}
_DRAWN_AT_ONCE = 2
_PAGES_MAX = 1000
_GONE = "This image is no longer kept here. Please send it again."


@dataclass(frozen=True)
class Kept:
    """An image and its answer."""

    token: str
    """Whoever knows it may have the files."""
    name: str
    data: bytes
    """The file as it was sent: smaller than its pixels."""
    small: Pixels
    """(h, w, 3) uint8 RGB, reduced to ``SHOWN_SIDE``."""
    answer: Answer
    small_answer: Answer
    model_ms: float
    whole_ms: float
    """From the file's bytes to the picture on the page."""
    threshold: float
    opacity: float
    """With which it was drawn last."""

    @property
    def nbytes(self) -> int:
        return len(self.data) + self.small.nbytes + self.answer.nbytes + self.small_answer.nbytes


@dataclass(frozen=True)
class Shown:
    """What the page shows of an answer at one threshold."""

    kept: Kept
    picture: bytes
    """JPEG."""
    regions: list[Region]


@dataclass(frozen=True)
class File:
    """Something to download."""

    name: str
    media_type: str
    data: bytes


class Desk:
    """Takes images one at a time to the model; all methods may be called from several threads."""

    def __init__(self, answerer: Answerer, limits: Limits, kept_bytes: int = KEPT_BYTES) -> None:
        self._answerer = answerer
        self.limits = limits
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[str, Kept | None] = OrderedDict()  # by session, the longest unused first; None: gone
        self._lock = threading.Lock()
        self._model = threading.Lock()
        self._drawing = threading.Semaphore(_DRAWN_AT_ONCE)

    def answer(self, data: bytes, name: str, session: str, threshold: float, opacity: float) -> Shown:
        """Asks the model; InputError, a sentence, when the file is no image within the limits."""
        with self._model:
            started = time.perf_counter()
            image = decode_upload(data, name, self.limits)
            answer, model_ms = self._answerer.answer(image)
            small = resize_image(image, _reduced_size(answer.size))
            small_answer = answer.reduced((small.shape[1], small.shape[0]))
            picture = jpeg(small_answer.drawn(small, threshold, opacity))
            whole_ms = 1000 * (time.perf_counter() - started)
        token = secrets.token_urlsafe(16)
        kept = Kept(token, name, data, small, answer, small_answer, model_ms, whole_ms, threshold, opacity)
        self._keep(session, kept)
        return Shown(kept, picture, answer.regions(threshold))

    def redraw(self, session: str, threshold: float, opacity: float) -> Shown | None:
        """The session's last image at another threshold; None when it has none, or it was drawn so already.

        InputError, a sentence, when it had one that is not kept any more.
        """
        with self._lock:
            if session not in self._kept:
                return None
            kept = self._kept[session]
            if kept is None:
                raise InputError(_GONE)
            if (kept.threshold, kept.opacity) == (threshold, opacity):
                return None
            kept = self._kept[session] = replace(kept, threshold=threshold, opacity=opacity)
            self._kept.move_to_end(session)
        with self._drawing:
            picture = jpeg(kept.small_answer.drawn(kept.small, threshold, opacity))
            return Shown(kept, picture, kept.answer.regions(threshold))

    def file(self, token: str, what: str, threshold: float, opacity: float) -> File:
        """``mask.png``, ``overlay.png`` or ``run_lengths.csv`` at the image's own size; InputError when it is gone."""
        with self._lock:
            all_kept = [each for each in self._kept.values() if each is not None]
        kept = next((each for each in all_kept if secrets.compare_digest(each.token, token)), None)
        if kept is None or what not in _FILES:
            raise InputError(_GONE)
        with self._drawing:
            if what == "mask.png":
                data = kept.answer.mask(threshold)
            elif what == "overlay.png":
                image = decode_upload(kept.data, kept.name, self.limits)
                data = png(kept.answer.drawn(image, threshold, opacity))
            else:
                data = kept.answer.run_lengths(kept.name, threshold).encode()
        return File(f"{Path(kept.name).stem}.{what}", _FILES[what], data)

    def drop(self, session: str) -> None:
        """Forgets a session's image."""
        with self._lock:
            self._kept.pop(session, None)

    def _keep(self, session: str, kept: Kept) -> None:
        with self._lock:
            self._kept.pop(session, None)
            self._kept[session] = kept
            used = sum(each.nbytes for each in self._kept.values() if each is not None)
            for other, each in list(self._kept.items())[:-1]:
                if used <= self._kept_bytes:
                    break
                if each is not None:
                    self._kept[other] = None
                    used -= each.nbytes
            while len(self._kept) > _PAGES_MAX:
                self._kept.popitem(last=False)


def _reduced_size(size: tuple[int, int]) -> tuple[int, int]:
    width, height = size
    scale = min(1.0, SHOWN_SIDE / max(size))
    return max(1, round(width * scale)), max(1, round(height * scale))
