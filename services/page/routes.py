"""The page and its files, for whoever opens the endpoint in a browser; they need no key."""

from fastapi import APIRouter, HTTPException, Request, Response

from services.page.files import SECURITY_HEADERS, page_files

router = APIRouter(include_in_schema=False)


@router.get("/")
def page(request: Request) -> Response:
    """The page itself."""
    return _file("index.html", request)


@router.get("/page/{name}")
def page_file(name: str, request: Request) -> Response:
    """A script, style sheet or picture of the page."""
    return _file(name, request)


def _file(name: str, request: Request) -> Response:
    file = page_files().get(name)
    if file is None:
        raise HTTPException(404, "The page has no such file.", SECURITY_HEADERS)
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=file.headers)
    return Response(file.content, headers=file.headers, media_type=file.media_type)
