import pytest
import torch
from helpers.tiny import HIDDEN, LAYERS, make_backbone
from torch import nn

from ese_deploy.backbones import ARCHITECTURES, Architecture, Exits, exit_states, pool
from ese_deploy.errors import InputError

IDS = torch.tensor([[2, 40, 41, 42, 3], [2, 50, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


# The others are tested as graphs, in test_backbones.py.
@pytest.mark.parametrize("model_type", ["bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"])
def test_every_exit_is_the_output_of_a_model_of_that_depth(model_type: str) -> None:
    full = make_backbone(model_type)
    states = exit_states(full, ARCHITECTURES[model_type], IDS, MASK)
    assert len(states) == LAYERS + 1
    for depth, state in enumerate(states[1:], start=1):
        shallow = make_backbone(model_type, **_depth(model_type, depth))
        shallow.load_state_dict(full.state_dict(), strict=False)
        expected = shallow(input_ids=IDS, attention_mask=MASK).last_hidden_state
        for row, length in enumerate(MASK.sum(1).tolist()):
            torch.testing.assert_close(state[row, :length], expected[row, :length], atol=1e-5, rtol=0)


def test_a_final_norm_is_applied_to_all_exits_but_the_last() -> None:
    class PreNorm(nn.Module):
        """Stands for a pre-norm model: its last hidden state is normed, the others are not."""

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"num_hidden_layers": 2})
            self.norm = nn.LayerNorm(4)
            self.inner = torch.arange(2 * 3 * 4.0).view(2, 3, 4)

        def forward(self, **_: object) -> object:
            states = (self.inner, self.inner + 1, self.norm(self.inner**2))
            return type("Output", (), {"hidden_states": states, "last_hidden_state": states[-1]})

    model = PreNorm()
    embedded, first, last = exit_states(model, Architecture("x", final_norm="norm"), IDS, MASK)
    torch.testing.assert_close(embedded, model.inner)
    torch.testing.assert_close(first, model.norm(model.inner + 1))
    torch.testing.assert_close(last, model.norm(model.inner**2))


def test_mean_pooling_leaves_padding_out_and_cls_takes_the_first_token() -> None:
    states = torch.randn(2, 5, HIDDEN)
    torch.testing.assert_close(pool(states, MASK, "mean")[1], states[1, :3].mean(0))
    torch.testing.assert_close(pool(states, MASK, "cls"), states[:, 0])
    assert pool(states, torch.zeros_like(MASK), "mean").abs().max() == 0


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(InputError, match="Unknown pooling 'median'"):
        pool(torch.zeros(1, 1, 1), torch.ones(1, 1), "median")


def test_only_the_depths_asked_for_come_back() -> None:
    exits = Exits(make_backbone(), ARCHITECTURES["bert"], "mean", [1, 3])
    vectors = exits(IDS, MASK)
    assert sorted(vectors) == [1, 3]
    assert vectors[1].shape == (2, HIDDEN)


def _depth(model_type: str, depth: int) -> dict[str, int]:
    return {"n_layers": depth} if model_type == "distilbert" else {"num_hidden_layers": depth}
