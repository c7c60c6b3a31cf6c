import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from ese_deploy.cli import train as command
from ese_deploy.cli.app import COMMANDS, load_command, main
from ese_deploy.errors import InputError
from ese_deploy.training.arguments import REFUSED, build_settings
from ese_deploy.training.presets import OLD_NAMES, preset_names, read_preset
from ese_deploy.training.run_folder import fixed_settings
from ese_deploy.training.settings import OPTIONS, TrainingSettings

REQUIRED = ["--model", "m", "--out", "s", "--train", "t.jsonl"]

ROW = next(row for row in COMMANDS if row.name == "train")

# The arguments of the command in the repository of the ESE paper.
PUBLISHED = shlex.split(
    "--model_name_or_path WhereIsAI/UAE-Large-V1 --train_name_or_path SeanLee97/nli_for_simcse "
    "--save_dir ckpts/UAE-Large-Espresso --ibn_w 10.0 --cosine_w 0. --angle_w 1.0 --angle_tau 20.0 "
    "--learning_rate 1e-6 --maxlen 75 --workers 16 --pooling_strategy cls --epochs 1 --batch_size 128 "
    "--logging_steps 100 --warmup_steps 200 --save_steps 1000 --fp16 1 --gradient_accumulation_steps 4 "
    "--apply_ese 1 --ese_compression_size 128 --ese_kl_temperature 1.0"
)


def parse_arguments(arguments: Sequence[str]) -> TrainingSettings:
    """The settings that ``ese-deploy train`` reads."""
    seen: list[TrainingSettings] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "run_training", lambda settings, progress: seen.append(settings))
        load_command(ROW)(list(arguments), standalone_mode=False)
    return seen[0]


def test_published_command_is_accepted() -> None:
    settings = parse_arguments(PUBLISHED)
    assert settings.objective() == {"ibn_w": 10.0, "cosine_w": 0.0, "angle_w": 1.0, "angle_tau": 20.0}
    assert settings.loss() == {"compression_size": 128, "kl_temperature": 1.0}
    assert (settings.fp16, settings.apply_ese, settings.epochs, settings.learning_rate) == (True, True, 1.0, 1e-6)
    assert settings.train == ("SeanLee97/nli_for_simcse",)


def test_preset_reference_equals_published_command() -> None:
    settings = fixed_settings(parse_arguments([*PUBLISHED[:6], "--recipe", "reference", "--workers", "16"]))
    published = fixed_settings(parse_arguments(PUBLISHED))
    assert settings["objective"].pop("mask_false_negatives") is False
    assert settings["loss"] == {**published["loss"], "variant": "reference"}
    differing = {name for name in {*settings, *published} if settings.get(name) != published.get(name)}
    assert differing == {"loss", "filter_duplicate", "pooling"}  # the pooling of UAE-Large itself is cls


@pytest.mark.parametrize("spelling", ["--batch-size=4", "--batch_size=4"])
def test_dashes_and_underscores_are_equal(spelling: str) -> None:
    assert parse_arguments([*REQUIRED, spelling, "--text_prompt=a_b-c {text}"]).batch_size == 4
    assert parse_arguments([*REQUIRED, "--text_prompt=a_b-c {text}"]).text_prompt == "a_b-c {text}"


@pytest.mark.parametrize("old", sorted(OLD_NAMES))
def test_old_names_set_the_new_option(old: str) -> None:
    option = OPTIONS[OLD_NAMES[old]]
    value = {"variant": "paper", "preset": "paper"}.get(option.name, "1" if option.read is not str else "8")
    value = "32" if option.name == "max_length" else value
    by_old, by_new = (parse_arguments([*REQUIRED, f"--{name}", value]) for name in (old, option.name))
    assert by_old == by_new and by_old != parse_arguments(REQUIRED)


def test_help_shows_present_names_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')} " in text for name in OPTIONS)
    assert not [name for name in (*OLD_NAMES, *REFUSED) if f"--{name.replace('_', '-')} " in text]


def test_zero_turns_off() -> None:
    assert parse_arguments([*REQUIRED, "--fp16", "0"]).fp16 is False
    assert parse_arguments([*REQUIRED, "--fp16", "1"]).fp16 is True


