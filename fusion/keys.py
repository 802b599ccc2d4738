"""Keys of the endpoint: made once, kept as salted hashes, looked up in constant time.

A key is `crucible-ID-SECRET`. The secret is 256 random bits, so nobody can guess it from its hash
and a fast hash is enough; a slow one would only let a stranger with wrong keys burn our time.
"""

import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationError

from fusion.errors import BadInputError
from fusion.recipe.section import Name, Section
from fusion.store import Location

PREFIX = "crucible"
SALT_BYTES = 16
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]+$")]


class Key(Section):
    """What is kept of a key: whose it is, what it may do, and a hash of its secret."""

    name: Name
    id: Hex
    salt: Hex
    hash: Hex
    sources: tuple[Name, ...] | None = None
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    in_flight: PositiveInt | None = None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def allows(self, source: str) -> bool:
        """Whether this key may ask a source."""
        return self.sources is None or source in self.sources

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        """Whether it opens the endpoint at a moment."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


class Keyring(Section):
    """The keys of an endpoint, revoked ones too."""

    keys: tuple[Key, ...] = ()

    def find(self, token: str) -> Key | None:
        """The key whose secret the token holds, whatever its state; None for a wrong one."""
        _, id_, secret = _parts(token)
        found = next((key for key in self.keys if key.id == id_), _NOBODY)
        matches = hmac.compare_digest(_hash(secret, bytes.fromhex(found.salt)), found.hash)
        return found if matches and found is not _NOBODY else None

    def active(self, name: str) -> Key | None:
        """The key of that name that is not revoked."""
        return next((k for k in self.keys if k.name == name and k.revoked_at is None), None)


@dataclass(frozen=True)
class NewKey:
    """A key as it is kept, and the token that is shown once."""

    key: Key
    token: str


def make_key(
    name: str,
    *,
    sources: tuple[str, ...] | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    in_flight: int | None = None,
    expires_at: datetime | None = None,
) -> NewKey:
    """A new key with a random id, salt and secret.

    Raises:
        BadInputError: a name or limit that a key may not have.
    """
    id_, secret, salt = (
        secrets.token_hex(4),
        secrets.token_urlsafe(32),
        secrets.token_bytes(SALT_BYTES),
    )
    try:
        key = Key(
            name=name,
            id=id_,
            salt=salt.hex(),
            hash=_hash(secret, salt),
            sources=sources,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            in_flight=in_flight,
            created_at=datetime.now(UTC).replace(microsecond=0),
            expires_at=expires_at,
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInputError(f"A key's {field} is not as expected: {first['msg']}.") from None
    return NewKey(key, f"{PREFIX}-{id_}-{secret}")


def with_key(ring: Keyring, key: Key) -> Keyring:
    """The ring and one key more.

    Raises:
        BadInputError: a key of that name is in use.
    """
    if ring.active(key.name):
        raise BadInputError(
            f"There is a key named {key.name} already; revoke it first or choose another name."
        )
    return Keyring(keys=(*ring.keys, key))


def without_key(ring: Keyring, name: str, now: datetime) -> Keyring:
    """The ring with the key of that name revoked.

    Raises:
        BadInputError: no key of that name is in use.
    """
    found = ring.active(name)
    if found is None:
        named = ", ".join(key.name for key in ring.keys if key.revoked_at is None) or "none"
        raise BadInputError(f"There is no key named {name} to revoke; there are: {named}.")
    revoked = found.model_copy(update={"revoked_at": now.replace(microsecond=0)})
    return Keyring(keys=tuple(revoked if key is found else key for key in ring.keys))


def read_keyring(place: Location) -> Keyring:
    """The keys in a file; none where there is no file.

    Raises:
        BadInputError: the file is no keys file.
    """
    try:
        return parse_keyring(place.read_bytes(), origin=str(place))
    except FileNotFoundError:
        return Keyring()


def parse_keyring(data: bytes, *, origin: str) -> Keyring:
    """The keys that a file's bytes hold.

    Raises:
        BadInputError: they are no keys file.
    """
    try:
        return Keyring.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInputError(
            f"{origin} is no keys file ({where}: {first['msg']}); make one with "
            "`crucible keys create NAME`."
        ) from None


def write_keyring(place: Location, ring: Keyring) -> None:
    """Write the keys, whole or not at all."""
    place.write_text(ring.model_dump_json(indent=2, exclude_none=True) + "\n")


def _parts(token: str) -> tuple[str, str, str]:
    prefix, _, rest = token.partition("-")
    id_, _, secret = rest.partition("-")
    return prefix, id_, secret


def _hash(secret: str, salt: bytes) -> str:
    data = secret.encode("utf-8", errors="surrogatepass")
    return blake2b(data, key=salt, digest_size=32).hexdigest()


# Compared with where no id matches, so that an unknown id takes as long as a wrong secret.
_NOBODY = make_key("nobody").key
