"""User data as an image with cloud-init would take it: a script, or a little of cloud-config.

Of cloud-config: write_files, mounts and runcmd, in that order.
"""

import base64
import importlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SCRIPT = "#!"
CONFIG = "#cloud-config"


@dataclass(frozen=True, slots=True)
class File:
    path: str
    content: bytes
    mode: int = 0o644
    append: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, then what to run once as root; "" runs nothing."""

    files: Sequence[File] = ()
    script: str = ""


def read(text: str) -> Plan:
    """:raises ValueError: it is neither."""
    if not text.strip():
        return Plan()
    if text.startswith(SCRIPT):
        return Plan(script=text)
    if not text.startswith(CONFIG):
        raise ValueError(f"user data begins with neither {SCRIPT} nor {CONFIG}: {text[:40]!r}")
    found = importlib.import_module("yaml").safe_load(text) or {}
    files = [_file(one) for one in found.get("write_files", [])]
    mounts = [_mount(one) for one in found.get("mounts", [])]
    commands = [one if isinstance(one, str) else _line(one) for one in found.get("runcmd", [])]
    return Plan(files, "\n".join(["#!/bin/sh", *mounts, *commands, ""]))


def _file(one: Mapping[str, object]) -> File:
    text = str(one.get("content", ""))
    coded = one.get("encoding") in ("b64", "base64")
    content = base64.b64decode(text) if coded else text.encode()
    mode = int(str(one.get("permissions", "0644")), 8)
    return File(str(one["path"]), content, mode, append=bool(one.get("append")))


def _mount(one: Sequence[object]) -> str:
    source, target, kind, options = [*map(str, one), "auto", "defaults"][:4]
    mount = _line(["mount", "-t", kind, "-o", options, source, target])
    return f"{_line(['mkdir', '-p', target])} && {mount}"


def _line(words: Sequence[object]) -> str:
    return shlex.join(str(word) for word in words)
