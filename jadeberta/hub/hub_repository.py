"""One repository of the Hub: what lies there, and commits that send only what does not. The one file that calls huggingface_hub.

Large files are stored by their sha256 before the commit that names them: an upload that was interrupted goes on with the file that it was
at. The token is huggingface_hub's own affair (HF_TOKEN, or the file of `hf auth login`); no message of an error of the library is printed,
as it may hold addresses that were signed.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jadeberta.errors import ConfigError, JadebertaError, OutputError

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
REPOSITORY = re.compile(f"{_NAME}/{_NAME}")
HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2")
"""Modules of the errors of a connection, in the versions of huggingface_hub."""
KEPT = ".gitattributes"
"""The Hub's own file: it says which files are large."""
AGAIN = "run the same command again; what was sent is not sent again"


def require_repository(name: str) -> str:
    """Returns the name of a repository; raises ConfigError where the Hub can have none of this name."""
    if not REPOSITORY.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        raise ConfigError(
            f"--repo {name[:80]!a} is no name of a repository; write OWNER/NAME in letters, digits, '-', '_' and '.'."
        )
    return name


class HubRepository:
    """A model repository."""

    def __init__(self, name: str, report: Callable[[str], None]) -> None:
        """Raises ConfigError without a token.

        Args:
            name: OWNER/NAME.
            report: called with a line for each file and revision.
        """
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import disable_progress_bars
        from huggingface_hub.utils import logging as hub_logging

        disable_progress_bars()
        hub_logging.set_verbosity_error()
        if not get_token():
            raise ConfigError(
                "no token for the Hub is set; run 'hf auth login', or set HF_TOKEN to one that may write to the repository."
            )
        # Read now and not at the import: a test or a user may have set it since.
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        self.name, self._report, self._first = name, report, ""

    def create(self, private: bool) -> None:
        """Makes the repository where it is not there yet; one that is there stays as private or public as it is."""
        with self._explained():
            self._api.create_repo(self.name, private=private, exist_ok=True)

    def create_branch(self, branch: str) -> None:
        """Makes a branch where it is not there yet, from the repository's first commit.

        That holds the Hub's own file alone. From main the branch would be the release until its own first commit, and stay so if
        that fails.
        """
        with self._explained():
            self._first = self._first or self._api.list_repo_commits(self.name)[-1].commit_id
            self._api.create_branch(self.name, branch=branch, revision=self._first, exist_ok=True)

    def send(self, revision: str, files: dict[str, Path], message: str, is_whole: bool, stale: Collection[str] = ()) -> int:
        """Makes a revision hold files; returns how many were sent.

        Args:
            revision: branch.
            files: by their names in the repository.
            message: of the commit.
            is_whole: remove what else is there, but for the Hub's own file; else it is reported and stays.
            stale: names to remove in any case, where they are not among the files.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._explained(), ExitStack() as opened:
            info = self._api.model_info(self.name, revision=revision, files_metadata=True)
            there = {sibling.rfilename: sibling for sibling in info.siblings or []}
            others = sorted(there.keys() - files.keys() - {KEPT})
            missing = [name for name, path in files.items() if not _is_same(path, there.get(name))]
            for name in [name for name in files if name not in missing]:
                self._report(f"{revision}: {name} is there already")
            operations: list[Any] = []
            # One by one: each is on the Hub when its line is printed.
            for name in missing:
                # An open file, as the library sends that by HTTP and not by Xet: an object is then known by its sha256.
                addition = CommitOperationAdd(name, opened.enter_context(open(files[name], "rb")))
                self._api.preupload_lfs_files(self.name, [addition], revision=revision, free_memory=False)
                operations.append(addition)
                self._report(f"{revision}: {name}, {files[name].stat().st_size:,} bytes")
            removed = others if is_whole else [name for name in others if name in stale]
            operations += [CommitOperationDelete(name) for name in removed]
            if staying := [name for name in others if name not in removed]:
                self._report(
                    f"{revision}: {', '.join(staying[:5])} {'is' if len(staying) == 1 else 'are'} no part of the release and "
                    f"{'stays' if len(staying) == 1 else 'stay'}"
                )
            if operations:
                # The parent: two that publish at once must not mix their files.
                self._api.create_commit(self.name, operations, commit_message=message, revision=revision, parent_commit=info.sha)
        return len(missing)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns the library's errors into sentences."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            yield
        except OfflineModeIsEnabled as e:
            raise ConfigError("HF_HUB_OFFLINE forbids every request; unset it to publish.") from e
        except Exception as e:
            # Without the cause in what follows: its text may hold a signed address.
            found: BaseException | None = e
            while found is not None:  # the library wraps errors of an upload
                if isinstance(found, HfHubHTTPError):
                    raise self._error(getattr(found.response, "status_code", 0)) from None
                if type(found).__module__.partition(".")[0] in HTTP_LIBRARIES:
                    raise OutputError(f"the Hub cannot be reached, or broke off ({type(found).__name__}); {AGAIN}.") from None
                found = found.__cause__
            if isinstance(e, ValueError) and "README.md" in str(e):
                raise ConfigError(
                    "the Hub does not take the front matter of README.md; correct what stands between the lines ---."
                ) from None
            raise

    def _error(self, status: int) -> JadebertaError:
        where = f"the Hub answers {status}"
        if status == 401:
            return ConfigError(
                f"{where}: it does not know the token, or {self.name} is another's; run 'hf auth login' again, or set HF_TOKEN."
            )
        if status in (402, 403):
            return ConfigError(
                f"{where}: the token may not write to {self.name}; take one with the right to write, or another --repo."
            )
        if status == 404:
            return ConfigError(f"{where}: there is no {self.name}, or the token may not see it; correct --repo.")
        if status in (409, 412):
            return OutputError(f"{where}: something else has changed {self.name} meanwhile; {AGAIN}.")
        if status == 429:
            return OutputError(f"{where}: too many requests; wait some minutes and {AGAIN}.")
        if 400 <= status < 500 and status not in (408, 425):
            return ConfigError(
                f"{where}: it does not take this request, and would not the next time; look at --repo, the names of the files, the front "
                "matter of README.md, and whether huggingface_hub is too old."
            )
        return OutputError(f"{where}; {AGAIN}.")


def _is_same(path: Path, there: Any) -> bool:
    """Whether a file is what the Hub has: by its sha256 where it is stored as a large file, else by git's hash."""
    if there is None or there.size != path.stat().st_size:
        return False
    with open(path, "rb") as f:
        if there.lfs is not None:
            return hashlib.file_digest(f, "sha256").hexdigest() == there.lfs.sha256
        digest = hashlib.sha1(b"blob %d\0" % there.size, usedforsecurity=False)
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == there.blob_id
