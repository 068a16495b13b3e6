from . import audio as audio
from . import evaluate as evaluate
from . import losses as losses
from . import models as models
from . import stages as stages
from . import trials as trials

__version__: str
