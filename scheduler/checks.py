"""What a check found: its verdict, and the fix where it is not ok."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    """Works, or may work; a person should know."""
    FAIL = "fail"
    """Workflows will not run."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    verdict: Verdict
    detail: str
    fix: str = ""
    """One line: what to type or change; empty if all is well."""


def worst(checks: Iterable[Check]) -> Verdict:
    """The verdict over all of them."""
    found = {check.verdict for check in checks}
    return next((v for v in (Verdict.FAIL, Verdict.WARN) if v in found), Verdict.OK)


def ok(name: str, detail: str) -> Check:
    return Check(name=name, verdict=Verdict.OK, detail=detail)


def warn(name: str, detail: str, fix: str) -> Check:
    return Check(name=name, verdict=Verdict.WARN, detail=detail, fix=fix)


def fail(name: str, detail: str, fix: str) -> Check:
    return Check(name=name, verdict=Verdict.FAIL, detail=detail, fix=fix)
