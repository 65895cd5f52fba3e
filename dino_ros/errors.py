"""The one exception for everything a user can fix."""


class UserError(Exception):
    """Bad input: a file, topic, parameter or message that cannot be used.

    The text is one sentence that names the thing, says what is wrong with it and what to do. Commands print it and exit
    with code 2; nodes log it as a warning and go on with the next message.
    """
