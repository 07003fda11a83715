"""What an examination of a provider's account or site found."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `hint` says what to do where it is not `ok`."""

    name: str
    """One or two words, the same every time: `credentials`, `security group`."""
    ok: bool
    sentence: str
    hint: str = ""
