"""What ships inside the package: a small model and a few sounds to try it on, both usable without a network."""

from pathlib import Path

_FOLDER = Path(__file__).with_name("bundled")


def bundled(name: str = "slap-nano") -> str:
    """The folder of a model that ships with the package, for `from_pretrained`, pipelines and the `slap` command.

    Raises:
        ValueError: no model of that name ships.
    """
    names = sorted(folder.name for folder in _FOLDER.iterdir() if (folder / "config.json").is_file())
    if name not in names:
        raise ValueError(
            f"no model {name!r} ships with hf_slap; there is {names}. Others are loaded by folder or Hub id"
        )
    return str(_FOLDER / name)


def bundled_sounds() -> list[str]:
    """Paths of the sounds that ship, in order; CREDITS.md beside them names where each is from and its licence."""
    return sorted(map(str, (_FOLDER / "sounds").glob("*.ogg")))
