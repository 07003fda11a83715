"""What a test can tell a box to do: set prices and limits, break its API, take instances away."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

Word = str | int | float | bool | None


class Verbs:
    """Whoever can say a verb to a box."""

    def say(self, verb: str, **words: Word) -> Any:
        raise NotImplementedError

    # ------------------------------------------------------------------ money and limits

    def price(self, kind: str, zone: str, usd: Decimal, since: datetime | None = None) -> None:
        """The spot price from `since` (now) on."""
        moment = since.isoformat() if since else None
        self.say("price", kind=kind, zone=zone, usd=str(usd), since=moment)

    def on_demand(self, kind: str, usd: Decimal) -> None:
        self.say("on_demand", kind=kind, usd=str(usd))

    def bill(self) -> Mapping[str, Decimal]:
        """US dollars by instance until its end, or until now: the box's own sum."""
        return {identity: Decimal(usd) for identity, usd in self.say("bill").items()}

    def capacity(
        self, instances: int | None, *, kind: str = "", zone: str = "", market: str = ""
    ) -> None:
        """How many there may be up of that type, zone and market; "": any; None: no limit."""
        self.say("capacity", instances=instances, kind=kind, zone=zone, market=market)

    def quota(
        self, *, spot_instances: int | None = None, on_demand_vcpus: int | None = None
    ) -> None:
        """The account's limits; None: none."""
        self.say("quota", spot_instances=spot_instances, on_demand_vcpus=on_demand_vcpus)

    def placement_groups(self, state: str) -> None:
        """What is said of each: pending, available, deleting or deleted."""
        self.say("placement_groups", state=state)

    # ------------------------------------------------------------------ faults of the API

    def fault(
        self,
        code: str = "",
        *,
        action: str = "RunInstances",
        kind: str = "",
        zone: str = "",
        market: str = "",
        times: int | None = 1,
        probability: float = 1.0,
        seed: int = 0,
        delay_s: float = 0.0,
        lost_reply: bool = False,
    ) -> int:
        """The next `times` calls that fit (None: all) fail; "" in a place fits any.

        With `code` the call is refused and not done. With `lost_reply` it is done and the
        connection dropped. The answer is the fault's number.
        """
        return int(
            self.say(
                "fault",
                code=code,
                action=action,
                kind=kind,
                zone=zone,
                market=market,
                times=times,
                probability=probability,
                seed=seed,
                delay_s=delay_s,
                lost_reply=lost_reply,
            )
        )

    def unfault(self, number: int) -> None:
        self.say("unfault", number=number)

    def clear_faults(self) -> None:
        """Also listings tell the truth again."""
        self.say("clear_faults")
        self.describe_late()
        self.describe_empty(0)
        self.describe_partial(calls=0)
        self.page_size(None)

    def struck(self, number: int) -> int:
        """How often this fault has hit."""
        return int(self.say("struck")[str(number)])

    def describe_late(self, *, calls: int = 0, seconds: float = 0.0) -> None:
        """Instances launched from now on are missing in that many listings, or that long."""
        self.say("describe_late", calls=calls, seconds=seconds)

    def describe_empty(self, calls: int) -> None:
        """The next listings show nothing."""
        self.say("describe_empty", calls=calls)

    def describe_partial(self, *, share: float = 0.5, calls: int = 1, seed: int = 0) -> None:
        """Each instance is in each of the next listings with probability `share`."""
        self.say("describe_partial", share=share, calls=calls, seed=seed)

    def page_size(self, size: int | None) -> None:
        """Listings come in pages of that many reservations; None: as asked."""
        self.say("page_size", size=size)

    def forget_after(self, seconds: float) -> None:
        """Listings keep ended instances that long; an hour, unless told."""
        self.say("forget_after", seconds=seconds)

    # ------------------------------------------------------------------ losses

    def reclaim(
        self, instance_id: str, *, notice_s: float = 120.0, rebalance_s: float = 0.0
    ) -> None:
        """Spot takes it back: a hint, `rebalance_s` later the warning, `notice_s` later the end.

        Each is left out where its time is 0.
        """
        self.say("reclaim", instance_id=instance_id, notice_s=notice_s, rebalance_s=rebalance_s)

    def hint(self, instance_id: str) -> None:
        """A rebalance recommendation that nothing follows."""
        self.say("hint", instance_id=instance_id)

    def lose(self, instance_id: str) -> None:
        """Gone without a word, no packet says so; EC2 then says that spot has taken it."""
        self.say("lose", instance_id=instance_id)

    def vanish(self, instance_id: str) -> None:
        """Gone without a word, and EC2 says it is running, and bills it, until terminated."""
        self.say("vanish", instance_id=instance_id)

    def shutdown(self, instance_id: str) -> None:
        """As `poweroff` inside."""
        self.say("shutdown", instance_id=instance_id)

    def freeze(self, instance_id: str) -> None:
        """Its processes stand still; its kernel still answers TCP."""
        self.say("freeze", instance_id=instance_id)

    def thaw(self, instance_id: str) -> None:
        self.say("thaw", instance_id=instance_id)

    def cut(self, instance_id: str) -> None:
        """No packet reaches or leaves it; nobody is told."""
        self.say("cut", instance_id=instance_id)

    def blackhole(self, instance_id: str, *, incoming: bool) -> None:
        """It is heard and hears nothing (`incoming`), or hears and is not heard."""
        self.say("blackhole", instance_id=instance_id, incoming=incoming)

    def heal(self, instance_id: str) -> None:
        """Undoes `cut` and `blackhole`."""
        self.say("heal", instance_id=instance_id)
