"""The demo: the model that ships, on the sounds that ship."""

from pathlib import Path

import numpy as np
from rich.table import Table

from .output import bar_text, calm, errors, progress, show

LABELS = ["a dog barking", "a cow", "a sheep", "birds singing", "a crackling fire", "running water", "a door", "a drum",
          "a guitar", "an explosion"]  # fmt: skip
QUERIES = ["farm animals", "music", "something outdoors with water"]


def demo() -> None:
    """Classify, caption and search the ten sounds that come with the package, with the model that comes with it.

    Nothing is downloaded, and none of the sounds was heard in training. The model is small and learned from two hours
    of sound, so it errs: `slap info` shows how often.

    Examples:
      slap demo
    """
    from .. import bundled_sounds
    from ..listening import Listener

    sounds = bundled_sounds()
    calm()
    with progress("loading the model"):
        listener = Listener()
    known = listener.labels(LABELS)
    table = Table("sound", "best of ten labels", "", "caption", box=None, pad_edge=False, header_style="bold")
    embeddings = []
    with progress("listening", len(sounds)) as bar:
        captions = listener.caption(sounds)
        for clip, pieces in zip(listener.embed((path, path) for path in sounds), captions, strict=True):
            best = known.rank(clip.embedding, top_k=1)[0]
            embeddings.append(clip.embedding)
            table.add_row(Path(clip.id).name, best["label"], bar_text(best["score"]), pieces[0].text)
            bar()
    show(table)
    found = Table("searched for", "found first", box=None, pad_edge=False, header_style="bold")
    for query, scores in zip(QUERIES, listener.embed_texts(QUERIES) @ np.stack(embeddings).T, strict=True):
        found.add_row(query, ", ".join(Path(sounds[i]).name for i in np.argsort(-scores)[:3]))
    show("", found)
    errors().print(
        f"\nthe sounds: {Path(sounds[0]).parent}\n"
        'next, your own: slap classify clip.wav --labels "a dog, rain, a guitar"   or   slap --help',
        style="dim",
    )
