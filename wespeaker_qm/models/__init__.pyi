from .pooling import TemporalStatisticsPooling as TemporalStatisticsPooling
from .resnet import ResNet as ResNet
