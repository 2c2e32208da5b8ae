"""A corpus on the Hub: its card, and an upload that goes on where it was interrupted."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCardData, HfApi, RepoFile

from ..files import write_whole
from ..hub import on_the_hub
from .shards import FORMATS, MANIFEST, read_manifest, read_rows, read_shards, verify

CARD = "README.md"
DATASHEET = Path("datasheet") / "datasheet.md"
_HUB_LICENSES = re.compile(
    r"cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[1234]\.[05]|mit|apache-2\.0|a?gpl-3\.0|gpl-2\.0|lgpl-2\.1|lgpl-3\.0|artistic-2\.0|unlicense"
)
_BESIDE = ("errors.parquet", "datasheet", CARD, MANIFEST)  # besides the shards; the manifest comes last


def write_card(folder: str | os.PathLike, title: str | None = None) -> Path:
    """Writes README.md: what `datasets` and the Hub need to know, then the datasheet where there is one.

    Args:
        folder: of a finished corpus.
        title: default: the folder's name.
    Returns:
        Its path.
    """
    folder = Path(folder)
    manifest, title = read_manifest(folder), title or Path(folder).absolute().name
    suffix, splits = FORMATS[manifest["format"]], sorted({shard.split for shard in read_shards(folder)})
    columns = ("license", "language", "domain", "source")
    counts = {column: Counter() for column in columns}
    for row in read_rows(folder, columns, batch=4096):
        for column in columns:
            counts[column][row[column]] += 1
    licenses = {name.lower() if _HUB_LICENSES.fullmatch(name.lower()) else "other" for name in counts["license"]}
    facts = DatasetCardData(
        pretty_name=title,
        language=sorted(set(counts["language"]) - {"und"}) or None,
        license=sorted(licenses) or None,
        task_categories=["text-to-audio", "zero-shot-classification", "audio-classification"],
        tags=["audio-captioning", "language-audio", "hf_slap"],
        size_categories=[_size_category(manifest["records"])],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.{suffix}"} for split in splits],
            }
        ],
    )
    lines = [
        "---",
        facts.to_yaml().strip(),
        "---",
        f"# {title}",
        "",
        f"{manifest['records']:,} clips, {manifest['captions']:,} captions, {manifest['hours']:,.2f} hours of sound.",
        "",
        *(f"- {column}: {_listed(counts[column])}" for column in columns),
        "",
        _datasheet(folder),
    ]
    path = folder / CARD
    write_whole(path, lambda file: file.write("\n".join(lines).encode()))
    return path


def push_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    files_per_commit: int = 100,
    only_redistributable: bool = True,
) -> str:
    """Uploads a corpus, shard by shard, `files_per_commit` shards in a commit, its manifest last.

    Interrupted, call it again: shards that are there already, by their SHA-256, are not sent again. Shards of an older
    state of the corpus are removed with the last commit.

    Args:
        folder: of a finished corpus; it is verified first.
        repo_id: "organization/name"; made when missing.
        private: of a repository that is made now.
        token: default: the one that is logged in.
        files_per_commit: shards in one commit.
        only_redistributable: refuse a corpus with clips that may not be given away; False is for a private repository
            of those who may have them.
    Returns:
        The address of the dataset.
    Raises:
        ValueError: broken files, sound that is not embedded, or clips that may not be given away.
        HubError: the Hub refused or broke off; the message says what to do and holds no token.
    """
    folder = Path(folder)
    _refuse(folder, only_redistributable)
    if not (folder / CARD).is_file():
        write_card(folder)
    return on_the_hub(lambda api: _upload(api, folder, repo_id, private, files_per_commit), token)


def _upload(api: HfApi, folder: Path, repo_id: str, private: bool | None, files_per_commit: int) -> str:
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    there = {entry.path: entry for entry in api.list_repo_tree(repo_id, recursive=True, repo_type="dataset")}
    there = {path: entry for path, entry in there.items() if isinstance(entry, RepoFile)}
    wanted = {name: facts for shard in read_shards(folder) for name, facts in shard.files.items()}
    missing = [name for name in wanted if not _is_there(there.get(name), wanted[name])]
    for start in range(0, len(missing), files_per_commit):
        batch = missing[start : start + files_per_commit]
        message = f"Shards {start + 1} to {start + len(batch)} of {len(missing)}"
        _commit(api, repo_id, [_addition(folder, name) for name in batch], message)
    stale = [path for path in there if path.startswith(("data/", "index/")) and path not in wanted]
    last = [_addition(folder, name) for name in _files_beside(folder)]
    _commit(api, repo_id, [*last, *map(CommitOperationDelete, stale)], "Card, datasheet and manifest")
    return f"{api.endpoint}/datasets/{repo_id}"


def _refuse(folder: Path, only_redistributable: bool) -> None:
    if problems := verify(folder):
        listed = "\n".join(f"  {problem.file} {problem.reason}" for problem in problems[:20])
        raise ValueError(f"{str(folder)!r} is not as it was written; prepare it again:\n{listed}")
    if read_manifest(folder).get("codec") == "path":
        raise ValueError(
            f"{str(folder)!r} refers to files of this machine; prepare it with codec 'flac', 'opus' or 'keep'"
        )
    if not only_redistributable:
        return
    kept = Counter(
        (row["source"], row["license"])
        for row in read_rows(folder, ["source", "license", "redistributable"], batch=4096)
        if not row["redistributable"]
    )
    if kept:
        raise ValueError(
            f"{sum(kept.values())} clips may not be given away: "
            f"{_listed(Counter({f'{source} ({license})': count for (source, license), count in kept.items()}))}; leave "
            "them out, or pass only_redistributable=False for a private repository of those who may have them"
        )


def _files_beside(folder: Path) -> Iterator[str]:
    for name in _BESIDE:
        path = folder / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file.relative_to(folder).as_posix() for file in files if file.is_file())


def _is_there(entry: RepoFile | None, facts: dict) -> bool:
    return entry is not None and entry.lfs is not None and entry.lfs.sha256 == facts["sha256"]


def _addition(folder: Path, name: str) -> CommitOperationAdd:
    return CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name))


def _commit(api: HfApi, repo_id: str, operations: list, message: str) -> None:
    api.create_commit(repo_id, operations, commit_message=message, repo_type="dataset")


def _datasheet(folder: Path) -> str:
    path = folder / DATASHEET
    if not path.is_file():
        return "No datasheet has been made."
    # Its pictures lie beside it, one folder below the card.
    return re.sub(
        r"(!\[[^]]*\]\()(?!https?:|/)", rf"\1{DATASHEET.parent.as_posix()}/", path.read_text(encoding="utf-8")
    )


def _listed(counts: Counter) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.most_common())


def _size_category(records: int) -> str:
    """The Hub's name for the order of magnitude."""
    limits = ((1e3, "1K"), (1e4, "10K"), (1e5, "100K"), (1e6, "1M"), (1e7, "10M"), (1e8, "100M"), (1e9, "1B"))
    below = next((number for number, (limit, _) in enumerate(limits) if records < limit), len(limits) - 1)
    return "n<1K" if below == 0 else f"{limits[below - 1][1]}<n<{limits[below][1]}"
