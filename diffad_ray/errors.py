"""The one error that a user can mend."""


class UserError(Exception):
    """Something outside the code is not as it must be; the message says what, and what to do.

    The command line prints the message alone and exits with code 2.
    """
