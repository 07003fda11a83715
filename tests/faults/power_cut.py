"""Power cuts, replayed: every state that a disk may be in after losing power at any moment.

strace records what a store writes and syncs during some commits. For a cut after each of these
calls the files are rebuilt: what was synced before is there; of what was not, nothing, everything,
a beginning, some, or a write torn at a sector. SQLite then opens them as after a real cut.

The model is ext4's: a new name lasts when its file is synced, writes to one file may reach the
disk in any order, and a sector of 512 bytes is written whole or not at all.
"""

import ast
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
VARIANTS = ("none", "all", "prefix", "some", "torn")

WRITER = """
import os, sys
from sqlalchemy import insert
from scsched.db.models import meta
from scsched.db.session import open_store

url, commits, synchronous = sys.argv[1], int(sys.argv[2]), sys.argv[3]
store = open_store(url)
raw = store._writer.raw_connection()
raw.cursor().execute("PRAGMA wal_autocheckpoint = 12")
if synchronous != "as is":
    raw.cursor().execute(f"PRAGMA synchronous = {synchronous}")
raw.close()
os.write(2, b"begin\\n")
for number in range(1, commits + 1):
    with store.write() as session:
        row = {"key": f"row {number:05}", "value": "x" * (number * 97 % 5000)}
        session.execute(insert(meta), row)
    os.write(2, b"acked\\n")
os._exit(0)
"""
"""Acknowledges each commit with a call that the trace shows in its place."""


@dataclass(frozen=True, slots=True)
class Call:
    """One traced call: a write to, a truncation of or a sync of the file `name`, or an `ack`."""

    kind: str
    name: str = ""
    offset: int = 0
    data: bytes = b""


@dataclass(slots=True)
class Disk:
    """A file: what is on the disk for certain, and what was written since."""

    durable: bytes = b""
    pending: list[Call] = field(default_factory=list)

    def take(self, call: Call) -> None:
        if call.kind == "sync":
            self.durable = _applied(self.durable, self.pending)
            self.pending = []
        else:
            self.pending.append(call)

    def after_cut(self, variant: str, chance: random.Random) -> bytes:
        return _applied(self.durable, _survivors(self.pending, variant, chance))


@dataclass(slots=True)
class Found:
    """What the states after the cuts were like."""

    states: int = 0
    corrupt: int = 0
    with_loss: int = 0
    most_lost: int = 0
    invented: int = 0


def missing() -> str:
    """Why cuts cannot be replayed here; empty: they can."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian: apt-get install strace)"
    tried = subprocess.run(
        ["strace", "-o", "/dev/null", "true"], capture_output=True, timeout=30, check=False
    )
    return "" if tried.returncode == 0 else "strace may not trace here"


def record(database: Path, commits: int, synchronous: str = "as is") -> list[Call]:
    """Let a store of its own process commit, and give its calls to the files of `database`."""
    trace = database.with_name("trace")
    calls = "pwrite64,write,fsync,fdatasync,ftruncate,unlink,unlinkat"
    subprocess.run(
        ["strace", "-f", "-y", "-xx", "-s", "10000000", "-e", f"trace={calls}", "-o", str(trace),
         sys.executable, "-c", WRITER, f"sqlite:///{database}", str(commits), synchronous],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    return list(_parsed(trace, database))


def replay(
    before: Path, calls: Sequence[Call], folder: Path, *, per_cut: int, seed: int = 0
) -> Found:
    """Cut the power after each call, `per_cut` times; `before` is the database as it was."""
    chance = random.Random(seed)  # noqa: S311
    disks: defaultdict[str, Disk] = defaultdict(Disk)
    disks[before.name] = Disk(durable=before.read_bytes())
    found, acked = Found(), 0
    for call in calls:
        if call.kind == "ack":
            acked += 1
        else:
            disks[call.name].take(call)
        for variant in chance.sample(VARIANTS, per_cut):
            _judge(found, _rebuild(disks, folder, variant, chance) / before.name, acked)
    return found


def _parsed(trace: Path, database: Path) -> Iterator[Call]:
    """Calls from `begin` on, which says that the store is open."""
    names = (database.name, f"{database.name}-wal")
    begun = False
    for line in trace.read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\((.*)\) += (-?\d+)", line)
        if match is None or int(match[3]) < 0:
            continue
        verb, arguments = match[1], match[2]
        if verb == "write" and _text(arguments) in {b"begin\n", b"acked\n"}:
            if begun:
                yield Call("ack")
            begun = True
            continue
        name = Path(_path(arguments)).name
        if name in names:
            yield _call(verb, name, arguments)
        elif verb.startswith("unlink") and any(
            other in _text(arguments).decode() for other in names
        ):
            raise RuntimeError("the database unlinked a file, which this model does not know")


def _call(verb: str, name: str, arguments: str) -> Call:
    numbers = [int(number) for number in re.findall(r", (\d+)", arguments)]
    if verb in {"fsync", "fdatasync"}:
        return Call("sync", name)
    if verb == "ftruncate":
        return Call("truncate", name, offset=numbers[-1])
    if verb == "pwrite64":
        return Call("write", name, offset=numbers[-1], data=_text(arguments))
    raise RuntimeError(f"{verb} to {name}, which this model does not know")


def _path(arguments: str) -> str:
    """The path in `3</path>`, which strace -xx writes in hexadecimal too."""
    found = re.match(r"\d+<([^>]*)>", arguments)
    return ast.literal_eval(f'"{found[1]}"') if found else ""


def _text(arguments: str) -> bytes:
    found = re.search(r'"((?:\\x[0-9a-f]{2})*)"', arguments)
    return bytes.fromhex(found[1].replace("\\x", "")) if found else b""


def _applied(content: bytes, calls: Sequence[Call]) -> bytes:
    buffer = bytearray(content)
    for call in calls:
        if call.kind == "truncate":
            del buffer[call.offset :]
            continue
        end = call.offset + len(call.data)
        buffer.extend(bytes(max(0, end - len(buffer))))
        buffer[call.offset : end] = call.data
    return bytes(buffer)


def _survivors(pending: Sequence[Call], variant: str, chance: random.Random) -> list[Call]:
    if variant == "none" or not pending:
        return []
    if variant == "all":
        return list(pending)
    if variant == "some":
        return [call for call in pending if chance.random() < 0.5]
    prefix = list(pending[: chance.randrange(len(pending) + 1)])
    if variant == "torn" and prefix and prefix[-1].kind == "write":
        last = prefix.pop()
        kept = chance.randrange(len(last.data) // SECTOR + 1) * SECTOR
        prefix.append(Call("write", last.name, last.offset, last.data[:kept]))
    return prefix


def _rebuild(disks: dict[str, Disk], folder: Path, variant: str, chance: random.Random) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, disk in disks.items():
        (folder / name).write_bytes(disk.after_cut(variant, chance))
    return folder


def _judge(found: Found, database: Path, acked: int) -> None:
    found.states += 1
    connection = sqlite3.connect(database)
    try:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        rows = [
            int(key.removeprefix("row "))
            for (key,) in connection.execute("SELECT key FROM meta WHERE key LIKE 'row %'")
        ]
    except sqlite3.DatabaseError:
        found.corrupt += 1
        return
    finally:
        connection.close()
    found.corrupt += verdict != "ok"
    lost = len(set(range(1, acked + 1)) - set(rows))
    found.with_loss += lost > 0
    found.most_lost = max(found.most_lost, lost)
    found.invented += sorted(rows) != list(range(1, len(rows) + 1))
