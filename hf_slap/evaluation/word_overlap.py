"""How many words written captions share with their references: quick measures without any download.

They follow a training; they do not replace CIDEr-D, SPICE or FENSE, which papers report.
"""

import re
from collections import Counter
from collections.abc import Sequence


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text, without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def word_overlap(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Overlap of each caption with the best of its references, averaged over clips.

    Args:
        written: one caption per clip; an empty one counts 0.
        references: at least one per clip.
    Returns:
        "word f1": harmonic mean of precision and recall of words, whatever their order; "rouge-l": the same of the
        longest common subsequence; "different captions": share of captions that are unlike all earlier ones (a
        captioner that always writes the same has 1 / clips).
    Raises:
        ValueError: no captions, or another number of references.
    Source: ROUGE-L, Lin 2004, with equal weight of precision and recall.
    """
    if not written or len(written) != len(references):
        raise ValueError(f"{len(written)} captions and references of {len(references)} clips; expected as many, not 0")
    f1, rouge = [], []
    for caption, right in zip(written, references, strict=True):
        ours, theirs = words(caption), [words(reference) for reference in right]
        f1.append(max(_f1((Counter(ours) & Counter(its)).total(), len(ours), len(its)) for its in theirs))
        rouge.append(max(_f1(_common_subsequence(ours, its), len(ours), len(its)) for its in theirs))
    return {
        "word f1": sum(f1) / len(f1),
        "rouge-l": sum(rouge) / len(rouge),
        "different captions": len({" ".join(words(caption)) for caption in written}) / len(written),
    }


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0


def _common_subsequence(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]
