"""Run by Alembic. The URL comes from scsched, from `alembic -x url=...`, or from alembic.ini."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, text

from scsched.db import engines
from scsched.db.models import metadata
from scsched.db.types import plain_type
from scsched.steps.errors import ConfigError


def render_item(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """Write our own column types as plain ones, so that a migration outlives them."""
    return (kind == "type" and plain_type(item)) or False


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        render_item=render_item,
        transactional_ddl=True,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('scsched upgrade'))"))
        context.run_migrations()


def main() -> None:
    given = context.get_x_argument(as_dictionary=True).get("url")
    url = given or context.config.get_main_option("sqlalchemy.url")
    if not url:
        raise ConfigError("database: no URL", hint="alembic -x url=sqlite:////path upgrade head")
    engine = engines.writer(engines.parse(url), foreign_keys=False)
    try:
        with engine.connect() as connection:
            migrate(connection)
    finally:
        engine.dispose()


main()
