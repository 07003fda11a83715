"""What Scipion's own API shows of a project, read in a process of Scipion's as its window does."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scsched.scheduler import scipion_env
from tests.scheduler import scipion_site

TIMEOUT_S = 180.0
_CODE = """
import json, sys
import pyworkflow as pw
from pyworkflow.project import Project
project = Project(pw.Config.getDomain(), sys.argv[1])
project.load()
found = []
for run in project.getRuns(checkPids=True):
    outputs = {}
    for name, value in run.iterOutputAttributes():
        file = value.getFileName() if hasattr(value, "getFileName") else ""
        size = value.getSize() if hasattr(value, "getSize") else None
        outputs[name] = {"file": file, "size": size}
    found.append({
        "protocol": run.getClassName(), "label": run.getObjLabel(), "status": run.getStatus(),
        "error": run.getErrorMessage(), "outputs": outputs, "folder": run.getWorkingDir(),
        "comment": run.getObjComment(),
    })
print()
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A protocol as it appears in Scipion's window."""

    protocol: str
    label: str
    status: str
    error: str
    comment: str
    folder: str
    outputs: Mapping[str, Mapping[str, Any]]


def shown(project: Path, folder: Path) -> dict[str, Box]:
    """Every box of the project, by protocol class; `folder` is for Scipion's own files."""
    environment = scipion_env.prepare(
        folder,
        scipion_python=scipion_site.scipion_python(),
        relion_bin=scipion_site.relion_bin(),
    )
    done = subprocess.run(
        [str(scipion_site.scipion_python()), "-c", _CODE, str(project)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    boxes = [Box(**row) for row in json.loads(done.stdout.splitlines()[-1])]
    return {box.protocol: box for box in boxes}
