"""The upload of a folder that `export` made: `slap push`."""

import os
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from .files import write_whole
from .folder_checks import CARD, Problem, check_folder, published_files
from .hub import HubError, on_the_hub
from .model_card import name_in_card

_KEPT_ON_THE_HUB = (".gitattributes",)


class RefusedFolder(ValueError):
    """A folder that fails the checks; `problems` says which."""

    def __init__(self, folder: Path, problems: list[Problem]):
        lines = [f"  {check}: {what}; {todo}" for check, what, todo in problems]
        super().__init__("\n".join([f"{str(folder)!r} is not fit to be published:", *lines]))
        self.problems = problems


def push(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    message: str | None = None,
    token: str | None = None,
    tell: Callable[[str], None] = lambda name: None,
) -> str:
    """Uploads a folder that `export` made, in one commit, after all checks.

    The repository is then what the folder is: files that are only there are deleted by the same commit. Interrupted, it
    has changed nothing that anyone can see; called again, it does not send again what arrived.

    Args:
        folder: is checked first; its card is given the name of the repository.
        repo_id: "organization/name"; made when missing.
        private: of a repository that is made now; one that is public is refused if True.
        revision: branch, made when missing; default: main.
        tag: put on the commit; one that is there already is refused.
        message: of the commit.
        token: default: the one that is logged in.
        tell: is called with the name of each check and step that begins.
    Returns:
        the address of the commit.
    Raises:
        RefusedFolder: it fails a check.
        HubError: the Hub refused or broke off; the message says what to do and holds no token.
    """
    folder = Path(folder)
    if problems := check_folder(folder, tell=tell):
        raise RefusedFolder(folder, problems)
    before = (folder / CARD).read_text(encoding="utf-8")
    if (card := name_in_card(before, repo_id)) != before:
        write_whole(folder / CARD, lambda file: file.write(card.encode()))
    tell("upload")
    return on_the_hub(lambda api: _upload(api, folder, repo_id, private, revision, tag, message), token)


def _upload(
    api: HfApi,
    folder: Path,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    tag: str | None,
    message: str | None,
) -> str:
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.repo_info(repo_id).private:
        raise HubError(f"{repo_id} is there and public; make it private in its settings, or choose another name")
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags} if tag else {}
    if tag in tags:
        raise HubError(f"{repo_id} has a tag {tag!r} already, on commit {tags[tag][:8]}; choose another")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    info = api.repo_info(repo_id, revision=revision)
    files = {path.relative_to(folder).as_posix(): path for path in published_files(folder)}
    gone = {file.rfilename for file in info.siblings or ()} - set(files) - set(_KEPT_ON_THE_HUB)
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files.items()]
    commit = api.create_commit(
        repo_id,
        [*additions, *(CommitOperationDelete(path_in_repo=name) for name in sorted(gone))],
        commit_message=message or f"Publish {repo_id.split('/')[-1]}",
        revision=revision,
        parent_commit=info.sha,  # refused if somebody else committed meanwhile
    )
    if tag:
        api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return commit.commit_url
