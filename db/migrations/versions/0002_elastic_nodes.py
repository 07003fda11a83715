"""what a cloud node is, whose spare it is, and when a run stops under a notice"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def make_secret() -> None:
    meta = sa.table("meta", sa.column("key", sa.Text), sa.column("value", sa.Text))
    op.bulk_insert(meta, [{"key": "secret", "value": secrets.token_hex(32)}])


def upgrade() -> None:
    make_secret()
    op.add_column("runs", sa.Column("stop_after", sa.Integer(), nullable=True))
    op.add_column("nodes", sa.Column("kind", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("nodes", sa.Column("zone", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("nodes", sa.Column("last_run_id", sa.Integer(), nullable=True))
    op.add_column("nodes", sa.Column("spare_for", sa.Integer(), nullable=True))
    op.add_column("nodes", sa.Column("priced_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for column in ("priced_until", "spare_for", "last_run_id", "zone", "kind"):
        op.drop_column("nodes", column)
    op.drop_column("runs", "stop_after")
    op.execute("DELETE FROM meta WHERE key = 'secret'")
