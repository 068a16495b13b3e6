"""What may be set of the corpus voxceleb."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wespeaker_qm.corpora.settings import Setting, lists_by_name
from wespeaker_qm.utils.arguments import true_or_false


@dataclass(frozen=True, kw_only=True)
class VoxcelebSettings:
    """Keys of ``egs/voxceleb/corpus.yaml``; those with a help text are options of ``wespeaker-qm prepare``, too."""

    vox_root: Annotated[
        Path,
        Setting(
            Path,
            "folder that holds, at any depth, VoxCeleb1 and 2 as official parts, zips or trees "
            "id*/video/*.m4a|wav|flac, the trial lists, and MUSAN and RIRS_NOISES as archives, trees or WeSpeaker's "
            "LMDBs",
        ),
    ] = Path("downloads/voxceleb")
    download: Annotated[
        bool,
        Setting(
            true_or_false,
            "download to --vox_root what is not there, resuming what was interrupted",
            metavar="true|false",
        ),
    ] = False
    access_key: Annotated[
        str | None, Setting(str, "key of sources that ask for one (default: the environment variable VOXCELEB_KEY)")
    ] = None
    subset: Annotated[
        bool,
        Setting(true_or_false, "go on with a part of VoxCeleb, and say so in every report", metavar="true|false"),
    ] = False
    augmentation: Annotated[
        bool,
        Setting(
            true_or_false,
            "prepare MUSAN and RIRS_NOISES; without them train with dataset_args.aug_prob=0",
            metavar="true|false",
        ),
    ] = True
    eval_only: Annotated[
        bool,
        Setting(
            true_or_false,
            "only VoxCeleb1 and its trial lists, to evaluate a finished model on (run.sh --model); for the lists O "
            "vox1_test_wav.zip is enough",
            metavar="true|false",
        ),
    ] = False
    name: Annotated[str, Setting(str)]
    """Name of the corpus, for readers of the file: reports take that of the data folder."""
    description: Annotated[str, Setting(str)]
    """One line for reports."""
    sources: Annotated[dict[str, list[str]], Setting(str, from_yaml=lists_by_name(str))]
    """Source of files.tsv -> URLs in the order of trying, with ``{file}`` and, where one is asked for, ``{key}``."""
    expected: Annotated[dict[str, list[int]], Setting(str, from_yaml=lists_by_name(int))]
    """Set -> [speakers, utterances], trial list -> [trials], of the complete corpus."""
