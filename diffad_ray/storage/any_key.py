"""S3 objects with any key, through botocore; obstore is faster, but refuses some keys and listings that have them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC
from functools import cached_property
from typing import Any, NamedTuple

from diffad_ray.storage.s3 import botocore_client
from diffad_ray.storage.settings import StorageSettings

REFUSED = re.compile(r"[\x00-\x1f\x7f]|^/|//|/\Z|(?:^|/)\.\.?(?:/|\Z)")
"""Keys that obstore 0.12 refuses (ASCII control characters, empty parts, parts `.` and `..`) or changes (it drops a
leading and a trailing slash)."""


def is_refused(key: str) -> bool:
    return REFUSED.search(key) is not None


class Answer(NamedTuple):
    """The response to a read, with obstore's interface."""

    meta: dict[str, Any]
    body: Any

    def bytes(self) -> bytes:
        return self.body.read()


class AnyKeyClient:
    """The part of obstore's interface that `ObjectStore` uses, implemented by botocore.

    Each request is tried once. Folder markers, whose keys end in a slash, are not listed.
    """

    def __init__(self, bucket: str, settings: StorageSettings):
        self.settings = settings
        self.common = {"Bucket": bucket} | ({"RequestPayer": "requester"} if settings.s3.requester_pays else {})

    @cached_property
    def client(self) -> Any:
        return botocore_client(self.settings)  # imports botocore, which few archives need

    def get(self, key: str) -> Answer:
        answer = self.client.get_object(Key=key, **self.common)
        return Answer(_meta(key, answer["ContentLength"], answer), answer["Body"])

    def head(self, key: str) -> dict[str, Any]:
        answer = self.client.head_object(Key=key, **self.common)
        return _meta(key, answer["ContentLength"], answer)

    def put(self, key: str, data: bytes, mode: str = "overwrite") -> None:
        condition = {"IfNoneMatch": "*"} if mode == "create" else {}
        self.client.put_object(Key=key, Body=data, **condition, **self.common)

    def delete(self, key: str) -> None:
        self.client.delete_object(Key=key, **self.common)

    def page(self, prefix: str, after: str) -> tuple[list[dict[str, Any]], str, bool]:
        """Return the next objects below a prefix after a key, the last listed key, and whether there are more."""
        for answer in self._pages(Prefix=prefix, StartAfter=after):
            if listed := answer.get("Contents"):
                return _metas(listed), listed[-1]["Key"], answer["IsTruncated"]
        return [], after, False

    def list_with_delimiter(self, prefix: str) -> dict[str, Any]:
        folders: list[str] = []
        objects: list[dict[str, Any]] = []
        for answer in self._pages(Prefix=prefix, Delimiter="/"):
            folders += [folder["Prefix"].removesuffix("/") for folder in answer.get("CommonPrefixes", [])]
            objects += _metas(answer.get("Contents", []))
        return {"common_prefixes": folders, "objects": objects}

    def _pages(self, **arguments: str) -> Any:
        # botocore requests keys in URL encoding, because XML can't contain all characters.
        return self.client.get_paginator("list_objects_v2").paginate(**arguments, **self.common)


def _metas(listed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_meta(entry["Key"], entry["Size"], entry) for entry in listed if not entry["Key"].endswith("/")]


def _meta(key: str, size: int, answer: dict[str, Any]) -> dict[str, Any]:
    modified = answer["LastModified"].astimezone(UTC)
    return {"path": key, "size": size, "e_tag": answer.get("ETag"), "last_modified": modified}
