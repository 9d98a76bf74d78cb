"""Where the page is served, and who can reach that."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from distseg.errors import InputError


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket on this address, ``port`` 0 being any that is free; InputError when it is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended is no hindrance
        try:
            place.bind((host, port))
            place.listen()
        except OSError as error:
            raise InputError(
                f"--host {host} --port {port}: cannot be served there ({error.strerror}); choose another port"
            ) from error
        yield place


def url_of(place: socket.socket) -> str:
    """What to open in a browser on this computer."""
    host, port = place.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches it."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
