"""A certificate authority per workflow: who holds none of its keys cannot reach its Dask cluster.

Dask knows no roles: any key of the workflow runs code on its scheduler and workers. So keys are
made by the submitter, for one workflow, in a directory that only they can read; the authority's
own key is never written down.
"""

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scsched.cluster import rundir
from scsched.steps.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Security

_VALID = datetime.timedelta(days=400)
_SKEW = datetime.timedelta(days=1)
"""Clocks of nodes may be behind ours."""
_CA = "ca.pem"
ROLES = ("scheduler", "worker", "client")


def make(directory: Path, *, now: datetime.datetime) -> None:
    """Write `ca.pem` and a certificate and key per role; what is there already is kept."""
    rundir.private(directory)
    if (directory / _CA).is_file():
        return
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("scsched workflow authority")
    ca = _certificate(ca_name, ca_key.public_key(), ca_name, now, ca=True).sign(
        ca_key, hashes.SHA256()
    )
    for role in ROLES:
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _certificate(_name(f"scsched {role}"), key.public_key(), ca_name, now, ca=False)
        _write(directory / f"{role}.pem", _pem(signed.sign(ca_key, hashes.SHA256())))
        _write(directory / f"{role}-key.pem", _key_pem(key))
    _write(directory / _CA, _pem(ca))  # last: its presence says that the set is whole


def security(directory: Path) -> "Security":
    """Dask's settings for every role whose key is in `directory`.

    :raises ConfigError: the keys are missing.
    """
    from distributed import Security

    if not (directory / _CA).is_file():
        raise ConfigError(f"{directory}: holds no keys of a workflow; its driver makes them")
    files = {f"tls_{role}_cert": str(directory / f"{role}.pem") for role in ROLES}
    files |= {f"tls_{role}_key": str(directory / f"{role}-key.pem") for role in ROLES}
    return Security(  # type: ignore[no-untyped-call]
        require_encryption=True, tls_ca_file=str(directory / _CA), **files
    )


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    now: datetime.datetime,
    *,
    ca: bool,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _SKEW,
        not_valid_after=now + _VALID,
    ).add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if ca:
        return builder
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    temporary.replace(path)
