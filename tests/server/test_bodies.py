"""What is said of a body that cannot be read."""

import pytest

from ese_deploy.server.bodies import EmbeddingsRequest, decode
from ese_deploy.server.errors import ApiError


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not JSON: it is empty."),
        (b"  ", "The body is not JSON: it is empty."),
        (b'{"input": "a", ', "position 15"),
        (b'{"input": "\\ud800", "model": "m"}', "half of a surrogate pair"),
        (b'{"input": "a", "model": "m", "precision": "int4"}', "`precision`. Choose one of: float32, int8"),
        (b'{"input": "a", "model": "m", "encoding_format": "hex"}', "`encoding_format`. Choose one of: float, base64."),
        (b'{"input": "a", "model": "m", "input_type": "queri"}', "`input_type`. Choose one of: query, document."),
        (b'{"input": "a", "model": "m", "size": 1}', "Fields: input, model"),
        (b'{"input": ' + b"9" * 5000, "Number out of range at `input`"),
    ],
)
def test_the_message_says_what_and_where(body: bytes, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode(body, EmbeddingsRequest)
    assert message in str(caught.value)
    assert caught.value.status == 400
