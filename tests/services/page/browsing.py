"""A real browser for tests: it notes what goes wrong on a page and where its requests go."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The chromium of this machine; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page of its own context, and what it did."""

    def __init__(self, browser: Browser, base: str, **context: object) -> None:
        self.base = base
        self.context = browser.new_context(**context)  # type: ignore[arg-type]
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.on("request", self._note_request)

    def _note(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _note_request(self, request) -> None:
        self.requests.append(request.url)
        if request.url.endswith("/v1/fanout"):
            self.asked.append(request.post_data_json)

    def hosts(self) -> set[str]:
        """The hosts that were asked for anything; a download's blob is of none."""
        return {urlsplit(url).netloc for url in self.requests if not url.startswith("blob:")}


@contextmanager
def watched(browser: Browser, base: str, *, refusals: int = 0, **context: object):
    """A page that may complain of `refusals` answers of the endpoint and of nothing else."""
    shown = Watched(browser, base, **context)
    try:
        yield shown
    finally:
        shown.context.close()
    refused = [text for text in shown.complaints if text.startswith("Failed to load resource")]
    assert [text for text in shown.complaints if text not in refused] == []
    assert len(refused) == refusals, refused
    assert shown.hosts() == {urlsplit(base).netloc}
