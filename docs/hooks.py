"""What the site is made of beside the folder ``docs``, and how documents name it there."""

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Documents elsewhere in the repository -> their names in the site.
DOCUMENTS = {"README.md": "index.md", "src/anomalib_unias/models/unias/README.md": "unias.md"}
# Where the links of a document begin.
BASES = {"index.md": "", "unias.md": "src/anomalib_unias/models/unias/"}
# Roles of Sphinx in docstrings, which Markdown leaves as they are.
ROLE = re.compile(r":(?:class|func|meth|data|mod|attr):<code>~?\.*(?:[\w.]*\.)?(\w+)</code>")
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class ExampleSections(Extension):
    """Shows examples as code: the parser of docstrings knows their section in the plural only."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Name the section as the parser does."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub("Examples:", obj.docstring.value)


def on_files(files: Files, config: Any) -> Files:
    """Add documents, pictures and tables of other folders."""
    results = (path for path in (ROOT / "benchmarks" / "results").rglob("*") if path.suffix in {".md", ".png", ".csv"})
    names = {path: path.relative_to(ROOT).as_posix() for path in (*results, ROOT / "examples" / "first_steps.ipynb")}
    names |= {ROOT / source: name for source, name in DOCUMENTS.items()}
    for path, name in names.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to where documents are in the site."""
    base = BASES.get(page.file.src_uri)
    if base is None:
        return markdown.replace("](../benchmarks/", "](benchmarks/").replace("](../examples/", "](examples/")
    for source, name in DOCUMENTS.items():
        markdown = markdown.replace(f"]({source}", f"]({name}")
    return markdown.replace("](docs/", "](")


def on_page_content(html: str, **_: Any) -> str:
    """Show the roles in docstrings as code."""
    return ROLE.sub(r"<code>\1</code>", html)
