# mypy: ignore-errors
# ruff: noqa
"""A real Nova (API, conductor, scheduler, compute with Nova's fake driver) in one process.

Runs in the environment of `requirements.txt`, not in ours. Placement is real too; Glance and
Neutron are the ones of Nova's own functional tests.

nova_server.py DIRECTORY PUBLIC_PORT: prints the port it listens on, serves until it is killed. It
asks Keystone at PUBLIC_PORT who a caller is.
"""

import json
import os
import socketserver
import sys
import traceback
import warnings
from pathlib import Path
from wsgiref import simple_server

os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "1"

from nova import monkey_patch

monkey_patch.patch(backend="threading")


from neutronclient.common import exceptions as neutron_errors
from nova import conf, test
from nova.api import wsgi
from nova.api.openstack import wsgi_app
from nova.tests import fixtures as nova_fixtures
from nova.tests.functional import fixtures as functional_fixtures

CONF = conf.CONF


class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True

    def server_bind(self):  # the original asks DNS for the host's name
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]
        self.setup_environ()


class Handler(simple_server.WSGIRequestHandler):
    def log_message(self, format, *args):
        pass


class Neutron(nova_fixtures.NeutronFixture):
    """Nova's own, and what its tests do not ask: a security group by name, for any project."""

    def list_security_groups(self, retrieve_all=True, **wanted):
        wanted.pop("tenant_id", None)
        return super().list_security_groups(retrieve_all, **wanted)

    def find_resource(self, resource, name_or_id, *args, **kwargs):
        if name_or_id in (self.security_group["id"], self.security_group["name"]):
            return self.security_group
        raise neutron_errors.NotFound(message=f"{resource} {name_or_id}")


class Cloud(test.TestCase):
    """Nova's own base of functional tests makes the databases, cells and message bus."""

    REQUIRES_LOCKING = True

    def runTest(self):
        warnings.simplefilter("ignore")  # Nova's tests make errors of those of newer libraries
        self.placement = self.useFixture(functional_fixtures.PlacementFixture())
        self.neutron = self.useFixture(Neutron(self))
        self.cinder = self.useFixture(nova_fixtures.CinderFixture(self))
        self.glance = self.useFixture(nova_fixtures.GlanceFixture(self))
        self.useFixture(nova_fixtures.RealPolicyFixture())
        self.flags(transport_url=self.cell_mappings["cell1"].transport_url)
        self.flags(compute_driver="fake.MediumFakeDriver")
        self.start_service("conductor")
        self.start_service("scheduler")
        self._start_compute("compute")
        self._start_compute("compute2")
        self.serve()

    def serve(self):
        public_port = int(sys_arguments[1])
        self.flags(compute_link_prefix=f"http://127.0.0.1:{public_port}/compute", group="api")
        paste = Path("api-paste.ini")
        paste.write_text(
            (Path(sys.prefix) / "etc/nova/api-paste.ini").read_text()
            + f"www_authenticate_uri = http://127.0.0.1:{public_port}/identity\n"
            f"auth_url = http://127.0.0.1:{public_port}/identity/v3\nauth_type = password\n"
            "username = admin\npassword = admin\nproject_name = admin\n"
            "user_domain_id = default\nproject_domain_id = default\n"
        )
        self.flags(api_paste_config=str(paste.resolve()), group="wsgi")
        application = wsgi.Loader().load_app("osapi_compute")
        wsgi_app._setup_service(CONF.host, "osapi_compute")
        server = simple_server.make_server("127.0.0.1", 0, application, Server, Handler)
        print(json.dumps({"port": server.server_address[1]}), file=sys.__stdout__, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    sys_arguments, sys.argv[1:] = sys.argv[1:], []
    os.umask(0o077)
    os.chdir(sys_arguments[0])
    try:
        cloud = Cloud()
        cloud.setUp()
        cloud.runTest()
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)  # Nova's threads would keep the process
