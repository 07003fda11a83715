"""libnfs 4's blocking NFSv3 calls by ctypes: paths are of the export, errors are OSError.

NFSv4 of libnfs 4.0.0 cannot write 4 kB, so it is not offered. A context is not thread-safe: calls
take turns. While the server does not answer a call waits for ever, as with a hard mount.
"""

import ctypes as c
import errno
import os
import re
import threading
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnfs.so.13"
_NFS3 = 3
_SAID = re.compile(rb'failed with "(.)', re.DOTALL)
"""A write that fails gives EFAULT always; its NFS status stands in the message, as a character."""
_ERRNO = {69: errno.EDQUOT, 70: errno.ESTALE}
"""NFS's numbers that are not errno's (RFC 1813, 2.6)."""
_CHUNK = 2**17
_LONGEST = 4096


class _Stat(c.Structure):
    _fields_ = [  # ctypes' own way
        (name, c.c_uint64)
        for name in (
            *("dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"),
            *("atime", "mtime", "ctime", "atime_ns", "mtime_ns", "ctime_ns", "used"),
        )
    ]


class _Entry(c.Structure):
    """The start of struct nfsdirent, which has more."""


_Entry._fields_ = [("next", c.POINTER(_Entry)), ("name", c.c_char_p), ("inode", c.c_uint64)]


class _Time(c.Structure):
    _fields_ = [("s", c.c_long), ("us", c.c_long)]


