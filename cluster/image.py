"""The recipe that turns a fresh Debian 12 machine into one to make an image of."""

import shlex
from importlib import resources
from pathlib import PurePosixPath

from scsched.steps.errors import ConfigError

_SYSTEM = frozenset({"/", "/usr", "/usr/local"})
"""What is no environment of scsched's own, whatever Python is there."""


def recipe(python: str, *, scipion_python: str, keep_sshd: bool) -> str:
    """A POSIX sh script, run as root on the machine; safe to repeat.

    Nodes are handed the paths of this host's configuration, so the image has both Pythons there.

    :param python: of scsched's environment, as the configuration names it.
    :param scipion_python: of Scipion's, likewise.
    :raises ConfigError: the recipe cannot make an environment at that path.
    """
    text = resources.files("scsched.cluster").joinpath("image.sh").read_text(encoding="ascii")
    names = {
        "environment": _environment(python),
        "scipion": _scipion(scipion_python),
        "scipion_python": scipion_python,
        "keep_sshd": "yes" if keep_sshd else "no",
    }
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in names.items())
    return f"#!/bin/sh\n{head}{text}"


def _environment(python: str) -> str:
    """The folder of scsched's environment."""
    path = PurePosixPath(python)
    if path.parent.name != "bin" or str(path.parent.parent) in _SYSTEM:
        raise ConfigError(
            f"python of the provider: {python}: not in an environment of its own",
            hint="write a path like /opt/scsched/.venv/bin/python",
        )
    return str(path.parent.parent)


def _scipion(python: str) -> str:
    """The folder in which `scsched setup scipion` makes that Python."""
    path = PurePosixPath(python)
    if not path.is_absolute() or path.parts[-3:] != ("venv", "bin", "python"):
        raise ConfigError(
            f"scipion.python: {python}: the recipe makes Scipion's Python as DIR/venv/bin/python",
            hint="write such a path, or put your own Scipion into the image by hand",
        )
    return str(path.parents[2])
