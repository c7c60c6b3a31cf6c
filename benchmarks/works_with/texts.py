"""The texts that every tool embeds."""

from ese_deploy.texts import sample_corpus

__all__ = ["QUERY_PROMPT", "texts"]

QUERY_PROMPT = "query: "


def texts() -> list[str]:
    """50 texts: plain ones, long ones, an empty one, Unicode, and some with a prompt."""
    plain = [item.text for item in sample_corpus() if len(item.text) < 200][:26]
    hard = [
        "",
        " ",
        "\n\t",
        "word " * 600,
        "Ein sehr langer Satz, der nicht endet, " * 80,
        "日本語のテキスト",
        "Привет, мир",
        "שלום עולם",
        "مرحبا بالعالم",
        "नमस्ते दुनिया",
        "café naïve Ångström",
        "e\u0301 combined and \u00e9 composed",
        "😀👩‍👩‍👧 emoji",
        "def f(x):\n    return x ** 2",
        "https://example.org/a?b=c&d=1",
        "[CLS] [SEP] [PAD]",
    ]
    prompted = [QUERY_PROMPT + text for text in [*plain[:6], "", "日本語のテキスト"]]
    return [*plain, *hard, *prompted]
