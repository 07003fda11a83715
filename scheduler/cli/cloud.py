"""The verbs about nodes of other machines: pools, audit, cloud policy, cloud image."""

from pathlib import Path
from typing import Annotated

import typer

from scsched.scheduler.cli import columns
from scsched.scheduler.cli.args import Columns, Json, NoHeader

DIFFERENT = 106
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Instead of the usual file.")
]
Name = Annotated[
    str, typer.Argument(metavar="[PROVIDER]", help="Name of a [provider.NAME]; else the only one.")
]


def register(app: typer.Typer) -> None:
    app.command("pools", epilog=_POOLS_EXAMPLES)(pools)
    app.command("audit", epilog=_AUDIT_EXAMPLES)(audit)
    cloud = typer.Typer(
        rich_markup_mode=None, no_args_is_help=True, help="What a cloud account needs."
    )
    cloud.command("policy", epilog=_POLICY_EXAMPLES)(policy)
    cloud.command("image", epilog=_IMAGE_EXAMPLES)(image)
    app.add_typer(cloud, name="cloud")


_POOLS_EXAMPLES = """\b
Examples:
  scsched pools                        nodes up and starting, price now, why one is held
  scsched pools -o pool,up,max_nodes   three columns for a script"""


def pools(chosen: Columns = "", no_header: NoHeader = False, as_json: Json = False) -> int:
    """Show the pools: what they have, what it costs now, and why one is not used."""
    from scsched.scheduler.cli import targets
    from scsched.scheduler.render import put_json, table

    picked = columns.chosen(chosen, columns.POOLS)
    found = targets.client().nodes()["pools"]
    if as_json:
        put_json({"schema": "scsched/v1", "items": found})
    else:
        table(picked, found, header=not no_header)
    return 0


_AUDIT_EXAMPLES = """\b
Examples:
  scsched audit          compare the records with every provider's own list of nodes
  scsched audit --fix    and end what nobody knows, and close what is gone
Exit code: 0 if they agree, 106 if not (with --fix: if something could not be mended)."""


def audit(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what differs.")] = False,
    no_header: NoHeader = False,
    as_json: Json = False,
) -> int:
    """Compare the records with the providers' own lists: no node unknown, none unpaid."""
    from scsched.scheduler.cli import targets
    from scsched.scheduler.render import put_json, table, talk

    found = targets.client().audit(fix=fix)
    left = [item for item in found["items"] if not item["fixed"]]
    if as_json:
        put_json(found)
    else:
        if found["items"]:
            table(columns.DIFFERENCES, found["items"], header=not no_header)
        count = len(found["items"])
        verdict = f"{count} difference{'s' * (count > 1)}" if count else "all agree"
        rest = f" and {found['unpriced']} of unknown price" if found["unpriced"] else ""
        talk(f"{found['nodes']} nodes up, {found['usd_per_hour']:.3f} $/h{rest}; {verdict}")
    return DIFFERENT if left else 0


_POLICY_EXAMPLES = """\b
Examples:
  scsched cloud policy > policy.json                  for the only provider of the configuration
  scsched cloud policy aws --account 123456789012     for that account
The broker's own rights, and no more: it can end nothing that it has not tagged itself."""


def policy(
    name: Name = "",
    account: Annotated[str, typer.Option("--account", help="The account's number.")] = "ACCOUNT",
    config: Config = None,
) -> int:
    """Print the least rights that the broker needs at the cloud, as JSON."""
    from scsched.scheduler.cli import cloud_account

    return cloud_account.policy(config, name, account)


_IMAGE_EXAMPLES = """\b
Examples:
  scsched cloud image > bake.sh      for the only provider of the configuration
  scsched cloud image aws > bake.sh
Then make the wheel of scsched in the checkout, and run bake.sh as root on a fresh Debian 12:
  .tools/bin/uv build --wheel        writes dist/scsched-0.1.0-py3-none-any.whl
  SCSCHED=./scsched-0.1.0-py3-none-any.whl sh bake.sh
The image has Scipion at scipion.python and scsched at the provider's python.
Exit code: 3 if scipion.python is not set."""


def image(name: Name = "", config: Config = None) -> int:
    """Print a recipe that bakes RELION, Scipion, scsched and the NFS client into an image."""
    from scsched.scheduler.cli import cloud_account

    return cloud_account.image(config, name)
