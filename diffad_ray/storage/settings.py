"""Settings of access to stores, timeouts and retries: the section `[storage]` of a settings file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

S3_SCHEMES = ("s3", "s3a")


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """Endpoint and identity for S3; values that are not set come from the environment, as with other S3 clients.

    Keys are not settings; they come from the environment, a profile or the machine's role.

    Attributes:
        endpoint_url: server instead of AWS, such as "https://minio.plant:9000"; http:// is allowed.
        region: region of the buckets.
        profile: section of ~/.aws/config and ~/.aws/credentials with keys, and optionally region and endpoint.
        anonymous: whether to send unsigned requests, as for public buckets.
        requester_pays: whether to accept the costs of requester-pays buckets.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    requester_pays: bool = False

    def __post_init__(self) -> None:
        for name in ("endpoint_url", "region", "profile"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} must not be empty; leave it out instead")
        if self.endpoint_url and not self.endpoint_url.startswith(("http://", "https://")):
            raise ValueError("endpoint_url must start with https:// or http://")
        if self.endpoint_url and "@" in self.endpoint_url:
            raise ValueError("endpoint_url must not hold credentials; use a profile or the environment")
        if self.anonymous and self.profile:
            raise ValueError("anonymous requests take no profile: set one of the two")


@dataclass(frozen=True, kw_only=True)
class StorageSettings:
    """Settings of access to files and objects; the defaults suit most stores.

    Attributes:
        timeout: seconds without a response after which a request fails. For an upload, this is the time per 5 MB, or
            for the whole upload if it must not replace an object.
        attempts: largest number of attempts of a request that fails temporarily, with growing pauses of up to 10 s.
        requests: largest number of concurrent requests of a process.
        s3: endpoint and identity for S3.
        options: arguments of fsspec's file systems by URI scheme, such as {"sftp": {"username": "plant"}}.
    """

    timeout: float = 30.0
    attempts: int = 5
    requests: int = 64
    s3: S3Settings = field(default_factory=S3Settings)
    options: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)  # may hold passwords

    def __post_init__(self) -> None:
        if not 0 < self.timeout < math.inf:
            raise ValueError("timeout must be a number of seconds above 0")
        if self.attempts < 1:
            raise ValueError("attempts must be at least 1")
        if self.requests < 1:
            raise ValueError("requests must be at least 1")
        for scheme in S3_SCHEMES:
            if scheme in self.options:
                raise ValueError(f"options can't be set for {scheme}: set s3 instead")
