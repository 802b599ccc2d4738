import re

import httpx
import pytest
from fastapi.testclient import TestClient

from services.gateway.app import build_app
from services.page.files import page_files
from tests.services.page.canned import CannedSources, pair_row, recipe_run, write_pairs


@pytest.fixture
def run(tmp_path):
    return recipe_run(tmp_path)


@pytest.fixture
def client(run):
    return TestClient(build_app(run, CannedSources()), base_url="http://127.0.0.1")


def test_the_page_loads_nothing_but_files_of_its_own():
    text = "\n".join(file.content.decode() for file in page_files().values())
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+\S*", text))
    assert addresses <= {'//www.w3.org/2000/svg"', 'http://www.w3.org/2000/svg"'}
    html = page_files()["index.html"].content.decode()
    loaded = re.findall(r'(?:src|href)="page/([^"]+)"', html)
    assert set(loaded) == set(page_files()) - {"index.html"}
    assert " style=" not in html and not re.search(r"<script[^>]*>[^<]", html)


def test_no_text_becomes_markup():
    for name, file in page_files().items():
        if name.endswith(".js"):
            for sink in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
                assert sink not in file.content.decode(), (name, sink)


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/base.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
def test_files_come_with_their_type_and_under_a_strict_policy(client, path, media_type):
    reply = client.get(path)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == media_type
    policy = dict(
        part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cache-control"] == "no-cache"


def test_a_browser_that_has_the_file_gets_it_no_second_time(client):
    etag = client.get("/page/main.js").headers["etag"]
    again = client.get("/page/main.js", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    changed = client.get("/page/main.js", headers={"If-None-Match": '"0"'})
    assert changed.status_code == 200


@pytest.mark.parametrize(
    "name", ["none.js", "..%2froutes.py", "%2e%2e/routes.py", "..%5croutes.py", "routes.py", ""]
)
def test_no_other_file_can_be_had(client, name):
    reply = client.get(f"/page/{name}")
    assert reply.status_code == 404
    assert "router" not in reply.text


def test_a_run_without_pairs_says_so(client):
    reply = client.get("/v1/preferences")
    assert reply.status_code == 404
    assert "garden has no preference pairs yet" in reply.json()["error"]["message"]


def test_pairs_are_filtered_and_counted(client, run):
    write_pairs(run, [pair_row(number) for number in range(30)])
    reply = client.get("/v1/preferences?domain=math&min_margin=0.1&limit=3&search=sum")
    assert reply.status_code == 200
    found = reply.json()
    assert found["total"] == 10
    assert [row["index"] for row in found["rows"]] == [10, 12, 14]
    assert found["facets"] == {
        "datasets": ["chat", "sums"],
        "domains": ["instruction", "math"],
        "sources": ["gemma", "llama", "mistral"],
    }
    assert reply.headers["cache-control"] == "no-store"


def test_pairs_that_are_selected_anew_are_seen(client, run):
    write_pairs(run, [pair_row(1)])
    assert client.get("/v1/preferences").json()["total"] == 1
    write_pairs(run, [pair_row(2), pair_row(3)])
    assert client.get("/v1/preferences").json()["total"] == 3
    run.preferences().location.delete()
    assert client.get("/v1/preferences").status_code == 404


@pytest.mark.parametrize(
    "query", ["limit=1000", "offset=-1", "min_margin=abc", "max_margin=nan", "colour=red"]
)
def test_a_query_that_makes_no_sense_is_refused(client, run, query):
    write_pairs(run, [pair_row(1)])
    assert client.get(f"/v1/preferences?{query}").status_code == httpx.codes.UNPROCESSABLE_ENTITY
