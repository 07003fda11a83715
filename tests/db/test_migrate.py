"""Both ways to the tables lead to the same ones, and the plan of the queue uses its index."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from scsched.db import migrate
from scsched.db.session import open_store
from tests import postgres
from tests.db.rows import opened, submit

ROOT = Path(__file__).parents[2]


def test_alembic_and_scsched_make_the_same_tables(tmp_path: Path) -> None:
    ours, theirs = (f"sqlite:///{tmp_path}/{name}.sqlite" for name in ("ours", "theirs"))
    migrate.upgrade(ours)
    alembic("-x", f"url={theirs}", "upgrade", "head")
    assert schema(ours) == schema(theirs)
    open_store(theirs).close()


def test_alembic_check_is_clean(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    alembic("-x", f"url={url}", "upgrade", "head")
    assert "No new upgrade operations" in alembic("-x", f"url={url}", "check")


def test_the_way_down_removes_everything(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    migrate.upgrade(url)
    alembic("-x", f"url={url}", "downgrade", "base")
    assert list(schema(url)) == ["alembic_version"]
    assert migrate.revision(url) is None


@pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing())
def test_postgres_goes_down_and_up_again() -> None:
    with postgres.cluster() as server:
        url = server.database()
        migrate.upgrade(url)
        alembic("-x", f"url={url}", "downgrade", "base")
        assert migrate.upgrade(url) == migrate.head()
        with opened(url) as store:
            submit(store)


def test_a_failed_upgrade_leaves_no_table(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE submissions (mine INTEGER)"))
    engine.dispose()
    with pytest.raises(Exception, match="already exists"):
        migrate.upgrade(url)
    assert list(schema(url)) == ["submissions"]


def test_migrations_name_plain_types_only() -> None:
    for path in (ROOT / "db" / "migrations" / "versions").glob("0*.py"):
        assert "scsched" not in path.read_text()


def alembic(*arguments: str) -> str:
    """What the command line of Alembic prints when it is run where a developer runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def schema(url: str) -> dict[str, list[str]]:
    """Every table with its definition, indexes and triggers."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            tables = sorted(inspect(connection).get_table_names())
            query = text("SELECT sql FROM sqlite_master WHERE tbl_name = :table ORDER BY name")
            return {
                table: [str(sql) for sql in connection.scalars(query, {"table": table})]
                for table in tables
            }
    finally:
        engine.dispose()
