from . import audio as audio
from . import evaluate as evaluate
from . import losses as losses
from . import models as models

__version__: str
