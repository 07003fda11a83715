"""Before a step that costs: are all ranks of its gang up, and do they see one storage?"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from scsched.cluster import preflight
from scsched.cluster.attempt import AttemptSpec, as_json
from scsched.cluster.dask_cluster import DaskCluster
from scsched.cluster.gang import Gang
from scsched.cluster.preflight import Verdict

TIMEOUT_S = 60.0
GRACE_S = 30.0
"""Beyond its own time-out, for mpirun to start and end."""


def preflight_token(run_token: str) -> str:
    """The tag of the preflight's processes."""
    return f"{run_token}-preflight"


@dataclass(frozen=True, slots=True, kw_only=True)
class GangCheck:
    """One preflight; what it prints lies in `folder`, which is its own."""

    cluster: DaskCluster
    gang: Gang
    storage: Path
    folder: Path
    scratch: Path
    """The lead's own."""
    run_token: str

    async def verdict(self) -> Verdict:
        """What the ranks found.

        :raises NodeLost: the lead node went meanwhile.
        """
        await asyncio.to_thread(self.folder.mkdir, parents=True, exist_ok=True)
        out, err = self.folder / "stdout", self.folder / "stderr"
        spec = AttemptSpec(
            run_token=preflight_token(self.run_token),
            argv=tuple(preflight.argv(self.gang, self.storage, timeout_s=TIMEOUT_S)),
            cwd=str(self.folder),
            stdout=str(out),
            stderr=str(err),
            scratch_dir=str(self.scratch),
            gang=self.gang,
            walltime_s=TIMEOUT_S + GRACE_S,
        )
        await self.cluster.submit_attempt(self.gang.lead.name, as_json(spec))
        return preflight.parse(await asyncio.to_thread(out.read_text, errors="replace"))
