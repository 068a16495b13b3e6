from .encoder import SpeakerEncoder as SpeakerEncoder
from .pooling import TemporalStatisticsPooling as TemporalStatisticsPooling
from .resnet import ResNet as ResNet
