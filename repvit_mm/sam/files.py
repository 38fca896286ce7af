"""Writing files so that there is the whole file or none."""
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..errors import UserError


def write_whole(path: str | Path, write: Callable[[BinaryIO], Any]) -> Path:
    """Let ``write`` fill a file beside ``path``, and then put it in its place.

    Raises:
        UserError: If the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open('wb') as file:
                write(file)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror or error}') from error
    return path


def write_json(path: str | Path, content: Any) -> Path:
    """Write ``content`` as JSON; see :func:`write_whole`."""
    return write_whole(path, lambda file: file.write(json.dumps(content).encode()))


def write_png(path: str | Path, image: np.ndarray) -> Path:
    """Write (H, W) or (H, W, 3) uint8 as PNG; see :func:`write_whole`."""
    return write_whole(path, lambda file: Image.fromarray(image).save(file, format='PNG'))
