from .answer import OverfittingStudy as OverfittingStudy
from .network import Network as Network
from .study import overfitting_study as overfitting_study
