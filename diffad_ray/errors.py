"""The one error that a user can mend."""

from collections.abc import Mapping

REASONS_TOLD = 3


class UserError(Exception):
    """Something outside the code is not as it must be; the message says what, and what to do.

    The command line prints the message alone and exits with code 2.
    """


def first_reasons(problems: Mapping[str, str]) -> str:
    """The first few of the reasons by location, for the message of an error."""
    return "; ".join(f"{location}: {reason}" for location, reason in list(problems.items())[:REASONS_TOLD])
