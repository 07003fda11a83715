"""The configuration: what is wrong names its key and its file; what holds says where it is from."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from scsched.scheduler import paths
from scsched.scheduler.config import load, origins, without_password
from scsched.steps.errors import ConfigError

POOL = '[[pool]]\nname = "a"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "scsched.toml"


def environ(tmp_path: Path, **values: str) -> Mapping[str, str]:
    return {"HOME": str(tmp_path), "SCSCHED_STATE_DIR": str(tmp_path / "state"), **values}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("surprise = 1", "surprise"),
        ("default_market = 'free'", "default_market"),
        ("[times]\ntick_s = 0", "times.tick_s"),
        ("[times]\ntick_s = inf", "times.tick_s"),
        ("[times]\ntick_s = nan", "times.tick_s"),
        ("[times]\nstall_s = -1", "times.stall_s"),
        ("[times]\nstop_grace_s = 'long'", "times.stop_grace_s"),
        ("[times]\nsurprise = 1", "times.surprise"),
        ("[retry]\nmax_failures = 0", "retry.max_failures"),
        ("[retry]\nbackoff_s = -1", "retry.backoff_s"),
        ("[scipion]\npyton = '/x'", "scipion.pyton"),
        ("[relion]\nbin = 3", "relion.bin"),
        ("scipion = 3", "scipion"),
        ('[[pool]]\nname = "Big Pool"', "pool Big Pool: name"),
        ("[[pool]]\nmax_nodes = 1", "[[pool]] number 1: name"),
        (POOL + "max_nodes = 0", "pool a: max_nodes"),
        (POOL + "cores = -1", "pool a: cores"),
        (POOL + "memory_gib = inf", "pool a: memory_gib"),
        (POOL + "usd_per_hour = -0.1", "pool a: usd_per_hour"),
        (POOL + "market = 'free'", "pool a: market"),
        (POOL + "provider = 'moon'", "pool a: there is no [provider.moon]"),
        (POOL + "classes = ['fast']", "pool a: classes"),
        (POOL + "boot_s = 0", "pool a: boot_s"),
        (POOL + POOL, "pool"),
        ("[classes.ProtMine]\nclass = 'fast'", "classes.ProtMine"),
        ("[classes.ProtMine]\nsurprise = 1", "classes.ProtMine.surprise"),
        ("[times", "is not TOML"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(
    file: Path, tmp_path: Path, text: str, key: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ(tmp_path))
    assert str(caught.value).startswith(f"{file}: ")
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stat_dir = '/x'", "stat_dir: no such key; did you mean state_dir?"),
        ("[times]\ntik_s = 1", "times.tik_s: no such key; did you mean tick_s?"),
        ("[relion]\nx = 1", "relion.x: no such key; known: bin"),
        (POOL + "max_node = 1", "pool a: max_node: no such key; did you mean max_nodes"),
        (POOL + "market = 'free'", "pool a: market: 'free'; write spot or on-demand"),
        ('[[pool]]\nname = "A/b"', "pool A/b: name: 'A/b'; write lower-case letters, digits,"),
        ("[[pool]]\ncores = 1", "[[pool]] number 1: name: is missing"),
        ('[pool]\nname = "a"', "pool: {'name': 'a'}; write [[pool]] with two brackets"),
        ("pool = []", "pool: no pool, no node; write a [[pool]]"),
        (POOL + "types = 'x'", "pool a: types: 'x'; write a list"),
        (POOL + "service = 'perhaps'", "pool a: service: 'perhaps'; write true or false"),
        (POOL + "cores = 1.5", "pool a: cores: 1.5; write a whole number"),
        (POOL + "max_nodes = 10001", "pool a: max_nodes: 10001; write 10000 or less"),
        ("[times]\ntick_s = 0", "times.tick_s: 0; write more than 0"),
        ("[limits]\nmax_nodes = -1", "limits.max_nodes: -1; write 0 or more"),
        ("[storage.s]\npath = 'x'", "storage.s.path: 'x'; write an absolute path"),
        ("[storage.s]\npat = '/x'", "storage.s.path: is missing"),
        ("[storage.s]\npath = '/x'\nflor = 1", "storage.s.flor: no such key"),
        ("times = 3", "times: 3; write a table, [times]"),
        ("database = 3", "database: 3; write text in quotes"),
        ("database = 'mysql://bo:secret@h/x'", "database: 'mysql://bo:***@h/x'; write sqlite:"),
        ("database = 'sqlite:///x.db'", "database: 'sqlite:///x.db'; write sqlite:////absolute"),
        ("database = 'x.db'", "database: 'x.db'; write sqlite:////absolute"),
        ("scipion = { python = 'bin/python' }", "scipion.python: 'bin/python'; write an absolute"),
        ("relion = { bin = '~nobody-by-this-name' }", "relion.bin: '~nobody-by-this-name'; write"),
        ("[provider.local]\nkind = 'slurm'", "provider.local: nodes of this machine have this"),
        ("[classes.X]\nclass = 'light'\nresume = 'all'", "classes.X.resume: 'all'; write"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_the_file(
    file: Path, tmp_path: Path, text: str, says: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ(tmp_path))
    assert str(caught.value).removeprefix(f"{file}: ").startswith(says)


@pytest.mark.parametrize("value", ["'st'", "'./st'", "5", "''", "'~nobody-by-this-name/st'"])
def test_a_state_directory_that_depends_on_where_one_stands_is_refused(
    file: Path, tmp_path: Path, value: str
) -> None:
    file.write_text(f"state_dir = {value}\n")
    with pytest.raises(ConfigError, match=r"state_dir: .*; write an absolute path"):
        load(file, {"HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"scsched\.toml: state_dir: .*; write an absolute path"):
        paths.find_socket({"HOME": str(tmp_path), "SCSCHED_CONFIG": str(file)})
    with pytest.raises(ConfigError, match="SCSCHED_STATE_DIR: 'st'; write"):
        load(None, environ(tmp_path, SCSCHED_STATE_DIR="st", XDG_CONFIG_HOME=str(tmp_path)))


def test_a_path_from_a_home_is_one(file: Path, tmp_path: Path) -> None:
    file.write_text("scipion = { python = '~/v/bin/python' }\n")
    assert load(file, environ(tmp_path)).scipion.python == Path("~/v/bin/python").expanduser()


def test_a_wrong_variable_is_named_instead_of_the_file(file: Path, tmp_path: Path) -> None:
    file.write_text("database = 'sqlite:////x'\n")
    with pytest.raises(ConfigError, match=r"^SCSCHED_DATABASE: 'mysql://x'; write"):
        load(file, environ(tmp_path, SCSCHED_DATABASE="mysql://x"))


def test_a_file_that_is_not_there_or_not_text_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scsched\.toml"):
        load(file, environ(tmp_path))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"scsched\.toml: is not TOML"):
        load(file, environ(tmp_path))


def test_without_a_file_there_is_a_local_pool_and_a_service_pool(tmp_path: Path) -> None:
    local, service = load(None, environ(tmp_path, XDG_CONFIG_HOME=str(tmp_path))).pools()
    assert (local.name, local.provider, service.service) == ("local", "local", True)
    assert local.cores >= 1


def test_the_nodes_of_a_pool_share_the_machine(file: Path, tmp_path: Path) -> None:
    file.write_text(POOL + "max_nodes = 2\n" + '[[pool]]\nname = "whole"\n')
    halves, whole = load(file, environ(tmp_path)).pools()
    assert halves.memory_gib * 2 == pytest.approx(whole.memory_gib)
    assert halves.cores == max(1, whole.cores // 2)


def test_each_value_says_where_it_is_from(file: Path, tmp_path: Path) -> None:
    file.write_text("database = 'sqlite:////x'\n[times]\ntick_s = 2\n")
    settings = load(file, environ(tmp_path, SCSCHED_SCIPION_PYTHON="/s/python"))
    found = {key: (value, origin) for key, value, origin in origins(settings)}
    assert found["times.tick_s"] == ("2.0", str(file))
    assert found["times.stall_s"] == ("1800.0", "default")
    assert found["scipion.python"] == ("/s/python", "SCSCHED_SCIPION_PYTHON")
    assert found["state_dir"] == (str(tmp_path / "state"), "SCSCHED_STATE_DIR")
    assert found["database"] == ("sqlite:////x", str(file))


def test_the_environment_wins_over_the_file(file: Path, tmp_path: Path) -> None:
    file.write_text("database = 'sqlite:////x'\n")
    settings = load(file, environ(tmp_path, SCSCHED_DATABASE="sqlite:////y"))
    assert settings.database_url == "sqlite:////y"
    assert ("database", "sqlite:////y", "SCSCHED_DATABASE") in origins(settings)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://bo:se:cr@et@host/db", "postgresql://bo:***@host/db"),
        ("postgresql://bo@host/db", "postgresql://bo@host/db"),
        ("sqlite:////var/lib/a:b@c/scsched.db", "sqlite:////var/lib/a:b@c/scsched.db"),
    ],
)
def test_a_password_is_never_shown(file: Path, tmp_path: Path, url: str, shown: str) -> None:
    assert without_password(url) == shown
    file.write_text(f"database = '{url}'\n")
    rows = {key: value for key, value, _ in origins(load(file, environ(tmp_path)))}
    assert rows["database"] == shown


CLOUD = """
[provider.aws]
kind = "ec2"
region = "eu-west-1"
image = "ami-0123456789abcdef0"
python = "/opt/scsched/bin/python"
security_groups = ["sg-0123456789abcdef0"]
subnets = { eu-west-1a = "subnet-0123456789abcdef0" }

