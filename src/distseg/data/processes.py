"""Helper processes of loaders and packers: how they start, and that they never outlive who started them."""

import ctypes
import multiprocessing
import os
import shutil
import threading
from multiprocessing import util

import cv2

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_GIVEN_BACK_BYTES = 1 << 20  # larger blocks than this are returned as soon as they are freed
_KEEP_BYTES = 1 << 25  # the most that glibc accepts as a threshold for mmap


def start_helper() -> None:
    """To be called first in a helper process: one thread, memory kept, and an end when the starter ends."""
    cv2.setNumThreads(0)
    keep_memory()
    threading.Thread(target=_end_with_starter, daemon=True).start()


def keep_memory() -> None:
    """Lets this process keep freed memory for its next image.

    glibc gives large blocks back at once and faults them in again page by page, which costs decoding up to a half.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def give_memory_back() -> None:
    """Lets a process of many threads that serves for long end each task with the memory that it began it with.

    Else glibc keeps what each thread freed, in a heap of that thread's own. Images then cost page faults each time.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK_BYTES)


def _end_with_starter() -> None:
    """Else a starter that is killed (SIGKILL) leaves processes that wait for ever, and multiprocessing's sockets."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(util.get_temp_dir(), ignore_errors=True)
        os._exit(1)
