"""The peers of the benchmark: what they are made of, their environments, and their processes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Precision = Literal["float32", "tf32", "bf16"]
HERE = Path(__file__).parent
PACKAGES = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
# The extra with which JAX was installed for a GPU, such as "cuda13", or "".
CUDA = next((name for name in ("cuda12", "cuda13") if {f"jax-{name}-plugin", f"jax-{name}-pjrt"} & PACKAGES), "")
KERAS = "keras==3.15.1"
KERAS_JAX = (KERAS, f"jax{f'[{CUDA}]' * bool(CUDA)}=={importlib.metadata.version('jax')}")
KERAS_TENSORFLOW = (KERAS, f"{'tensorflow[and-cuda]' if CUDA else 'tensorflow-cpu'}==2.21.0")
TORCH = ("torch==2.13.0", "lightning-fabric==2.6.6", "numpy")
REQUIREMENT = re.compile(r"([\w-]+)(?:\[[\w-]+\])?(?:==(.+))?")


class Failed(Exception):
    """A peer could not be installed, cannot do what it was asked, or broke. The message says why."""


@dataclass(frozen=True)
class Peer:
    """A program that trains the workloads.

    Attributes:
      title: its name in tables.
      module: its module in `peers/`.
      options: the keyword arguments of the module's function `build`.
      environment: the name of its environment, or None if it runs in the one in which the suite runs.
      requirements: what pip installs into its environment.
      variables: environment variables of its process.
      populations: whether it trains populations only.
      starts: whether it is also timed from the start of a process.
    """

    title: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None
    requirements: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    populations: bool = False
    starts: bool = True


FLAXFIT = "flaxfit"
PEERS = {
    FLAXFIT: Peer("flaxfit", "with_flaxfit"),
    "scan": Peer("hand-written scan", "by_hand"),
    "scan-members": Peer("hand-written scan, members mapped", "by_hand", {"members": True}, populations=True, starts=False),
    "steps": Peer("jitted step loop", "by_hand", {"loop": True}),
    "keras-jax": Peer("Keras on JAX", "with_keras", {}, "keras-jax", KERAS_JAX, {"KERAS_BACKEND": "jax"}),
    "keras-tensorflow": Peer(
        "Keras on TensorFlow", "with_keras", {}, "keras-tensorflow", KERAS_TENSORFLOW, {"KERAS_BACKEND": "tensorflow"}
    ),
    "torch": Peer("PyTorch", "with_torch", {}, "torch", TORCH),
    "torch-compiled": Peer("PyTorch, compiled", "with_torch", {"compiled": True}, "torch", TORCH, starts=False),
    "fabric": Peer("Lightning Fabric", "with_torch", {"fabric": True}, "torch", TORCH, starts=False),
    "sklearn": Peer("scikit-learn", "with_sklearn"),
}
PRODUCTS = Peer("products of matrices", "products")


def interpreter(peer: Peer, environments: Path) -> str:
    """Returns the path of a Python with the peer's packages. The peer's environment is made if there is none.

    Args:
      peer: the peer.
      environments: the directory of the environments.

    Raises:
      Failed: the environment could not be made.
    """
    if peer.environment is None:
        return sys.executable
    home = environments / peer.environment
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file():
        print(f"Making the environment {home}.", flush=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
    if set(installed(python, peer.requirements).values()) == {True}:
        return str(python)
    print(f"Installing {', '.join(peer.requirements)} into {home}.", flush=True)
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.requirements], capture_output=True, text=True, check=False)
    if done.returncode and None in installed(python, peer.requirements).values():
        lines = done.stderr.strip().splitlines() or ["pip failed"]
        raise Failed(f"pip could not install {', '.join(peer.requirements)}: {lines[-1]}")
    return str(python)


def installed(python: Path, requirements: Sequence[str]) -> dict[str, bool | None]:
    """Returns for each required package whether it has the required version, None if it is not installed."""
    pins = {found[1]: found[2] for requirement in requirements if (found := REQUIREMENT.fullmatch(requirement))}
    code = "import importlib.metadata as m, json; print(json.dumps([(d.metadata['Name'], d.version) for d in m.distributions()]))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    versions = {name.lower().replace("_", "-"): version for name, version in json.loads(done.stdout)}
    return {name: None if name not in versions else pin is None or versions[name].split("+")[0] == pin for name, pin in pins.items()}


def variables(peer: Peer, precision: Precision, caches: Path | None = None) -> dict[str, str]:
    """Returns the environment variables of a peer's process.

    Args:
      peer: the peer.
      precision: the precision of products of matrices.
      caches: the directory of caches of compiled programs, or None for what the user has.

    The modules of all peers are loaded as bytecode, as those of an installed package are.
    """
    found = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    if peer.environment is None:
        paths = str(HERE.parents[1]), os.environ.get("PYTHONPATH")  # flaxfit of this clone, and where this Python finds the rest
        found["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    found |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true", "TF_CPP_MIN_LOG_LEVEL": "2"}
    found["JAX_DEFAULT_MATMUL_PRECISION"] = "highest" if precision == "float32" else "default"  # JAX's default on a GPU is TF32
    if caches:
        found |= {"JAX_COMPILATION_CACHE_DIR": str(caches / "jax"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        found |= {"XDG_CACHE_HOME": str(caches), "FLAXFIT_CACHE": str(caches), "TORCHINDUCTOR_CACHE_DIR": str(caches / "torch")}
    return found | dict(peer.variables)


class Server:
    """The process of a peer, which answers requests.

    Args:
      peer: the peer.
      python: the Python that runs it.
      environment: the environment variables of the process.
      log: the file to which what it prints is appended.

    Raises:
      Failed: its packages could not be imported.
    """

    def __init__(self, peer: Peer, python: str, environment: Mapping[str, str], log: Path):
        self.began, self._log = time.perf_counter(), log
        command = [python, str(HERE / "peers" / "serve.py"), peer.module, json.dumps(dict(peer.options))]
        with log.open("a") as file:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=file, env=environment, text=True)
        try:
            self.about = self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Returns the answer to a request.

        Raises:
          Failed: the peer cannot do this, or broke.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # no answer will come
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"its process ended with status {self._process.wait()}"}
        if "unable" in answer:
            raise Failed(answer["unable"])
        if "error" in answer:
            raise Failed(f"{answer['error']} (see {self._log})")
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
