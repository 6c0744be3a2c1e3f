"""Whose request it is."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from mas_sandbox.policy.default import completed
from mas_sandbox.policy.principals import hash_token

from .calls import Caller

if TYPE_CHECKING:
    from mas_sandbox.policy.file import PolicyFile
    from mas_sandbox.policy.model import Policy

MAX_HEADER_CHARS = 4096


class Authenticator:
    """Bearer tokens (RFC 6750) to principals.

    The daemon's own token is the principal `default`, the policy file's tokens are its
    principals; both are compared on every try. With neither, everyone is `local`: the
    listening address is then a loopback one (see `listen`). `default` is
    the policy of both, None for the shipped one. What a policy of the file never
    mentions is as in `base`.
    """

    def __init__(
        self,
        base: Policy,
        default: Policy | None = None,
        token: str | None = None,
        file: PolicyFile | None = None,
    ) -> None:
        self._default = Caller("default", default)
        self._token_hash = hash_token(token) if token else None
        self._principals = file.principals if file and len(file.principals) else None
        self._completed = {
            policy: completed(policy, base) for policy in (file.policies.values() if file else ())
        }
        self.local = Caller("local", default)

    @property
    def required(self) -> bool:
        """Whether a request must carry a token."""
        return self._token_hash is not None or self._principals is not None

    def authenticate(self, authorization: str | None) -> Caller | None:
        """The principal of an `Authorization` header, None where it is nobody's."""
        if not self.required:
            return self.local
        token = _bearer(authorization)
        if token is None:
            return None
        own = hmac.compare_digest(hash_token(token), self._token_hash or "")
        named = self._principals.authenticate(token) if self._principals else None
        if own:
            return self._default
        return Caller(named.name, self._completed[named.policy]) if named else None


def _bearer(authorization: str | None) -> str | None:
    if authorization is None or len(authorization) > MAX_HEADER_CHARS:
        return None
    scheme, _, token = authorization.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token or not token.isascii():
        return None
    return token
