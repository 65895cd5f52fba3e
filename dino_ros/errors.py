"""The one exception for everything a user can fix, and how its sentences name things."""

from __future__ import annotations

import reprlib


class UserError(Exception):
    """Bad input: a file, topic, parameter or message that cannot be used.

    The text is one sentence that names the thing, says what is wrong with it and what to do. Commands print it and exit
    with code 2; nodes log it as a warning and go on with the next message.
    """


def quoted(text: str) -> str:
    """Text from outside, to stand in a sentence: in quotes, escaped where it is not printable, shortened if long."""
    shortener = reprlib.Repr()
    shortener.maxstring = LONGEST
    return shortener.repr(text)


LONGEST = 200
"""Most characters that `quoted` leaves of a text: a message may hold a name that would fill the log."""
