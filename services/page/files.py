"""The page's files as they are shipped, and the headers under which a browser gets them."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}

# The page loads its own files and calls its own endpoint, nothing else; no string becomes markup
# or script (Trusted Types with no policy), so that what a model wrote can only be shown as text.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)

SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    content: bytes
    media_type: str

    @property
    def headers(self) -> dict[str, str]:
        """Security, and caching: a browser asks each time whether its copy is still right."""
        return {**SECURITY_HEADERS, "Cache-Control": "no-cache", "ETag": self.etag}

    @property
    def etag(self) -> str:
        """Changes with the content and with nothing else."""
        return f'"{sha256(self.content).hexdigest()[:16]}"'


@cache
def page_files() -> dict[str, PageFile]:
    """Every file of the page by its name."""
    return {
        entry.name: PageFile(entry.read_bytes(), MEDIA_TYPES[entry.name.rsplit(".", 1)[-1]])
        for entry in (files("services.page") / "static").iterdir()
        if entry.is_file()
    }