[storage.shared]
path = "/shared"

[[pool]]
name = "gpu"
provider = "aws"
market = "spot"
storage = "shared"
types = ["g5.xlarge"]
"""


def test_cores_and_memory_of_one_s_own_leave_the_gpus_of_the_type(
    file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("boto3", reason="scsched[aws] is not installed")
    file.write_text(CLOUD)
    (whole,) = load(file, environ(tmp_path)).pools()
    file.write_text(CLOUD + "cores = 2\nmemory_gib = 8\n")
    (told,) = load(file, environ(tmp_path)).pools()
    assert (told.cores, told.memory_gib) == (2, 8)
    assert (told.gpus, told.vram_gib) == (whole.gpus, whole.vram_gib)
    assert whole.gpus == 1
    file.write_text(CLOUD + "cores = 2\nmemory_gib = 8\ngpus = 0\n")
    assert load(file, environ(tmp_path)).pools()[0].gpus == 0


@pytest.mark.parametrize(
    ("project", "min_free_gib"),
    [
        ("/shared/a/project", 100),
        ("/shared/fast/project", 7),
        ("/shared/fast/../slow/project", 100),
        ("/shared2/project", None),
        (None, 100),
    ],
)
def test_a_project_has_the_terms_of_the_storage_that_it_is_on(
    project: str | None, min_free_gib: float | None, file: Path, tmp_path: Path
) -> None:
    file.write_text(
        '[storage.large]\npath = "/shared"\nmin_free_gib = 100\n'
        '[storage.fast]\npath = "/shared/fast"\nmin_free_gib = 7\n'
    )
    found = load(file, environ(tmp_path)).storage_of(project)
    assert (found and found.min_free_gib) == min_free_gib


@pytest.mark.parametrize(
    "kind",
    ["gcp", "azure", "digitalocean", "hetzner", "ibm", "nebius", "fargate", "ecs"],
)
def test_a_cloud_that_nobody_has_proven_is_refused_with_a_clear_word(
    kind: str, file: Path, tmp_path: Path
) -> None:
    file.write_text(CLOUD.replace('"ec2"', f'"{kind}"'))
    with pytest.raises(ConfigError) as caught:
        load(file, environ(tmp_path))
    assert f"provider.aws: kind {kind} is not proven with scsched and is refused" in str(
        caught.value
    )
    assert "ec2" in (caught.value.hint or "")
