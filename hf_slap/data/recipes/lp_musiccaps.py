"""LP-MusicCaps, three parts (MusicCaps, MagnaTagATune, Million Song Dataset): tags written out by GPT-3.5."""

from pathlib import Path

from .base import Recipe, Row, youtube_paths
from .captions import human, machine
from .readers import parquet

STYLES = ("writing", "summary", "paraphrase")  # its authors advise against caption_attribute_prediction
SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def _mc(row: dict, split: str) -> dict:
    video, start = row["ytid"], row["start_s"]
    where = {"source_id": f"youtube:{video}", "segment": (start, row["end_s"])}
    return {"key": f"{video}_{start}", "sound": youtube_paths(video, start, row["end_s"]), **where}


def _mtt(row: dict, split: str) -> dict:
    number = row["track_id"]
    return {"key": number, "sound": [row["path"], f"audio/{row['path']}"], "source_id": f"magnatagatune:{number}"}


def _msd(row: dict, split: str) -> dict:
    return {"key": row["track_id"], "sound": f"audio/{row['track_id']}", "source_id": f"msd:{row['track_id']}"}


def _rows(describe, columns: str, tags: str):
    def rows(folder: Path):
        for name, split in SPLITS.items():
            for row in parquet(folder, f"data/{name}-*.parquet", f"{columns} {tags} caption_writing"):
                yield Row(
                    captions=human(row.get("caption_ground_truth") or "", style="ground truth")
                    + [
                        caption
                        for style in STYLES
                        for caption in machine("gpt-3.5-turbo", row.get(f"caption_{style}") or "", style=style)
                    ],
                    labels=_listed(row[tags]),
                    split=split,
                    **describe(row, split),
                )

    return rows


def _listed(tags: list[str] | str | None) -> list[str]:
    return [tags] if isinstance(tags, str) else [tag for tag in tags or [] if tag]


def _recipe(part: str, name: str, described, columns: str, tags: str, rule: str, placement: str, access: str) -> Recipe:
    return Recipe(
        name=f"lp_musiccaps_{part.lower()}",
        title=f"LP-MusicCaps, {name}",
        pages=(f"seungheondoh/LP-MusicCaps-{part}", "https://github.com/seungheondoh/lp-music-caps"),
        license="unknown",
        text_license="MIT",
        redistributable=False,
        domain="music",
        captions="machine (gpt-3.5-turbo from tags); writing, summary, paraphrase" + "; the human one" * (part == "MC"),
        source_id=rule,
        access=access,
        placement=f"data/<split>-*.parquet as published; {placement}",
        expected=("data/*.parquet",),
        rows=_rows(described, columns, tags),
        not_checked="the licence of the MSD part's text" if part == "MSD" else "",
    )


RECIPES = [
    _recipe("MC", "MusicCaps", _mc, "ytid start_s end_s", "aspect_list", "youtube:<video>, segment",
            "sound in audio/, <ytid>.wav", "ids"),
    _recipe("MTT", "MagnaTagATune", _mtt, "track_id path", "tag_top50", "magnatagatune:<track_id>",
            "MagnaTagATune's mp3 files by the column `path`, here or in audio/", "ids"),
    _recipe("MSD", "Million Song Dataset", _msd, "track_id", "tag", "msd:<track_id>",
            "sound (not given away by anybody) in audio/, <track_id>.mp3", "request"),
]  # fmt: skip
