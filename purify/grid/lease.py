"""Leases: who works on what, so that nothing is done twice at the same time; a dead runner loses its own."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from purify.grid.folder import Folder

TTL = 60.0
"""Seconds without a sign of life after which a runner on another machine counts as dead."""

POLL = 0.5
"""Seconds between two tries of what another runner is at."""


class Leases:
    """The leases in a folder; each is a file ``<name>.<generation>`` that its holder keeps rewriting.

    A free lease is taken by creating generation 1 exclusively, that of a dead holder by creating the next
    generation exclusively: of several that try, one succeeds. A holder on this machine is dead when its process
    is gone; one on another machine when its file has not changed for `TTL` seconds, measured on the observer's
    clock, so that clocks need not agree.

    Args:
        folder: Where the files are.
        ttl: See `TTL`; holders give a sign of life four times as often.
        clock: Seconds, for measuring how long a holder has been silent.
    """

    def __init__(self, folder: Folder, ttl: float = TTL, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.ttl = ttl
        self.clock = clock
        self._seen: dict[str, tuple[bytes, float]] = {}

    def acquire(self, name: str) -> "Lease | None":
        """Take the lease called ``name``, or return None while somebody alive has it.

        What the lease protects must be looked at again after this: the former holder may just have finished.

        Raises:
            DiskFullError: no space is left.
        """
        others = self._generations().get(name, [])
        judged = {}
        for generation in others:
            content = self.folder.read(f"{name}.{generation}")
            if content is not None and not self._is_dead(f"{name}.{generation}", content):
                return None
            judged[generation] = content
        lease = Lease(self.folder, name, max(others, default=0) + 1, self.ttl)
        if not lease.create():
            return None
        # Somebody may have come and gone since the files were read, and another one come.
        for generation in self._generations().get(name, []):
            file = f"{name}.{generation}"
            if generation != lease.generation:
                if generation not in judged or self.folder.read(file) not in (None, judged[generation]):
                    lease.release()
                    return None
                self.folder.delete(file)
        return lease

    def holders(self) -> dict[str, dict[str, Any]]:
        """Return who holds each lease that is held by somebody who may be alive."""
        held = {}
        for name, generations in self._generations().items():
            content = self.folder.read(f"{name}.{generations[-1]}")
            if content is not None and not self._is_dead(f"{name}.{generations[-1]}", content):
                with suppress(ValueError):
                    held[name] = json.loads(content)
        return held

    def of(self, pid: int) -> set[str]:
        """Return the names of the leases that a process of this machine holds, or held when it died."""
        found = set()
        for name, generations in self._generations().items():
            with suppress(ValueError, KeyError, TypeError):
                holder = json.loads(self.folder.read(f"{name}.{generations[-1]}") or b"")
                if holder["machine"] == machine() and holder["pid"] == pid:
                    found.add(name)
        return found

    def clear(self) -> list[str]:
        """Delete the leases of the dead; return their names."""
        alive = self.holders()
        dead = [name for name in self._generations() if name not in alive]
        for name in dead:
            lease = self.acquire(name)
            if lease:
                lease.release()
        return dead

    def _generations(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for file in self.folder.names():
            name, _, generation = file.rpartition(".")
            if name and generation.isdigit():
                found.setdefault(name, []).append(int(generation))
        return {name: sorted(generations) for name, generations in found.items()}

    def _is_dead(self, file: str, content: bytes) -> bool:
        with suppress(ValueError, KeyError, TypeError):
            holder = json.loads(content)
            if holder["machine"] == machine():
                return not _runs(holder["pid"], holder["started"])
        last, since = self._seen.get(file, (b"", 0.0))
        if last != content:
            self._seen[file] = (content, self.clock())
            return False
        return self.clock() - since > self.ttl


@dataclass
class Lease:
    """A lease that is held until the ``with`` block ends or the process dies."""

    folder: Folder
    name: str
    generation: int
    ttl: float
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _beat: int = 0

    @property
    def _file(self) -> str:
        return f"{self.name}.{self.generation}"

    def create(self) -> bool:
        """Take it, if it is free."""
        return self.folder.create(self._file, self._content())

    def release(self) -> None:
        """Give it back, if it is still ours."""
        self._over.set()
        with self._lock:
            if self._is_ours():
                self.folder.delete(self._file)

    def __enter__(self) -> "Lease":
        threading.Thread(target=self._live, name=f"lease {self.name}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _live(self) -> None:
        while not self._over.wait(self.ttl / 4):
            self._beat += 1
            with self._lock, suppress(Exception):  # a full disk, a lost network: the next beat may succeed
                if self._over.is_set() or not self._is_ours():
                    return
                self.folder.write(self._file, self._content())

    def _is_ours(self) -> bool:
        content = self.folder.read(self._file)
        return content is not None and self._token.encode() in content

    def _content(self) -> bytes:
        process = psutil.Process()
        holder = {
            "host": socket.gethostname(),
            "machine": machine(),
            "pid": process.pid,
            "started": process.create_time(),
            "beat": self._beat,
            "token": self._token,
        }
        return json.dumps(holder).encode()


@cache
def machine() -> str:
    """Name what process numbers are unique on: host, boot, and, in containers, the namespace of processes."""
    parts = [socket.gethostname(), f"{psutil.boot_time():.0f}"]
    with suppress(OSError):
        parts[1] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  (a link to no path)
    return " ".join(parts)


def _runs(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
