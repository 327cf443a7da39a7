"""What the documents tell a reader to type."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, the README first."""
    found = []
    for document in DOCUMENTS:
        found += re.findall(
            rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )
    return found


def commands() -> list[str]:
    """The lines of all blocks for a shell in their order, without comments, once each."""
    found = []
    for block in blocks("bash"):
        whole = re.sub(r"\\\n\s*", "", block)
        lines = [re.sub(r"(^|\s)#.*", "", line) for line in whole.splitlines()]
        found += [" ".join(part.split()) for line in lines for part in line.split("&&")]
    return list(dict.fromkeys(filter(None, found)))
