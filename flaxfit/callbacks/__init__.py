"""What happens between chunks: progress, logs, checkpoints.

The loop stops the compiled run where a callback asks to be called, and hands it what has been logged since its last call.
"""

from flaxfit.callbacks.base import Callback, Progress, Run
from flaxfit.callbacks.checkpoints import Checkpoint, SaveWeights
from flaxfit.callbacks.loggers import TensorBoard
from flaxfit.callbacks.progress import Dots, ProgressBar

__all__ = ["Callback", "Checkpoint", "Dots", "Progress", "ProgressBar", "Run", "SaveWeights", "TensorBoard"]
