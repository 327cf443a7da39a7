"""Templates of the pages."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str) -> Template:
    """Load the template of a page, which escapes the values of its variables.

    Args:
        name (str): File in this folder.

    Returns:
        Template: The template; a missing variable is an error.
    """
    environment = Environment(
        loader=PackageLoader("anomalib_unias.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
