"""Command line of this package; everything else goes through the ``anomalib`` command."""

import logging
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

logger = logging.getLogger(__name__)


def convert(published: Path, output: Path) -> None:
    """Convert a checkpoint of the published UniAS code into one of this package.

    Use the result with ``UniAS.load_from_checkpoint`` or ``anomalib ... --ckpt_path``.

    Args:
        published (Path): File of the published code, parameters ``sem_seg_head.*`` and ``backbone.*``.
        output (Path): Checkpoint to write, ``*.ckpt``.
    """
    from anomalib_unias.models.unias.published_checkpoint import save_as_lightning_checkpoint

    save_as_lightning_checkpoint(published, output)
    logger.info("Wrote %s.", output)


def cache(clear: bool = False) -> None:
    """List the features of training images that are kept below the cache folder of the user, with their sizes.

    Args:
        clear (bool): Remove them, also those that a training in progress is writing; a training that reads them goes
            on. Defaults to ``False``.
    """
    from anomalib_unias.data.feature_files import cache_files, feature_folder

    folder = feature_folder()
    files = cache_files(folder)
    for path, size in files:
        logger.info("%10.1f MB  %s%s", size / 1e6, path.name, "  removed" if clear else "")
        if clear:
            path.unlink(missing_ok=True)
    total = sum(size for _, size in files) / 1e6
    logger.info("%10.1f MB  in %d files %s %s", total, len(files), "removed from" if clear else "in", folder)


def configs(folder: Path | None = None) -> None:
    """Copy the configurations that come with this package.

    Args:
        folder (Path | None): Where to. Nothing is overwritten. Defaults to ``None``: ``configs``.
    """
    _copy("configs", folder or Path("configs"))


def examples(folder: Path | None = None) -> None:
    """Copy the examples that come with this package.

    Args:
        folder (Path | None): Where to. Nothing is overwritten. Defaults to ``None``: ``examples``.
    """
    _copy("examples", folder or Path("examples"))


def _copy(name: str, folder: Path) -> None:
    from anomalib_unias.shipped import copy_shipped

    try:
        copied = copy_shipped(name, folder)
    except OSError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    logger.info("%d files are in %s.", len(copied), folder.resolve())


def main() -> None:
    """Entry point of ``anomalib-unias``."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Not the messages of libraries: the exporter of torch, for example, reports every node that it removes.
    logging.getLogger("anomalib_unias").setLevel(logging.INFO)
    commands = parser()
    parsed = commands.instantiate_classes(commands.parse_args())
    arguments = parsed[parsed.command].as_dict()
    arguments.pop("config", None)
    _functions()[parsed.command](**arguments)


def _functions() -> dict[str, Callable[..., None]]:
    from anomalib_unias.deploy.commands import adapt, describe, inspect, parity
    from anomalib_unias.report.commands import compare, shift

    files: list[Callable[..., None]] = [cache, configs, examples]
    models: list[Callable[..., None]] = [adapt, compare, convert, describe, inspect, parity, shift]
    return {function.__name__: function for function in (*files, *models)}


def parser() -> "ArgumentParser":
    """Build the parser: one command per function, with its arguments; ``runs`` takes any number of values.

    Returns:
        ArgumentParser: Parser of ``anomalib-unias``.
    """
    from jsonargparse import ArgumentParser

    built = ArgumentParser(prog="anomalib-unias", description="Commands about models of anomalib and their results.")
    subcommands = built.add_subcommands(dest="command")
    for name, function in _functions().items():
        summary = (function.__doc__ or "").partition("\n")[0]
        command = ArgumentParser(description=summary)
        command.add_argument("--config", action="config", help="Path to a configuration file.")
        skip: set[str | int] = set()
        if "runs" in signature(function).parameters:
            command.add_argument("runs", type=Path, nargs="+", help="Folders of reports, two or more.")
            skip = {"runs"}
        if "folder" in signature(function).parameters:
            command.add_argument("folder", type=Path | None, nargs="?", help=f"Where to; {name}, if not given.")
            skip = {"folder"}
        command.add_function_arguments(function, as_positional=True, skip=skip, sub_configs=True)
        subcommands.add_subcommand(name, command, help=summary)
    return built
