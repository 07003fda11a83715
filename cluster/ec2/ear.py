"""The second ear for spot notices: EventBridge writes them to a queue that we read.

A message is deleted at the call after the one that told of it: whoever dies in between hears it
again. The queue belongs to one deployment; what it says of others' instances is dropped.

The rule that feeds it has the pattern
{"source": ["aws.ec2"], "detail-type": ["EC2 Spot Instance Interruption Warning"]}.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from scsched.cluster.ec2.clients import Clients
from scsched.cluster.ec2.errors import translated

WARNING = "EC2 Spot Instance Interruption Warning"
NOTICE = timedelta(minutes=2)
"""https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html"""
_BATCH = 10
_BATCHES = 5
_KEPT = timedelta(minutes=10)


class Ear:
    """Remembers what it heard for some minutes, since a queue tells each thing once."""

    def __init__(self, clients: Clients, queue: str) -> None:
        self._clients = clients
        self._queue = queue
        self._receipts: list[str] = []
        self._heard: dict[str, datetime] = {}

    def hear(self, now: datetime) -> Mapping[str, datetime]:
        """Deadlines of announced reclaims by instance id.

        :raises ProviderError: the queue cannot be read.
        """
        sqs = self._clients.of("sqs")
        with translated(f"notices from {self._queue}"):
            self._forget_told(sqs)
            for _ in range(_BATCHES):
                if self._receive(sqs) < _BATCH:
                    break
        self._heard = {one: when for one, when in self._heard.items() if when > now - _KEPT}
        return dict(self._heard)

    def _forget_told(self, sqs: Any) -> None:
        while self._receipts:
            batch = self._receipts[:_BATCH]
            entries = [{"Id": str(at), "ReceiptHandle": one} for at, one in enumerate(batch)]
            # A message whose deletion fails comes again, which does no harm.
            sqs.delete_message_batch(QueueUrl=self._queue, Entries=entries)
            del self._receipts[:_BATCH]

    def _receive(self, sqs: Any) -> int:
        answer = sqs.receive_message(
            QueueUrl=self._queue, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=0
        )
        messages: Sequence[Mapping[str, str]] = answer.get("Messages", ())
        for message in messages:
            self._receipts.append(message["ReceiptHandle"])
            self._heard |= warning(message.get("Body", ""))
        return len(messages)


def warning(body: str) -> Mapping[str, datetime]:
    """The deadline by instance id, if the message is a warning."""
    with suppress(ValueError, KeyError, TypeError):
        event = json.loads(body)
        if event["detail-type"] == WARNING:
            said = datetime.fromisoformat(event["time"])
            said = said if said.tzinfo else said.replace(tzinfo=UTC)
            return {str(event["detail"]["instance-id"]): said + NOTICE}
    return {}
