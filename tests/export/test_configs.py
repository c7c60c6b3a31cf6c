import json

from transformers import AutoConfig, AutoTokenizer

from ese_deploy.bundle.reader import Bundle


def test_a_bundle_states_what_other_tools_read(tiny_bundle: Bundle) -> None:
    config = json.loads((tiny_bundle.path / "config.json").read_text())
    expected = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, "num_hidden_layers": 3}
    sizes = {"max_position_embeddings": 64, "vocab_size": 600, "num_attention_heads": 4, "pad_token_id": 0}
    assert {name: config[name] for name in (*expected, *sizes)} == {**expected, **sizes}
    assert not {"auto_map", "_name_or_path", "transformers_version"} & set(config)
    settings = json.loads((tiny_bundle.path / "tokenizer_config.json").read_text())
    expected = {"model_max_length": 48, "pad_token": "[PAD]", "cls_token": "[CLS]", "padding_side": "right"}
    assert {name: settings[name] for name in expected} == expected


def test_transformers_reads_them(tiny_bundle: Bundle) -> None:
    assert AutoConfig.from_pretrained(tiny_bundle.path).num_hidden_layers == 3
    tokenizer = AutoTokenizer.from_pretrained(tiny_bundle.path)
    golden = json.loads((tiny_bundle.path / "golden.json").read_text())
    assert tokenizer(golden["texts"], truncation=True)["input_ids"] == golden["token_ids"]
