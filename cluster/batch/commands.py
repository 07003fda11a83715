"""Running a batch system's commands: as whom, in which environment, for how long at most."""

import os
import pwd
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scsched.cluster import tags
from scsched.cluster.provider import BadRequest, Owner, ProviderError, Unreachable

_QUERY = {"LC_ALL": "C", "TZ": "UTC"}
"""Times and words of answers are to be the same everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """The client commands of one batch system, as this host has them."""

    translate: Callable[[str, str], ProviderError]
    """From program and what it said to the error it means."""
    folder: str = ""
    """Where the programs are; empty: on PATH."""
    environ: Mapping[str, str] | None = None
    """What the programs need beyond PATH and language, e.g. SLURM_CONF."""
    timeout_s: float = 10.0

    def ask(self, *argv: str) -> str:
        """The answer of a command that changes nothing.

        :raises ProviderError: there is none.
        """
        return self._run(argv, env=self._env() | _QUERY)

    def act(self, *argv: str, owner: Owner, stdin: str = "") -> str:
        """The answer of a command that runs as the owner, in the owner's environment.

        :raises BadRequest: we may not act as the owner, or the program is not here.
        :raises ProviderError: it failed; after `Unreachable` it may have done its work.
        """
        if os.geteuid() not in (0, owner.uid):
            raise BadRequest(f"{argv[0]}: only root can do this as {owner.username}")
        home = _home(owner)
        names = {"HOME": home, "USER": owner.username, "LOGNAME": owner.username}
        other = owner if owner.uid != os.geteuid() else None
        return self._run(argv, env=self._env() | names, stdin=stdin, other=other)

    def _run(
        self,
        argv: tuple[str, ...],
        *,
        env: Mapping[str, str],
        stdin: str = "",
        other: Owner | None = None,
    ) -> str:
        program = argv[0]
        try:
            done = subprocess.run(
                argv,
                input=stdin,
                cwd="/",
                env=env,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=self.timeout_s,
                check=False,
                user=other.uid if other else None,
                group=other.gid if other else None,
                extra_groups=_groups(other) if other else None,
            )
        except subprocess.TimeoutExpired as exc:
            raise Unreachable(f"{program}: no answer within {self.timeout_s:.0f} s") from exc
        except (FileNotFoundError, PermissionError) as exc:
            where = self.folder or "PATH"
            raise BadRequest(f"{program}: cannot be run from {where}: {exc.strerror}") from exc
        except OSError as exc:
            raise Unreachable(f"{program}: {exc}") from exc
        if done.returncode:
            raise self.translate(program, done.stderr or done.stdout)
        return done.stdout

    def _env(self) -> dict[str, str]:
        env = tags.allowed() | dict(self.environ or {})
        if self.folder:
            env["PATH"] = f"{self.folder}:{env.get('PATH', os.defpath)}"
        return env


def user(uid: int) -> Owner:
    """Whoever has this uid, also without an account on this host."""
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return Owner(uid=uid, gid=uid, username=str(uid))
    return Owner(uid=uid, gid=found.pw_gid, username=found.pw_name)


def _groups(owner: Owner) -> list[int]:
    return os.getgrouplist(owner.username, owner.gid)


def _home(owner: Owner) -> str:
    try:
        return pwd.getpwuid(owner.uid).pw_dir
    except KeyError:
        return "/"
