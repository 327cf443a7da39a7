"""Files that come with the package besides its code: configurations and examples."""

import shutil
from pathlib import Path


def shipped_folder(name: str) -> Path:
    """Find a folder that comes with the package.

    Args:
        name (str): ``"configs"`` or ``"examples"``.

    Returns:
        Path: The folder in the package, or in the repository of an editable installation.

    Raises:
        FileNotFoundError: If neither has the folder.
    """
    package = Path(__file__).parent
    for folder in (package / name, package.parents[1] / name):
        if folder.is_dir():
            return folder
    msg = f"This installation of anomalib-unias has no {name}: install it from its wheel or its repository."
    raise FileNotFoundError(msg)


def copy_shipped(name: str, target: Path) -> list[Path]:
    """Copy a folder that comes with the package. Nothing is overwritten.

    Args:
        name (str): ``"configs"`` or ``"examples"``.
        target (Path): Folder for the content; created if it does not exist.

    Returns:
        list[Path]: All files in ``target`` that belong to the folder, sorted.

    Raises:
        FileExistsError: If a file with other content exists. Then nothing is copied.
    """
    source = shipped_folder(name)
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    copies = {path: target / path.relative_to(source) for path in files}
    for path, copy in copies.items():
        if copy.exists() and (not copy.is_file() or copy.read_bytes() != path.read_bytes()):
            msg = f"{copy} exists and is not the file of this version: move it away, or name another folder."
            raise FileExistsError(msg)
    for path, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return list(copies.values())
