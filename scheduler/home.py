"""What this host must have for nodes of other machines: an address that they reach, storage."""

import asyncio
import ipaddress
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from scsched.cluster import mounts, storage
from scsched.cluster.health import Finding
from scsched.cluster.storage_look import GIB, Steps
from scsched.scheduler import doctor
from scsched.scheduler.config import Settings
from scsched.scheduler.config_pools import StorageConfig
from scsched.scheduler.doctor import Verdict

_ANSWER_S = 15.0


def findings(settings: Settings) -> Iterator[Finding]:
    """One for the address, and those of each storage that a pool of other machines names."""
    yield _address(settings.network.address)
    for name in sorted({pool.storage for pool in settings.pool if pool.storage}):
        yield from _storage(settings.storage[name])


def _address(address: str) -> Finding:
    """Drivers listen there: this host has to have it, and others have to reach it."""
    hint = "set network.address to the address of this host in the nodes' network"
    try:
        found = ipaddress.ip_address(socket.gethostbyname(address))
        socket.create_server((str(found), 0)).close()
    except OSError as exc:
        sentence = f"{address} is not an address of this host: {exc.strerror or exc}"
        return Finding("address", ok=False, sentence=sentence, hint=hint)
    if found.is_loopback:
        sentence = f"{address} is this host's loopback, which no other machine reaches"
        return Finding("address", ok=False, sentence=sentence, hint=hint)
    return Finding("address", ok=True, sentence=f"drivers will listen at {address}")


def _storage(of: StorageConfig) -> Iterator[Finding]:
    """A file system that does not answer is not waited for."""
    try:
        yield from asyncio.run(
            storage.bounded(of.path, lambda steps: list(_look(of, steps)), _ANSWER_S)
        )
    except storage.Stuck as exc:
        hint = "look at the file server and the network to it"
        yield Finding("storage", ok=False, sentence=f"{of.path} does not answer: {exc}", hint=hint)


def _look(of: StorageConfig, steps: Steps) -> Iterator[Finding]:
    path = Path(of.path)
    steps.at = "looking for it"
    if not path.is_dir():
        hint = "mount it here too, at the path that the nodes have"
        yield Finding("storage", ok=False, sentence=f"there is no {path} here", hint=hint)
        return
    steps.at = "measuring the free space"
    free_gib = shutil.disk_usage(path).free / GIB
    enough = free_gib >= of.min_free_gib
    yield Finding(
        "free space",
        ok=enough,
        sentence=f"{path}: {free_gib:.1f} GiB free, {of.min_free_gib:g} wanted",
        hint="" if enough else "no new work starts: remove what is not needed, or enlarge it",
    )
    steps.at = "writing, syncing and renaming small files"
    yield _writable(path)


def _writable(path: Path) -> Finding:
    """Its top may be closed to us: projects lie below, and are tried when their driver starts."""
    on = mounts.of(str(path))
    if not os.access(path, os.W_OK):
        sentence = f"{path} on {on}; its top is not writable for us, so nothing was tried there"
        return Finding("storage", ok=True, sentence=sentence)
    found = doctor.storage(path)
    ok = found.verdict is not Verdict.FAIL
    return Finding(
        "storage", ok=ok, sentence=f"{path} on {on}" if ok else found.detail, hint=found.fix
    )
