"""Converts failures of stores to OSErrors with a message of one line without secrets."""

from __future__ import annotations

import errno
import re

LONGEST = 300
"Largest number of characters of a message."
SLOW_DOWN_CODES = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "ServerBusy",
}
PASSING_CODES = {"RequestTimeout", "InternalError", "OperationAborted", "ConditionalRequestConflict"}
ARCHIVED_CODES = {"InvalidObjectState", "BlobArchived"}
"Error codes for archived objects of S3 (HTTP 403) and Azure (HTTP 409)."
IMPOSSIBLE_CODES = {"KeyTooLongError", "InvalidURI", "InvalidBucketName", "InvalidUri", "InvalidResourceName"}
EXPIRED_CODES = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})")
TIER = re.compile(r"<(?:StorageClass|AccessTier)>(\w+)</")
CODE = re.compile(r"<Code>(\w+)</Code>")
MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
BROKEN = re.compile(r"HttpError \{ kind: (\w+)")
CAUSE = re.compile(r'(?:message|error): "?([\w ]{4,})')
BAD_CHARACTER = "Got invalid list response: invalid character reference"
"obstore's error for a key with a character that XML can't contain, such as NUL."
NAMED_PATH = re.compile(r'Path "(.*?)"(?:: | contained )', re.DOTALL)
METADATA = re.compile(r"http://(169\.254\.\d+\.\d+|metadata\.google\.internal)\b")
"""Where clouds give machines credentials, which clients ask when neither environment nor files have any. That it fails
is no matter of the store: most machines are in no cloud."""
NO_CREDENTIALS = (
    "the store refuses access: there are no credentials for it in the environment, in files or from the cloud"
)
BAD_URL = re.compile(r"URL error|invalid .*domain|empty host|invalid port|relative URL")
URL = re.compile(r"(https?://)(?:[^/\s@]*@)?([^/\s?]+)[^\s\"']*")


class Unavailable(OSError):
    """The store could not answer; a retry may succeed."""


class SlowDown(Unavailable):
    """The store asks for fewer requests."""


def may_pass(error: BaseException) -> bool:
    """Return whether a store failed in a way that may pass by itself, so that the same request can succeed later.

    Example:
        >>> may_pass(TimeoutError("no answer")), may_pass(PermissionError("refused"))
        (True, False)
    """
    return isinstance(error, Unavailable | TimeoutError)


class Impossible(OSError):
    """The location can't be read, and retries won't help: it is invalid, or no client can read it."""


class RefusedKey(Impossible):
    """obstore refuses the key; the object itself may be intact."""


class Archived(OSError):
    """The object is in an archive tier, and must be restored before it can be read."""


class Changed(FileNotFoundError):
    """The object was replaced since it was listed."""


