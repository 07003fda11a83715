"""first tables"""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


EVENTS_FUNCTION = """
CREATE FUNCTION events_are_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'events are append-only'; END $$
"""
EVENTS_TRIGGER = """
CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
FOR EACH STATEMENT EXECUTE FUNCTION events_are_append_only()
"""
EVENTS_TRIGGER_SQLITE = """
CREATE TRIGGER events_no_{verb} BEFORE {verb} ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only'); END
"""


def append_only() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(EVENTS_FUNCTION)
        op.execute(EVENTS_TRIGGER)
        return
    for verb in ("update", "delete"):
        op.execute(EVENTS_TRIGGER_SQLITE.format(verb=verb))


def name_deployment() -> None:
    meta = sa.table("meta", sa.column("key", sa.Text), sa.column("value", sa.Text))
    op.bulk_insert(meta, [{"key": "deployment", "value": str(uuid4())}])


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("uid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_accounts")),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.String(length=40), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_meta")),
    )
    op.create_table(
        "workflows",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("market", sa.String(24), nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("exact", sa.String(24), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("play_spot", sa.Text(), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(24), nullable=True),
        sa.Column("driver_epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("driver_token", sa.String(length=64), nullable=True),
        sa.Column("driver_asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("driver_pid", sa.Integer(), nullable=True),
        sa.Column("driver_started", sa.BigInteger(), nullable=True),
        sa.Column("driver_address", sa.Text(), nullable=True),
        sa.Column("driver_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("driver_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("driver_info", sa.JSON(), nullable=True),
        sa.CheckConstraint("exact IN ('auto', 'off', 'on')", name=op.f("ck_workflows_exact")),
        sa.CheckConstraint("market IN ('on-demand', 'spot')", name=op.f("ck_workflows_market")),
        sa.CheckConstraint(
            "outcome IN ('CANCELLED', 'COMPLETED', 'FAILED')", name=op.f("ck_workflows_outcome")
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (outcome IS NULL)", name=op.f("ck_workflows_ended_for_a_reason")
        ),
        sa.CheckConstraint(
            "driver_pid IS NULL OR driver_token IS NOT NULL",
            name=op.f("ck_workflows_driver_was_intended"),
        ),
        sa.ForeignKeyConstraint(["uid"], ["accounts.uid"], name=op.f("fk_workflows_uid")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workflows")),
        sa.UniqueConstraint("driver_token", name=op.f("uq_workflows_driver_token")),
    )
    op.create_index(
        "ix_workflows_live",
        "workflows",
        ["id"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index("ix_workflows_uid_id", "workflows", ["uid", "id"], unique=False)

    op.create_table(
        "steps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("workflow_id", sa.Integer(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("resource_class", sa.String(24), nullable=False),
        sa.Column("resume", sa.String(24), nullable=False),
        sa.Column("gate", sa.Text(), server_default=sa.text("('')"), nullable=False),
        sa.Column("gate_open", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("long_lived", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("demand", sa.JSON(), nullable=False),
        sa.Column("object_id", sa.Integer(), nullable=True),
        sa.Column("job_dir", sa.Text(), nullable=True),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("unmet", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("forgiven", sa.Integer(), server_default="0", nullable=False),
        sa.Column("allow_spot", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("larger", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state IN ('CANCELLED', 'COMPLETED', 'FAILED')) = (ended_at IS NOT NULL)",
            name=op.f("ck_steps_ended"),
        ),
        sa.CheckConstraint(
            "resource_class IN ('cpu-bound', 'gpu-bound', 'interactive', 'io-bound', 'light', 'memory-bound')",
            name=op.f("ck_steps_resource_class"),
        ),
        sa.CheckConstraint("resume IN ('item', 'iteration', 'none')", name=op.f("ck_steps_resume")),
        sa.CheckConstraint(
            "state IN ('CANCELLED', 'COMPLETED', 'COMPLETING', 'CONFIGURING', 'FAILED', 'PENDING', 'RUNNING')",
            name=op.f("ck_steps_state"),
        ),
        sa.CheckConstraint(
            "unmet = 0 OR state IN ('PENDING', 'FAILED', 'CANCELLED')",
            name=op.f("ck_steps_parents_first"),
        ),
        sa.CheckConstraint(
            "forgiven BETWEEN 0 AND attempts AND attempts <= epoch", name=op.f("ck_steps_counts")
        ),
        sa.CheckConstraint("unmet >= 0", name=op.f("ck_steps_unmet")),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflows.id"], name=op.f("fk_steps_workflow_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_steps")),
        sa.UniqueConstraint("workflow_id", "ref", name=op.f("uq_steps_workflow_id_ref")),
    )
    op.create_index(
        "ix_steps_eligible",
        "steps",
        [sa.literal_column("priority DESC"), "id"],
        unique=False,
        sqlite_where=sa.text("state = 'PENDING' AND unmet = 0 AND NOT held"),
        postgresql_where=sa.text("state = 'PENDING' AND unmet = 0 AND NOT held"),
    )
    op.create_index(
        "ix_steps_live",
        "steps",
        ["workflow_id"],
        unique=False,
        sqlite_where=sa.text("state IN ('PENDING', 'CONFIGURING', 'RUNNING', 'COMPLETING')"),
        postgresql_where=sa.text("state IN ('PENDING', 'CONFIGURING', 'RUNNING', 'COMPLETING')"),
    )

    op.create_table(
        "submissions",
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("workflow_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["uid"], ["accounts.uid"], name=op.f("fk_submissions_uid")),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflows.id"], name=op.f("fk_submissions_workflow_id")
        ),
        sa.PrimaryKeyConstraint("uid", "key", name=op.f("pk_submissions")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("workflow_id", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("market", sa.String(24), nullable=False),
        sa.Column("layout", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("running_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.String(24), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), server_default=sa.text("('')"), nullable=False),
        sa.Column("resumed_from", sa.Integer(), nullable=True),
        sa.Column("iterations_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("iterations_lost", sa.Integer(), server_default="0", nullable=False),
        sa.Column("progress", sa.JSON(), nullable=True),
        sa.Column("stop_reason", sa.String(24), nullable=True),
        sa.Column("stop_asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "end_reason IN ('BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'FAILED', 'LOST', 'NODE_FAIL', 'NO_CAPACITY', 'OUT_OF_MEMORY', 'PREEMPTED', 'STALLED', 'TIMEOUT')",
            name=op.f("ck_runs_end_reason"),
        ),
        sa.CheckConstraint("market IN ('on-demand', 'spot')", name=op.f("ck_runs_market")),
        sa.CheckConstraint(
            "stop_reason IN ('BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'FAILED', 'LOST', 'NODE_FAIL', 'NO_CAPACITY', 'OUT_OF_MEMORY', 'PREEMPTED', 'STALLED', 'TIMEOUT')",
            name=op.f("ck_runs_stop_reason"),
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (end_reason IS NULL)", name=op.f("ck_runs_ended_for_a_reason")
        ),
        sa.CheckConstraint(
            "(stop_reason IS NULL) = (stop_asked_at IS NULL)",
            name=op.f("ck_runs_stopped_for_a_reason"),
        ),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_runs_attempt")),
        sa.CheckConstraint(
            "iterations_done >= 0 AND iterations_lost >= 0", name=op.f("ck_runs_iterations")
        ),
        sa.ForeignKeyConstraint(["step_id"], ["steps.id"], name=op.f("fk_runs_step_id")),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflows.id"], name=op.f("fk_runs_workflow_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("step_id", "attempt", name=op.f("uq_runs_step_id_attempt")),
        sa.UniqueConstraint("step_id", "epoch", name=op.f("uq_runs_step_id_epoch")),
        sa.UniqueConstraint("token", name=op.f("uq_runs_token")),
    )
    op.create_index(
        "ix_runs_open_workflow",
        "runs",
        ["workflow_id"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(op.f("ix_runs_started_at"), "runs", ["started_at"], unique=False)
    op.create_index(op.f("ix_runs_workflow_id"), "runs", ["workflow_id"], unique=False)
    op.create_index(
        "uq_runs_open",
        "runs",
        ["step_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )

    op.create_table(
        "step_parents",
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.Integer(), nullable=False),
        sa.CheckConstraint("step_id <> parent_id", name=op.f("ck_step_parents_not_itself")),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["steps.id"], name=op.f("fk_step_parents_parent_id")
        ),
        sa.ForeignKeyConstraint(["step_id"], ["steps.id"], name=op.f("fk_step_parents_step_id")),
        sa.PrimaryKeyConstraint("step_id", "parent_id", name=op.f("pk_step_parents")),
    )
    op.create_index(op.f("ix_step_parents_parent_id"), "step_parents", ["parent_id"], unique=False)

    op.create_table(
        "nodes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("workflow_id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("market", sa.String(24), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("provider_id", sa.Text(), nullable=True),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("memory_gib", sa.Float(), nullable=False),
        sa.Column("gpus", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "usd_per_hour", sa.Numeric(14, 6).with_variant(sa.String(24), "sqlite"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("launched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("up_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("notice_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("notice_deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("idle_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("terminate_asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "(state = 'ENDED') = (ended_at IS NOT NULL)", name=op.f("ck_nodes_ended")
        ),
        sa.CheckConstraint("market IN ('on-demand', 'spot')", name=op.f("ck_nodes_market")),
        sa.CheckConstraint(
            "state IN ('DRAINING', 'ENDED', 'REQUESTED', 'STARTING', 'UP')",
            name=op.f("ck_nodes_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('STARTING', 'UP') OR launched_at IS NOT NULL",
            name=op.f("ck_nodes_launched"),
        ),
        sa.CheckConstraint(
            "(end_reason IS NULL) = (ended_at IS NULL)", name=op.f("ck_nodes_ended_for_a_reason")
        ),
        sa.CheckConstraint(
            "(provider_id IS NULL) = (launched_at IS NULL)", name=op.f("ck_nodes_provider_id")
        ),
        sa.CheckConstraint(
            "cores >= 1 AND memory_gib > 0 AND gpus >= 0", name=op.f("ck_nodes_shape")
        ),
        sa.CheckConstraint(
            "ended_at IS NULL OR launched_at IS NULL OR ended_at >= launched_at",
            name=op.f("ck_nodes_interval"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_nodes_run_id")),
        sa.ForeignKeyConstraint(["uid"], ["accounts.uid"], name=op.f("fk_nodes_uid")),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflows.id"], name=op.f("fk_nodes_workflow_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_nodes")),
        sa.UniqueConstraint("token", name=op.f("uq_nodes_token")),
    )
    op.create_index(
        "ix_nodes_live",
        "nodes",
        ["workflow_id"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "ix_nodes_run",
        "nodes",
        ["run_id"],
        unique=False,
        sqlite_where=sa.text("run_id IS NOT NULL"),
        postgresql_where=sa.text("run_id IS NOT NULL"),
    )
    op.create_index(op.f("ix_nodes_workflow_id"), "nodes", ["workflow_id"], unique=False)
    op.create_index(
        "uq_nodes_provider_id",
        "nodes",
        ["provider", "provider_id"],
        unique=True,
        sqlite_where=sa.text("provider_id IS NOT NULL AND ended_at IS NULL"),
        postgresql_where=sa.text("provider_id IS NOT NULL AND ended_at IS NULL"),
    )

    op.create_table(
        "charges",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("workflow_id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "usd_per_hour", sa.Numeric(14, 6).with_variant(sa.String(24), "sqlite"), nullable=False
        ),
        sa.CheckConstraint(
            "ended_at IS NULL OR ended_at >= started_at", name=op.f("ck_charges_interval")
        ),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_charges_node_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_charges_run_id")),
        sa.ForeignKeyConstraint(["uid"], ["accounts.uid"], name=op.f("fk_charges_uid")),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflows.id"], name=op.f("fk_charges_workflow_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_charges")),
    )
    op.create_index(op.f("ix_charges_node_id"), "charges", ["node_id"], unique=False)
    op.create_index(op.f("ix_charges_run_id"), "charges", ["run_id"], unique=False)
    op.create_index(op.f("ix_charges_workflow_id"), "charges", ["workflow_id"], unique=False)
    op.create_index(
        "uq_charges_open",
        "charges",
        ["node_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )

    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("workflow_id", sa.Integer(), nullable=True),
        sa.Column("step_id", sa.Integer(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("node_id", sa.Integer(), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("actor_uid", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_events_node_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_events_run_id")),
        sa.ForeignKeyConstraint(["step_id"], ["steps.id"], name=op.f("fk_events_step_id")),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflows.id"], name=op.f("fk_events_workflow_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_step_id_id", "events", ["step_id", "id"], unique=False)
    op.create_index("ix_events_workflow_id_id", "events", ["workflow_id", "id"], unique=False)

    append_only()
    name_deployment()


def downgrade() -> None:
    op.drop_table("events")
    op.drop_table("charges")
    op.drop_table("nodes")
    op.drop_table("step_parents")
    op.drop_table("runs")
    op.drop_table("submissions")
    op.drop_table("steps")
    op.drop_table("workflows")
    op.drop_table("meta")
    op.drop_table("accounts")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION events_are_append_only")
