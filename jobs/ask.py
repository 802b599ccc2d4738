"""`crucible ask`: one question to the sources of an endpoint, their answers side by side."""

import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from rich.markup import escape
from rich.table import Table

from cluster.settings import api_key
from fusion.errors import BadInputError, CrucibleError, one_line
from fusion.recipe import Endpoint

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Question:
    """What the sources are asked."""

    prompt: str
    sources: tuple[str, ...] = ()
    n: int = 1
    score: bool = False
    gold: str | None = None
    verifier: str | None = None

    def body(self) -> dict[str, Any]:
        """The request to the endpoint's fan-out."""
        return {
            "messages": [{"role": "user", "content": self.prompt}],
            "models": list(self.sources) or None,
            "n": self.n,
            "score": self.score,
            "gold": self.gold,
            "verifier": self.verifier,
        }


def ask_sources(endpoint: Endpoint, question: Question) -> list[dict[str, Any]]:
    """The answers and errors of the sources, in the order of their names.

    Raises:
        BadInputError: the endpoint refuses the question.
        CrucibleError: no endpoint answers.
    """
    base = endpoint.address
    key = api_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    trusted = _trusted(endpoint.tls_certificate)
    client = httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT_S, verify=trusted)
    try:
        with client, client.stream("POST", "/v1/fanout", json=question.body()) as reply:
            if reply.status_code != httpx.codes.OK:
                reply.read()
                raise _refusal(reply)
            told = [{"event": name, **data} for name, data in _events(reply.iter_lines())]
    except httpx.HTTPError as error:
        raise CrucibleError(
            f"No endpoint answers at {base} ({type(error).__name__}); "
            "start one with `crucible serve`."
        ) from error
    answers = [each for each in told if each["event"] in ("answer", "error")]
    return sorted(answers, key=lambda each: (each["model"], each["index"] or 0))


def _trusted(certificate: str | None) -> ssl.SSLContext | bool:
    """The recipe's own certificate where it has one, else those that this machine trusts."""
    if certificate is None:
        return True
    try:
        return ssl.create_default_context(cafile=certificate)
    except OSError as error:
        raise BadInputError(
            f"endpoint.tls_certificate is {certificate}, which is no certificate in PEM that can "
            f"be read ({one_line(error)}); correct it."
        ) from None


def answers_table(answers: list[dict[str, Any]]) -> Table:
    """A column a source, a row an answer, with its verdict, reward, tokens and time."""
    names = list(dict.fromkeys(each["model"] for each in answers))
    columns = [[_cell(each) for each in answers if each["model"] == name] for name in names]
    table = Table(show_lines=True)
    for name in names:
        table.add_column(escape(name))
    for row in range(max(map(len, columns), default=0)):
        table.add_row(*(cells[row] if row < len(cells) else "" for cells in columns))
    return table


def _cell(each: dict[str, Any]) -> str:
    if each["event"] == "error":
        return f"[red]{escape(each['error']['message'])}[/red]"
    reward = f"reward {each['reward']:.3g}" if each["reward"] is not None else None
    facts = [
        each["verdict"],
        reward,
        f"{each['usage']['completion_tokens']} tokens",
        f"{each['latency_ms'] / 1000:.1f} s",
    ]
    return f"{escape(each['text'])}\n[dim]{', '.join(filter(None, facts))}[/dim]"


def _events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def _refusal(reply: httpx.Response) -> CrucibleError:
    try:
        message = reply.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"The endpoint answered {reply.status_code}."
    if reply.status_code == httpx.codes.UNAUTHORIZED:
        return BadInputError(f"{message} `crucible ask` sends the key in CRUCIBLE_API_KEY.")
    failed = reply.status_code >= 500 or reply.status_code == httpx.codes.TOO_MANY_REQUESTS
    return CrucibleError(message) if failed else BadInputError(message)
