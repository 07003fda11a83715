"""The conformance suite of providers before a real Keystone and a real Nova."""

from functools import partial

import pytest

from tests.contract import test_provider as suite
from tests.contract.providers import MakeSubject, openstack
from tests.openstack.cloud import Cloud

pytestmark = pytest.mark.campaign
globals().update({name: found for name, found in vars(suite).items() if name[:5] == "test_"})
subject, provider, ask, deployment = suite.subject, suite.provider, suite.ask, suite.deployment


@pytest.fixture(scope="module")
def make_subject(real_cloud: Cloud) -> MakeSubject:
    return partial(openstack.subject, real_cloud)
