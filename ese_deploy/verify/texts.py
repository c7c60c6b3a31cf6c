"""The texts to verify with: edge cases, and some texts of the sample corpus."""

from collections.abc import Callable

from ese_deploy.texts.sample import sample_corpus

__all__ = ["EDGE_CASE_TEXTS", "verification_texts"]

# Attention over 32 texts of 8192 tokens needs more memory than most machines have.
_LONGEST = 1024

EDGE_CASE_TEXTS = (
    "",
    "   \t \n ",
    "a",
    ".",
    "\U0001f600\U0001f680\U0001f9d1\u200d\U0001f4bb\U0001f1eb\U0001f1f7",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "שלום עולם",
    "你好，世界。今天天气很好。",
    "नमस्ते दुनिया",
    "Zalgo: z\u0351\u0327a\u030a\u0327l\u0323g\u0306o\u0328, e\u0301 and \u00e9, \ufb01 and fi",
    "tab\there, line\nbreak, nbsp\u00a0here, zero\u200bwidth, bom\ufeff, null\x00, soft\u00adhyphen",
    "MiXeD CaSe, 1,234.56 € at 25 °C, a_snake::case->call(x[0], **kw) # 100%",
    "[CLS] this text [SEP] names <s> special </s> tokens [MASK] [PAD] <unk>",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \ud7a3\u1112\u1161\u11ab",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \uff21\uff22\uff23 \u2460 \u210c \u00bd",
    "\u202eright to left\u202c, \u2028 line, \u3000wide blank,\r\nreturn, \x01\x7f\u0085 control, \ufffd",
    "\u2581underscore of SentencePiece, \u0120 of bytes, ##ing of WordPiece, <0x41>, <|endoftext|> <|im_start|>",
    "don't can't we'll  two  blanks   three, 0123456789 1e-5 0x1F 12:30 a/b a\\b {\"k\": [1]}",
    "word " * 40,
    "antidisestablishmentarianism" * 36,
)


def verification_texts(count_tokens: Callable[[str], int], max_length: int) -> list[str]:
    """Edge cases, a text of the maximum length, a longer one, and every 16th text of the sample corpus.

    A model for more than 1024 tokens is verified with up to 1024.

    Args:
        count_tokens: counts the tokens of a text with special tokens and default prompt, without truncation.
        max_length: longest input in tokens.
    """
    longest = min(max_length, _LONGEST)
    special = count_tokens("")
    exact = " ".join(["a"] * (longest - special))
    # The number of tokens can differ from the number of words.
    while exact and count_tokens(exact) > longest:
        exact = exact[:-2]
    beyond = [exact + " b" * longest] if longest == max_length else []
    texts = [*EDGE_CASE_TEXTS, exact, *beyond, *(item.text for item in sample_corpus()[::16])]
    # Without special tokens, an empty text has no token and no vector.
    return [text for text in texts if count_tokens(text) > 0]
