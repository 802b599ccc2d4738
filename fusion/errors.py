"""The one family of errors that a user can mend."""


class CrucibleError(Exception):
    """One sentence for the user: what was given, what was expected, what to do."""


class BadInputError(CrucibleError):
    """The recipe, a file or an option is wrong; the command line ends with exit code 2."""


class DoesNotFitError(BadInputError):
    """The recipe asks for more than the machine or cluster holds."""
