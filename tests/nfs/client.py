"""An NFS mount in user space, for kernels without one: `client.py SERVER:/EXPORT FOLDER`.

It behaves as the kernel's client does (nfs(5)): hard, attributes and missing names are believed for
`--cache-s`, opening a file or a folder asks the server anew (close-to-open), what was written is on
the server's disk when it is closed, locks are not shared. It runs until it is killed or unmounted.
"""

import argparse
import errno
import importlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
libnfs: Any = importlib.import_module("libnfs")
fuse: Any = importlib.import_module("mfusepy")


class _Open:
    def __init__(self, file: Any) -> None:
        self.file = file
        self.dirty = False


class Attributes:
    """What the server said of a name lately, "no such file" too."""

    def __init__(self, ask: Callable[[str], dict[str, int]], keep_s: float) -> None:
        self._ask = ask
        self._keep_s = keep_s
        self._known: dict[str, tuple[float, dict[str, int] | None]] = {}

    def get(self, path: str) -> dict[str, int]:
        at, found = self._known.get(path, (0.0, None))
        if path not in self._known or time.monotonic() - at >= self._keep_s:
            return self.fresh(path)
        if found is None:
            raise OSError(errno.ENOENT, "No such file or directory")
        return found

    def fresh(self, path: str) -> dict[str, int]:
        try:
            found = self._ask(path)
        except FileNotFoundError:
            self._known[path] = time.monotonic(), None
            raise
        self._known[path] = time.monotonic(), found
        return found

    def forget(self, *paths: str) -> None:
        for path in paths:
            self._known.pop(path, None)

    def folder_opened(self, folder: str) -> None:
        """Names that were missing may be there now."""
        start = folder.rstrip("/") + "/"
        for path, (_, found) in list(self._known.items()):
            if found is None and path.rpartition("/")[0] + "/" == start:
                self.forget(path)


class Client(fuse.Operations):  # type: ignore[misc]  # mfusepy is loaded by its name
    use_ns = True

    def __init__(self, server: str, export: str, keep_s: float) -> None:
        self._where = server, export
        self._keep_s = keep_s
        self._files: dict[int, _Open] = {}
        self._lock = threading.Lock()
        self._last = 0

    def init(self, path: str) -> None:
        self._nfs = libnfs.Export(*self._where)
        self._attributes = Attributes(self._nfs.stat, self._keep_s)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        return self._attributes.get(path)

    def statfs(self, path: str) -> dict[str, int]:
        found: dict[str, int] = self._nfs.space(path)
        return found

    def opendir(self, path: str) -> int:
        self._attributes.fresh(path)
        self._attributes.folder_opened(path)
        return 0

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        # libc skips entries whose inode number is 0
        return [(name, {"st_ino": inode}, 0) for name, inode in self._nfs.names(path)]

    def open(self, path: str, flags: int) -> int:
        self._attributes.fresh(path)
        handle = self._keep(self._nfs.open(path, flags))
        self._attributes.fresh(path)  # O_TRUNC has changed it
        return handle

    def create(self, path: str, mode: int, flags: int = 0) -> int:
        handle = self._keep(self._nfs.create(path, flags, mode, _caller()))
        self._changed(path)
        return handle

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        found: bytes = self._nfs.read(self._files[fh].file, size, offset)
        return found

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        done: int = self._nfs.write(self._files[fh].file, data, offset)
        self._files[fh].dirty = True
        self._attributes.forget(path)
        return done

    def flush(self, path: str, fh: int) -> int:
        if self._files[fh].dirty:
            self._sync(fh)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._sync(fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        self._nfs.close(self._files.pop(fh).file)
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self._nfs.truncate(path, length)
        self._attributes.forget(path)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._nfs.mkdir(path, mode, _caller())
        return self._changed(path)

    def rmdir(self, path: str) -> int:
        self._nfs.rmdir(path)
        return self._changed(path)

    def unlink(self, path: str) -> int:
        self._nfs.unlink(path)
        return self._changed(path)

    def rename(self, old: str, new: str, flags: int = 0) -> int:
        self._nfs.rename(old, new)
        return self._changed(old, new)

    def link(self, target: str, source: str) -> int:
        self._nfs.link(source, target)
        return self._changed(source, target)

    def symlink(self, target: str, source: str) -> int:
        self._nfs.symlink(source, target, _caller())
        return self._changed(target)

    def readlink(self, path: str) -> str:
        found: str = self._nfs.readlink(path)
        return found

    def chmod(self, path: str, mode: int) -> int:
        self._nfs.chmod(path, mode)
        return self._changed(path)

    def chown(self, path: str, uid: int, gid: int) -> int:
        now = self._nfs.stat(path)
        kept = 2**32 - 1
        self._nfs.chown(
            path,
            now["st_uid"] if uid in (-1, kept) else uid,
            now["st_gid"] if gid in (-1, kept) else gid,
        )
        return self._changed(path)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        self._nfs.times(path, *(times or (time.time_ns(),) * 2))
        return self._changed(path)

    def _keep(self, file: Any) -> int:
        with self._lock:
            self._last += 1
            self._files[self._last] = _Open(file)
            return self._last

    def _sync(self, fh: int) -> None:
        self._nfs.sync(self._files[fh].file)
        self._files[fh].dirty = False

    def _changed(self, *paths: str) -> int:
        parents = [path.rpartition("/")[0] or "/" for path in paths]
        self._attributes.forget(*paths, *parents)
        return 0


def _caller() -> Any:
    uid, gid, _ = fuse.fuse_get_context()
    return libnfs.Caller(uid, gid)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", help="SERVER:/EXPORT")
    parser.add_argument("folder")
    parser.add_argument("--cache-s", type=float, default=3.0)
    args = parser.parse_args()
    server, _, export = args.source.partition(":")
    fuse.FUSE(
        Client(server, export, args.cache_s),
        args.folder,
        foreground=True,
        allow_other=True,
        default_permissions=True,
        use_ino=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        fsname=args.source,
        subtype="nfs",
    )


if __name__ == "__main__":
    main()
