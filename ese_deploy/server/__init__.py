"""An HTTP server with OpenAI's interface for embeddings. Needs the extra ``serve``; no torch."""

from typing import TYPE_CHECKING

from ese_deploy.server.settings import Limits, LogFormat, ServeSettings, parse_bundles
from ese_deploy.system.lazy import lazy_names

if TYPE_CHECKING:
    from ese_deploy.server.run import serve
else:
    # The command line reads settings before it needs the server's libraries.
    __getattr__ = lazy_names(__name__, {"ese_deploy.server.run": ["serve"]})

__all__ = ["Limits", "LogFormat", "ServeSettings", "parse_bundles", "serve"]
