"""What happens between chunks: progress, logs, checkpoints.

The driver stops the compiled run where some hook wants to look, and hands it what has been logged since it last looked. A hook never
touches the device by itself: the metrics it gets have been fetched, once for all hooks.
"""

from flaxfit.hooks.base import Hook, Look, Run
from flaxfit.hooks.checkpoint import Checkpoint
from flaxfit.hooks.logs import Dots, Metrics, Progress, TensorBoard

__all__ = ["Checkpoint", "Dots", "Hook", "Look", "Metrics", "Progress", "Run", "TensorBoard"]
