import shlex
from pathlib import Path

import pytest

from ese_deploy.errors import InputError
from ese_deploy.training.arguments import parse_arguments
from ese_deploy.training.flags import ALIASES, FLAGS, REFUSED, SILENT
from ese_deploy.training.recipes import read_recipe, recipe_names

NEEDED = ["--model_name_or_path", "m", "--save_dir", "s", "--train_name_or_path", "t.jsonl"]

# What follows the module's name in the command of the ESE paper's repository.
PUBLISHED = shlex.split(
    "--model_name_or_path WhereIsAI/UAE-Large-V1 --train_name_or_path SeanLee97/nli_for_simcse "
    "--save_dir ckpts/UAE-Large-Espresso --ibn_w 10.0 --cosine_w 0. --angle_w 1.0 --angle_tau 20.0 "
    "--learning_rate 1e-6 --maxlen 75 --workers 16 --pooling_strategy cls --epochs 1 --batch_size 128 "
    "--logging_steps 100 --warmup_steps 200 --save_steps 1000 --fp16 1 --gradient_accumulation_steps 4 "
    "--apply_ese 1 --ese_compression_size 128 --ese_kl_temperature 1.0"
)


def test_the_published_command_is_read() -> None:
    settings = parse_arguments(PUBLISHED)
    assert settings.objective == {"ibn_w": 10.0, "cosine_w": 0.0, "angle_w": 1.0, "angle_tau": 20.0}
    assert settings.loss == {"compression_size": 128, "kl_temperature": 1.0}
    assert (settings.fp16, settings.apply_ese, settings.epochs, settings.learning_rate) == (True, True, 1.0, 1e-6)
    assert settings.train_name_or_path == ["SeanLee97/nli_for_simcse"]


def test_the_recipe_reference_says_the_published_command() -> None:
    settings = parse_arguments([*PUBLISHED[:6], "--recipe", "reference", "--workers", "16"])
    published = parse_arguments(PUBLISHED)
    assert settings.objective.pop("mask_false_negatives") is False
    assert settings.objective == published.objective
    assert settings.loss == {**published.loss, "variant": "reference"}
    same = {name for name in vars(published) if name not in ("recipe", "notes", "loss", "objective")}
    differing = {name for name in same if getattr(settings, name) != getattr(published, name)}
    assert differing == {"filter_duplicate", "pooling_strategy"}  # of UAE-Large it is cls by itself


def test_zero_switches_off() -> None:
    assert parse_arguments([*NEEDED, "--fp16", "0"]).fp16 is False
    assert parse_arguments([*NEEDED, "--fp16", "1"]).fp16 is True


def test_flags_override_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("epochs = 3\nfilter_duplicate = false\n[loss]\ndims = [16, 32]\ntemperature = 5\n", "utf-8")
    settings = parse_arguments([*NEEDED, "--recipe", str(recipe), "--epochs", "1", "--loss_setting", "temperature=7.5"])
    assert (settings.epochs, settings.filter_duplicate) == (1.0, False)
    assert settings.loss == {"dims": [16, 32], "temperature": 7.5}


