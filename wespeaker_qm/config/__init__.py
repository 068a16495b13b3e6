"""The training configuration: WeSpeaker's keys, typed, frozen and checked before anything is built.

A configuration is made of YAML files merged left to right, then of dotted overrides from the command line::

    conf/resnet34.yaml  <-  egs/mini/conf.yaml  <-  conf/loss/cosface.yaml  <-  dataset_args.num_frms=100

Mappings are merged key by key, with two exceptions. A file or command line that names ``projection_args.project_type``
replaces ``projection_args`` as a whole, because the alpha of one loss means nothing to another. One that names another
``model`` keeps of ``model_args`` what every network has.
"""

from wespeaker_qm.config.data import DataloaderArgs, DatasetArgs, FbankArgs, FilterArgs, ShuffleArgs, SpecAugArgs
from wespeaker_qm.config.loading import config_of, load_config, saved_settings
from wespeaker_qm.config.loss import (
    AddMarginArgs,
    AlphaArcMarginArgs,
    ArcMarginArgs,
    HeadArgs,
    LossDefinition,
    QMarginArgs,
    SoftmaxArgs,
)
from wespeaker_qm.config.messages import schema_keys
from wespeaker_qm.config.model import ModelArgs, ResNetArgs
from wespeaker_qm.config.notes import config_notes
from wespeaker_qm.config.schedule import MarginUpdate, OptimizerArgs, SchedulerArgs
from wespeaker_qm.config.schema import Config

__all__ = [
    "AddMarginArgs",
    "AlphaArcMarginArgs",
    "ArcMarginArgs",
    "Config",
    "DataloaderArgs",
    "DatasetArgs",
    "FbankArgs",
    "FilterArgs",
    "HeadArgs",
    "LossDefinition",
    "MarginUpdate",
    "ModelArgs",
    "OptimizerArgs",
    "QMarginArgs",
    "ResNetArgs",
    "SchedulerArgs",
    "ShuffleArgs",
    "SoftmaxArgs",
    "SpecAugArgs",
    "config_notes",
    "config_of",
    "load_config",
    "saved_settings",
    "schema_keys",
]
