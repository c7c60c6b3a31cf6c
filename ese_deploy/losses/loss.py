"""The loss module that sentence-transformers' trainer takes."""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from ese_deploy import __version__
from ese_deploy.backbones.contract import EseContract
from ese_deploy.errors import InputError
from ese_deploy.losses.batch import bind_objective, check_finite, check_learns
from ese_deploy.losses.exits import model_parts
from ese_deploy.losses.gather import gather
from ese_deploy.losses.objective import AngleObjective
from ese_deploy.losses.pieces import compute_in_pieces
from ese_deploy.losses.projections import ExitProjections
from ese_deploy.losses.variants import VARIANTS, Batch, Espresso, Variant
from ese_deploy.projections.projection import Projection
from ese_deploy.system.install import installed_version

__all__ = ["EseLoss"]

_PACKAGES = ("sentence-transformers", "torch", "transformers")


class EseLoss(nn.Module):
    """Trains every exit and prefix of a sentence-transformers model; logs each part of the loss under its name.

    Terms that compare the texts of a batch see the texts of all processes. :class:`ese_deploy.losses.EseCallback`
    saves and restores the state of the loss.

    Example::

        loss = EseLoss(model, AngleObjective(ibn_w=1.0))
        trainer = SentenceTransformerTrainer(model, args, train, loss=loss, callbacks=[EseCallback(loss)])
        trainer.train()

    Args:
        model: a Transformer, a Pooling, and what may follow.
        objective: what is learnt from labelled data; None learns from plain texts (``espresso`` only).
        variant: ``espresso``, ``reference`` or ``paper``.
        seed: seed of everything that is drawn.
        settings: keywords of the variant's class in :mod:`ese_deploy.losses.variants`; for ``espresso`` also the fields
            of :class:`ese_deploy.losses.EspressoSettings`.

    Raises:
        InputError: the model or a setting is not supported.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objective: AngleObjective | None = None,
        *,
        variant: str = "espresso",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise InputError(f"Unknown variant '{variant}'. Choose one of: {', '.join(VARIANTS)}.")
        self.model = model
        self.parts = model_parts(model)
        self.objective = objective
        self.seed = seed
        if VARIANTS[variant].needs_labels and objective is None:
            raise InputError(
                f"The variant '{variant}' needs labelled data. Pass an objective, or use 'espresso' for plain texts."
            )
        self.variant: Variant = VARIANTS[variant](model, self.parts, **settings)
        self.global_step = 0
        self.batches: Tensor
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(
        self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The parts of the loss of one batch.

        Args:
            sentence_features: the collator's output for each column of texts.
            labels: [n] or [n, 1], or None.

        Returns:
            float32 scalars by name; the trainer sums them.

        Raises:
            TrainingError: a part is not finite.
        """
        features = list(sentence_features)
        compute = partial(self.variant.compute, self.model)
        if self.variant.keeps_columns:
            computed = [compute(column) for column in features]
        else:
            computed = compute_in_pieces(features, compute)
        columns = [gather(vectors) for vectors in computed]
        with torch.autocast(columns[0].device.type, enabled=False):
            vectors = torch.cat(columns)
            # Checked here because a decomposition of vectors that are not finite fails without naming the cause.
            check_finite({"vectors": vectors.detach().abs().amax()}, self.global_step)
            objective = None
            # A batch of plain texts may follow one of labelled data.
            if self.objective is not None and (len(columns) > 1 or self.variant.needs_labels):
                objective = bind_objective(self.objective, [len(column) for column in columns], features, labels)
            batch = Batch(vectors, features, objective, self.seed + int(self.batches), self._training)
            parts = self.variant.loss_parts(batch)
        check_learns(parts)
        check_finite(parts, self.global_step)
        if self._training:
            self.batches += 1
        return parts

    @property
    def _training(self) -> bool:
        # A distributed wrapper stays in training mode while the trainer evaluates the model inside it.
        return bool(getattr(self.model, "module", self.model).training)

    @property
    def exits(self) -> tuple[int, ...]:
        """The depths to train."""
        return self.variant.exits if isinstance(self.variant, Espresso) else tuple(self.variant.trained_exits)

    @property
    def token_features(self) -> frozenset[str]:
        """What the projections read beside pooled states."""
        return self.variant.token_features if isinstance(self.variant, Espresso) else frozenset()

    @property
    def projections(self) -> ExitProjections | None:
        """The trained projections of the exits; None if the variant has none."""
        return self.variant.projections if isinstance(self.variant, Espresso) else None

    def set_projections(self, projections: Mapping[int, Projection]) -> None:
        """Replace the projections that training starts from.

        Raises:
            InputError: the variant has no projections.
        """
        if not isinstance(self.variant, Espresso):
            raise InputError(f"The variant '{self.variant.name}' trains no projections. Use 'espresso'.")
        self.variant.projections = ExitProjections(projections, self.parts)

    def trained_projections(self) -> dict[int, Projection]:
        """The projections in their present state; empty if the exits have none."""
        return {} if self.projections is None else self.projections.export()

    def contract(self) -> EseContract:
        """The content of ``ese.json``, from which the exporter learns which exits were trained."""
        settings = self.variant.settings()
        if self.objective is not None:
            settings["objective"] = dataclasses.asdict(self.objective)
        return EseContract(
            variant=self.variant.name,
            trained_exits=self.variant.trained_exits,
            trained_dims=self.variant.trained_dims,
            aligned_exits=self.variant.aligned,
            settings={**settings, "seed": self.seed},
            versions={"ese-deploy": __version__, **{name: installed_version(name) or "unknown" for name in _PACKAGES}},
        )

    def training_state(self) -> dict[str, Tensor]:
        """Everything besides the model that a resumed run needs: counters, running covariance, projections."""
        own = self.variant.state_dict() if isinstance(self.variant, nn.Module) else {}
        return {"batches": self.batches, **own}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`training_state`.

        Raises:
            InputError: the state belongs to a loss with other settings.
        """
        own = self.training_state()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
            raise InputError(
                f"The saved state of the loss has {sorted(state)}, this loss has {sorted(own)}. Resume with the "
                "settings of the run."
            )
        for name, value in own.items():
            value.copy_(state[name])
