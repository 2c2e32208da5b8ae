"""How good slap-nano is on packages that it never heard: seen and unseen classes apart, drums, retrieval, captions.

    python examples/slap_nano/judge.py runs/slap-nano/model --train runs/slap-nano-data/train.parquet \\
        --effects effects-heldout.parquet --music music-heldout.parquet --output runs/slap-nano/scores

Any other model that `slap eval` takes can be named in its place. --baseline adds what logistic regression makes of the
statistics of log-mel frames of the same training clips.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hf_slap import SlapFeatureExtractor, evaluate
from hf_slap.data import load_corpus
from hf_slap.evaluation.bootstrap import interval
from hf_slap.evaluation.captioning import QUICK_MEASURES
from hf_slap.evaluation.suites.own import PROMPTS
from hf_slap.evaluation.tasks import Task

# Ten everyday sounds of which the held-out packages have three clips or more; no clip of a train or a car engine is
# among those that slap-nano learned from.
EVERYDAY = ("car engine", "cow", "dog", "door", "fire crackling", "flowing water", "footsteps", "glass breaking",
            "songbird", "train")  # fmt: skip
_SOURCE = "this project's: sounds of packages that no training clip is from"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--train", type=Path, required=True, help="what it learned from: says which classes are seen")
    parser.add_argument("--effects", type=Path, required=True, help="held-out sound effects")
    parser.add_argument("--music", type=Path, required=True, help="held-out drums and instruments")
    parser.add_argument("--output", type=Path, default=Path("evaluation"))
    parser.add_argument("--baseline", action="store_true", help="only the logistic regression")
    parsed = parser.parse_args(arguments)
    seen, effects, music = (columns(path) for path in (parsed.train, parsed.effects, parsed.music))
    drums = {label for label, domain in music if domain == "drum"} & {label for label, _ in seen}
    known = {label for label, _ in effects} & {label for label, _ in seen}
    unknown = {label for label, _ in effects} - known
    if parsed.baseline:
        names = [sorted(chosen) for chosen in (known, known & set(EVERYDAY), drums)]
        baseline(parsed.train, [parsed.effects, parsed.effects, parsed.music], names)
        return

    def labels(name: str, only) -> Task:
        only = None if only is None else tuple(sorted(only))
        return Task(f"packages-{name}", "zero_shot", "own", "accuracy", _SOURCE, prompts=PROMPTS, only=only)

    of_effects = [
        labels("all-classes", None),
        labels("seen-classes", known),
        labels("unseen-classes", unknown),
        labels("ten-everyday", EVERYDAY),
        Task("packages-retrieval", "retrieval", "own", "recall@10", _SOURCE),
        Task("packages-captioning", "captioning", "own", "CIDEr-D", _SOURCE, measures=QUICK_MEASURES),
    ]
    for path, tasks in ((parsed.effects, of_effects), (parsed.music, [labels("drums", drums)])):
        evaluate(parsed.model, tasks=tasks, data={"own": path}, output=parsed.output)


def columns(path: Path) -> set[tuple[str, str]]:
    """The (label, domain) that a table has."""
    table = pq.read_table(path, columns=["label", "domain"])
    return set(zip(table["label"].to_pylist(), table["domain"].to_pylist(), strict=True))


def baseline(train: Path, held_out: list[Path], names: list[list[str]]) -> None:
    """Accuracy of logistic regression on mean, deviation, 90th percentile and mean change of each mel band."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = statistics(train)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, class_weight="balanced", max_iter=1000))
    model.fit(x, y)
    for path, chosen in zip(held_out, names, strict=True):
        features, labels = statistics(path)
        rows = np.isin(labels, chosen)
        places = [list(model.classes_).index(name) for name in chosen]
        said = np.array(chosen)[model.decision_function(features[rows])[:, places].argmax(1)]
        hits = (said == labels[rows]).astype(float)
        low, high = interval(lambda drawn, hits=hits: float(hits[drawn].mean()), len(hits))
        print(
            f"logistic regression, {path.name}, {len(chosen)} classes: {hits.mean():.3f} ({low:.3f} to {high:.3f}), "
            f"N = {len(hits)}, chance {1 / len(chosen):.3f}"
        )


def statistics(path: Path) -> tuple[np.ndarray, np.ndarray]:
    corpus, extractor = load_corpus(path), SlapFeatureExtractor(patch_frames=4)
    rows = []
    for clip in corpus:
        wave = extractor.load(clip["audio"], name=clip["id"])[: 10 * extractor.sampling_rate]
        frames = extractor.log_mel(np.pad(wave, (0, max(0, 3200 - len(wave)))) / max(np.abs(wave).max(), 1e-4))
        change = np.abs(np.diff(frames, axis=0)).mean(0)
        rows.append(np.concatenate([frames.mean(0), frames.std(0), np.percentile(frames, 90, axis=0), change]))
    return np.stack(rows), np.array(corpus["label"])


if __name__ == "__main__":
    main()
