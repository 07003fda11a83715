"""RELION's own signal to stop: a file in the job's folder, on storage that may not answer."""

from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

ABORT_FILE = "RELION_JOB_ABORT_NOW"
STORAGE_S = 2.0
"""How long whoever stops an attempt waits for storage; a healthy one takes milliseconds."""


def of_job(job_dir: Path) -> "Abort":
    """Wherever RELION may look for it: that depends on the program."""
    return Abort(job_dir / ABORT_FILE, job_dir / "extra" / ABORT_FILE)


class Abort:
    """The signal in each of these files whose folder is there, until it is over.

    A thread of its own puts it there and takes it away, also when storage answers late: a signal
    left behind would end the next attempt.
    """

    def __init__(self, *files: Path) -> None:
        self._files = files
        self._put = False
        self._tried = Event()
        self._over = Event()
        self._thread = Thread(target=self._work, name="relion-abort", daemon=True)

    def ask(self) -> bool:
        """Whether the signal is there; after `STORAGE_S` at most."""
        self._thread.start()
        self._tried.wait(STORAGE_S)
        return self._put

    def over(self) -> None:
        """Take it away; where storage has not answered so far that is not waited for."""
        self._over.set()
        if self._tried.is_set():
            self._thread.join(STORAGE_S)

    def _work(self) -> None:
        files: list[Path] = []
        with suppress(OSError):
            for file in [file for file in self._files if file.parent.is_dir()]:
                files.append(file)
                file.touch()
                self._put = True
        self._tried.set()
        self._over.wait()
        with suppress(OSError):
            for file in files:
                file.unlink(missing_ok=True)
