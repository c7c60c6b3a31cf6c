"""Hooks of the documentation site: generate the command-line reference, and mend links that leave the docs folder."""

import re
from typing import Any

from mkdocs.structure.files import File, Files

CLI_PAGE = "reference/cli.md"
_REPOSITORY = "https://github.com/ese-deploy/ese-deploy/blob/main/"
# Links out of docs/: [text](../../benchmarks/README.md) from a page two levels deep.
_OUTSIDE = re.compile(r"\]\((?:\.\./)+((?:benchmarks|examples|exports|training|ese_deploy|tests|[A-Z]+\.md)[^)]*)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated page."""
    from ese_deploy.cli.reference import reference

    files.append(File.generated(config, CLI_PAGE, content=reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links out of the docs folder, which work on the repository's web page, by full addresses."""
    inside = re.compile(r"\]\((?:\.\./)+docs/")
    up = "../" * page.file.src_uri.count("/")
    return _OUTSIDE.sub(lambda match: f"]({_REPOSITORY}{match[1]})", inside.sub(f"]({up}", markdown))