class _VfsStat(c.Structure):
    """struct statvfs of Linux on 64 bits."""

    _fields_ = [
        *((name, c.c_ulong) for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail")),
        *((name, c.c_ulong) for name in ("f_files", "f_ffree", "f_favail", "f_fsid", "f_flag")),
        ("f_namemax", c.c_ulong),
        ("spare", c.c_int * 6),
    ]


_P, _S, _I, _U = c.c_void_p, c.c_char_p, c.c_int, c.c_uint64
_ARGUMENTS: dict[str, list[Any]] = {
    "mount": [_S, _S],
    "set_version": [_I],
    "lstat64": [_S, c.POINTER(_Stat)],
    "statvfs": [_S, c.POINTER(_VfsStat)],
    "open": [_S, _I, c.POINTER(_P)],
    "create": [_S, _I, _I, c.POINTER(_P)],
    "close": [_P],
    "pread": [_P, _U, _U, _P],
    "pwrite": [_P, _U, _U, _S],
    "fsync": [_P],
    "truncate": [_S, _U],
    "mkdir2": [_S, _I],
    "rmdir": [_S],
    "unlink": [_S],
    "rename": [_S, _S],
    "link": [_S, _S],
    "symlink": [_S, _S],
    "readlink": [_S, _P, _I],
    "lchmod": [_S, _I],
    "lchown": [_S, _I, _I],
    "lutimes": [_S, c.POINTER(_Time)],
    "opendir": [_S, c.POINTER(_P)],
}


def _load() -> c.CDLL:
    found = c.CDLL(LIBRARY)
    found.nfs_init_context.restype = _P
    found.nfs_get_error.restype, found.nfs_get_error.argtypes = c.c_char_p, [_P]
    for name, arguments in _ARGUMENTS.items():
        call = getattr(found, f"nfs_{name}")
        call.restype, call.argtypes = c.c_int, [_P, *arguments]
    found.nfs_readdir.restype, found.nfs_readdir.argtypes = c.POINTER(_Entry), [_P, _P]
    found.nfs_closedir.restype, found.nfs_closedir.argtypes = None, [_P, _P]
    found.nfs_umask.restype, found.nfs_umask.argtypes = c.c_uint16, [_P, c.c_uint16]
    for name in ("set_uid", "set_gid", "set_dircache", "set_autoreconnect"):
        call = getattr(found, f"nfs_{name}")
        call.restype, call.argtypes = None, [_P, c.c_int]
    return found


@dataclass(frozen=True, slots=True)
class Caller:
    """Who creates a file: it becomes its owner."""

    uid: int
    gid: int


class Export:
    """One mounted export."""

    def __init__(self, server: str, path: str) -> None:
        self._lib = _load()
        self._lock = threading.RLock()
        self._nfs = _P(self._lib.nfs_init_context())
        self._lib.nfs_set_version(self._nfs, _NFS3)
        self._lib.nfs_set_dircache(self._nfs, 0)
        self._lib.nfs_set_autoreconnect(self._nfs, -1)
        self._lib.nfs_umask(self._nfs, 0)  # the kernel has applied the caller's
        if self._lib.nfs_mount(self._nfs, server.encode(), path.encode()):
            why = self._lib.nfs_get_error(self._nfs)
            raise OSError(f"{server}:{path} cannot be mounted: {why!r}")

    def stat(self, path: str) -> dict[str, int]:
        found = _Stat()
        self._call("lstat64", path, c.byref(found))
        times = {
            f"st_{name}": getattr(found, name) * 10**9 + getattr(found, f"{name}_ns")
            for name in ("atime", "mtime", "ctime")
        }
        same = ("mode", "ino", "nlink", "uid", "gid", "size", "rdev")
        return {
            **{f"st_{name}": getattr(found, name) for name in same},
            **times,
            "st_blocks": found.used // 512,
            "st_blksize": 2**20,
        }

    def space(self, path: str) -> dict[str, int]:
        found = _VfsStat()
        self._call("statvfs", path, c.byref(found))
        return {name: getattr(found, name) for name, *_ in _VfsStat._fields_ if name != "spare"}

    def names(self, path: str) -> list[tuple[str, int]]:
        """Names and inode numbers of a folder, fresh from the server."""
        folder = _P()
        with self._lock:
            self._call("opendir", path, c.byref(folder))
            found = []
            while entry := self._lib.nfs_readdir(self._nfs, folder):
                name = entry.contents.name.decode("utf-8", "surrogateescape")
                found.append((name, entry.contents.inode))
            self._lib.nfs_closedir(self._nfs, folder)
        return found

    def open(self, path: str, flags: int) -> c.c_void_p:
        file = _P()
        self._call("open", path, flags & (os.O_ACCMODE | os.O_TRUNC), c.byref(file))
        return file

    def create(self, path: str, flags: int, mode: int, caller: Caller) -> c.c_void_p:
        file = _P()
        wanted = os.O_RDWR | flags & (os.O_EXCL | os.O_TRUNC)
        self._as(caller, "create", path, wanted, mode & 0o7777, c.byref(file))
        return file

    def close(self, file: c.c_void_p) -> None:
        self._call("close", file)

    def read(self, file: c.c_void_p, size: int, offset: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            buffer = c.create_string_buffer(min(size, _CHUNK))
            done = self._call("pread", file, offset, len(buffer), buffer)
            if done == 0:
                break
            parts.append(buffer.raw[:done])
            offset, size = offset + done, size - done
        return b"".join(parts)

    def write(self, file: c.c_void_p, data: bytes, offset: int) -> int:
        done = 0
        while done < len(data):
            part = data[done : done + _CHUNK]
            done += self._call("pwrite", file, offset + done, len(part), part)
        return done

    def sync(self, file: c.c_void_p) -> None:
        self._call("fsync", file)

    def truncate(self, path: str, length: int) -> None:
        self._call("truncate", path, length)

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        self._as(caller, "mkdir2", path, mode & 0o7777)

    def symlink(self, target: str, path: str, caller: Caller) -> None:
        self._as(caller, "symlink", target, path)

    def rmdir(self, path: str) -> None:
        self._call("rmdir", path)

    def unlink(self, path: str) -> None:
        self._call("unlink", path)

    def rename(self, old: str, new: str) -> None:
        self._call("rename", old, new)

    def link(self, old: str, new: str) -> None:
        self._call("link", old, new)

    def readlink(self, path: str) -> str:
        buffer = c.create_string_buffer(_LONGEST)
        self._call("readlink", path, buffer, _LONGEST)
        return buffer.value.decode("utf-8", "surrogateescape")

    def chmod(self, path: str, mode: int) -> None:
        self._call("lchmod", path, mode & 0o7777)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._call("lchown", path, uid, gid)

    def times(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        pair = [_Time(ns // 10**9, ns % 10**9 // 1000) for ns in (atime_ns, mtime_ns)]
        self._call("lutimes", path, (_Time * 2)(*pair))

    def _as(self, caller: Caller, name: str, *arguments: Any) -> int:
        with self._lock:
            self._lib.nfs_set_uid(self._nfs, caller.uid)
            self._lib.nfs_set_gid(self._nfs, caller.gid)
            try:
                return self._call(name, *arguments)
            finally:
                self._lib.nfs_set_uid(self._nfs, 0)
                self._lib.nfs_set_gid(self._nfs, 0)

    def _call(self, name: str, *arguments: Any) -> int:
        told = [
            word.encode("utf-8", "surrogateescape") if isinstance(word, str) else word
            for word in arguments
        ]
        with self._lock:
            done: int = getattr(self._lib, f"nfs_{name}")(self._nfs, *told)
            said = self._lib.nfs_get_error(self._nfs) if done == -errno.EFAULT else b""
        if found := _SAID.search(said or b""):
            done = -_ERRNO.get(found[1][0], found[1][0])
        if done < 0:
            raise OSError(-done, os.strerror(-done))
        return done
