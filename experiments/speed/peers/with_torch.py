"""PyTorch: a loop over steps with all examples on the device, eager or compiled by `torch.compile`, with or without Lightning Fabric.

The optimizer is fused, its weight decay is the gradient of the L2 penalty, and losses are fetched once an epoch. On a CPU, runs use one
thread or all, whichever is faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from serve import Round, Rows, Run, mean, trainings
from torch import nn  # pyright: ignore[reportMissingImports]

PACKAGES = ("torch", "lightning-fabric", "numpy")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def device_memory() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


class LastStep(nn.Module):
    """An LSTM that returns its output at the last step."""

    def __init__(self, features: int, units: int):
        super().__init__()
        self.lstm = nn.LSTM(features, units, batch_first=True)

    def forward(self, x):
        """Returns the output at the last step, shape (rows, units)."""
        return self.lstm(x)[0][:, -1]


def network(work: Any, shape: tuple[int, ...]) -> nn.Sequential:
    """The layers, for inputs of this shape, images with their channels first."""
    layers: list[nn.Module] = []
    for kind, *values in work.layers:
        if kind == "dense":
            layers.append(nn.Linear(shape[-1], values[0]))
            shape = (values[0],)
        elif kind == "conv":
            layers.append(nn.Conv2d(shape[0], values[0], 3, padding="same"))
            shape = (values[0], *shape[1:])
        elif kind == "pool":
            layers.append(nn.MaxPool2d(2))
            shape = (shape[0], *(size // 2 for size in shape[1:]))
        elif kind == "flatten":
            layers.append(nn.Flatten())
            shape = (math.prod(shape),)
        elif kind == "batch_norm":
            layers.append(nn.BatchNorm1d(shape[-1], eps=1e-3, momentum=0.01))
        elif kind == "dropout":
            layers.append(nn.Dropout(values[0]))
        elif kind == "lstm":
            layers.append(LastStep(shape[-1], values[0]))
            shape = (values[0],)
        else:
            raise ValueError(f"a network has no layer of the kind {kind!r}.")
        if kind in ("dense", "conv") and values[1] is not None:
            layers.append({"relu": nn.ReLU, "elu": nn.ELU}[values[1]]())
    return nn.Sequential(*layers)


@torch.no_grad()
def initialize(net: nn.Module, initializer: str) -> None:
    """Draws new weights as the other peers do, in place, so that nothing is compiled again."""
    draw = {"glorot_uniform": nn.init.xavier_uniform_, "he_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")}
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_parameters()
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(4):
                    nn.init.orthogonal_(gate)
            elif "bias" in name:
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                for gate in parameter.chunk(4 if name.startswith("weight_ih") else 1):
                    draw[initializer](gate)


def build(work: Any, arrays: Mapping[str, np.ndarray], *, compiled: bool = False, fabric: bool = False) -> Run:
    """Returns a function that trains once."""
    torch.set_float32_matmul_precision("highest" if work.precision == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = work.precision != "float32"
    images = arrays["x"].ndim == 4
    shape = arrays["x"].shape[1:]
    net = network(work, (shape[-1], *shape[:-1]) if images else shape).to(DEVICE)
    criterion = nn.BCEWithLogitsLoss() if work.classes == 1 else nn.CrossEntropyLoss()
    lightning: Any = None
    if fabric:
        from lightning_fabric import Fabric  # pyright: ignore[reportMissingImports]

        precision = "bf16-mixed" if work.precision == "bf16" else "32-true"
        lightning = Fabric(accelerator="cuda" if DEVICE.type == "cuda" else "cpu", devices=1, precision=precision)

    def scores(model: Any, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(DEVICE.type, torch.bfloat16) if work.precision == "bf16" and not fabric else nullcontext():
            logits = model(x)
        logits = logits.float()
        if work.classes == 1:
            logits = logits[:, 0]
            return criterion(logits, y), ((logits > 0) == (y > 0.5)).float().mean()
        return criterion(logits, y), (logits.argmax(1) == y).float().mean()

    def on_device(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        x = np.ascontiguousarray(np.moveaxis(x, -1, 1)) if images else x
        return torch.from_numpy(x).to(DEVICE), torch.from_numpy(y if work.classes == 1 else y.astype(np.int64)).to(DEVICE)

    def train(rows: Rows, seed: int, epochs: int, scores: Callable[..., Any]) -> Round:
        start = time.perf_counter()
        torch.manual_seed(seed)
        initialize(net, work.initializer)
        kernels = [parameter for parameter in net.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
        groups = [{"params": kernels, "weight_decay": 2 * work.l2[0]}, {"params": others, "weight_decay": 0.0}]
        optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[work.optimizer](groups, work.rate, fused=True)
        model, stepper = lightning.setup(net, optimizer) if lightning else (net, optimizer)
        x, y = on_device(rows.x, rows.y)
        held_out = on_device(rows.validation_x, rows.validation_y)
        size, count, fetched = len(y), 0, [0.0] * 4
        for _ in range(epochs):
            model.train()
            loss, right = torch.zeros((), device=DEVICE), torch.zeros((), device=DEVICE)
            for batch in torch.randperm(size, device=DEVICE).split(work.batch):
                if work.decay_steps:
                    for group in optimizer.param_groups:
                        group["lr"] = work.rate / (1 + count / work.decay_steps)
                found, accuracy = scores(model, x[batch], y[batch])
                stepper.zero_grad()
                lightning.backward(found) if lightning else found.backward()
                stepper.step()
                loss += found.detach() * len(batch)
                right += accuracy * len(batch)
                count += 1
            model.eval()
            with torch.no_grad():
                validation = scores(model, *held_out)
            fetched = torch.stack([loss / size, right / size, *validation]).tolist()
        return Round(time.perf_counter() - start, fetched[3], fetched[2], note=f"{torch.get_num_threads()} threads")

    if DEVICE.type == "cpu" and not work.start:  # for small networks, one thread is often the fastest

        def seconds(threads: int) -> float:
            torch.set_num_threads(threads)
            return min(train(next(trainings(work, arrays, 0)), 0, 1, scores).seconds for _ in range(3))

        torch.set_num_threads(min({1, torch.get_num_threads()}, key=seconds))
    score = torch.compile(scores) if compiled else scores
    return lambda seed, epochs: mean([train(rows, seed, epochs, score) for rows in trainings(work, arrays, seed)])
