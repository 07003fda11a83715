"""A table of the configuration, read key by key by the provider that it belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scsched.steps.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Table:
    """`name` as errors say it, like `provider.aws` or `pool refine`."""

    name: str
    values: Mapping[str, object]

    def refuse(self, key: str, problem: str, hint: str = "") -> ConfigError:
        """The error to raise about a key."""
        return ConfigError(f"{self.name}.{key}: {problem}", hint=hint)

    def only(self, known: Sequence[str]) -> None:
        """:raises ConfigError: there is another key."""
        for key in sorted(self.values.keys() - set(known)):
            raise self.refuse(key, f"unknown key; known: {', '.join(sorted(known))}")

    def yes(self, key: str) -> bool:
        """:raises ConfigError: it is neither true nor false."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.refuse(key, f"{value!r}; write true or false")
        return value

    def gib(self, key: str, default: int, *, least: int = 0) -> int:
        """A size in GiB.

        :raises ConfigError: it is no whole number from `least` to 16384.
        """
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 16_384:
            raise self.refuse(key, f"{value!r}; write GiB from {least} to 16384")
        return value
