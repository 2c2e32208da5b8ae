"""SoundDescs: 33 k sound effects of the BBC with their archive's descriptions."""

from pathlib import Path

from .base import Recipe, Row
from .captions import human
from .readers import matching, read_json


def rows(folder: Path):
    splits = {}
    for name, split in {"train": "train", "val": "validation", "test": "test"}.items():
        for path in matching(folder, f"**/{name}_list.txt")[:1]:
            splits.update(dict.fromkeys(path.read_text(encoding="utf-8").split(), split))
    for number, text in read_json(folder / "descriptions.json").items():
        yield Row(
            key=number,
            sound=[f"audios/{number}/{number}.wav", f"audios/{number}"],
            captions=human(*([text] if isinstance(text, str) else text)),
            source_id=f"bbc:{number.lower()}",
            split=splits.get(number, "train"),
        )


RECIPE = Recipe(
    name="sounddescs",
    title="SoundDescs",
    pages=("https://github.com/akoepke/audio-retrieval-benchmark",),
    license="LicenseRef-RemArc (BBC: personal, education and research)",
    text_license="LicenseRef-RemArc (BBC: personal, education and research)",
    redistributable=False,
    domain="sound",
    captions="human (archive descriptions); 1 per clip",
    source_id="bbc:<id in lower case>",
    access="download",
    placement="descriptions.json: its sounddescs_descriptions.pkl written as JSON {id: text} by yourself (pickles run "
    "code when they are read, so none is read here); train_list.txt, val_list.txt, test_list.txt; "
    "audios/<id>/<id>.wav as its download script leaves them",
    expected=("descriptions.json", "audios"),
    rows=rows,
    not_checked="that the pickle holds {id: text}",
)
