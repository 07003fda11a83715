"""What steps need once the steps before them have made their inputs: larger boxes, more memory."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from scsched.db import queries
from scsched.db.session import Session
from scsched.steps import classes
from scsched.steps.classes import ClassInfo
from scsched.steps.demand import Inputs, derive
from scsched.steps.spec import Demand

Params = Mapping[str, Any]


class Sizing:
    """Derives demands from inputs; a workflow's document never changes and is parsed once."""

    def __init__(self, site: Mapping[str, ClassInfo]) -> None:
        self._site = site

    def demands(
        self, session: Session, workflow_id: int, inputs: Mapping[str, Inputs]
    ) -> dict[int, Demand]:
        """The demand of each of these steps whose class is known, by its id."""
        if not inputs:
            return {}
        params = _params(queries.document(session, workflow_id).text)
        ids = queries.step_ids(session, workflow_id)
        found = {}
        for ref, known in inputs.items():
            info = classes.find(str(params.get(ref, {}).get("object.className")), site=self._site)
            if info is not None and ref in ids:
                found[ids[ref]] = derive(info, params[ref], known)
        return found


@lru_cache(maxsize=32)
def _params(document: str) -> Mapping[str, Params]:
    """Each protocol's parameters by its id. The document was checked when it was taken in."""
    return {str(params["object.id"]): params for params in json.loads(document)}
