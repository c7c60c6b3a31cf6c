"""The loss modules that sentence-transformers' trainer takes."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from ese_deploy.backbones.contract import EseContract
from ese_deploy.errors import InputError
from ese_deploy.losses.batch import bind_objective, check_finite, check_learns
from ese_deploy.losses.covariance import RunningCovariance
from ese_deploy.losses.espresso import Cell, Targets, espresso_parts, espresso_settings
from ese_deploy.losses.exits import exit_vectors, model_parts, pooled_states
from ese_deploy.losses.gather import gather
from ese_deploy.losses.objective import AngleObjective
from ese_deploy.losses.pieces import compute_in_pieces
from ese_deploy.losses.projections import ExitMaps
from ese_deploy.losses.published import paper_parts, reference_parts
from ese_deploy.projections.projection import Projection
from ese_deploy.target import MIN_DIM, Target, default_dims

__all__ = ["VARIANTS", "EseLoss", "Variant"]

Variant = Literal["espresso", "reference", "paper"]
VARIANTS: tuple[Variant, ...] = ("espresso", "reference", "paper")
_PACKAGES = ("ese-deploy", "sentence-transformers", "torch", "transformers")


class EseLoss(nn.Module):
    """Trains every exit and prefix of a sentence-transformers model; its parts are logged by their names.

    Terms that couple the texts of a batch see the texts of all processes. State that it carries is saved and restored
    by :class:`ese_deploy.losses.EseCallback`.

    Example::

        loss = EseLoss(model, AngleObjective(ibn_w=1.0))
        trainer = SentenceTransformerTrainer(model, args, train, loss=loss, callbacks=[EseCallback(loss)])
        trainer.train()

    Args:
        model: built of a Transformer, a Pooling, and what may follow. A copy of it as it is now can become the teacher.
        objective: what is learnt from labelled data; None learns from plain texts, for ``espresso`` alone.
        variant: ``espresso``, this project's; ``reference``, the authors' code; ``paper``, the paper's equations.
        exits: depths to train, for ``espresso``; None means all. The full depth is always among them.
        dims: prefixes to train, for ``espresso``; None means 16, 32, 64 and so on up to the full width.
        cells: the pairs to train, such as ``2x64``, instead of every exit with every prefix; for ``espresso``.
        compression_size: the one prefix that the published variants train.
        kl_temperature: of the published compression; ``reference`` alone.
        maps: of :func:`ese_deploy.losses.fit_maps`, for ``espresso``: exits are then trained in the full model's space,
            each through a matrix that is trained with it. They belong into the checkpoint:
            :func:`ese_deploy.losses.save_contract`.
        seed: of what is drawn in each step.
        **settings: of ``espresso``, the fields of :class:`ese_deploy.losses.EspressoSettings`.

    Raises:
        InputError: the model or a setting is not fit.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objective: AngleObjective | None = None,
        *,
        variant: Variant = "espresso",
        exits: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        cells: Sequence[str] | None = None,
        compression_size: int = 128,
        kl_temperature: float = 1.0,
        projections: Mapping[int, Projection] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.model = model
        self.parts = model_parts(model)
        self.objective = objective
        self.variant = _check_variant(
            variant, objective, {"exits": exits, "dims": dims, "cells": cells, "projections": projections, **settings}
        )
        self.cells = _check_cells(cells, exits, dims)
        exits = [depth for depth, _ in self.cells] or exits or range(1, self.parts.depth + 1)
        dims = [dim for _, dim in self.cells] or dims or default_dims(self.parts.width)
        self.exits = _check_choice("exits", exits, self.parts.depth)
        self.dims = _check_choice("dims", dims, self.parts.width, MIN_DIM)
        if variant != "espresso":
            _check_choice("compression_size", [compression_size], self.parts.width, MIN_DIM)
        self.compression_size = compression_size
        self.kl_temperature = kl_temperature
        self.seed = seed
        self.settings = espresso_settings(settings)
        self.global_step = 0
        self.batches: Tensor
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._teacher: tuple[SentenceTransformer, ...] = ()  # a tuple hides it from parameters() and state_dict()
        self.projections = None if projections is None else ExitMaps(projections)
        if variant == "espresso":
            self.covariance = RunningCovariance(self.parts.width, self.settings.covariance_momentum)
            if self.settings.teacher == "frozen":
                self._teacher = (copy.deepcopy(model).eval().requires_grad_(False),)

    def forward(
        self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The parts of the loss of one batch.

        Args:
            sentence_features: for each column of texts what the trainer's collator made of it.
            labels: [n] or [n, 1], or None.

        Returns:
            float32 scalars by name; the trainer sums them.

        Raises:
            TrainingError: a part is not finite.
        """
        features = list(sentence_features)
        if self.variant == "reference":
            # Its random decomposition makes much of the last bits: they stay as the authors' batches have them.
            computed = [self._compute(column) for column in features]
        else:
            computed = compute_in_pieces(features, self._compute)
        columns = [gather(vectors) for vectors in computed]
        device = columns[0].device
        with torch.autocast(device.type, enabled=False):
            states = torch.cat(columns)
            # Before they are decomposed, which fails otherwise.
            check_finite({"vectors": states.detach().abs().amax()}, self.global_step)
            sizes = [len(column) for column in columns]
            # Plain texts may take turns with labelled data; they are learnt from without labels.
            labelled = self.objective if len(columns) > 1 or self.variant != "espresso" else None
            objective = bind_objective(labelled, sizes, features, labels) if labelled is not None else None
            if self.variant == "espresso":
                parts = self._espresso(self._exits(states), features, objective)
            elif objective is None:
                raise InputError(f"variant '{self.variant}' needs an objective and labelled data")
            elif self.variant == "reference":
                drawn = self.seed + int(self.batches)
                parts = reference_parts(states.unbind(1), objective, self.compression_size, self.kl_temperature, drawn)
            else:
                parts = paper_parts(states.unbind(1), objective, self.compression_size)
        check_learns(parts)
        check_finite(parts, self.global_step)
        if self._training:
            self.batches += 1
        return parts

    @property
    def _training(self) -> bool:
        # What processes wrap around the model goes on training while the trainer evaluates the model.
        return bool(getattr(self.model, "module", self.model).training)

    def contract(self) -> EseContract:
        """What the exporter must know of a model trained with this loss: the content of ``ese.json``."""
        depth, width = self.parts.depth, self.parts.width
        if self.variant == "espresso":
            # Exits that are aligned are so with the full model.
            whole = self.settings.train_full or self.settings.align_w > 0
            full = ({depth}, {width}) if whole else (set(), set())
            exits, dims = sorted({*self.exits, *full[0]}), sorted({*self.dims, *full[1]})
            settings = dataclasses.asdict(self.settings)
        else:
            skipped = depth - 1 if self.variant == "reference" else None
            exits = [exit_ for exit_ in range(1, depth + 1) if exit_ != skipped]
            dims = sorted({self.compression_size, width} if self.variant == "reference" else {self.compression_size})
            settings = {"compression_size": self.compression_size}
            settings |= {"kl_temperature": self.kl_temperature} if self.variant == "reference" else {}
        if self.objective is not None:
            settings["objective"] = dataclasses.asdict(self.objective)
        return EseContract(
            variant=self.variant,
            trained_exits=exits,
            trained_dims=dims,
            aligned_exits=self.variant == "espresso" and self.settings.align_w > 0,
            settings={**settings, "seed": self.seed},
            versions={name: version(name) for name in _PACKAGES},
        )

    def training_state(self) -> dict[str, Tensor]:
        """What must outlive a restart besides the model: counters and running covariance."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`training_state`.

        Raises:
            InputError: it is of a loss with other settings.
        """
        own = self.training_state()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
            raise InputError(
                f"the saved state of the loss holds {sorted(state)}, this loss has {sorted(own)}; resume with the "
                "settings that the run began with"
            )
        for name, value in own.items():
            value.copy_(state[name])

    def set_maps(self, projections: Mapping[int, Projection]) -> None:
        """Begin with other maps than those that the loss was made with."""
        self.projections = ExitMaps(projections)

    def fitted_maps(self) -> dict[int, Projection]:
        """The maps as training left them; none where it was without."""
        return {} if self.projections is None else self.projections.fitted()

    def _espresso(
        self,
        exits: Mapping[int, Tensor],
        features: Sequence[Mapping[str, Any]],
        objective: Callable[[Tensor], Tensor] | None,
    ) -> dict[str, Tensor]:
        if self._teacher:
            taught = self._teach(features)
            vectors = taught if self.projections is None else self.projections.turn(taught)
        else:
            vectors = exits[self.parts.depth].detach()
        unit = nn.functional.normalize(vectors.float(), dim=-1)
        if self.projections is not None:
            # The maps' first dimensions are the teacher's principal components.
            components = torch.eye(self.parts.width, device=unit.device)
        else:
            if self._training and self.settings.compress_w > 0:
                self.covariance.update(unit)
            components = self.covariance.components
        return espresso_parts(exits, self._draw_cells(), Targets(unit, components), self.settings, objective)

    def _compute(self, features: Mapping[str, Any]) -> Tensor:
        """What the exits are made of, float32: [n, exits, width], or with maps [n, all that they read]."""
        if self.projections is None:
            vectors = exit_vectors(self.model, self.parts, features, raw=self.variant == "reference")
            return torch.stack(vectors, dim=1)
        pooled, full = pooled_states(self.model, self.parts, features, self.projections.reads)
        return torch.cat([*pooled.values(), full], dim=1)

    def _exits(self, computed: Tensor) -> dict[int, Tensor]:
        """float32 [n, width] by depth, out of what all texts of the batch were computed to."""
        if self.projections is None:
            return {depth: computed[:, depth - 1] for depth in (*self.exits, self.parts.depth)}
        # After all processes' texts were joined: then every process finds the same gradient of the matrices.
        full, reads = computed[:, -self.parts.width :], self.projections.reads
        parts = computed[:, : -self.parts.width].chunk(len(reads), dim=1) if reads else ()
        mapped: dict[int, Tensor] = self.projections(dict(zip(reads, parts, strict=True)), full)
        return mapped

    @torch.no_grad()
    def _teach(self, features: Sequence[Mapping[str, Any]]) -> Tensor:
        (teacher,) = self._teacher
        device = features[0]["input_ids"].device
        if teacher.device != device:
            teacher.to(device)
        outputs = compute_in_pieces(features, lambda piece: teacher(dict(piece))["sentence_embedding"].float())
        return torch.cat([gather(output) for output in outputs])

    def _draw_cells(self) -> list[Cell]:
        of = self.cells or product(self.exits, self.dims)
        cells = [cell for cell in of if cell != (self.parts.depth, self.parts.width)]
        wanted = self.settings.cells_per_step
        if wanted is None or wanted >= len(cells):
            return cells
        # By the number of the batch, so that all processes draw alike, and a resumed run as it would have.
        generator = torch.Generator().manual_seed(self.seed + int(self.batches))
        return [cells[place] for place in torch.randperm(len(cells), generator=generator)[:wanted].tolist()]


def _check_variant(
    variant: Variant,
    objective: AngleObjective | None,
    settings: Mapping[str, Any],
) -> Variant:
    if variant not in VARIANTS:
        raise InputError(f"variant '{variant}' is unknown; choose one of {', '.join(VARIANTS)}")
    given = [name for name, value in settings.items() if value is not None]
    if variant != "espresso" and given:
        raise InputError(f"{given[0]} was given, but variant '{variant}' has its own; leave it out or use 'espresso'")
    if variant != "espresso" and objective is None:
        raise InputError(
            f"variant '{variant}' learns from labelled data alone; give it an objective, or use 'espresso'"
        )
    return variant


def _check_cells(
    cells: Sequence[str] | None, exits: Sequence[int] | None, dims: Sequence[int] | None
) -> tuple[Cell, ...]:
    if not cells:
        return ()
    if exits or dims:
        raise InputError("cells name depths and dims already; leave out exits and dims")
    targets = sorted({Target.parse(cell) for cell in cells})
    return tuple((target.depth, target.dim) for target in targets)


def _check_choice(name: str, values: Iterable[int], limit: int, least: int = 1) -> tuple[int, ...]:
    chosen = tuple(sorted(set(values)))
    outside = [value for value in chosen if not least <= value <= limit]
    if outside or not chosen:
        raise InputError(f"{name} has {outside[0] if outside else 'nothing'}; this model allows {least} to {limit}")
    return chosen
