"""The tables. Invariants are constraints and partial unique indexes, so no code can break them.

    accounts      workflows ──< steps ──< runs          events      append-only
    submissions ──┘      │       └──< step_parents       meta
                         └──< nodes ──< charges          a node's charges partition its life

A step has at most one open run, a run and a node a token of their own, a node at most one open
charge. Costs are computed from the intervals in `charges`; nothing is ever added up in a column.
"""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    or_,
    text,
    true,
)

from scsched.db.types import Usd, UtcDateTime, Word
from scsched.steps.spec import ResourceClass, Resume
from scsched.steps.state import TERMINAL, EndReason, StepState

HEAD = "0002"
"""The migration that gives these tables."""

ELIGIBLE = text("state = 'PENDING' AND unmet = 0 AND NOT held")
ELIGIBLE_STEPS = text("steps.state = 'PENDING' AND steps.unmet = 0 AND NOT steps.held")
"""The queue's partial index and its query say the same, or the index is not used: no parameters."""

LIVE = text("state IN ('PENDING', 'CONFIGURING', 'RUNNING', 'COMPLETING')")
LIVE_STEPS = text("steps.state IN ('PENDING', 'CONFIGURING', 'RUNNING', 'COMPLETING')")
OPEN = text("ended_at IS NULL")


class NodeState(StrEnum):
    """The life of a node. It is paid for from `launched_at` to `ended_at`."""

    REQUESTED = "REQUESTED"
    """Intended. The provider is called under the node's token, as often as needed."""
    STARTING = "STARTING"
    """The provider has it; it boots."""
    UP = "UP"
    """It answers. With a run it works; without, it is idle."""
    DRAINING = "DRAINING"
    """It gets no other run: the market takes it back, or its end was asked for."""
    ENDED = "ENDED"
    """The provider says it is gone, or never was."""


class Outcome(StrEnum):
    """How a workflow ended: nothing in it can go on by itself."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Market(StrEnum):
    SPOT = "spot"
    ON_DEMAND = "on-demand"


class Exact(StrEnum):
    """Whether a resumed RELION run must be bit-identical to an uninterrupted one."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_BIG_ID = BigInteger().with_variant(Integer(), "sqlite")


def words(column: str, members: Iterable[StrEnum]) -> CheckConstraint:
    """CHECK that `column` holds one of these words."""
    return CheckConstraint(f"{column} IN {_listed(members)}", name=column)


def _listed(members: Iterable[StrEnum]) -> str:
    quoted = sorted(f"'{member}'" for member in members)
    return f"({', '.join(quoted)})"


def _partial(
    name: str, *columns: str | ColumnElement[int], where: object, unique: bool = False
) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


meta = Table(
    "meta",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("username", Text, nullable=False),
    Column("first_seen", UtcDateTime, nullable=False),
)

