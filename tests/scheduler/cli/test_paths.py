from pathlib import Path

import pytest

from scsched.scheduler import paths
from scsched.steps.errors import ConfigError


def test_the_environment_comes_before_the_configuration_and_that_before_home(
    tmp_path: Path,
) -> None:
    environ = {"HOME": "/home/bo"}
    assert paths.state_dir(environ) == Path("/home/bo/.local/state/scsched")
    assert paths.state_dir(environ, "/var/lib/scsched") == Path("/var/lib/scsched")
    named = environ | {"SCSCHED_STATE_DIR": "/tmp/x"}
    assert paths.state_dir(named, "/var/lib/scsched") == Path("/tmp/x")
    assert paths.state_dir(environ | {"XDG_STATE_HOME": "/s"}) == Path("/s/scsched")


def test_the_socket_is_in_the_state_directory_unless_it_is_named(tmp_path: Path) -> None:
    assert paths.socket_path(Path("/s"), {}) == Path("/s/api.sock")
    assert paths.socket_path(Path("/s"), {"SCSCHED_SOCKET": "/run/a.sock"}) == Path("/run/a.sock")


def test_a_socket_path_too_long_for_the_kernel_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        paths.socket_path(Path("/" + "x" * 120), {})
    assert "SCSCHED_SOCKET" in caught.value.hint


def test_the_state_directory_of_the_configuration_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "config" / "scsched" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'state_dir = "{tmp_path}/st"\n')
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert paths.find_socket(environ) == tmp_path / "st" / "api.sock"


def test_a_configuration_that_is_no_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("state_dir = ")
    with pytest.raises(ConfigError, match=r"c\.toml: is not TOML"):
        paths.find_state_dir({"SCSCHED_CONFIG": str(file), "HOME": "/x"})


def test_a_named_configuration_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SCSCHED_CONFIG"):
        paths.config_file(None, {"SCSCHED_CONFIG": str(tmp_path / "none.toml")})
