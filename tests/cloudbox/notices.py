"""What an instance and the event bus are told: metadata, interruption warnings, rebalance hints."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from moto.ec2.models.instances import Instance
from moto.events.models import events_backends
from moto.sqs.models import sqs_backends

from tests.cloudbox.imds import KEYS_PATH, META, PUBLIC_KEY_PATH, USER_DATA_PATH
from tests.cloudbox.world import ACCOUNT, REGION

WARNING = "EC2 Spot Instance Interruption Warning"
REBALANCE = "EC2 Instance Rebalance Recommendation"
QUEUE = "cloudbox-notices"
RULE = "cloudbox-notices"

Tree = dict[str, object]


def make_queue() -> None:
    """A queue that hears every warning and hint: the second ear."""
    queue = sqs_backends[ACCOUNT][REGION].create_queue(QUEUE, {})
    events = events_backends[ACCOUNT][REGION]
    pattern = json.dumps({"source": ["aws.ec2"], "detail-type": [WARNING, REBALANCE]})
    events.put_rule(name=RULE, event_pattern=pattern, state="ENABLED")
    arn = queue.queue_arn
    events.put_targets(name=RULE, event_bus_arn=None, targets=[{"Id": "queue", "Arn": arn}])


def empty_queue() -> None:
    """Not by a purge, which the service allows once a minute."""
    queue = sqs_backends[ACCOUNT][REGION].get_queue(QUEUE)
    queue._messages.clear()


def tree_of(instance: Instance) -> Tree:
    """The metadata of a new instance by path."""
    address = instance.private_ip or ""
    name = f"ip-{address.replace('.', '-')}"
    document = {
        "accountId": ACCOUNT,
        "region": REGION,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "privateIp": address,
        "availabilityZone": instance.availability_zone,
        "imageId": instance.image_id,
    }
    tree: Tree = {
        META + "instance-id": instance.id,
        META + "ami-launch-index": str(instance.ami_launch_index),
        META + "ami-id": instance.image_id,
        META + "instance-type": instance.instance_type,
        META + "instance-life-cycle": instance.lifecycle or "on-demand",
        META + "local-ipv4": address,
        META + "local-hostname": name,
        META + "hostname": name,
        META + "placement/availability-zone": instance.availability_zone or "",
        META + "placement/region": REGION,
        "/latest/dynamic/instance-identity/document": document,
    }
    if instance.key_name:
        pair = instance.ec2_backend.key_pairs[instance.key_name]
        tree |= {KEYS_PATH: f"0={pair.key_name}", PUBLIC_KEY_PATH: pair.public_key}
    if instance.user_data:
        tree[USER_DATA_PATH] = base64.b64decode(str(instance.user_data)).decode("latin-1")
    return tree


def warn(instance: Instance, tree: Tree, *, notice_s: float) -> None:
    """The interruption warning, in both places."""
    moment = _text(datetime.now(UTC) + timedelta(seconds=notice_s))
    tree[META + "spot/instance-action"] = {"action": "terminate", "time": moment}
    tree[META + "spot/termination-time"] = moment
    _event(instance, WARNING, {"instance-id": instance.id, "instance-action": "terminate"})


def hint(instance: Instance, tree: Tree) -> None:
    """The rebalance recommendation, in both places."""
    path = META + "events/recommendations/rebalance"
    tree[path] = {"noticeTime": _text(datetime.now(UTC))}
    _event(instance, REBALANCE, {"instance-id": instance.id})


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _event(instance: Instance, kind: str, detail: Mapping[str, str]) -> None:
    events_backends[ACCOUNT][REGION].put_events(
        [
            {
                "Source": "aws.ec2",
                "DetailType": kind,
                "Detail": json.dumps(detail),
                "Resources": [f"arn:aws:ec2:{instance.availability_zone}:instance/{instance.id}"],
            }
        ]
    )
