"""Converts S3 settings to arguments of clients: obstore, botocore for keys that obstore refuses, s3fs for DuckDB."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from diffad_ray.errors import UserError
from diffad_ray.storage.settings import S3Settings, StorageSettings

KEYS_LIFETIME = timedelta(minutes=10)
"Assumed lifetime of keys: obstore renews keys 5 minutes before they expire, botocore returns ones valid for 10."


def obstore_arguments(s3: S3Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arguments of obstore's store, and of its HTTP client.

    Raises:
        PermissionError: the profile has no keys.
        UserError: settings and environment name different endpoints; obstore would use the one in the environment.
    """
    # The order is botocore's: a profile in the settings precedes keys in the environment, which precede AWS_PROFILE.
    profile = s3.profile or (os.environ.get("AWS_PROFILE") if "AWS_ACCESS_KEY_ID" not in os.environ else None)
    config: dict[str, Any] = {}
    arguments: dict[str, Any] = {"config": config}
    found: dict[str, str] = {}
    if profile and not s3.anonymous:
        arguments["credential_provider"], found = _profile(profile)
    endpoint, region = _endpoint(s3) or found.get("endpoint_url"), _region(s3) or found.get("region")
    if endpoint:
        config["endpoint"] = endpoint
    if region:
        config["region"] = region
    if s3.anonymous:
        config["skip_signature"] = True
    if s3.requester_pays:
        config["request_payer"] = True
    if endpoint and os.environ.get("AWS_ENDPOINT_URL_S3", endpoint) != endpoint:
        # obstore has no option to override this variable.
        raise UserError("AWS_ENDPOINT_URL_S3 in the environment would win over [storage.s3] endpoint_url: unset it")
    return arguments, {"allow_http": True} if endpoint and endpoint.startswith("http://") else {}


def s3fs_arguments(settings: StorageSettings) -> dict[str, Any]:
    """Return equivalent arguments of s3fs, which itself reads keys from the environment."""
    s3, region = settings.s3, _region(settings.s3)
    return {
        "anon": s3.anonymous,
        "profile": s3.profile,
        "endpoint_url": _endpoint(s3),
        "requester_pays": s3.requester_pays,
        "client_kwargs": {"region_name": region} if region else {},
        "config_kwargs": {
            "connect_timeout": settings.timeout,
            "read_timeout": settings.timeout,
            "retries": {"mode": "standard", "total_max_attempts": settings.attempts},
        },
    }


def botocore_client(settings: StorageSettings) -> Any:
    """Create an equivalent botocore client that tries each request once.

    Raises:
        botocore.exceptions.BotoCoreError: the profile is missing.
    """
    import botocore.config
    import botocore.session

    config = botocore.config.Config(
        connect_timeout=settings.timeout,
        read_timeout=settings.timeout,
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=settings.requests,
        signature_version=botocore.UNSIGNED if settings.s3.anonymous else None,
    )
    session = botocore.session.Session(profile=settings.s3.profile)
    return session.create_client(
        "s3", region_name=_region(settings.s3), endpoint_url=_endpoint(settings.s3), config=config
    )


def _endpoint(s3: S3Settings) -> str | None:
    return s3.endpoint_url or _environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def _region(s3: S3Settings) -> str | None:
    return s3.region or _environment("AWS_REGION", "AWS_DEFAULT_REGION")


def _environment(*names: str) -> str | None:
    """Return the value of the first variable that is set; the clients read different ones."""
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _profile(profile: str) -> tuple[Callable[[], dict[str, Any]], dict[str, str]]:
    """Return a function that returns the current keys of an AWS profile, and the profile's settings."""
    import botocore.exceptions
    import botocore.session

    def keys() -> dict[str, Any]:
        # A new session per call, because other tools rewrite the profile files.
        found = botocore.session.Session(profile=profile).get_credentials()
        if found is None:
            raise PermissionError(f"the AWS profile {profile} gives no keys")
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + KEYS_LIFETIME,
        }

    try:
        keys()
        return keys, botocore.session.Session(profile=profile).get_scoped_config()
    except botocore.exceptions.BotoCoreError as error:
        raise PermissionError(f"the AWS profile {profile} can't be used: {error}") from None