def test_options_override_the_preset(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text("epochs = 3\nfilter_duplicate = false\n[loss]\ndims = [16, 32]\ntemperature = 5\n", "utf-8")
    settings = parse_arguments([*REQUIRED, "--preset", str(preset), "--epochs", "1", "--loss-setting=temperature=7.5"])
    assert (settings.epochs, settings.filter_duplicate) == (1.0, False)
    assert settings.loss() == {"dims": [16, 32], "temperature": 7.5}


def test_python_values_equal_text() -> None:
    given = {"model": "m", "out": "s", "train": ["a", "b"], "exits": [1, 2], "dims": (8, 16), "learning_rate": 2e-4}
    settings = build_settings({**given, "fp16": True, "loss_setting": {"temperature": 5.0}, "dropout": None})
    text = "--train a --train b --exits 1-2 --dims 8,16 --learning-rate 2e-4 --fp16 1 --loss-setting temperature=5.0"
    assert settings == parse_arguments(["--model", "m", "--out", "s", *text.split()])
    with pytest.raises(InputError, match=r"`batch_size`: '0' is not a whole number of at least 1\."):
        build_settings({**given, "batch_size": 0})
    with pytest.raises(InputError, match=r"'batchsize' is not an option\. Did you mean 'batch_size'\?"):
        build_settings({**given, "batchsize": 8})


def test_alignment_weight_can_be_option_or_loss_setting() -> None:
    assert parse_arguments([*REQUIRED, "--align-w", "2"]).loss() == {"align_w": 2.0}
    assert parse_arguments([*REQUIRED, "--loss-setting", "align_w=2.0"]).loss() == {"align_w": 2.0}
    assert parse_arguments([*REQUIRED, "--preset", "espresso", "--align-w", "0"]).loss()["align_w"] == 0


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name: str) -> None:
    assert read_preset(name).description
    settings = parse_arguments([*REQUIRED, "--preset", name])
    assert settings.loss()["variant"] in ("espresso", "reference", "paper")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat = 1", r"'learning_rat' is not an option, .* Did you mean 'learning_rate'\?"),
        ("[loss]\ntemprature = 1", r"'temprature' is not a setting of the loss\. Did you mean 'temperature'\?"),
        ("epochs = ", "cannot be read as TOML"),
        ("loss = 1", "must be a table"),
        ("batch_size = 0", "bad.toml: `batch_size`: '0' is not a whole number of at least 1"),
    ],
)
def test_error_in_a_preset_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=message):
        parse_arguments([*REQUIRED, "--preset", str(path)])


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"Unknown preset 'espreso'\. Choose one of: balanced, espresso, label-free, mixed"
    ):
        parse_arguments([*REQUIRED, "--preset", "espreso"])


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_unsupported_options_are_refused_with_the_reason(name: str) -> None:
    allowed, reason = REFUSED[name]
    with pytest.raises(InputError, match=rf"`{name}`: 'other' is not supported\. \S+"):
        parse_arguments([*REQUIRED, f"--{name}", "other"])
    for value in allowed:
        parse_arguments([*REQUIRED, f"--{name}", value])
    assert reason


def test_old_name_overrides_the_preset() -> None:
    assert parse_arguments([*REQUIRED, "--preset", "reference", "--w2", "35"]).objective()["ibn_w"] == 35


def test_epochs_override_the_steps_of_a_preset() -> None:
    preset = [*REQUIRED, "--preset", "label-free"]
    assert parse_arguments(preset).max_steps == 400
    settings = parse_arguments([*preset, "--epochs", "2"])
    assert (settings.max_steps, settings.epochs) == (-1, 2.0)
    assert parse_arguments([*preset, "--epochs", "2", "--max-steps", "7"]).max_steps == 7


def test_unused_options_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    parse_arguments([*REQUIRED, "--apply-ese", "0", "--exits", "2", "--projections", "1"])
    assert caplog.messages == ["Not used without ESE: exits, projections."]
    caplog.clear()
    settings = parse_arguments([*REQUIRED, "--preset", "espresso", "--variant", "paper", "--ibn_w", "2"])
    assert caplog.messages[-1] == "The variant paper does not use the preset's settings of the loss."
    assert settings.loss() == {"variant": "paper"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size", "0"], "`batch_size`: '0' is not a whole number of at least 1"),
        (["--learning_rate", "nan"], "'nan' is not a number of at least 0"),
        (["--fp16", "maybe"], "'maybe' is not 0 or 1"),
        (["--fp16", "1", "--bf16", "1"], "`fp16` and `bf16` exclude each other"),
        (["--exits", "3-1"], "`exits`: .*3-1"),
        (["--variant", "expresso"], "Unknown value 'expresso'. Choose one of: espresso, reference, paper"),
        (["--loss_setting", "temperature"], "is not of the form name=value"),
        (["--loss_setting", "kl=1"], "'kl' is not a setting of the loss"),
        (["--loss_setting", "exits=1-2"], "setting exits=1-2 has the wrong type: Expected `array"),
        (["--loss_setting", "exits=2"], "setting exits=2 has the wrong type: Expected `array"),
        (["--loss_setting", "hold_w=abc"], "setting hold_w=abc has the wrong type: Expected `float"),
        (["--lr_scheduler_type", "foo"], "Unknown value 'foo'. Choose one of: linear"),
        (["--seed", "5000000000"], "'5000000000' is not a whole number of at least 0 and below 4294967296"),
        (["--dataset_seed", "-1"], "'-1' is not a whole number of at least 0"),
        (["--dropout", "1"], "'1' is not a number of at least 0 and below 1"),
        (["--projection-refit", "1.5"], "'1.5' is not a number of at least 0 and at most 1"),
        (["--epochs", "0"], "'0' is not a number above 0"),
        (["--max-length", "2"], "'2' is not a whole number of at least 8"),
    ],
)
def test_bad_option_is_named(flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_arguments([*REQUIRED, *flags])


def test_unknown_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *REQUIRED, "--batchsize", "3"]) == 2
    assert "No such option: --batchsize" in capsys.readouterr().err


def test_missing_option_is_named() -> None:
    with pytest.raises(InputError, match="`out` is missing"):
        parse_arguments(["--model", "m"])


def test_every_name_is_used_once() -> None:
    old = [old for option in OPTIONS.values() for old in option.old]
    assert len(old) == len(set(old)) and not {*old} & {*OPTIONS} and not {*REFUSED} & {*OPTIONS, *old}


def test_minus_one_is_the_default_seed() -> None:
    assert parse_arguments([*REQUIRED, "--seed", "-1"]).seed == parse_arguments(REQUIRED).seed == 42
