from . import plots as plots
from . import statistics as statistics
