"""Scores with error bars: confidence intervals of means, comparisons of two settings, and of many.

Which formula is right depends on what varied. Runs from several seeds on the same rows are independent ("t", "paired", "unpaired").
Scores of cross-validation and of repeated hold-out are not, because their training sets share rows ("corrected"). On one set of held-out
rows, seeds and rows are crossed: each seed scores every row ("crossed"). `Study` and `CrossValidation` know which of these they are.
"""

from flaxfit.report.statistics.classifiers import auc_interval as auc_interval
from flaxfit.report.statistics.classifiers import delong as delong
from flaxfit.report.statistics.classifiers import mcnemar as mcnemar
from flaxfit.report.statistics.comparisons import ROWS as ROWS
from flaxfit.report.statistics.comparisons import SEEDS as SEEDS
from flaxfit.report.statistics.comparisons import SEEDS_AND_ROWS as SEEDS_AND_ROWS
from flaxfit.report.statistics.comparisons import Comparison as Comparison
from flaxfit.report.statistics.comparisons import compare as compare
from flaxfit.report.statistics.comparisons import family as family
from flaxfit.report.statistics.errors import Bounds as Bounds
from flaxfit.report.statistics.intervals import Interval as Interval
from flaxfit.report.statistics.intervals import interval as interval
from flaxfit.report.statistics.intervals import of_rows as of_rows
from flaxfit.report.statistics.intervals import share as share
