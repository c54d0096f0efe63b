"""tinyres: residual networks from scratch, on NumPy and CuPy, with instruments that show how gradients flow."""

from tinyres import functional, models, nn, optim
from tinyres.autograd import Tensor, detect_anomaly, differentiable, is_grad_enabled, no_grad
from tinyres.backend import manual_seed
from tinyres.nn import checkpoint
from tinyres.profiler import profile
from tinyres.threads import get_num_threads, set_num_threads

__version__ = "0.1.0"
__all__ = [
    "Tensor",
    "checkpoint",
    "detect_anomaly",
    "differentiable",
    "functional",
    "get_num_threads",
    "is_grad_enabled",
    "manual_seed",
    "models",
    "nn",
    "no_grad",
    "optim",
    "profile",
    "set_num_threads",
]
