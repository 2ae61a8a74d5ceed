"""How stores are reached and how patient we are with them: the section `[storage]` of a settings file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

S3_SCHEMES = ("s3", "s3a")


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """Where S3 is and as whom to ask; what is not set comes from the environment, as with other S3 clients.

    Keys are no settings: they come from the environment, a profile or the machine's role.

    Attributes:
        endpoint_url: server instead of AWS, as in "https://minio.plant:9000"; http:// is possible.
        region: region of the buckets.
        profile: section of ~/.aws/config and ~/.aws/credentials that gives keys, and maybe region and endpoint.
        anonymous: do not sign requests, as public buckets allow.
        requester_pays: accept that the requester pays for what is read.
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
    """How files and objects are reached; the defaults fit most stores.

    Attributes:
        timeout: seconds without an answer after which a request has failed; an upload is given as long for each 5 MB,
            or in whole where it must not replace anything.
        attempts: times that a request is tried when it fails in passing, with growing pauses of up to 10 s.
        requests: most requests of a process at the same time.
        s3: where S3 is and as whom to ask.
        options: arguments of fsspec's file system by URI scheme, as in {"sftp": {"username": "plant"}}.
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
