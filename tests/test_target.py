import pytest
from hypothesis import given
from hypothesis import strategies as st

from ese_deploy.errors import InputError
from ese_deploy.target import DTYPES, Target, parse_range


@given(st.integers(1, 99), st.integers(8, 4096), st.sampled_from(list(DTYPES)))
def test_a_target_reads_back_from_its_short_form(depth: int, dim: int, dtype: str) -> None:
    target = Target(depth, dim, dtype)
    assert Target.parse(str(target)) == target


def test_the_name_sorts_by_depth_then_dim() -> None:
    assert Target(3, 128).name == "d03_k128.fp32"
    assert Target(12, 64, "int8").name == "d12_k064.int8"


@pytest.mark.parametrize(
    "text", ["3*128", "3x", "x128", "3x128:", "3x128:fp32:int8", "3x128:int8-", "-3x128", "3.0x128", "", "٣x128"]
)
def test_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="Write for example 3x128"):
        Target.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3x4", "Target '3x4' has 4 dimensions. Choose at least 8."),
        ("3x64:fp8", "Unknown dtype 'fp8'. Choose one of: fp32, fp16, bf16, int8, int8-fp16."),
        ("3x64:int8-dynamic", "Dtype 'int8-dynamic' is no longer supported. Choose one of: fp32, "),
    ],
)
def test_a_value_out_of_range_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Target.parse(text)


def test_ranges_and_numbers_mix() -> None:
    assert parse_range("1-3,6", "--depths") == [1, 2, 3, 6]
    assert parse_range(" 64 , 128", "--dims") == [64, 128]


@pytest.mark.parametrize("text", ["", "1-", "a", "1,,2", "1..3"])
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--depths"):
        parse_range(text, "--depths")


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(InputError, match="6-1, which runs backwards"):
        parse_range("6-1", "--depths")
