"""The page of the endpoint: ask the sources, compare their answers, look at a run's pairs."""

from services.page.routes import router

__all__ = ["router"]
