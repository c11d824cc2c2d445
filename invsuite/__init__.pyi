# The front door: the names that a lab's script or plug-in needs, from wherever they are written.

from .api import Outlook as Outlook
from .api import RunArguments as RunArguments
from .api import load_results as load_results
from .api import plan as plan
from .api import run as run
from .benchmark.executors.base import Placement as Placement
from .benchmark.runner import RunOptions as RunOptions
from .benchmark.suite import load_suite as load_suite
from .catalogue import list_methods as list_methods
from .catalogue import list_metrics as list_metrics
from .catalogue import list_models as list_models
from .data.base import Dataset as Dataset
from .data.base import Instance as Instance
from .data.base import Sample as Sample
from .data.base import Source as Source
from .data.geometry import Resampling as Resampling
from .data.sources import open_images as open_images
from .errors import InvsuiteError as InvsuiteError
from .errors import NotApplicable as NotApplicable
from .errors import Unavailable as Unavailable
from .errors import UsageError as UsageError
from .methods.base import FitCost as FitCost
from .methods.base import Fitted as Fitted
from .methods.base import Inverter as Inverter
from .methods.base import Method as Method
from .methods.problem import Budget as Budget
from .methods.problem import Problem as Problem
from .metrics.base import Metric as Metric
from .metrics.base import Scoring as Scoring
from .metrics.base import Values as Values
from .models.base import Component as Component
from .models.base import Layout as Layout
from .models.base import Model as Model
from .models.base import Prediction as Prediction
from .models.base import Representation as Representation
from .models.base import WeightsOrigin as WeightsOrigin
from .models.load import load_model as load_model
from .registry import register as register
from .report.results import Results as Results
from .results.record import Record as Record
from .single import fit as fit
from .single import score as score

__version__: str
