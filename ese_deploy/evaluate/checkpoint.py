"""A PyTorch checkpoint at its exits: one forward pass gives the vectors of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ese_deploy.backbones import Checkpoint, Exits, load_backbone
from ese_deploy.backbones.architectures import uses_token_types
from ese_deploy.backbones.dense import load_head
from ese_deploy.errors import InputError
from ese_deploy.evaluate.exits import NO_PROMPTS, Exit, cut
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.runtime.tokenize import TextTokenizer
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import MIN_DIM, Target, default_dims

__all__ = ["CheckpointEncoder", "CheckpointExits", "text_tokenizer"]

_BATCH_SIZE, _BATCH_TOKENS = 32, 4096
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")

Vectors = NDArray[np.float32]


class CheckpointExits:
    """A checkpoint on the CPU or a GPU, its weights loaded in fp32.

    Args:
        checkpoint: the checkpoint.
        depths: the exits wanted; without them all.
        dims: the prefixes wanted; without them 16, 32, 64 and so on up to the full width, which always is one.
        device: a device of PyTorch.
        bf16: multiply in bf16, which is several times as fast where the machine has it, and moves figures a little.
        prompts: prompts to use in place of the model's, by role.

    Raises:
        InputError: a depth or a dim is beyond the model's, or the weights cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        depths: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        device: str = "cpu",
        bf16: bool = False,
        prompts: Mapping[str, str] = NO_PROMPTS,
    ) -> None:
        self.checkpoint = checkpoint
        self._prompts = prompts
        wanted = sorted(set(depths or range(1, checkpoint.depth + 1)) | {checkpoint.depth})
        widths = sorted({*(dims or default_dims(checkpoint.width)), checkpoint.width})
        if wanted[0] < 1 or wanted[-1] > checkpoint.depth:
            raise InputError(f"depths must be 1 to {checkpoint.depth}, got {', '.join(map(str, depths or []))}")
        if widths[0] < MIN_DIM or widths[-1] > checkpoint.width:
            raise InputError(f"dims must be {MIN_DIM} to {checkpoint.width}, got {', '.join(map(str, dims or []))}")
        self._exits = tuple(Exit(depth, "fp32", checkpoint.space(depth), tuple(widths)) for depth in wanted)
        self._device, self._bf16 = device, bf16
        backbone = load_backbone(checkpoint)
        head = load_head(checkpoint.head)
        exits = Exits(backbone, checkpoint.architecture, checkpoint.pooling, wanted, head, checkpoint.projections)
        self._model = exits.eval().to(device)
        self._tokenizer = text_tokenizer(checkpoint)
        self._names = ["input_ids", "attention_mask"]
        self._names += ["token_type_ids"] if uses_token_types(checkpoint.config) else []

    @property
    def name(self) -> str:
        """As the user named the checkpoint."""
        return self.checkpoint.location.model

    @property
    def exits(self) -> tuple[Exit, ...]:
        """All exits wanted."""
        return self._exits

    @property
    def full(self) -> Target:
        """The full model."""
        return Target(self.checkpoint.depth, self.checkpoint.width)

    def at(self, depth: int, dim: int | None = None) -> "CheckpointEncoder":
        """The checkpoint at one exit, with the methods of an ``Encoder``.

        Raises:
            InputError: the exit is not among those wanted.
        """
        for one in self._exits:
            if one.depth == depth:
                return CheckpointEncoder(self, one, dim or self.checkpoint.width)
        raise InputError(f"depth {depth} is not loaded; loaded are {', '.join(str(one.depth) for one in self._exits)}")

    def embed(self, texts: Sequence[str], role: str = "text", progress: Progress = silent) -> dict[Exit, Vectors]:
        """Embed texts in one pass for all exits; see :meth:`ese_deploy.evaluate.exits.ExitModel.embed`."""
        prompt = self.prompt(role)
        vectors = {one: np.empty((len(texts), self.checkpoint.width), np.float32) for one in self._exits}
        tokens = self._tokenizer([prompt + text for text in texts])
        done = 0
        for rows in plan_batches(tokens.lengths, _BATCH_SIZE, _BATCH_TOKENS):
            batch = self._tokenizer.collate([tokens.encodings[row] for row in rows], self._names)
            with torch.inference_mode(), self._precision():
                found = self._model(*(torch.from_numpy(batch[name]).to(self._device) for name in self._names))
            for one in self._exits:
                vectors[one][rows] = torch.nn.functional.normalize(found[one.depth].float(), dim=-1).cpu().numpy()
            done += len(rows)
            progress(f"embed {role}s", done, len(texts))
        return vectors

    def _precision(self) -> torch.autocast:
        return torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=self._bf16)

    def prompt(self, role: str) -> str:
        """What is put before each text of a role."""
        if role in self._prompts:
            return self._prompts[role]
        prompts = self.checkpoint.prompts
        names = {"text": (), "query": ("query",), "document": _DOCUMENT_PROMPTS}[role]
        name = next((name for name in names if name in prompts), self.checkpoint.default_prompt_name)
        return prompts.get(name or "", "")


@dataclass(frozen=True)
class CheckpointEncoder:
    """A checkpoint at one exit, cut to a prefix.

    Attributes:
        model: the checkpoint.
        exit: the exit.
        dim: dimensions kept.
    """

    model: CheckpointExits
    exit: Exit
    dim: int

    def encode(self, sentences: Sequence[str], role: str = "text") -> Vectors:
        """Embed texts; float32 [n, dim], rows of norm 1."""
        return cut(self.model.embed(sentences, role)[self.exit], self.dim)

    def encode_query(self, sentences: Sequence[str]) -> Vectors:
        """Embed queries, with the model's prompt for them."""
        return self.encode(sentences, "query")

    def encode_document(self, sentences: Sequence[str]) -> Vectors:
        """Embed documents, with the model's prompt for them."""
        return self.encode(sentences, "document")


def text_tokenizer(checkpoint: Checkpoint) -> TextTokenizer:
    """The tokenizer exactly as a bundle would carry it."""
    tokenizer = Tokenizer.from_buffer(checkpoint.tokenizer.to_json(checkpoint.max_seq_length))
    tokenizer.no_padding()
    return TextTokenizer(
        tokenizer, checkpoint.max_seq_length, checkpoint.tokenizer.pad_id, checkpoint.tokenizer.pad_type_id
    )
