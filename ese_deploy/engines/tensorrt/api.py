"""The only module that distinguishes ``tensorrt`` and ``tensorrt_rtx``, two packages with the same interface."""

import importlib
from dataclasses import dataclass
from typing import Any

from ese_deploy.engines.registry import REGISTRY
from ese_deploy.errors import EngineError
from ese_deploy.system.install import install_hint, installed_version, release

__all__ = ["Api", "Log", "create_network", "import_tensorrt"]

# The wheels of TensorRT for RTX themselves contain the last one.
_MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
_PACKAGES = REGISTRY["tensorrt"].packages


@dataclass(frozen=True)
class Api:
    """TensorRT.

    Attributes:
        module: the Python module.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        version: such as ``10.16.0.72``.
    """

    module: Any
    flavour: str
    version: str

    @property
    def release(self) -> tuple[int, int]:
        """The first two numbers of the version."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def versions(self) -> dict[str, str]:
        """The installed distribution and its version."""
        for name in _PACKAGES:
            if name.startswith("tensorrt-rtx") == self.rtx and (found := installed_version(name)):
                return {name: found}
        return {self.flavour: self.version}

    @property
    def rtx(self) -> bool:
        """Whether it is TensorRT for RTX. It compiles at load and has no timing cache."""
        return self.flavour == "tensorrt-rtx"


def import_tensorrt() -> Api:
    """Import TensorRT, or TensorRT for RTX if only that is installed.

    Raises:
        EngineError: neither is installed, a library is missing, or the version is too old.
    """
    reasons = []
    for name in _MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            if not isinstance(error, ModuleNotFoundError) or error.name != name:
                reasons.append(f"{name} cannot be imported ({error})")
            continue
        except (OSError, RuntimeError) as error:
            reasons.append(f"{name} cannot be loaded ({str(error).strip().partition(chr(10))[0]})")
            continue
        api = Api(module, "tensorrt" if name == "tensorrt" else "tensorrt-rtx", str(module.__version__))
        least = _PACKAGES["tensorrt"]
        if not api.rtx and api.release < release(least):
            raise EngineError(f"TensorRT {api.version} is too old. Run: pip install 'tensorrt-cu13>={least}'")
        return api
    found = f" ({'; '.join(reasons)})" if reasons else ""
    raise EngineError(f"TensorRT is not installed{found}. {install_hint('tensorrt')}")


class Log:
    """Collects TensorRT's error messages, so that an error can be reported in one line.

    Args:
        api: TensorRT.

    Attributes:
        logger: the logger to pass to TensorRT.
        errors: messages of errors, in order.
    """

    def __init__(self, api: Api) -> None:
        module, errors = api.module, list[str]()

        class Logger(module.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                module.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                    errors.append(" ".join(message.split()))

        self.logger, self.errors = Logger(), errors

    @property
    def first_error(self) -> str:
        """The first error, at most 300 characters of it."""
        return self.errors[0][:300] if self.errors else "no reason given"


def create_network(api: Api, builder: Any) -> Any:
    """An empty, strongly typed network: it computes in the dtypes of the graph.

    From TensorRT 11 on all networks are strongly typed, and the flag does not exist.
    """
    flags = api.module.NetworkDefinitionCreationFlag
    typed = getattr(flags, "STRONGLY_TYPED", None) if api.release < (11, 0) else None
    return builder.create_network(0 if typed is None else 1 << int(typed))
