# mypy: ignore-errors
# ruff: noqa
"""A real Keystone on 127.0.0.1; runs in the environment of `requirements.txt`, not in ours.

keystone_server.py DIRECTORY PUBLIC_PORT: prints the port it listens on, serves until it is killed.
Its catalog names the services at PUBLIC_PORT, where the fault-making front stands.
"""

import base64
import json
import logging
import os
import socketserver
import sys
import uuid
from pathlib import Path
from wsgiref import simple_server

from keystone.cmd import bootstrap
from keystone.common import provider_api, sql
from keystone.server.flask import core as flask_core

REGION = "box"
SERVICES = {"compute": "/compute/v2.1", "image": "/image", "network": "/network"}
PROVIDERS = provider_api.ProviderAPIs


class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True

    def server_bind(self):  # the original asks DNS for the host's name
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]
        self.setup_environ()


class Handler(simple_server.WSGIRequestHandler):
    def log_message(self, format, *args):
        pass


def main(directory, public_port):
    config = directory / "keystone.conf"
    config.write_text(
        f"[DEFAULT]\nlog_file = {directory}/keystone.log\nuse_stderr = false\n"
        f"public_endpoint = http://127.0.0.1:{public_port}/identity\n"
        f"[database]\nconnection = sqlite:///{directory}/keystone.db\n"
        f"[fernet_tokens]\nkey_repository = {directory}/keys\n"
        f"[fernet_receipts]\nkey_repository = {directory}/keys\n"
        f"[credential]\nkey_repository = {directory}/credential-keys\n"
    )
    for name in ("keys", "credential-keys"):
        (directory / name).mkdir(mode=0o700)
        for number in ("0", "1"):
            key = base64.urlsafe_b64encode(os.urandom(32))
            (directory / name / number).write_bytes(key)
    application = flask_core.initialize_application(name="public", config_files=[str(config)])
    with sql.session_for_write() as session:
        sql.ModelBase.metadata.create_all(session.get_bind())
    populate(f"http://127.0.0.1:{public_port}")
    server = simple_server.make_server("127.0.0.1", 0, application, Server, Handler)
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever()


def populate(url):
    """An administrator, and a lab with a user of its own who may not do more than use the cloud."""
    bootstrap.backends.load_backends = lambda: None  # the application has them loaded
    first = bootstrap.Bootstrapper()
    first.admin_username = first.admin_password = "admin"
    first.project_name = first.admin_role_name = "admin"
    first.service_name, first.region_id = "keystone", REGION
    first.public_url = first.internal_url = first.admin_url = f"{url}/identity/v3"
    first.bootstrap()
    domain = first.default_domain_id
    project = dict(id=new_id(), name="lab", domain_id=domain, enabled=True, description="")
    PROVIDERS.resource_api.create_project(project["id"], project)
    user = dict(name="scientist", password="secret", domain_id=domain, enabled=True)
    made = PROVIDERS.identity_api.create_user(user)
    for role in (first.member_role_id, first.reader_role_id):
        PROVIDERS.assignment_api.add_role_to_user_and_project(made["id"], project["id"], role)
    for kind, path in SERVICES.items():
        service = dict(id=new_id(), type=kind, name=kind, enabled=True)
        PROVIDERS.catalog_api.create_service(service["id"], service)
        endpoint = dict(id=new_id(), service_id=service["id"], interface="public", enabled=True)
        endpoint |= dict(region_id=REGION, url=url + path)
        PROVIDERS.catalog_api.create_endpoint(endpoint["id"], endpoint)


def new_id():
    return uuid.uuid4().hex


if __name__ == "__main__":
    logging.raiseExceptions = False
    os.umask(0o077)
    arguments, sys.argv[1:] = sys.argv[1:], []  # Keystone would read them
    main(Path(arguments[0]), int(arguments[1]))
