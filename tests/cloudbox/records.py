"""What a box has made on the machine, written down before it is made; and its removal.

Only what stands in the records is removed, and a bridge only when it still bears the box's name as
its alias: names alone prove nothing.
"""

import json
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.cloudbox.cgroups import Cgroup

FILE = "made.jsonl"
IP_S = 10.0


@dataclass(slots=True)
class Records:
    """The list in the box's own directory."""

    directory: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def will_make(self, what: str, **words: object) -> None:
        with self._lock, (self.directory / FILE).open("a") as file:
            file.write(json.dumps({"what": what, **words}) + "\n")

    def all(self) -> Iterator[Mapping[str, object]]:
        """The latest first."""
        path = self.directory / FILE
        lines = path.read_text().splitlines() if path.exists() else []
        return (json.loads(line) for line in reversed(lines))


def sweep(directory: Path) -> None:
    """Ends and removes all that the box of this directory has made. May be repeated."""
    for made in Records(directory).all():
        try:
            _remove(made)
        except (OSError, subprocess.SubprocessError):
            traceback.print_exc()


def sweep_after_stdin(directory: Path) -> None:
    """As soon as whoever holds our standard input has ended, however it ended."""
    sys.stdin.buffer.read()
    sweep(directory)


def bears(link: str, alias: str) -> bool:
    """Whether the network link exists and was made under that name."""
    path = Path("/sys/class/net") / link / "ifalias"
    return path.exists() and path.read_text().strip() == alias


def _remove(made: Mapping[str, object]) -> None:
    if made["what"] == "cgroup":
        Cgroup.of(made).remove()
    if made["what"] == "bridge" and bears(str(made["name"]), str(made["alias"])):
        argv = ["ip", "link", "delete", str(made["name"])]
        subprocess.run(argv, check=True, timeout=IP_S, capture_output=True)
