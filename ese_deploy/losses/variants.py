"""The variants of ESE: one class each, which :class:`ese_deploy.losses.EseLoss` calls with every batch."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from ese_deploy.errors import InputError
from ese_deploy.losses.covariance import RunningCovariance
from ese_deploy.losses.espresso import Cell, Targets, espresso_parts, espresso_settings
from ese_deploy.losses.exits import ModelParts, exit_vectors
from ese_deploy.losses.gather import gather
from ese_deploy.losses.pieces import compute_in_pieces
from ese_deploy.losses.projections import ExitProjections
from ese_deploy.losses.published import paper_parts, reference_parts
from ese_deploy.projections.projection import Projection
from ese_deploy.target import MIN_DIM, Target, default_dims

__all__ = ["VARIANTS", "Batch", "Espresso", "Paper", "Reference", "Variant"]

Features = Mapping[str, Any]


@dataclass(frozen=True)
class Batch:
    """One batch of all processes.

    Attributes:
        vectors: float32 [n, ...], what ``compute`` returned for all texts of all columns.
        features: for each column the collator's output, of this process alone.
        objective: from float [n, k] to a scalar; None for texts without labels.
        seed: seed of everything that is drawn for this batch; equal on all processes.
        training: whether the model is in training mode.
    """

    vectors: Tensor
    features: Sequence[Features]
    objective: Callable[[Tensor], Tensor] | None
    seed: int
    training: bool


class Variant(Protocol):
    """What :class:`ese_deploy.losses.EseLoss` needs of a variant.

    Attributes:
        name: as ``--variant`` and ``ese.json`` write it.
        needs_labels: whether it cannot learn from plain texts.
        keeps_columns: whether each column must be computed as the collator padded it.
        trained_exits: depths that training improves.
        trained_dims: prefixes that training improves.
        aligned: whether the exits share one embedding space.
    """

    name: str
    needs_labels: bool
    keeps_columns: bool
    trained_exits: list[int]
    trained_dims: list[int]
    aligned: bool

    def compute(self, model: nn.Module, features: Features) -> Tensor:
        """Run the model on one column of texts: float32 [n, ...]."""

    def loss_parts(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, scalars by name; their sum is the loss."""

    def settings(self) -> dict[str, Any]:
        """Settings for ``ese.json``."""


