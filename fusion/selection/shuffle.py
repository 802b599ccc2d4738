"""A reproducible random order that belongs to the ids, not to where they stand in a table."""

from hashlib import sha256

import polars as pl


def shuffle_keys(ids: pl.Series, seed: int) -> pl.Series:
    """A key an id: the first 16 hexadecimal digits of SHA-256 of "seed/id". Sort by it to shuffle.

    polars' own hash would be quicker, but it differs between versions.
    """
    digests = [sha256(f"{seed}/{value}".encode()).hexdigest()[:16] for value in ids]
    return pl.Series("shuffle_key", digests, pl.String)
