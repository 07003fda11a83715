"""The recipe that turns a fresh Debian 12 machine into one to make an image of."""

import shlex
from importlib import resources
from pathlib import PurePosixPath

from scsched.cluster.ec2.site import Site


def recipe(site: Site) -> str:
    """A POSIX sh script, run as root on the machine; safe to repeat."""
    environment = str(PurePosixPath(site.python).parent.parent)
    text = resources.files("scsched.cluster.ec2").joinpath("image.sh").read_text(encoding="ascii")
    head = "#!/bin/sh\n" + f"environment={shlex.quote(environment)}\n"
    return head + f"keep_sshd={'yes' if site.key_name else 'no'}\n" + text
