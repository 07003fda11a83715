"""In front of RELION's command line: a restart becomes `--continue` from a certified iteration.

Scipion puts what RELION_PREPEND and RELION_PREPEND_CPU hold before its command:

    python -I -m scsched.cluster.launcher [mpirun ... -np N] relion_refine_mpi --o extra/relion ...

Ranks, threads and mpirun's options are none of its business. It runs in the project's folder.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from scsched.cluster.abort import ABORT_FILE
from scsched.cluster.child import Child
from scsched.steps import checkpoint, items, lineage, publish, resume
from scsched.steps import command as commands
from scsched.steps.checkpoint import Branch, Refused
from scsched.steps.command import Command
from scsched.steps.lineage import Attempt, Lineage

NOT_FOUND = 127


@dataclass(frozen=True, slots=True)
class Setting:
    """What the attempt tells us through the environment; all of it may be absent."""

    attempt: int = 1
    exact: bool = False
    scratch: str = ""

    @classmethod
    def of(cls, environ: os._Environ[str] | dict[str, str]) -> "Setting":
        text = environ.get("SCSCHED_ATTEMPT", "")
        return cls(
            attempt=int(text) if text.isdigit() else 1,
            exact=environ.get("SCSCHED_EXACT", "") == "1",
            scratch=environ.get("SCSCHED_SCRATCH", ""),
        )


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if not words:
        _say("no command; write RELION's command line behind scsched.cluster.launcher")
        return 2
    found = commands.parse(words)
    if found is None:
        return _become(words)
    if found.refine:
        return Refine(found, Setting.of(os.environ), project=Path.cwd()).run()
    return _become(items.prepared(found, project=Path.cwd(), say=_say).argv)


class Refine:
    """One attempt of a relion_refine job."""

    def __init__(self, asked: Command, setting: Setting, *, project: Path) -> None:
        self.exact = setting.exact and resume.can_be_exact(asked)
        self.asked = resume.shared(asked, scratch=setting.scratch)
        self.base = asked.value("--o")
        self.project = project
        self.folder = lineage.folder_of(self.base, project=project)
        self.fingerprint = commands.fingerprint(asked)
        self.record = lineage.load(self.folder) or Lineage()
        self.attempt = setting.attempt
        self.child = Child(self._control(ABORT_FILE))

    def run(self) -> int:
        """RELION's exit code; 143 when we were told to stop."""
        self._remove_old_marks()
        plan = resume.plan(
            self.asked,
            self.record,
            project=self.project,
            attempt=self.attempt,
            exact=self.exact,
        )
        match plan:
            case resume.Anew():
                return self._anew(plan)
            case resume.GoOn():
                return self._go_on(plan)
            case resume.Finish():
                return self._finish(plan)

    def _anew(self, plan: resume.Anew) -> int:
        _say(f"attempt {plan.number} starts anew: {plan.why}")
        if plan.set_aside:
            target = self.folder / f"before_a{plan.number}"
            moved = publish.set_aside(self.base, target, project=self.project)
            _say(f"set {len(moved)} files of former attempts aside in {target}")
        attempt = self._recorded(plan.number, plan.root)
        if self.exact:
            return self._ended(attempt, self._run_exact(attempt))
        return self._ended(attempt, self._relion(self.asked.replaced("--o", plan.root)))

    def _go_on(self, plan: resume.GoOn) -> int:
        found = plan.checkpoint
        _say_refused(plan.refused)
        _say(f"attempt {plan.number} goes on from iteration {found.iteration}: {found.optimiser}")
        resumed_from = found.optimiser
        if self.exact:
            self._publish_up_to(found)
            resumed_from = resumed_from.replace(f"{found.root}_it", f"{self.base}_it", 1)
        attempt = self._recorded(
            plan.number, plan.root, resumed_from=resumed_from, iteration=found.iteration
        )
        if self.exact:
            return self._ended(attempt, self._run_exact(attempt))
        again = commands.continued(self.asked, optimiser=found.optimiser, root=plan.root)
        return self._ended(attempt, self._relion(again))

    def _finish(self, plan: resume.Finish) -> int:
        _say(f"attempt {plan.number} has nothing to compute: {plan.why}")
        former = self.record.last(self.base)
        if plan.checkpoint:
            self._publish_up_to(plan.checkpoint)
        elif former:
            publish.publish(self.base, self.record.branches(self.base), project=self.project)
        self._control("RELION_JOB_EXIT_SUCCESS").touch()
        attempt = former or self._recorded(plan.number, self.base)
        self._close(replace(attempt, exit_code=0, published=True))
        return 0

    def _run_exact(self, attempt: Attempt) -> int:
        """One process per iteration, and one at a time; each finished iteration is moved to the
        expected names at once."""
        private = f"{self.base}_x{attempt.number}"
        asked = resume.alone(resume.with_seed(self.asked))
        total = resume.iterations(asked) or resume.DEFAULT_ITERATIONS
        for iteration in range(attempt.iteration + 1, total + 1):
            publish.remove_root(private, project=self.project)
            _say(f"exact mode, iteration {iteration} of {total}")
            first = iteration == attempt.iteration + 1
            one = _on_scratch(_one_iteration(asked, iteration, self.base, private), first=first)
            code = self._relion(one)
            if code != 0:
                return code
            whole = (0, 1) if iteration == 1 else (iteration,)
            publish.publish_iteration(private, self.base, whole, project=self.project)
        return 0

    def _relion(self, command: Command) -> int:
        """Its exit code, as a shell gives it."""
        try:
            return self.child.run(command.argv)
        except FileNotFoundError as exc:
            _say(f"{exc.filename}: not found; check the installation of RELION and Open MPI")
            return NOT_FOUND

    def _recorded(
        self, number: int, root: str, *, resumed_from: str = "", iteration: int = 0
    ) -> Attempt:
        """The attempt, written to the record before anything of it runs."""
        attempt = Attempt(
            number=number,
            base=self.base,
            root=root,
            fingerprint=self.fingerprint,
            resumed_from=resumed_from,
            iteration=iteration,
            exact=self.exact,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._save(attempt)
        return attempt

    def _ended(self, attempt: Attempt, code: int) -> int:
        """Publish what ended well; between the two records a next attempt does it."""
        done = replace(attempt, exit_code=code)
        if code != 0:
            self._close(done)
            return code
        self._save(done)
        names = publish.publish(self.base, self.record.branches(self.base), project=self.project)
        if names:
            _say(f"linked {len(names)} files to {self.base}_*")
        self._close(replace(done, published=True))
        return 0

    def _close(self, attempt: Attempt) -> None:
        newest = self._newest_iteration(attempt)
        self._save(attempt, iterations_done=max(0, newest - attempt.iteration))
        if attempt.published:
            publish.remove_private(self.base, project=self.project)

    def _newest_iteration(self, attempt: Attempt) -> int:
        root = self.base if attempt.published else attempt.root
        particles = resume.input_particles(self.asked, project=self.project)
        branch = Branch(root, after=attempt.iteration)
        found = checkpoint.newest([branch], project=self.project, particles=particles).newest
        return found.iteration if found else attempt.iteration

    def _save(self, attempt: Attempt, *, iterations_done: int | None = None) -> None:
        self.record = self.record.with_attempt(attempt)
        lineage.save(self.record, self.folder)
        lineage.write_json(
            self.folder / f"attempt_{attempt.number}.json",
            {
                "root": attempt.root,
                "resumed_from": attempt.resumed_from or None,
                "iterations_done": iterations_done,
                "exit_code": attempt.exit_code,
            },
        )

    def _publish_up_to(self, found: checkpoint.Checkpoint) -> None:
        """Leave under the expected names the living line up to this iteration, and no more."""
        lines = [
            replace(branch, up_to=found.iteration)
            if branch.up_to is None or branch.up_to > found.iteration
            else branch
            for branch in self.record.branches(self.base)
        ]
        publish.publish(self.base, lines, project=self.project)

    def _control(self, name: str) -> Path:
        """RELION joins the two without a slash of its own."""
        return self.project / f"{self.asked.value('--pipeline_control')}{name}"

    def _remove_old_marks(self) -> None:
        items.remove_marks(self._control(""), say=_say)


def _one_iteration(asked: Command, iteration: int, base: str, private: str) -> Command:
    only = asked.replaced("--iter", str(iteration))
    if iteration == 1:
        return only.replaced("--o", private)
    optimiser = f"{base}_it{iteration - 1:03d}_optimiser.star"
    return commands.continued(only, optimiser=optimiser, root=private)


def _on_scratch(one: Command, *, first: bool) -> Command:
    """Copy the particles to the scratch folder once an attempt, not once an iteration."""
    if not one.has("--scratch_dir"):
        return one
    kept = one.added("--keep_scratch")
    return kept if first else kept.added("--reuse_scratch")


def _become(argv: list[str]) -> int:
    """Be this command from now on; returns only when that cannot be."""
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)  # noqa: S606
    except OSError as exc:
        _say(f"{argv[0]}: {exc.strerror}")
    return NOT_FOUND


def _say_refused(refused: Iterable[Refused]) -> None:
    for item in refused:
        _say(f"not from iteration {item.iteration}: {item.why}")


def _say(text: str) -> None:
    print(f"[scsched] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
