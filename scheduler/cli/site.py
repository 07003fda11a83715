"""The verbs of whoever runs the site: serve, doctor, config, db, setup."""

from pathlib import Path
from typing import Annotated

import typer

from scsched.scheduler.cli.args import Json, NoHeader

Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Instead of the usual file.")
]
StateDir = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="Database, socket and logs; on a local disk."),
]


def register(app: typer.Typer) -> None:
    app.command("serve", epilog=_SERVE_EXAMPLES)(serve)
    app.command("doctor", epilog=_DOCTOR_EXAMPLES)(doctor)
    config = _group("The configuration.")
    config.command("show", epilog=_CONFIG_EXAMPLES)(config_show)
    app.add_typer(config, name="config")
    database = _group("The database.")
    database.command("upgrade", epilog=_DB_EXAMPLES)(db_upgrade)
    database.command("revision", epilog=_DB_EXAMPLES)(db_revision)
    database.command("check", epilog=_DB_EXAMPLES)(db_check)
    app.add_typer(database, name="db")
    setup = _group("Make what scsched needs.")
    setup.command("scipion", epilog=_SETUP_EXAMPLES)(setup_scipion)
    app.add_typer(setup, name="setup")


def _group(text: str) -> typer.Typer:
    return typer.Typer(rich_markup_mode=None, help=text)


_SERVE_EXAMPLES = """\b
Examples:
  scsched serve                         in the foreground; Ctrl-C stops it, RELION runs on
  scsched serve --log-file              log to log/broker.log in the state directory
  nohup scsched serve --log-file &      keep it after logging out
What runs goes on without a broker; the next one takes it up."""


def serve(
    state_dir: StateDir = None,
    config: Config = None,
    log_file: Annotated[
        bool, typer.Option("--log-file", help="Log to a file instead of stderr.")
    ] = False,
) -> int:
    """Run the broker: it keeps the queue and starts the steps."""
    from scsched.scheduler.daemon import serve as run_broker

    return run_broker(state_dir=state_dir, config=config, foreground=not log_file)


_DOCTOR_EXAMPLES = """\b
Examples:
  scsched doctor             Scipion, RELION, mpirun, storage: ok, or what to do
  scsched doctor --cloud     credentials, image, security group, subnets, quota, storage, clock
  scsched doctor --json      the same for a script
Exit code: 0 if everything that is needed is there, 3 if not."""


def doctor(
    project: Annotated[
        Path | None,
        typer.Option("--project", metavar="DIR", help="Where projects will be; else here."),
    ] = None,
    cloud: Annotated[
        bool, typer.Option("--cloud", help="The providers of nodes instead: asks each of them.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> int:
    """Check this machine; what fails comes with its fix."""
    from scsched.scheduler.cli import checkup

    if cloud:
        return checkup.doctor_cloud(config, as_json=as_json)
    return checkup.doctor(config, project, as_json=as_json)


_CONFIG_EXAMPLES = """\b
Examples:
  scsched config show               every key in force
  scsched config show --origin      and the file, variable or default it comes from"""


def config_show(
    origin: Annotated[bool, typer.Option("--origin", help="Where each value is from.")] = False,
    no_header: NoHeader = False,
    as_json: Json = False,
) -> int:
    """Show the configuration in force: the broker's, or what a broker would read."""
    from scsched.scheduler.cli import checkup

    return checkup.show_config(origin=origin, header=not no_header, as_json=as_json)


_DB_EXAMPLES = """\b
Examples:
  scsched db upgrade     make the tables, or bring them to this version; safe to repeat
  scsched db revision    the version the tables have, and the one this scsched wants
  scsched db check       exit code 3 if the tables are not what this version wants"""


def db_upgrade(config: Config = None) -> int:
    """Make the tables, or bring them to this version."""
    from scsched.scheduler.cli import checkup

    return checkup.upgrade_database(config)


def db_revision(config: Config = None, as_json: Json = False) -> int:
    """Say which version the tables have."""
    from scsched.scheduler.cli import checkup

    return checkup.show_revision(config, as_json=as_json)


def db_check(config: Config = None) -> int:
    """Compare the tables with what this version wants."""
    from scsched.scheduler.cli import checkup

    return checkup.check_database(config)


_SETUP_EXAMPLES = """\b
Examples:
  scsched setup scipion               Scipion and its RELION plugin, in the state directory
  scsched setup scipion ~/scipion     there; then set scipion.python in the configuration
Safe to repeat. Downloads packages; takes some minutes the first time."""


def setup_scipion(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Where to make it.")] = None,
) -> int:
    """Make a Python environment with Scipion, from packages."""
    from scsched.scheduler.cli import checkup

    return checkup.setup_scipion(folder)
