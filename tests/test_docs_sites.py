"""The pages and the example about nodes of other machines: every key is there, and they load."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from scsched.cluster import registry
from scsched.cluster.batch import options as batch
from scsched.cluster.batch import others, submission
from scsched.cluster.ec2 import site as ec2
from scsched.cluster.openstack import site as openstack
from scsched.scheduler import config
from scsched.scheduler.config_pools import PoolConfig, StorageConfig
from tests.test_docs import DOCS, EXAMPLE, REFERENCE, cells_of

HOW_TO = DOCS / "how-to"
PAGES = ("cloud.md", "openstack.md", "slurm.md")


def names(of: type[Any]) -> set[str]:
    return {field.name for field in fields(of)}


BATCH = names(batch.SiteOptions) - {"kind"}
KINDS = {
    "Kind ec2": (names(ec2.Site), names(ec2.PoolSite)),
    "Kind openstack": (names(openstack.Site), names(openstack.PoolSite)),
    "Kind slurm": (BATCH, set(submission.KEYS)),
    "Kinds pbs, sge, lsf and htcondor": (BATCH, set(others._KEYS)),
}


def example_with_providers() -> str:
    """The example as it is when the comment signs are taken from its providers' tables."""
    head, mark, rest = EXAMPLE.read_text().partition("# [storage.shared]")
    tables, end, tail = rest.partition("# ---- how often")
    return head + re.sub(r"^# ?", "", mark + tables, flags=re.MULTILINE) + end + tail


def configuration(page: str) -> str:
    """The page's example of a whole configuration."""
    blocks = re.findall(r"^```toml\n(.*?)^```", (HOW_TO / page).read_text(), re.M | re.S)
    (found,) = (block for block in blocks if "[provider." in block)
    return str(found)


def load(text: str, tmp_path: Path) -> config.Settings:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return config.load(file, {"HOME": str(tmp_path)})


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_a_kind_is_documented_and_no_other(kind: str) -> None:
    text = (REFERENCE / "configuration.md").read_text()
    section = re.split(r"^##", text.partition(f"### {kind}\n")[2], flags=re.MULTILINE)[0]
    site, _, pool = section.partition("| pool key |")
    assert (cells_of(site), cells_of(pool)) == KINDS[kind]


def test_pools_of_batch_systems_know_no_key_that_the_pages_lack() -> None:
    assert names(batch.PoolOptions) == set(submission.KEYS)


def test_the_example_has_every_key_of_providers_and_storage(tmp_path: Path) -> None:
    found = tomllib.loads(example_with_providers())
    assert set(found["storage"]["shared"]) == set(StorageConfig.model_fields)
    own = set(PoolConfig.model_fields)
    for name, kind in (("aws", "ec2"), ("egi", "openstack"), ("cluster", "slurm")):
        provider = found["provider"][name]
        site, pool = KINDS[f"Kind {kind}"]
        assert set(provider) == {*site, "kind"}
        (mine,) = (one for one in found["pool"] if one.get("provider") == name)
        assert set(mine) - own == pool
    assert load(example_with_providers(), tmp_path).remote


@pytest.mark.parametrize("page", PAGES)
def test_the_configuration_of_a_page_loads_and_says_where_scipion_is(
    page: str, tmp_path: Path
) -> None:
    settings = load(configuration(page), tmp_path)
    (provider,) = settings.provider.values()
    root = "/shared" if provider["kind"] == "slurm" else "/opt"
    assert str(settings.scipion.python) == f"{root}/scsched/.scipion/venv/bin/python"
    assert provider["python"] == f"{root}/scsched/.venv/bin/python"


@pytest.mark.parametrize("page", ["cloud.md", "openstack.md"])
def test_the_image_of_a_page_has_both_environments_of_its_configuration(
    page: str, tmp_path: Path
) -> None:
    settings = load(configuration(page), tmp_path)
    ((name, options),) = settings.provider.items()
    make = registry.optional(settings.provider, name, "image_recipe")
    text = make(name, options, scipion_python=str(settings.scipion.python))
    assert "environment=/opt/scsched/.venv\nscipion=/opt/scsched/.scipion\n" in text
    assert "SCSCHED=./scsched-0.1.0-py3-none-any.whl sh bake.sh" in (HOW_TO / page).read_text()


def test_the_packages_that_the_tests_install_are_named() -> None:
    """All but those of `./demo`."""
    script = (DOCS.parent / "scripts" / "bootstrap").read_text()
    (line,) = (one for one in script.splitlines() if one.startswith('[ "$what" = test ]'))
    added = line.partition('"$packages ')[2].rstrip('"').split()
    section = (DOCS.parent / "README.md").read_text().partition("```\n./test\n```")[2]
    told = set(re.findall(r"`([^`]+)`", section.partition("\n## ")[0]))
    assert {"openssh-server", "slurm-wlm"} < set(added) <= told