workflows = Table(
    "workflows",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", ForeignKey("accounts.uid"), nullable=False),
    Column("username", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("project", Text),
    Column("document", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("market", Word(Market), nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("held", Boolean, nullable=False, server_default=false()),
    Column("exact", Word(Exact), nullable=False),
    Column("tags", JSON, nullable=False),
    Column("play_spot", Text),
    Column("submitted_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("outcome", Word(Outcome)),
    Column("driver_epoch", Integer, nullable=False, server_default="0"),
    Column("driver_token", String(64), unique=True),
    Column("driver_asked_at", UtcDateTime),
    Column("driver_pid", Integer),
    Column("driver_started", BigInteger),
    Column("driver_address", Text),
    Column("driver_seen_at", UtcDateTime),
    Column("driver_failures", Integer, nullable=False, server_default="0"),
    Column("driver_info", JSON(none_as_null=True)),
    words("market", Market),
    words("exact", Exact),
    words("outcome", Outcome),
    CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended_for_a_reason"),
    CheckConstraint("driver_pid IS NULL OR driver_token IS NOT NULL", name="driver_was_intended"),
    _partial("ix_workflows_live", "id", where=OPEN),
    Index("ix_workflows_uid_id", "uid", "id"),
)

steps = Table(
    "steps",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("workflow_id", ForeignKey("workflows.id"), nullable=False),
    Column("ref", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("label", Text, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("resource_class", Word(ResourceClass), nullable=False),
    Column("resume", Word(Resume), nullable=False),
    Column("gate", Text, nullable=False, server_default=text("''")),
    Column("gate_open", Boolean, nullable=False, server_default=false()),
    Column("long_lived", Boolean, nullable=False, server_default=false()),
    Column("demand", JSON, nullable=False),
    Column("object_id", Integer),
    Column("job_dir", Text),
    Column("state", Word(StepState), nullable=False),
    Column("held", Boolean, nullable=False, server_default=false()),
    Column("unmet", Integer, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("not_before", UtcDateTime, nullable=False),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("forgiven", Integer, nullable=False, server_default="0"),
    Column("allow_spot", Boolean, nullable=False, server_default=true()),
    Column("larger", Boolean, nullable=False, server_default=false()),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    UniqueConstraint("workflow_id", "ref"),
    words("state", StepState),
    words("resource_class", ResourceClass),
    words("resume", Resume),
    CheckConstraint("unmet >= 0", name="unmet"),
    CheckConstraint("forgiven BETWEEN 0 AND attempts AND attempts <= epoch", name="counts"),
    CheckConstraint(
        "unmet = 0 OR state IN ('PENDING', 'FAILED', 'CANCELLED')", name="parents_first"
    ),
    CheckConstraint(f"(state IN {_listed(TERMINAL)}) = (ended_at IS NOT NULL)", name="ended"),
    _partial("ix_steps_live", "workflow_id", where=LIVE),
)
_partial("ix_steps_eligible", steps.c.priority.desc(), steps.c.id, where=ELIGIBLE)

GATE_PASSED = or_(steps.c.gate == "", steps.c.gate_open)

step_parents = Table(
    "step_parents",
    metadata,
    Column("step_id", ForeignKey("steps.id"), primary_key=True),
    Column("parent_id", ForeignKey("steps.id"), primary_key=True, index=True),
    CheckConstraint("step_id <> parent_id", name="not_itself"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("step_id", ForeignKey("steps.id"), nullable=False),
    Column("workflow_id", ForeignKey("workflows.id"), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("token", String(64), nullable=False, unique=True),
    Column("pool", Text, nullable=False),
    Column("market", Word(Market), nullable=False),
    Column("layout", JSON, nullable=False),
    Column("started_at", UtcDateTime, nullable=False, index=True),
    Column("running_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("end_reason", Word(EndReason)),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("detail", Text, nullable=False, server_default=text("''")),
    Column("resumed_from", Integer),
    Column("iterations_done", Integer, nullable=False, server_default="0"),
    Column("iterations_lost", Integer, nullable=False, server_default="0"),
    Column("progress", JSON(none_as_null=True)),
    Column("stop_reason", Word(EndReason)),
    Column("stop_asked_at", UtcDateTime),
    Column("beat_at", UtcDateTime),
    Column("stop_after", Integer),
    UniqueConstraint("step_id", "attempt"),
    UniqueConstraint("step_id", "epoch"),
    words("market", Market),
    words("end_reason", EndReason),
    words("stop_reason", EndReason),
    CheckConstraint("attempt >= 1", name="attempt"),
    CheckConstraint("iterations_done >= 0 AND iterations_lost >= 0", name="iterations"),
    CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name="ended_for_a_reason"),
    CheckConstraint("(stop_reason IS NULL) = (stop_asked_at IS NULL)", name="stopped_for_a_reason"),
    _partial("uq_runs_open", "step_id", where=OPEN, unique=True),
    _partial("ix_runs_open_workflow", "workflow_id", where=OPEN),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("workflow_id", ForeignKey("workflows.id"), nullable=False, index=True),
    Column("uid", ForeignKey("accounts.uid"), nullable=False),
    Column("pool", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("market", Word(Market), nullable=False),
    Column("token", String(64), nullable=False, unique=True),
    Column("provider_id", Text),
    Column("state", Word(NodeState), nullable=False),
    Column("cores", Integer, nullable=False),
    Column("memory_gib", Float, nullable=False),
    Column("gpus", Integer, nullable=False, server_default="0"),
    Column("usd_per_hour", Usd, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("launched_at", UtcDateTime),
    Column("up_at", UtcDateTime),
    Column("notice_at", UtcDateTime),
    Column("notice_deadline", UtcDateTime),
    Column("idle_since", UtcDateTime),
    Column("terminate_asked_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("end_reason", Text),
    Column("run_id", ForeignKey("runs.id")),
    Column("kind", Text, nullable=False, server_default=text("''")),
    Column("zone", Text, nullable=False, server_default=text("''")),
    Column("last_run_id", Integer),
    Column("spare_for", Integer),
    Column("priced_until", UtcDateTime),
    words("market", Market),
    words("state", NodeState),
    CheckConstraint("cores >= 1 AND memory_gib > 0 AND gpus >= 0", name="shape"),
    CheckConstraint("(state = 'ENDED') = (ended_at IS NOT NULL)", name="ended"),
    CheckConstraint("(end_reason IS NULL) = (ended_at IS NULL)", name="ended_for_a_reason"),
    CheckConstraint("state NOT IN ('STARTING', 'UP') OR launched_at IS NOT NULL", name="launched"),
    CheckConstraint("(provider_id IS NULL) = (launched_at IS NULL)", name="provider_id"),
    CheckConstraint("ended_at IS NULL OR launched_at IS NULL OR ended_at >= launched_at",
                    name="interval"),
    _partial("ix_nodes_live", "workflow_id", where=OPEN),
    _partial("ix_nodes_run", "run_id", where=text("run_id IS NOT NULL")),
    _partial("uq_nodes_provider_id", "provider", "provider_id",
             where=text("provider_id IS NOT NULL AND ended_at IS NULL"), unique=True),
)  # fmt: skip

charges = Table(
    "charges",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("node_id", ForeignKey("nodes.id"), nullable=False, index=True),
    Column("run_id", ForeignKey("runs.id"), index=True),
    Column("workflow_id", ForeignKey("workflows.id"), nullable=False, index=True),
    Column("uid", ForeignKey("accounts.uid"), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("usd_per_hour", Usd, nullable=False),
    CheckConstraint("ended_at IS NULL OR ended_at >= started_at", name="interval"),
    _partial("uq_charges_open", "node_id", where=OPEN, unique=True),
)

events = Table(
    "events",
    metadata,
    Column("id", _BIG_ID, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("workflow_id", ForeignKey("workflows.id")),
    Column("step_id", ForeignKey("steps.id")),
    Column("run_id", ForeignKey("runs.id")),
    Column("node_id", ForeignKey("nodes.id")),
    Column("epoch", Integer),
    Column("actor_uid", BigInteger),
    Column("kind", String(24), nullable=False),
    Column("text", Text, nullable=False),
    Index("ix_events_workflow_id_id", "workflow_id", "id"),
    Index("ix_events_step_id_id", "step_id", "id"),
)

submissions = Table(
    "submissions",
    metadata,
    Column("uid", ForeignKey("accounts.uid"), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("workflow_id", ForeignKey("workflows.id"), nullable=False),
)
