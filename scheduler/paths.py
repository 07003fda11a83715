"""Where the state directory, the configuration file and the broker's socket are.

State directory: `SCSCHED_STATE_DIR` > `state_dir` in the configuration > `~/.local/state/scsched`.
Socket: `SCSCHED_SOCKET` > `api.sock` in the state directory. Configuration: the file asked for >
`SCSCHED_CONFIG` > `~/.config/scsched/config.toml` > `/etc/scsched/scsched.toml`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from scsched.steps.errors import ConfigError

SITE_CONFIG = Path("/etc/scsched/scsched.toml")
SOCKET_NAME = "api.sock"
LONGEST_SOCKET_PATH = 107
"""Bytes; Linux keeps 108 for a socket's path, the closing zero included (unix(7))."""


def config_file(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file in force; None: there is none, the defaults hold.

    :raises ConfigError: a file was asked for by name and is not there.
    """
    if path:
        return _asked_for(path, "--config")
    if named := environ.get("SCSCHED_CONFIG"):
        return _asked_for(Path(named), "SCSCHED_CONFIG")
    config_home = environ.get("XDG_CONFIG_HOME") or f"{_home(environ)}/.config"
    for candidate in (Path(config_home) / "scsched" / "config.toml", SITE_CONFIG):
        if _is_file(candidate):
            return candidate
    return None


def state_dir(environ: Mapping[str, str] = os.environ, configured: object = None) -> Path:
    """The state directory, given what the configuration says about it.

    :raises ConfigError: it would be another one in every working directory.
    """
    named = environ.get("SCSCHED_STATE_DIR") or configured
    if named is not None:
        try:
            return placed(named)
        except ValueError as exc:
            who = "SCSCHED_STATE_DIR" if environ.get("SCSCHED_STATE_DIR") else "state_dir"
            raise ConfigError(f"{who}: {exc}") from exc
    state_home = environ.get("XDG_STATE_HOME") or f"{_home(environ)}/.local/state"
    return Path(state_home) / "scsched"


def placed(named: object) -> Path:
    """A path that is the same for the broker and for every command, wherever each is started.

    :raises ValueError: it is neither absolute nor from a home.
    """
    try:
        path = Path(named).expanduser() if isinstance(named, str) and "\0" not in named else Path()
    except RuntimeError:  # ~somebody who has no account here
        path = Path()
    if not path.is_absolute():
        raise ValueError(f"{named!r}; write an absolute path, or one that begins with ~/")
    return path


def socket_path(state: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The broker's socket.

    :raises ConfigError: the path is longer than a Unix socket's may be.
    """
    path = Path(environ.get("SCSCHED_SOCKET") or state / SOCKET_NAME).absolute()
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    raise ConfigError(
        f"{path}: longer than the {LONGEST_SOCKET_PATH} bytes a socket's path may have",
        hint="set SCSCHED_SOCKET to a shorter path",
    )


def find_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The state directory; reads the configuration file only if it may decide."""
    if environ.get("SCSCHED_STATE_DIR"):
        return state_dir(environ)
    file = config_file(None, environ)
    try:
        return state_dir(environ, _configured_state_dir(file) if file else None)
    except ConfigError as exc:
        raise ConfigError(f"{file}: {exc}", hint=exc.hint) from exc


def find_socket(environ: Mapping[str, str] = os.environ) -> Path:
    """The broker's socket, found without the rest of the configuration."""
    if environ.get("SCSCHED_SOCKET"):
        return socket_path(Path(), environ)
    return socket_path(find_state_dir(environ), environ)


def _configured_state_dir(file: Path) -> object:
    import tomllib

    try:
        return tomllib.loads(file.read_text(encoding="utf-8")).get("state_dir")
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"is not TOML: {exc}") from exc


def _asked_for(path: Path, who: str) -> Path:
    if _is_file(path):
        return path
    raise ConfigError(f"{path}: named by {who}, but there is no such file")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or str(Path.home())
