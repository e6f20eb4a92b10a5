"""OpenSSF model signatures over an export's files (package `model-signing`, extra `oms`).

That package takes no Ed25519 keys, which nodes sign statements with. It takes P-256 keys with certificates:
so the node signs with its TLS key, whose certificate the swarm's CA issued. A certificate that has expired
since still verifies: the package looks at the time from which it was valid.
"""

import base64
import binascii
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from swarm.domain.errors import NotAuthorisedError, SwarmError, UsageError, VerificationError
from swarm.domain.ids import SwarmId
from swarm.domain.membership import Caller
from swarm.trust.certificates import peer_caller
from swarm.trust.identity import Identity

SIGNATURE_FILE: Final = "model.sig"
_INSTALL: Final = "pip install 'swarm[oms]'"


def check_can_sign(identity: Identity) -> None:
    """Raise UsageError where the package is missing, NotAuthorisedError for others than nodes."""
    if identity.role != "node":
        raise NotAuthorisedError(
            "--sign",
            found=f"a home of {identity.role} {identity.id}",
            expected="a node's, whose certificate signs",
            remedy="export it from a node's home: --home DIR",
        )
    if not is_installed():
        raise UsageError(
            "--sign", found="no package model-signing", expected="the extra oms", remedy=_INSTALL
        )


def is_installed() -> bool:
    """Say whether signatures can be made and verified here."""
    from importlib.util import find_spec

    return find_spec("model_signing") is not None and find_spec("OpenSSL") is not None


def sign_folder(folder: Path, identity: Identity) -> None:
    """Write `model.sig` over all other files of folder, by the identity's TLS key and certificate."""
    signing = _package("signing")
    part = identity.folder
    config = signing.Config().use_certificate_signer(
        private_key=part / "key.pem",
        signing_certificate=part / "certificate.pem",
        certificate_chain=[part / "ca.pem"],
    )
    config.set_hashing_config(_hashing(folder)).sign(folder, folder / SIGNATURE_FILE)


def verify_folder(folder: Path, ca_pem: bytes, swarm: SwarmId) -> Caller:
    """Return which member of the swarm with this CA signed folder's files.

    Raises VerificationError where a file is another or the signature not of a member.
    """
    subject = str(folder / SIGNATURE_FILE)
    if not (folder / SIGNATURE_FILE).is_file():  # a pipe or a device might never end
        raise VerificationError(subject, found="no regular file", expected="a signature")
    verifying = _package("verifying")
    try:
        with tempfile.NamedTemporaryFile(suffix=".pem") as chain:
            chain.write(ca_pem)
            chain.flush()
            verifier = verifying.Config().use_certificate_verifier(certificate_chain=[Path(chain.name)])
            verifier.verify(folder, folder / SIGNATURE_FILE)
        return peer_caller(_signing_certificate(folder / SIGNATURE_FILE), swarm)
    except SwarmError as error:
        raise VerificationError(subject, found=error.found, expected=error.expected) from error
    except Exception as error:
        raise VerificationError(
            subject,
            found=f"a signature that does not verify ({str(error)[:160]})",
            expected="one by a member, over the files as they are",
            remedy="get the folder again from who exported it",
        ) from error


def _hashing(folder: Path) -> Any:
    return _package("hashing").Config().set_ignored_paths(paths=[folder / SIGNATURE_FILE])


def _signing_certificate(signature: Path) -> bytes:
    """Return the certificate, PEM, that a verified signature was made with."""
    try:
        chain = json.loads(signature.read_bytes())["verificationMaterial"]["x509CertificateChain"]
        der = base64.b64decode(chain["certificates"][0]["rawBytes"])
        return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    except (ValueError, KeyError, IndexError, TypeError, binascii.Error) as error:
        raise VerificationError(str(signature), found="no certificate", expected="the signer's") from error


def _package(name: str) -> Any:
    from importlib import import_module

    return import_module(f"model_signing.{name}")
