"""A certificate authority per workflow: who holds none of its keys cannot reach its Dask cluster.

Dask knows no roles: any key of the workflow runs code on its scheduler and workers. So keys are
made by the submitter, for one workflow, in a directory that only they can read; the authority's
own key is never written down.
"""

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scsched.cluster import rundir
from scsched.steps.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Security

_VALID = datetime.timedelta(days=400)
_SKEW = datetime.timedelta(days=1)
"""Clocks of nodes may be behind ours."""
_CA = "ca.pem"
ROLES = ("scheduler", "worker", "client")
NODE_FILES = (_CA, "worker.pem", "worker-key.pem")
"""All that a node of another machine is given."""


@dataclass(frozen=True, slots=True)
class _Issuer:
    name: str
    key: ec.EllipticCurvePrivateKey


def make(directory: Path, *, now: datetime.datetime) -> None:
    """Write `ca.pem` and a certificate and key per role; what is there already is kept."""
    rundir.private(directory)
    if (directory / _CA).is_file():
        return
    issuer = _Issuer("scsched workflow authority", ec.generate_private_key(ec.SECP256R1()))
    ca = _certificate(issuer.name, issuer.key.public_key(), issuer, now)
    for role in ROLES:
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _certificate(f"scsched {role}", key.public_key(), issuer, now)
        _write(directory / f"{role}.pem", _pem(signed))
        _write(directory / f"{role}-key.pem", _key_pem(key))
    _write(directory / _CA, _pem(ca))  # last: its presence says that the set is whole


def security(directory: Path) -> "Security":
    """Dask's settings for every role whose key is in `directory`.

    :raises ConfigError: the keys are missing.
    """
    from distributed import Security

    if not (directory / _CA).is_file():
        raise ConfigError(f"{directory}: holds no keys of a workflow; its driver makes them")
    # A node of another machine has the worker's key alone.
    roles = [role for role in ROLES if (directory / f"{role}-key.pem").is_file()]
    files = {f"tls_{role}_cert": str(directory / f"{role}.pem") for role in roles}
    files |= {f"tls_{role}_key": str(directory / f"{role}-key.pem") for role in roles}
    return Security(  # type: ignore[no-untyped-call]
        require_encryption=True, tls_ca_file=str(directory / _CA), **files
    )


def self_signed(*, now: datetime.datetime) -> tuple[bytes, bytes, str]:
    """Certificate and key in PEM, and the certificate's fingerprint, for who is known by it."""
    issuer = _Issuer("scsched desk", ec.generate_private_key(ec.SECP256R1()))
    made = _certificate(issuer.name, issuer.key.public_key(), issuer, now)
    return _pem(made), _key_pem(issuer.key), made.fingerprint(hashes.SHA256()).hex()


def store(directory: Path, files: "Mapping[str, str]") -> None:
    """Keep keys that were fetched, as `make` leaves them; `ca.pem` last."""
    rundir.private(directory)
    for name in sorted(files, key=lambda name: name == _CA):
        _write(directory / name, files[name].encode())


def _certificate(
    subject: str, key: ec.EllipticCurvePublicKey, issuer: _Issuer, now: datetime.datetime
) -> x509.Certificate:
    """With the extensions that OpenSSL's strict mode, Python 3.13's default, wants to see."""
    own = issuer.key.public_key() == key
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        x509.CertificateBuilder(
            subject_name=_name(subject),
            issuer_name=_name(issuer.name),
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - _SKEW,
            not_valid_after=now + _VALID,
        )
        .add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
        .add_extension(_key_usage(signs=own), critical=True)
    )
    if not own:
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


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
