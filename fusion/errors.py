"""The one family of errors that a user can mend, and how others are quoted in its sentences."""


class CrucibleError(Exception):
    """One sentence for the user: what was given, what was expected, what to do."""


class BadInputError(CrucibleError):
    """The recipe, a file or an option is wrong; the command line ends with exit code 2."""


class DoesNotFitError(BadInputError):
    """The recipe asks for more than the machine or cluster holds."""


def one_line(error: BaseException) -> str:
    """What an error says, on one line of at most 300 characters; its kind where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
