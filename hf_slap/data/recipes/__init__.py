"""A recipe per source of captioned sound: where it is, under which terms, and how its files become records."""

import dataclasses

from . import (
    audiocaps,
    audioset,
    audiosetcaps,
    auto_acd,
    clotho,
    cmu_mosi,
    cochlscene,
    common_voice,
    epic_sounds,
    esc50,
    findsounds,
    fma,
    fsd50k,
    fusionaudio,
    gtzan,
    iemocap,
    jamendomaxcaps,
    kinetics700,
    librispeech,
    ljspeech,
    lp_musiccaps,
    macs,
    meld,
    msp_podcast,
    musiccaps,
    nsynth,
    own_folder,
    own_parquet,
    own_table,
    own_webdataset,
    package,
    paraspeechcaps,
    sounddescs,
    urbansound8k,
    vggsound,
    wavcaps,
    wavtext5k,
)
from .base import ACCESS, Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for module in (
        *(
            audiocaps,
            clotho,
            wavcaps,
            audiosetcaps,
            auto_acd,
            fusionaudio,
            vggsound,
            audioset,
            fsd50k,
            macs,
            sounddescs,
        ),
        *(
            wavtext5k,
            cochlscene,
            epic_sounds,
            kinetics700,
            findsounds,
            musiccaps,
            jamendomaxcaps,
            lp_musiccaps,
            nsynth,
            fma,
        ),
        *(paraspeechcaps, librispeech, common_voice, ljspeech, meld, iemocap, msp_podcast, cmu_mosi),
        *(esc50, urbansound8k, gtzan, own_folder, own_table, own_parquet, own_webdataset, package),
    )
    for recipe in (module.RECIPES if hasattr(module, "RECIPES") else [module.RECIPE])
}
CLAP_2023 = {  # the 20 sources of CLAP 2023's 4.6 M pairs (arXiv 2309.05767) and the recipes for them
    "WavCaps": ("wavcaps_audioset", "wavcaps_bbc", "wavcaps_freesound", "wavcaps_soundbible"),
    **{"AudioSet": ("audioset",), "FSD50K": ("fsd50k",), "Clotho": ("clotho",), "AudioCaps": ("audiocaps",)},
    **{"MACS": ("macs",), "WavText5K": ("wavtext5k",), "SoundDescs": ("sounddescs",), "NSynth": ("nsynth",)},
    **{"FMA": ("fma",), "CMU-MOSI": ("cmu_mosi",), "MELD": ("meld",), "IEMOCAP": ("iemocap",), "MOSEI": ("cmu_mosei",)},
    **{"MSP-Podcast": ("msp_podcast",), "CochlScene": ("cochlscene",), "LJSpeech": ("ljspeech",)},
    **{"EpicKitchen": ("epic_sounds",), "Kinetics-700": ("kinetics700",), "findsounds.com": ("findsounds",)},
}


def names() -> list[str]:
    """The names of all recipes."""
    return list(RECIPES)


def get_recipe(name: str, /, **changes) -> Recipe:
    """A recipe by its name.

    Args:
        name: one of `names()`.
        changes: other values for fields of the recipe, such as `name`, `license`, `redistributable` and `domain` of a
            folder of your own.
    Raises:
        ValueError: no such recipe, or no such field.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {names()}")
    fields = [field.name for field in dataclasses.fields(Recipe)]
    if unknown := sorted(set(changes) - set(fields)):
        raise ValueError(f"a recipe has no {unknown}; its fields are {fields}")
    return dataclasses.replace(RECIPES[name], **changes)


def readme_table() -> str:
    """All recipes as a table in markdown."""
    lines = ["| recipe | what | licence of the sound | captions | get it |", "|---|---|---|---|---|"]
    for recipe in RECIPES.values():
        page = recipe.pages[0] if recipe.pages else ""
        address = page if page.startswith("http") else f"https://huggingface.co/datasets/{page}"
        title = f"[{recipe.title}]({address})" if page else recipe.title
        license = recipe.license + (", giving on allowed" if recipe.redistributable else "")
        lines.append(f"| `{recipe.name}` | {title} | {license} | {recipe.captions} | {ACCESS[recipe.access]} |")
    return "\n".join(lines)


__all__ = ["ACCESS", "CLAP_2023", "RECIPES", "Recipe", "get_recipe", "names", "readme_table"]
