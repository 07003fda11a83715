"""Short words for tests on a real Slurm."""

from scsched.cluster import processes, tags
from scsched.cluster.batch.slurm import SlurmProvider
from scsched.cluster.provider import Launched, LaunchRequest, NodeState, Refused, Seen
from tests.slurm.box import Box, wait_until


def launched(found: SlurmProvider, *requests: LaunchRequest) -> list[str]:
    answers = found.launch(requests)
    assert all(isinstance(answer, Launched) for answer in answers), answers
    return [answer.provider_id for answer in answers if isinstance(answer, Launched)]


def refusal(found: SlurmProvider, request: LaunchRequest) -> Refused:
    (answer,) = found.launch([request])
    assert isinstance(answer, Refused), answer
    return answer


def seen(found: SlurmProvider, request: LaunchRequest) -> Seen:
    (node,) = [node for node in found.list() if node.token == request.token]
    return node


def reach(found: SlurmProvider, request: LaunchRequest, state: NodeState) -> Seen:
    wait_until(
        lambda: seen(found, request).state is state,
        30.0,
        f"{request.name} is {state}",
        lambda: seen(found, request),
    )
    return seen(found, request)


def job_of(provider_id: str) -> str:
    return provider_id.partition("/")[0]


def runs(request: LaunchRequest) -> list[processes.Process]:
    """Processes of the node itself, on this machine as on every node of the box."""
    return processes.find({tags.NODE_TOKEN: request.token})


def preempt(box: Box) -> None:
    """Take all of both nodes from whatever the partition `spot` runs there."""
    argv = ("--nodes=2", "--exclusive", "--partition=normal", "--output=/dev/null")
    box.run("sbatch", *argv, "--wrap=exec sleep 600")