def described(location: str, reason: str) -> str:
    """Return a message of one line and at most 300 characters; long locations are shortened in the middle."""
    if location.startswith("http"):
        location = location.partition("?")[0]  # the query of a signed URL contains its signature
    if len(location) > LONGEST // 2:
        location = f"{location[:60]}…{location[-80:]}"
    text = " ".join(f"{location}: {reason}".split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def without_secrets(text: str) -> str:
    """Reduce URLs in a text to their scheme and host, because the other parts may contain passwords and signatures."""
    return URL.sub(r"\1\2", text)


def refused_key(location: str, key: str) -> RefusedKey:
    reason = (
        "keys with control characters, or with parts that are empty, `.` or `..`, we take of S3's buckets only: rename"
    )
    return RefusedKey(described(location, f"{reason} {key!r}"))


def from_status(status: int, code: str, reason: str, location: str, tier: str = "") -> OSError:
    """Convert an HTTP status and the store's error code to an OSError; `tier` is the tier of an archived object."""
    if code in ARCHIVED_CODES:
        return Archived(
            described(location, f"archived ({tier}): restore it first" if tier else "archived: restore it first")
        )
    if status == 414 or code in IMPOSSIBLE_CODES:
        return Impossible(described(location, reason))
    if status == 404:
        return FileNotFoundError(described(location, "no such bucket" if code == "NoSuchBucket" else "not found"))
    if status in (401, 403) or code in EXPIRED_CODES:
        return PermissionError(described(location, f"the store refuses access: {reason}"))
    if status in (429, 503) or code in SLOW_DOWN_CODES:
        return SlowDown(described(location, reason))
    if status in (408, 500, 502, 504) or code in PASSING_CODES:
        return Unavailable(described(location, reason))
    return OSError(described(location, reason))


def from_obstore(error: Exception, location: str) -> OSError:
    """Convert an obstore error to an OSError; most failures differ in their text alone."""
    from obstore import exceptions

    text = " ".join(str(error).split())
    summary, _, debug = text.partition(" Debug source: ")
    if isinstance(error, exceptions.InvalidPathError) or BAD_CHARACTER in summary:
        named = NAMED_PATH.search(str(error))
        return refused_key(location, named[1] if named else "what is there")
    if METADATA.search(summary):
        return PermissionError(described(location, NO_CREDENTIALS))
    status, code, message = (pattern.search(summary) for pattern in (STATUS, CODE, MESSAGE))
    if isinstance(error, exceptions.AlreadyExistsError | exceptions.PreconditionError) and not (
        code and code[1] in ARCHIVED_CODES
    ):
        if code and code[1] in PASSING_CODES:  # a conflict of concurrent requests, not an existing object
            return Unavailable(described(location, code[1]))
        return FileExistsError(described(location, "exists already"))
    if status or code:
        # The rest of the response is not shown, because S3 repeats tokens and signed strings in it.
        parts = [f"HTTP {status[1]}" if status else "", code[1] if code else "", message[1] if message else ""]
        reason = " ".join(part for part in parts if part)
        tier = TIER.search(summary)
        answered = int(status[1]) if status else 200
        return from_status(answered, code[1] if code else "", reason, location, tier[1] if tier else "")
    if isinstance(error, FileNotFoundError | exceptions.NotFoundError):
        return FileNotFoundError(described(location, "not found"))
    if isinstance(error, PermissionError | exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return PermissionError(described(location, f"the store refuses access: {without_secrets(summary)}"))
    if broken := BROKEN.search(debug):
        if broken[1] == "Timeout":
            return TimeoutError(described(location, "no answer in time"))
        causes = CAUSE.findall(debug)
        return Unavailable(described(location, f"the connection failed: {causes[-1] if causes else broken[1]}"))
    failure = Impossible if BAD_URL.search(summary) else OSError
    return failure(described(location, without_secrets(summary)))


def from_botocore(error: Exception, location: str) -> OSError:
    """Convert a botocore error, with or without a response of the store, to an OSError."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code, message = (error.response["Error"].get(name, "") for name in ("Code", "Message"))
        if status == 412:
            return FileExistsError(described(location, "exists already"))
        tier = error.response["Error"].get("StorageClass") or error.response["Error"].get("AccessTier") or ""
        return from_status(status, code, f"HTTP {status} {code} {message}", location, tier)
    if isinstance(error, exceptions.ConnectTimeoutError | exceptions.ReadTimeoutError):
        return TimeoutError(described(location, "no answer in time"))
    reason = without_secrets(str(error))
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError | exceptions.IncompleteReadError):
        return Unavailable(described(location, f"the connection failed: {reason}"))
    if isinstance(error, exceptions.NoCredentialsError | exceptions.CredentialRetrievalError):
        return PermissionError(described(location, f"the store refuses access: {reason}"))
    return OSError(described(location, reason))


def from_fsspec(error: Exception, location: str) -> OSError:
    """Convert an exception of an fsspec file system or its client to an OSError.

    HTTP errors are known by an integer attribute `status`. What is not known is `Unavailable`, and is tried again.
    """
    reason = f"{type(error).__name__}: {without_secrets(str(error))}"
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return from_status(status, "", reason, location)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(described(location, "not found"))
    if isinstance(error, PermissionError):
        return PermissionError(described(location, f"the store refuses access: {reason}"))
    if isinstance(error, TimeoutError):
        return TimeoutError(described(location, "no answer in time"))
    # Retries don't help against wrong arguments, missing operations, and folders.
    lasting = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, ImportError)
    if isinstance(error, (*lasting, IsADirectoryError, NotADirectoryError, FileExistsError)):
        return Impossible(described(location, reason))
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return Impossible(described(location, reason))
    return Unavailable(described(location, reason))
