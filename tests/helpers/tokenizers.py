"""Small tokenizers of every kind that checkpoints use, trained on the sample corpus."""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ese_deploy.texts.sample import sample_corpus
from helpers.tiny import wordpiece_tokenizer


def _train(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator((item.text for item in sample_corpus()), trainer)
    return tokenizer


def byte_level_bpe(**settings: str) -> PreTrainedTokenizerFast:
    """As in Qwen and GPT-2: bytes, no unknown token, and no special token around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, trainers.BpeTrainer(vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|end|>", eos_token="<|end|>", **settings)


def byte_level_bpe_with_end() -> PreTrainedTokenizerFast:
    """As in Qwen3-Embedding: an end token closes each text, and padding is on the left."""
    loaded = byte_level_bpe(padding_side="left")
    end = ("<|end|>", loaded.convert_tokens_to_ids("<|end|>"))
    loaded.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="$A <|end|>", pair="$A <|end|> $B <|end|>", special_tokens=[end]),
        ]
    )
    return loaded


def roberta_bpe() -> PreTrainedTokenizerFast:
    """As in RoBERTa: bytes, with a start and an end token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    _train(tokenizer, trainers.BpeTrainer(vocab_size=600, special_tokens=special))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return _special(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    """As in XLM-RoBERTa and T5: SentencePiece's unigram model, blanks folded and shown as an underscore."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    _train(tokenizer, trainers.UnigramTrainer(vocab_size=600, special_tokens=special, unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _special(tokenizer)


def sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """As in Llama and Gemma: SentencePiece's BPE, unknown characters as bytes, a start token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    _train(tokenizer, trainers.BpeTrainer(vocab_size=900, special_tokens=special[:4], initial_alphabet=["▁"]))
    vocabulary = json.loads(tokenizer.to_str())
    model = vocabulary["model"]
    size = len(model["vocab"])
    model["vocab"].update({byte: size + place for place, byte in enumerate(special[4:])})
    tokenizer = Tokenizer.from_str(json.dumps(vocabulary))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def added_tokens() -> PreTrainedTokenizerFast:
    """WordPiece with tokens that were added later, some of which take the blanks beside them."""
    loaded = wordpiece_tokenizer()
    loaded.add_tokens([AddedToken("snake::case", lstrip=True, rstrip=True), AddedToken("°C", single_word=True)])
    loaded.add_special_tokens({"additional_special_tokens": ["[QUERY]", "<s>"]})
    return loaded


def without_special_tokens() -> PreTrainedTokenizerFast:
    loaded = wordpiece_tokenizer()
    loaded.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return loaded


def _special(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token="<mask>", **names)