class Espresso(nn.Module):
    """This project's variant: exits learn from labels and from the full model.

    Args:
        model: a copy of it becomes the teacher if the settings ask for a frozen one.
        parts: the parts of the model.
        exits: depths to train; None means all.
        dims: prefixes to train; None means 16, 32, 64 and so on up to the full width.
        cells: the pairs to train, such as ``2x64``, instead of every exit with every prefix.
        projections: of :func:`ese_deploy.losses.fit_projections`; None trains the exits' own vectors.
        token_features: of :data:`ese_deploy.projections.tokens.TOKEN_FEATURES`, what the projections read too. With
            ``table``, depth 0 is an exit.
        settings: fields of :class:`ese_deploy.losses.EspressoSettings`.
    """

    name = "espresso"
    needs_labels = False
    keeps_columns = False

    def __init__(
        self,
        model: SentenceTransformer,
        parts: ModelParts,
        *,
        exits: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        cells: Sequence[str] | None = None,
        projections: Mapping[int, Projection] | None = None,
        token_features: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.token_features = frozenset(token_features)
        # Depth 0 is the table of token vectors.
        least = 0 if "table" in self.token_features else 1
        self._cells = _check_cells(cells, exits, dims)
        exits = [depth for depth, _ in self._cells] or exits or range(least, parts.depth + 1)
        dims = [dim for _, dim in self._cells] or dims or default_dims(parts.width)
        self.exits = _check_choice("exits", exits, parts.depth, least)
        self.dims = _check_choice("dims", dims, parts.width, MIN_DIM)
        self.options = espresso_settings(settings)
        self.projections = None if projections is None else ExitProjections(projections, parts)
        self.covariance = RunningCovariance(parts.width, self.options.covariance_momentum)
        # Aligned exits share the embedding space of the full model.
        self.aligned = self.options.align_w > 0
        full = (parts.depth, parts.width) if self.options.train_full or self.aligned else None
        self.trained_exits = sorted({*self.exits, full[0]} if full else self.exits)
        self.trained_dims = sorted({*self.dims, full[1]} if full else self.dims)
        # A tuple hides the teacher from parameters() and state_dict().
        self._teacher: tuple[SentenceTransformer, ...] = ()
        if self.options.teacher == "frozen":
            self._teacher = (copy.deepcopy(model).eval().requires_grad_(False),)

    def settings(self) -> dict[str, Any]:
        """Settings for ``ese.json``."""
        return dataclasses.asdict(self.options)

    def compute(self, model: nn.Module, features: Features) -> Tensor:
        """Run the model: float32 [n, exits, width], or with projections [n, everything that they read]."""
        if self.projections is None:
            return torch.stack(exit_vectors(model, self.parts, features), dim=1)
        return self.projections.read(model, features)

    def loss_parts(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, scalars by name."""
        exits = self._exits(batch.vectors)
        targets = self._targets(exits, batch)
        return espresso_parts(exits, self.draw_cells(batch.seed), targets, self.options, batch.objective)

    def draw_cells(self, seed: int) -> list[Cell]:
        """The cells of one step, without the full model's own; equal for equal seeds."""
        chosen = self._cells or product(self.exits, self.dims)
        cells = [cell for cell in chosen if cell != (self.parts.depth, self.parts.width)]
        wanted = self.options.cells_per_step
        if wanted is None or wanted >= len(cells):
            return cells
        generator = torch.Generator().manual_seed(seed)
        return [cells[place] for place in torch.randperm(len(cells), generator=generator)[:wanted].tolist()]

    def _exits(self, computed: Tensor) -> dict[int, Tensor]:
        """Float32 [n, width] by depth, from the output of ``compute`` for all texts of the batch."""
        if self.projections is None:
            return {depth: computed[:, depth - 1] for depth in (*self.exits, self.parts.depth)}
        # Applied after the texts of all processes are gathered: every process then has the same gradient of the
        # projections.
        projected: dict[int, Tensor] = self.projections(computed)
        return projected

    def _targets(self, exits: Mapping[int, Tensor], batch: Batch) -> Targets:
        if self._teacher:
            taught = self.teach(batch.features)
            vectors = taught if self.projections is None else self.projections.rotate(taught)
        else:
            vectors = exits[self.parts.depth].detach()
        unit = nn.functional.normalize(vectors.float(), dim=-1)
        if self.projections is not None:
            # The leading dimensions of projected vectors are the teacher's principal components.
            return Targets(unit, torch.eye(self.parts.width, device=unit.device))
        if batch.training and self.options.compress_w > 0:
            self.covariance.update(unit)
        return Targets(unit, self.covariance.components)

    @torch.no_grad()
    def teach(self, features: Sequence[Features]) -> Tensor:
        """The frozen teacher's vectors of all processes' texts, float32 [n, width], not normalised."""
        (teacher,) = self._teacher
        device = features[0]["input_ids"].device
        if teacher.device != device:
            teacher.to(device)
        outputs = compute_in_pieces(features, lambda piece: teacher(dict(piece))["sentence_embedding"].float())
        return torch.cat([gather(output) for output in outputs])


class Reference:
    """The authors' code (SeanLee97/AnglE 0.6.1), with the layers that it trains.

    Args:
        model: the model to train.
        parts: the parts of the model.
        compression_size: the one prefix that is trained besides the full width.
        kl_temperature: temperature of the compression's KL divergence; 0 leaves it out.
        given: no other settings are allowed.
    """

    name = "reference"
    needs_labels = True
    # The randomised decomposition amplifies the last bits, which depend on the padding.
    keeps_columns = True
    aligned = False

    def __init__(
        self,
        model: SentenceTransformer,
        parts: ModelParts,
        *,
        compression_size: int = 128,
        kl_temperature: float = 1.0,
        **given: Any,
    ) -> None:
        _refuse_given(self.name, given)
        _check_choice("compression_size", [compression_size], parts.width, MIN_DIM)
        self.parts = parts
        self.compression_size = compression_size
        self.kl_temperature = kl_temperature
        # The authors' loop leaves the last exit but one out.
        self.trained_exits = [depth for depth in range(1, parts.depth + 1) if depth != parts.depth - 1]
        self.trained_dims = sorted({compression_size, parts.width})

    def compute(self, model: nn.Module, features: Features) -> Tensor:
        """Run the model: float32 [n, 1 + layers, width], the embeddings' output first, without a final norm."""
        return torch.stack(exit_vectors(model, self.parts, features, raw=True), dim=1)

    def loss_parts(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, scalars by name."""
        objective = _labelled(self.name, batch)
        states = batch.vectors.unbind(1)
        return reference_parts(states, objective, self.compression_size, self.kl_temperature, batch.seed)

    def settings(self) -> dict[str, Any]:
        """Settings for ``ese.json``."""
        return {"compression_size": self.compression_size, "kl_temperature": self.kl_temperature}


class Paper:
    """The equations of the paper.

    Args:
        model: the model to train.
        parts: the parts of the model.
        compression_size: the one prefix that is trained.
        given: no other settings are allowed.
    """

    name = "paper"
    needs_labels = True
    keeps_columns = False
    aligned = False

    def __init__(
        self, model: SentenceTransformer, parts: ModelParts, *, compression_size: int = 128, **given: Any
    ) -> None:
        _refuse_given(self.name, given)
        _check_choice("compression_size", [compression_size], parts.width, MIN_DIM)
        self.parts = parts
        self.compression_size = compression_size
        self.trained_exits = list(range(1, parts.depth + 1))
        self.trained_dims = [compression_size]

    def compute(self, model: nn.Module, features: Features) -> Tensor:
        """Run the model: float32 [n, layers, width]."""
        return torch.stack(exit_vectors(model, self.parts, features), dim=1)

    def loss_parts(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, scalars by name."""
        return paper_parts(batch.vectors.unbind(1), _labelled(self.name, batch), self.compression_size)

    def settings(self) -> dict[str, Any]:
        """Settings for ``ese.json``."""
        return {"compression_size": self.compression_size}


VARIANTS: dict[str, type[Espresso] | type[Reference] | type[Paper]] = {
    variant.name: variant for variant in (Espresso, Reference, Paper)
}


def _labelled(name: str, batch: Batch) -> Callable[[Tensor], Tensor]:
    if batch.objective is None:
        raise InputError(f"The variant '{name}' needs an objective and labelled data.")
    return batch.objective


def _refuse_given(name: str, settings: Mapping[str, Any]) -> None:
    given = [key for key, value in settings.items() if value is not None]
    if given:
        raise InputError(f"The variant '{name}' has no setting '{given[0]}'. Leave it out or use 'espresso'.")


def _check_cells(
    cells: Sequence[str] | None, exits: Sequence[int] | None, dims: Sequence[int] | None
) -> tuple[Cell, ...]:
    if not cells:
        return ()
    if exits or dims:
        raise InputError("'cells' already names depths and dims. Leave out 'exits' and 'dims'.")
    targets = sorted({Target.parse(cell) for cell in cells})
    return tuple((target.depth, target.dim) for target in targets)


def _check_choice(name: str, values: Iterable[int], limit: int, least: int = 1) -> tuple[int, ...]:
    chosen = tuple(sorted(set(values)))
    outside = [value for value in chosen if not least <= value <= limit]
    if outside or not chosen:
        raise InputError(f"{name} has {outside[0] if outside else 'nothing'}. This model allows {least} to {limit}.")
    return chosen
