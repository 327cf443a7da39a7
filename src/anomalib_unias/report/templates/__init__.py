"""Templates of the pages."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str) -> Template:
    """Template of a page, which escapes what it is given.

    Args:
        name (str): File in this folder.

    Returns:
        Template: The template; a variable that it lacks is an error.
    """
    environment = Environment(
        loader=PackageLoader("anomalib_unias.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
