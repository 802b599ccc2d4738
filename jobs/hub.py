"""Publications on the Hugging Face Hub (or whatever speaks its API at HF_ENDPOINT)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2  # the hub client's own, whose errors it passes on
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from fusion.errors import BadInputError, CrucibleError
from fusion.publication import MARK, Content, Publication, check_ours, mark, read, stale_parts
from fusion.recipe_file import HUB_ID
from fusion.store import Location

# The hub writes it into every new repository.
_HUBS_OWN = {".gitattributes"}
_UNAUTHORISED, _FORBIDDEN = 401, 403


def hub_ids(hub: str) -> dict[str, str]:
    """The hub id of each publication by its name; a data set and a model may share one.

    Raises:
        BadInputError: `hub` is no hub id.
    """
    if not HUB_ID.match(hub):
        raise BadInputError(f"--hub {hub} is no hub id; give it as owner/name.")
    return {"dataset": hub, "sft": f"{hub}-sft", "dpo": hub}


class Hub:
    """The hub, with the token of this machine's user.

    Raises:
        BadInputError: there is no token.
    """

    def __init__(self) -> None:
        token = get_token()
        if token is None:
            raise BadInputError(
                "There is no Hugging Face token here; set HF_TOKEN to one that may write, or run "
                "`hf auth login`."
            )
        self._api = HfApi(token=token)

    def check(self, publication: Publication, repo: str, *, private: bool) -> None:
        """See that a repository is new, or ours and as private as asked.

        Raises:
            BadInputError: it is somebody else's, or public, or the token may not read it.
        """
        with _plainly(self._api.endpoint, repo):
            info = self._info(publication, repo)
        if info is None:
            return
        check_ours(_place(publication, repo), _names(info))
        if private and not info.private:
            raise BadInputError(
                f"{_place(publication, repo)} is public and --private was given; make it private "
                "on the hub, or give another name."
            )

    def upload(
        self, publication: Publication, repo: str, facts: Mapping[str, Any], *, private: bool
    ) -> str:
        """Put all files there as one commit; returns the address of the repository.

        Raises:
            BadInputError: the token may not write there.
            CrucibleError: the hub could not be reached, or failed.
        """
        files = {**publication.files, MARK: mark(publication.files, facts)}
        with _plainly(self._api.endpoint, repo):
            url = self._api.create_repo(
                repo, repo_type=publication.kind, private=private or None, exist_ok=True
            )
            existing = _names(self._info(publication, repo))
            changes: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(path, _upload(content)) for path, content in files.items()
            ]
            changes += [CommitOperationDelete(path) for path in stale_parts(existing, files)]
            self._api.create_commit(
                repo,
                changes,
                repo_type=publication.kind,
                commit_message=f"Crucible: {publication.name} of {facts['run']}",
            )
        return str(url)

    def _info(self, publication: Publication, repo: str) -> Any:
        """What the hub knows of a repository, None where there is none."""
        try:
            return self._api.repo_info(repo, repo_type=publication.kind)
        except RepositoryNotFoundError as error:
            if error.response.status_code == _UNAUTHORISED:
                raise
            return None


@contextmanager
def _plainly(endpoint: str, repo: str) -> Iterator[None]:
    """Turns what the hub or the network says into one sentence."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (_UNAUTHORISED, _FORBIDDEN):
            raise BadInputError(
                f"{endpoint} refuses the token for {repo} (status {status}); use one that may "
                "write there, or another owner."
            ) from None
        raise CrucibleError(
            f"{endpoint} failed on {repo} with status {status}; run crucible publish again."
        ) from error
    except ValueError as error:
        said = " ".join(str(error).split())
        raise BadInputError(
            f"{endpoint} does not take {repo} as it is ({said}); correct what the card or the id "
            "says, such as the key license, which the hub wants in its own spelling."
        ) from None
    # hf_xet, which carries large files, raises RuntimeError whatever went wrong
    except (httpx2.HTTPError, OSError, RuntimeError) as error:
        raise CrucibleError(
            f"{endpoint} could not be reached, or broke off ({type(error).__name__}: {error}); "
            "check the network and HF_ENDPOINT, and run crucible publish again."
        ) from error


def _upload(content: Content) -> str | bytes:
    """A file of this machine by its path, so that it is not held in memory."""
    is_here = isinstance(content, Location) and content.scheme == "file"
    return content.path if is_here and isinstance(content, Location) else read(content)


def _names(info: Any) -> list[str]:
    return [file.rfilename for file in info.siblings or () if file.rfilename not in _HUBS_OWN]


def _place(publication: Publication, repo: str) -> str:
    return f"The {publication.kind} {repo} on the hub"
