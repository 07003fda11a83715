"""Where Scipion keeps the job of a step."""

from collections.abc import Sequence

from sqlalchemy import bindparam, update

from scsched.db.models import steps
from scsched.db.session import Session


def placed(session: Session, jobs: Sequence[tuple[int, int, str]]) -> None:
    """Record (step, Scipion's id of it, its job folder)."""
    rows = [{"of": step, "at": object_id, "in": folder} for step, object_id, folder in jobs]
    if rows:
        session.execute(
            update(steps)
            .where(steps.c.id == bindparam("of"))
            .values(object_id=bindparam("at"), job_dir=bindparam("in")),
            rows,
        )
