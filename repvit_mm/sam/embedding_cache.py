"""A teacher's embeddings in files: computed once instead of in every epoch."""
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DatasetError
from ..io.files import atomic_write, check_regular, make_folder, read_json, write_json

MANIFEST = 'manifest.json'


class EmbeddingCache:
    """A folder with a manifest and a file for each image, in half precision, without the padding.

    Args:
        folder: The folder; :meth:`create` creates it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()

    def create(self, identity: dict[str, Any]) -> None:
        """Create the folder for the embeddings of a teacher, or check that it is the right one.

        Args:
            identity: See :meth:`repvit_mm.sam.teacher.SamTeacher.identity`.

        Raises:
            DatasetError: If it holds the embeddings of another teacher.
        """
        path = self.folder / MANIFEST
        if not path.exists():
            write_json(make_folder(self.folder) / MANIFEST, identity)
        elif (found := read_json(path)) != identity:
            raise DatasetError(f'{self.folder} has the embeddings of another teacher, {found}; in the config it is '
                               f'{identity}: use another folder')

    def path(self, name: str) -> Path:
        """The embedding's file for the image ``name``, a path relative to the folder of images."""
        return self.folder / f'{name}.npz'

    def has(self, name: str, digest: str, shape: tuple[int, ...]) -> bool:
        """Whether there is an intact embedding of exactly this image."""
        try:
            self.read(name, digest, shape)
        except DatasetError:
            return False
        return True

    def read(self, name: str, digest: str, shape: tuple[int, ...]) -> Tensor:
        """Read an embedding.

        Args:
            name: See :meth:`path`.
            digest: SHA-256 of the image file.
            shape: Expected channels, height and width.

        Returns:
            The embedding in half precision.

        Raises:
            DatasetError: If it is missing, damaged, or of another image.
        """
        path, again = self.path(name), 'run tools/sam_cache_embeddings.py again'
        try:
            check_regular(path)
            with np.load(path, allow_pickle=False) as content:
                embedding, found = content['embedding'], str(content['sha256'])
        except FileNotFoundError as error:
            raise DatasetError(f'{path} is missing; {again}') from error
        except Exception as error:  # a damaged archive fails in many ways
            raise DatasetError(f'{path} is damaged ({type(error).__name__}); {again}') from error
        if found != digest:
            raise DatasetError(f'{path} is the embedding of another image than {name}; {again}')
        if embedding.dtype != np.float16 or embedding.shape != shape or not np.isfinite(embedding).all():
            raise DatasetError(f'{path} does not hold finite values of float16 and shape {shape}, but '
                               f'{embedding.dtype} and {embedding.shape}; {again}')
        return torch.from_numpy(embedding)

    def write(self, name: str, digest: str, embedding: Tensor) -> None:
        """Write an embedding, (channels, height, width), in half precision.

        Raises:
            DatasetError: If it has values beyond the range of half precision.
        """
        half = embedding.half().cpu().numpy()
        if not np.isfinite(half).all():
            raise DatasetError(f'the embedding of {name} has values beyond the range of half precision')
        path = self.path(name)
        make_folder(path.parent)
        with atomic_write(path) as part:
            np.savez(part, embedding=half, sha256=np.array(digest))
