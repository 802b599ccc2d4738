"""Who may ask: the keys of a file, read again as it changes."""

import asyncio
import logging
from datetime import UTC, datetime

from fusion.errors import BadInputError
from fusion.keys import Key, Keyring, parse_keyring, read_keyring
from fusion.store import Location
from services.gateway.refusals import RefusedError

READ_EVERY_S = 2.0
log = logging.getLogger("ray.serve")


class Doorkeeper:
    """Opens for the keys of a file; without a file for everybody, who can only be on loopback."""

    def __init__(self, keys_file: str | None) -> None:
        """Read the keys.

        Raises:
            BadInputError: the file is no keys file.
        """
        self._place = Location.of(keys_file) if keys_file else None
        self._ring = read_keyring(self._place) if self._place else Keyring()

    @property
    def needs_key(self) -> bool:
        """Whether a request needs a key at all."""
        return self._place is not None

    async def watch(self) -> None:
        """Read the file again and again, so that a revoked key is dead on every replica."""
        while self._place is not None:
            await asyncio.sleep(READ_EVERY_S)
            await asyncio.to_thread(self.read)

    def read(self) -> None:
        """Take over what the file holds now.

        A deleted file holds no keys. One that cannot be read leaves the keys as they were: the
        storage may come back, and nobody gets in who was not in before.
        """
        assert self._place is not None
        try:
            self._ring = parse_keyring(self._place.read_bytes(), origin=str(self._place))
        except FileNotFoundError:
            self._ring = Keyring()
        except (OSError, BadInputError) as error:
            log.error("The keys file cannot be read (%s).", type(error).__name__)

    def admit(self, headers: list[tuple[bytes, bytes]]) -> Key | None:
        """The key that a request holds; None where no key is needed.

        Raises:
            RefusedError: it holds none that opens.
        """
        if not self.needs_key:
            return None
        key = self._ring.find(_token(headers))
        if key is None:
            raise _closed("This key is not known; check it, or have one made.")
        state = key.state(datetime.now(UTC))
        if state != "valid":
            raise _closed(f"This key is {state}; have a new one made.")
        return key


def _token(headers: list[tuple[bytes, bytes]]) -> str:
    given = [value.decode("latin-1") for name, value in headers if name == b"authorization"]
    if len(given) != 1:
        raise _closed("Send one header Authorization: Bearer KEY.")
    scheme, _, token = given[0].partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _closed("The header Authorization is not Bearer KEY.")
    return token.strip()


def _closed(message: str) -> RefusedError:
    return RefusedError(401, message, code="invalid_api_key")
