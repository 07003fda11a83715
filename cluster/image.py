"""The recipe that turns a fresh Debian 12 machine into one to make an image of."""

import shlex
from importlib import resources
from pathlib import PurePosixPath


def recipe(python: str, *, keep_sshd: bool) -> str:
    """A POSIX sh script, run as root on the machine; safe to repeat.

    :param python: of scsched's environment, as the configuration names it.
    """
    environment = str(PurePosixPath(python).parent.parent)
    text = resources.files("scsched.cluster").joinpath("image.sh").read_text(encoding="ascii")
    head = "#!/bin/sh\n" + f"environment={shlex.quote(environment)}\n"
    return head + f"keep_sshd={'yes' if keep_sshd else 'no'}\n" + text
