"""The classes of modules and activations that a checkpoint may name, by their full paths.

A class of the checkpoint's own code can have the same last name and compute something else. Its code is never run.
"""

from torch import nn

from ese_deploy.errors import InputError

__all__ = ["ACTIVATIONS", "activation_name", "module_kind"]

MODULES = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
_PACKAGES = (
    "sentence_transformers.models",
    "sentence_transformers.base.modules",
    "sentence_transformers.sentence_transformer.modules",
)

ACTIVATIONS = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
}

# Releases have a class in the package, in a file of its name, or in one of its name in lower case.
_KINDS = {
    f"{package}.{place}{kind}": kind
    for kind in MODULES
    for package in _PACKAGES
    for place in ("", f"{kind}.", f"{kind.lower()}.")
}
_ACTIVATION_PATHS = {
    path: name for name, kind in ACTIVATIONS.items() for path in (f"torch.nn.{name}", f"{kind.__module__}.{name}")
}


def module_kind(path: object, where: object) -> str:
    """The last name of a module's class.

    Args:
        path: what ``modules.json`` says, such as ``sentence_transformers.models.Pooling``.
        where: the file, for the message.

    Raises:
        InputError: the class is not one of sentence-transformers that exports support.
    """
    if not isinstance(path, str):
        raise InputError(f"{where} has a module whose type is {path!r}, which must be the path of a class.")
    kind = _KINDS.get(path)
    if kind is not None:
        return kind
    supported = ", ".join(name for name in MODULES if name != "Dropout")
    if path.startswith("sentence_transformers."):
        raise InputError(f"{where} has a module '{path.rpartition('.')[2]}'. Supported: {supported}.")
    raise InputError(
        f"{where} has the module '{path}' of the checkpoint's own code, which is never run. Supported are modules of "
        f"sentence-transformers: {supported}."
    )


def activation_name(path: object, where: object) -> str:
    """The last name of an activation's class, a key of :data:`ACTIVATIONS`.

    Args:
        path: what the module's ``config.json`` says, such as ``torch.nn.modules.activation.Tanh``.
        where: the file, for the message.

    Raises:
        InputError: it is another class.
    """
    name = _ACTIVATION_PATHS.get(path) if isinstance(path, str) else None
    if name is None:
        own = "" if isinstance(path, str) and path.startswith("torch.") else " Own code is never run."
        raise InputError(
            f"{where} has the activation '{path}'. Supported are those of torch.nn: {', '.join(ACTIVATIONS)}.{own}"
        )
    return name
