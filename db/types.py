"""Column types of our own. Migrations name the plain type behind each: see `plain_type`."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import DateTime, Dialect, Numeric, String, TypeDecorator
from sqlalchemy.types import TypeEngine

E = TypeVar("E", bound=StrEnum)

WORD_LENGTH = 24
USD_DIGITS = 14
USD_PLACES = 6


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, also on SQLite, which forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is UTC:
            return value
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone; give an aware datetime")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Usd(TypeDecorator[Decimal]):
    """Dollars, exactly: NUMERIC, and digits in a text on SQLite, whose NUMERIC is a float."""

    impl = Numeric(USD_DIGITS, USD_PLACES)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        text = dialect.name == "sqlite"
        return dialect.type_descriptor(String(WORD_LENGTH) if text else self.impl_instance)

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return format(value.quantize(Decimal(1).scaleb(-USD_PLACES)), "f")

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Word(TypeDecorator[E]):
    """A member of a StrEnum, kept as its value. The table adds the CHECK: see `models.words`."""

    impl = String(WORD_LENGTH)
    cache_ok = True

    def __init__(self, enum: type[E]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: E | None, dialect: Dialect) -> str | None:
        return None if value is None else str(self.enum(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> E | None:
        return None if value is None else self.enum(value)


def plain_type(column_type: object) -> str | None:
    """How a migration writes one of these types without importing it; None: not one of these."""
    if isinstance(column_type, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if isinstance(column_type, Usd):
        text = f'sa.String({WORD_LENGTH}), "sqlite"'
        return f"sa.Numeric({USD_DIGITS}, {USD_PLACES}).with_variant({text})"
    if isinstance(column_type, Word):
        return f"sa.String({WORD_LENGTH})"
    return None
