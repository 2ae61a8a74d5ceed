"""Errors whose message is enough: for problems that a user can fix, that pass by themselves, and for faults."""

from collections.abc import Mapping

REASONS_TOLD = 3


class UserError(Exception):
    """An input, setting or the environment is invalid; the message says what is wrong, and what to do.

    The command line prints the message alone and exits with code 2.

    Example:
        >>> try:
        ...     load_detector("no/such/folder")
        ... except UserError as error:
        ...     print(error)  # doctest: +SKIP
    """


class TryLater(UserError):
    """Nothing needs to be changed: the same command works later, such as when another run has ended.

    The command line exits with code 75, which schedulers know as a temporary failure.
    """


class Fault(UserError):
    """Work failed for a reason that neither another input nor waiting mends; the command line exits with code 1."""


def first_reasons(problems: Mapping[str, str]) -> str:
    """Join the first `REASONS_TOLD` reasons by location for an error message.

    Example:
        >>> first_reasons({"a.png": "damaged", "b.png": "0 bytes"})
        'a.png: damaged; b.png: 0 bytes'
    """
    return "; ".join(f"{location}: {reason}" for location, reason in list(problems.items())[:REASONS_TOLD])


def counted(count: int, thing: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "problem"), counted(3, "problem")
        ('1 problem', '3 problems')
    """
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def percent(share: float | None) -> str:
    """A share or a change as a percentage with three significant digits, or whole; a dash where there is none.

    Example:
        >>> percent(0.01234), percent(1.0), percent(12.5), percent(None)
        ('1.23 %', '100 %', '1250 %', '–')
    """
    if share is None:
        return "–"
    return f"{100 * share:.3g} %" if share < 1 else f"{100 * share:.0f} %"
