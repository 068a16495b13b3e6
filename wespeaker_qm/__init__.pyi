from . import audio as audio
from . import evaluate as evaluate
from . import losses as losses
from . import models as models
from . import stages as stages
from . import trials as trials
from .enrolment.store import SpeakerStore as SpeakerStore
from .speaker.speaker import Speaker as Speaker
from .utils.errors import RecipeError as RecipeError
from .utils.layout import DataFolder as DataFolder
from .utils.layout import ExpRoot as ExpRoot
from .utils.layout import RunFolder as RunFolder

__version__: str
