"""Live progress of relion_refine, from the end of its log and the files of its iterations.

RELION draws bars with carriage returns, about 10 kB an iteration:

     Expectation iteration 5 of 10
      12/  40 sec ..................~~(,_,">        elapsed/expected, 60 dots when done
     Maximization ...
"""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from scsched.steps import lineage, star
from scsched.steps.checkpoint import Branch
from scsched.steps.outputs import resolution_a
from scsched.steps.star import Torn

TAIL_BYTES = 256 * 1024
"""No more than this is read of a log at once: about 25 iterations."""
BAR_DOTS = 60
_SECONDS = {"sec": 1.0, "min": 60.0, "hrs": 3600.0}

_LINE = re.compile(
    r"\[scsched\] exact mode, iteration (?P<exact>\d+) of (?P<total>\d+)"
    r"|(?P<attempt>\[scsched\] attempt \d+)"
    r"|(?P<what>Expectation|Stochastic \w+(?: \w+)?) iteration (?P<iteration>\d+)"
    r"(?: of (?P<of>\d+))?"
    r"|Auto-refine: Iteration= (?P<auto>\d+)"
    r"|Auto-refine: Resolution= (?P<auto_resolution>[\d.]+)"
    r"|CurrentResolution= (?P<resolution>[\d.]+)"
    r"|(?P<last>Refinement has converged, entering last iteration)"
    r"|(?P<done>Refinement has converged, stopping now)"
    r"|(?P<phase>Maximization|Estimating accuracies|Estimating initial noise spectra"
    r"|Copying particles|Calculating gold-standard FSC)"
    r"|(?P<elapsed>[\d.]+)/ *(?P<expected>[\d.]+) (?P<unit>sec|min|hrs) (?P<dots>\.*)~~"
    r"|FINAL RESOLUTION: *(?P<final>[\d.]+)"
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is. None: not known, or there is no such thing."""

    iteration: int | None = None
    """The one at work; of a finished job the last."""
    of: int | None = None
    """None in auto-refine: it stops when it has converged."""
    phase: str = ""
    fraction: float | None = None
    """Of this phase, 0 to 1."""
    phase_left_s: float | None = None
    """RELION's own guess of what is left of this phase."""
    resolution_a: float | None = None
    seconds_per_iteration: float | None = None
    """Of the newest finished iteration: they differ too much for a mean to say anything."""
    classes: tuple[float, ...] = ()
    """Share of the particles in each class, in the newest finished iteration."""
    finished_iteration: int | None = None
    converged: bool = False
    mark: int = 0
    """Grows whenever the job writes anything: what a stall watchdog compares."""


class Log:
    """A growing log, read from where it was left; of a long one only its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self.read_bytes = 0
        """Size of the log when last read."""

    def new_text(self) -> str:
        """Whole lines written since the last call; a bar's last state counts as a line."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._offset:
                    self._offset, self._rest = 0, b""
                start = max(self._offset, size - TAIL_BYTES)
                if start > self._offset:
                    self._rest = b""
                file.seek(start)
                chunk = self._rest + file.read(TAIL_BYTES)
                self._offset = file.tell()
        except OSError:
            return ""
        self.read_bytes = self._offset
        cut = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"), chunk.rfind(b'">')) + 1
        self._rest = chunk[cut:][-4096:]
        return chunk[:cut].decode("utf-8", "replace")


class Reader:
    """Progress of one job, cheap to ask for every few seconds."""

    def __init__(self, log: Path, *, project: Path, base: str, of: int | None = None) -> None:
        """`base`: the root that the workflow asked for. `of`: iterations, where they are known."""
        self._log = Log(log)
        self._project = project
        self._base = base
        self._of = of
        self._state = Progress()
        self._models: dict[Path, tuple[int, Progress]] = {}

    def read(self) -> Progress:
        self._state = parse(self._log.new_text(), self._state)
        written = _written(self._base, project=self._project)
        files = self._from_files(written)
        return replace(
            self._state,
            iteration=self._state.iteration or files.finished_iteration,
            of=self._of or self._state.of,
            resolution_a=self._state.resolution_a or files.resolution_a,
            seconds_per_iteration=files.seconds_per_iteration,
            classes=files.classes,
            finished_iteration=files.finished_iteration,
            mark=self._log.read_bytes + sum(size for _, _, size, _ in written),
        )

    def _from_files(self, written: list["_Written"]) -> Progress:
        whole = [item for item in written if star.ends_whole(_model_of(item[3]))]
        if not whole:
            return Progress()
        iteration, newest_s, _, optimiser = whole[-1]
        model = self._model(_model_of(optimiser))
        seconds = newest_s - whole[-2][1] if _follows(whole) else None
        return replace(model, finished_iteration=iteration, seconds_per_iteration=seconds)

    def _model(self, path: Path) -> Progress:
        """What a model.star says; read once for each state of the file."""
        try:
            stamp = path.stat().st_mtime_ns
            if path not in self._models or self._models[path][0] != stamp:
                self._models = {path: (stamp, _read_model(path))}
        except (OSError, Torn):
            return Progress()
        return self._models[path][1]


_Written = tuple[int, float, int, Path]
"""Iteration, time of writing, size and path of an optimiser.star."""


def parse(text: str, before: Progress | None = None) -> Progress:
    """The state after these lines of a log, given the state before them."""
    state = before or Progress()
    for match in _LINE.finditer(text):
        state = _after(state, {k: v for k, v in match.groupdict().items() if v is not None})
    return state


def _after(state: Progress, said: dict[str, str]) -> Progress:
    if "attempt" in said:
        return Progress()
    if "exact" in said:
        return _phase(state, "Expectation", int(said["exact"]), int(said["total"]))
    if "what" in said:
        of = int(said["of"]) if "of" in said else state.of
        exact = state.iteration == int(said["iteration"]) and state.of is not None
        return _phase(state, said["what"], int(said["iteration"]), state.of if exact else of)
    if "auto" in said:
        return replace(state, iteration=int(said["auto"]))
    if "dots" in said:
        return _bar(state, said)
    if "phase" in said:
        return replace(state, phase=said["phase"], fraction=None, phase_left_s=None)
    if "last" in said:
        return replace(state, phase="Last iteration", fraction=None, phase_left_s=None)
    if "done" in said:
        return replace(state, converged=True)
    found = said.get("auto_resolution") or said.get("resolution") or said.get("final") or ""
    return replace(state, resolution_a=resolution_a(found) or state.resolution_a)


def _phase(state: Progress, phase: str, iteration: int, of: int | None) -> Progress:
    return replace(state, phase=phase, iteration=iteration, of=of, fraction=None, phase_left_s=None)


def _bar(state: Progress, said: dict[str, str]) -> Progress:
    left = float(said["expected"]) - float(said["elapsed"])
    return replace(
        state,
        fraction=min(1.0, len(said["dots"]) / BAR_DOTS),
        phase_left_s=max(0.0, left * _SECONDS[said["unit"]]),
    )


def _written(base: str, *, project: Path) -> list[_Written]:
    """The optimisers of the root that is being written, the oldest first."""
    branch = _live(base, project=project)
    root = project / branch.root
    pattern = re.compile(re.escape(root.name) + r"_it(\d{3,})_optimiser\.star")
    found: list[_Written] = []
    try:
        entries = list(root.parent.iterdir())
    except OSError:
        return []
    for path in entries:
        match = pattern.fullmatch(path.name)
        if match and branch.holds(int(match[1])):
            try:
                status = path.stat()
            except OSError:  # it has been put aside since it was listed
                continue
            found.append((int(match[1]), status.st_mtime, status.st_size, path))
    return sorted(found)


def _live(base: str, *, project: Path) -> Branch:
    record = lineage.load(lineage.folder_of(base, project=project))
    branches = record.branches(base) if record else ()
    return branches[0] if branches else Branch(base)


def _follows(whole: list[_Written]) -> bool:
    return len(whole) > 1 and whole[-1][0] == whole[-2][0] + 1 and whole[-1][1] >= whole[-2][1]


def _model_of(optimiser: Path) -> Path:
    start = optimiser.name.removesuffix("optimiser.star")
    plain = optimiser.with_name(f"{start}model.star")
    return plain if plain.exists() else optimiser.with_name(f"{start}half1_model.star")


def _read_model(path: Path) -> Progress:
    general = star.values(path, "model_general")
    return Progress(
        resolution_a=resolution_a(general.get("rlnCurrentResolution", "")),
        classes=_shares(path),
    )


def _shares(path: Path) -> tuple[float, ...]:
    """Of the classes in their order; none where one is no number, as RELION may write `nan`."""
    rows = star.rows(path, "model_classes", "rlnClassDistribution")
    try:
        shares = tuple(float(share) for (share,) in rows if share != "?")
    except ValueError:
        return ()
    return shares if all(map(math.isfinite, shares)) else ()
