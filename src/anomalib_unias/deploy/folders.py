"""Finds the image files of a folder."""

import logging
import os
import stat
from pathlib import Path

from anomalib.data.utils.image import is_image_file

logger = logging.getLogger(__name__)

State = tuple[int, float]
"""Size of a file in bytes, and time of its last change in seconds since 1970. A changed state means a changed image."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def state_of(status: os.stat_result) -> State:
    """Get the state of a file from its ``stat`` result.

    Args:
        status (os.stat_result): Status of the file.

    Returns:
        State: Its size and time.
    """
    return status.st_size, status.st_mtime


class FolderScan:
    """Finds image files in a folder and its sub-folders.

    Entries that have the name of an image but are not files, and folders that cannot be read, are skipped with one
    warning each.

    Args:
        folder (Path): Folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._warned: set[str] = set()

    def images(self) -> list[tuple[Path, State]]:
        """Scan the folder once.

        Returns:
            list[tuple[Path, State]]: Files in the order of their names, and their states.
        """
        found = []
        for directory, folders, files in os.walk(self.folder, onerror=self._warn_of_error):
            for name in folders:
                if (path := Path(directory, name)).is_symlink():
                    self._warn(path, "a link to a folder, which is not followed. Give that folder as a source")
            found += [Path(directory, name) for name in files if is_image_file(name)]
        states = ((path, self._state(path)) for path in sorted(found))
        return [(path, state) for path, state in states if state is not None]

    def _state(self, path: Path) -> State | None:
        try:
            status = path.stat()
        except FileNotFoundError:
            if path.is_symlink():
                self._warn(path, "a broken link")
            return None
        except OSError as error:  # a link to itself, no permission
            self._warn(path, f"not accessible ({error.strerror})")
            return None
        if not stat.S_ISREG(status.st_mode):
            self._warn(path, _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file"))
            return None
        return state_of(status)

    def _warn_of_error(self, error: OSError) -> None:
        self._warn(Path(error.filename), f"not accessible ({error.strerror})")

    def _warn(self, path: Path, reason: str) -> None:
        if str(path) not in self._warned:
            self._warned.add(str(path))
            logger.warning("%r is skipped: it is %s.", str(path), reason)
