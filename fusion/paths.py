"""Paths as a person writes them."""

import os

from fusion.errors import BadInputError


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
