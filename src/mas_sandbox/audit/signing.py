"""The Ed25519 key of a log's checkpoints (RFC 8032), and the file that holds it.

PEM as `openssl genpkey -algorithm ed25519` writes it: PKCS #8 for the key, and beside it
SubjectPublicKeyInfo for what verifies it. `cryptography` is imported when a key is needed:
it takes longer than a call.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from .key import make_secret, secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

KEY_NAME = "audit-signing.key"
PUBLIC_NAME = "audit-signing.pub"
_MOST = 4096


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The key, made on first use. Raises OSError where the file is not a key that only we
    can read."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    text = secret(path, _MOST)
    if text is None:
        made = Ed25519PrivateKey.generate()
        encoded = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        text = make_secret(path, encoded)
    try:
        key = load_pem_private_key(text, None)
    except (ValueError, TypeError) as error:
        raise OSError(f"{path} is not a private key in PEM; move it away") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise OSError(f"{path} is not an Ed25519 key; move it away")
    return key


def write_public(key: Ed25519PrivateKey, path: Path) -> None:
    """The public half, where it is not there. It is no secret, and proves nothing beside the
    log: whoever verifies has a copy of it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if not path.exists():
        public = key.public_key()
        make_secret(path, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def public_key(path: Path) -> Ed25519PublicKey:
    """Raises OSError where the file cannot be read, ValueError where it is no such key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    with path.open("rb") as file:
        text = file.read(_MOST)
    try:
        key = load_pem_public_key(text)
    except ValueError as error:
        raise ValueError(f"{path} is not a public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path} is not an Ed25519 key")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256, hex, over the 32 bytes of a public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()