def test_alignment_is_a_setting_of_the_loss_whoever_names_it() -> None:
    assert parse_arguments([*NEEDED, "--align_w", "2"]).loss == {"align_w": 2.0}
    assert parse_arguments([*NEEDED, "--loss_setting", "align_w=2.0"]).loss == {"align_w": 2.0}
    assert parse_arguments([*NEEDED, "--recipe", "espresso", "--align_w", "0"]).loss["align_w"] == 0


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_read(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.description
    assert parse_arguments([*NEEDED, "--recipe", name]).loss["variant"] in ("espresso", "reference", "paper")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat = 1", r"has 'learning_rat', which nothing reads; did you mean 'learning_rate'\? flags"),
        ("[loss]\ntemprature = 1", r"has 'temprature', which nothing reads; did you mean 'temperature'\? settings of"),
        ("epochs = ", "cannot be read as TOML"),
        ("loss = 1", "it is a table"),
        ("batch_size = 0", "'0' is not a whole number from 1"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=message):
        parse_arguments([*NEEDED, "--recipe", str(path)])


def test_a_recipe_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(InputError, match="there is no recipe 'espreso' and no such file; recipes are espresso, label-"):
        parse_arguments([*NEEDED, "--recipe", "espreso"])


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_flags_that_make_no_sense_here_are_refused_with_the_reason(name: str) -> None:
    allowed, reason = REFUSED[name]
    with pytest.raises(InputError, match=rf"--{name} other is refused: \S+"):
        parse_arguments([*NEEDED, f"--{name}", "other"])
    for value in allowed:
        parse_arguments([*NEEDED, f"--{name}", value])
    assert reason


def test_older_names_are_taken_and_said() -> None:
    settings = parse_arguments([*NEEDED, "--w1", "1", "--w2", "35", "--w3", "1", "--do_eval", "1"])
    assert settings.objective == {"cosine_w": 1.0, "ibn_w": 35.0, "angle_w": 1.0}
    assert settings.notes == ["--w1 is --cosine_w now", "--w2 is --ibn_w now", "--w3 is --angle_w now"]
    assert parse_arguments([*NEEDED, "--prompt_template", "a {text}"]).text_prompt == "a {text}"


def test_an_older_name_overrides_the_recipe_too() -> None:
    assert parse_arguments([*NEEDED, "--recipe", "reference", "--w2", "35"]).objective["ibn_w"] == 35


def test_epochs_override_the_steps_of_a_recipe() -> None:
    recipe = [*NEEDED, "--recipe", "label-free"]
    assert parse_arguments(recipe).max_steps == 400
    settings = parse_arguments([*recipe, "--epochs", "2"])
    assert (settings.max_steps, settings.epochs) == (-1, 2.0)
    assert parse_arguments([*recipe, "--epochs", "2", "--max_steps", "7"]).max_steps == 7


def test_what_is_not_used_is_said() -> None:
    settings = parse_arguments([*NEEDED, "--apply_ese", "0", "--exits", "2", "--maps", "1"])
    assert settings.notes == ["not used with --apply_ese 0: exits, maps"]
    settings = parse_arguments([*NEEDED, "--recipe", "espresso", "--ese_variant", "paper", "--ibn_w", "2"])
    assert settings.notes[1:] == ["not used by paper: the recipe's settings of the loss"]
    assert settings.loss == {"variant": "paper"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batchsize", "3"], r"'--batchsize' is no flag of training.train; did you mean --batch_size\?"),
        (["--batch_size", "0"], "'0' is not a whole number from 1"),
        (["--learning_rate", "nan"], "'nan' is not a number from 0"),
        (["--fp16", "maybe"], "'maybe' is neither 0 nor 1"),
        (["--fp16", "1", "--bf16", "1"], "were both given"),
        (["--exits", "3-1"], "runs backwards"),
        (["--ese_variant", "expresso"], "invalid choice: 'expresso'"),
        (["--loss_setting", "temperature"], "must read name=value"),
        (["--loss_setting", "kl=1"], "has 'kl', which nothing reads"),
        (["--loss_setting", "exits=1-2"], "has exits=1-2, a setting of the loss of the wrong kind: Expected `array"),
        (["--loss_setting", "exits=2"], "has exits=2, a setting of the loss of the wrong kind: Expected `array"),
        (["--loss_setting", "hold_w=abc"], "has hold_w=abc, a setting of the loss of the wrong kind: Expected `float`"),
        (["--lr_scheduler_type", "foo"], r"invalid choice: 'foo' \(choose from '?linear"),
        (["--seed", "5000000000"], "5000000000 is not below 4294967296"),
        (["--dataset_seed", "-1"], "'-1' is not a whole number from 0"),
    ],
)
def test_a_bad_flag_is_named(flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_arguments([*NEEDED, *flags])


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="--save_dir is missing"):
        parse_arguments(["--model_name_or_path", "m"])


def test_no_flag_is_there_twice() -> None:
    names = [flag.name for flag in FLAGS]
    assert len(names) == len(set(names)) and not set(names) & {*REFUSED, *SILENT, *ALIASES}


def test_minus_one_is_the_default_seed() -> None:
    assert parse_arguments([*NEEDED, "--seed", "-1"]).seed == parse_arguments(NEEDED).seed == 42
