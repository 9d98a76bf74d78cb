"""Who may open the page: users and passwords from a file that only its owner reads."""

import hashlib
import hmac
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from distseg.errors import InputError

_OTHERS = stat.S_IROTH | stat.S_IWOTH


@dataclass(frozen=True)
class Users:
    """Passwords as digests under a key of this process."""

    key: bytes
    digests: dict[str, bytes]

    def admits(self, user: str, password: str) -> bool:
        """Whether this is the user's password; unknown users take the same time."""
        wanted = self.digests.get(user, b"")
        given = _digest(self.key, password)
        known = hmac.compare_digest(given, wanted or bytes(len(given)))
        return known and bool(wanted)


def read_users(path: Path) -> Users:
    """Reads lines ``user:password``; a password may hold colons and spaces. Blank lines are skipped.

    InputError when the file cannot be read, when others may read or change it, on a malformed line, a user named twice,
    and when nobody is named. No message holds any of the file's text but a user's name.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"--auth-file {path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--auth-file {path}: is no UTF-8 text; want lines 'user:password'") from error
    if mode & _OTHERS:
        raise InputError(f"--auth-file {path}: everybody on this machine may open it; run: chmod 600 {path}")
    key = secrets.token_bytes(32)
    digests: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        user, colon, password = line.partition(":")
        user = user.strip()
        if not (colon and user and password):
            raise InputError(f"--auth-file {path}: line {number}: want 'user:password', neither of them empty")
        if user in digests:
            raise InputError(f"--auth-file {path}: line {number}: user '{user}' stands there twice; keep one line")
        digests[user] = _digest(key, password)
    if not digests:
        raise InputError(f"--auth-file {path}: names nobody; want a line 'user:password' for each user")
    return Users(key, digests)


def _digest(key: bytes, password: str) -> bytes:
    return hmac.digest(key, password.encode(), hashlib.sha256)
