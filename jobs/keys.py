"""`crucible keys`: make, list and revoke the endpoint's keys."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.settings import config_folder
from fusion.errors import BadInputError, CrucibleError
from fusion.keys import Key, Keyring, make_key, read_keyring, with_key, without_key, write_keyring
from fusion.store import Location

app = typer.Typer(help="Make, list and revoke the endpoint's keys.", no_args_is_help=True)
console = Console(soft_wrap=True)

KeysFile = Annotated[
    str | None,
    typer.Option("--keys", help="The keys file, a path or s3://; by default in your settings."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="Whose key it is; metrics and the audit log show it.")]


@dataclass(frozen=True)
class KeysFileAt:
    """A keys file and the keys in it."""

    place: Location
    ring: Keyring

    def write(self, ring: Keyring) -> None:
        """Replace the keys.

        Raises:
            CrucibleError: the file cannot be written.
        """
        try:
            write_keyring(self.place, ring)
        except OSError as error:
            raise CrucibleError(
                f"{self.place} cannot be written ({error}); give another file with --keys."
            ) from None


@app.command()
def create(
    name: Name,
    keys: KeysFile = None,
    source: Annotated[
        list[str] | None, typer.Option(help="A source it may ask; repeatable; all by default.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Most requests a minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Most tokens a minute.")] = None,
    in_flight: Annotated[int | None, typer.Option(help="Most requests at the same time.")] = None,
    days: Annotated[float | None, typer.Option(help="Days until it expires.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once; the file keeps only its hash."""
    if days is not None and not 0 < days < 36_500:
        raise BadInputError(f"--days is {days:g}; give a number of days above 0.")
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days) if days else None
    file = _open(keys)
    made = make_key(
        name,
        sources=tuple(source) if source else None,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        in_flight=in_flight,
        expires_at=until,
    )
    file.write(with_key(file.ring, made.key))
    if as_json:
        print(json.dumps({**_shown(made.key), "key": made.token, "keys_file": str(file.place)}))
        return
    print(made.token)
    console.print(
        f"This is shown once. The endpoint takes it if its recipe has endpoint.keys: {file.place}",
        highlight=False,
        markup=False,
    )


@app.command(name="list")
def list_(keys: KeysFile = None, as_json: AsJson = False) -> None:
    """Show the keys there are, without their secrets."""
    rows = [_shown(key) for key in _open(keys).ring.keys]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table()
    for column in ("name", "id", "state", "sources", "limits", "made", "expires"):
        table.add_column(column)
    for row in rows:
        limits = ("requests_per_minute", "tokens_per_minute", "in_flight")
        told = ", ".join(f"{row[k]} {k.replace('_', ' ')}" for k in limits if row[k])
        table.add_row(
            row["name"],
            row["id"],
            row["state"],
            ", ".join(row["sources"] or ["all"]),
            told or "none",
            row["created_at"],
            row["expires_at"] or "never",
        )
    console.print(table)


@app.command()
def revoke(name: Name, keys: KeysFile = None, as_json: AsJson = False) -> None:
    """End a key; every endpoint with this file refuses it within seconds."""
    file = _open(keys)
    file.write(without_key(file.ring, name, datetime.now(UTC)))
    if as_json:
        print(json.dumps({"name": name, "state": "revoked"}))
    else:
        console.print(f"The key {name} is revoked.", highlight=False, markup=False)


def _open(keys: str | None) -> KeysFileAt:
    place = Location.of(keys or config_folder() / "keys.json")
    try:
        return KeysFileAt(place, read_keyring(place))
    except OSError as error:
        raise BadInputError(f"The keys file {place} cannot be read: {error}.") from None


def _shown(key: Key) -> dict[str, Any]:
    """A key without salt and hash."""
    row = key.model_dump(mode="json", exclude={"salt", "hash"})
    return {**row, "state": key.state(datetime.now(UTC))}
