"""Paths and texts as a person writes them."""

import os

from fusion.errors import BadInputError


def is_storable(text: str) -> bool:
    """Whether a path and a file can hold it: it has no NUL and no half of a surrogate pair."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def expand_home(text: str) -> str:
    """The path with the home folder in place of a leading `~` or `~user`.

    Raises:
        BadInputError: nobody is called so.
    """
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        user = text.partition("/")[0]
        raise BadInputError(
            f"{text} begins with {user}, and there is no such user here; give the whole path, or "
            f"./{text} for a name that begins so."
        )
    return expanded
