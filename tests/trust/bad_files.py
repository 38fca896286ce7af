"""Makers of bad files for the table ``bad_inputs.txt``. Paths are relative to the folder of a row."""
import io
import json
import os
import pickle
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from repvit_mm import RepViT

#: A tensor, for checkpoints that are not even looked into.
T = torch.ones(2, 2)
NAN, INF = float('nan'), float('inf')
#: Annotations of the data sets `det` and `sam`.
TRAIN, VAL, SAM = ('det/annotations/instances_train.json', 'det/annotations/instances_val.json',
                   'sam/annotations/instances_val2017.json')


class RunsCode:
    """Unpickling it makes a folder."""

    def __init__(self, path='EXECUTED'):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write(path, content=b''):
    """A file of these bytes."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content.encode() if isinstance(content, str) else content)


def fifo(path):
    """A pipe, whose reading never ends."""
    Path(path).unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path):
    Path(path).unlink(missing_ok=True)
    Path(path).mkdir()


def remove(path):
    Path(path).unlink()


def save(content, path='x.pth', legacy=False):
    """A checkpoint by torch.save."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


def raw(content, path='x.pth'):
    """A bare pickle."""
    write(path, pickle.dumps(content, protocol=2))


def tensors(**changes):
    """Tensors of a small RepViT, some of them changed."""
    state = RepViT({'widths': (8, 16, 24, 32), 'depths': (1, 1, 1, 1)}).state_dict()
    return {**state, **{name.replace('__', '.'): value for name, value in changes.items()}}


STEM = 'stem.conv1.conv.weight'


def stem(change):
    """Tensors of a small RepViT, the first of which is changed."""
    state = tensors()
    return {**state, STEM: change(state[STEM])}


def safetensors(header, path='x.safetensors', body=b''):
    """A file with this JSON as its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    write(path, struct.pack('<Q', len(text)) + text + body)


def cut(path, keep):
    """Only the first part of a file, a fraction of it."""
    content = Path(path).read_bytes()
    write(path, content[:int(len(content) * keep)])


def flip(path, offset):
    """One bit of a file changed; from its end where the offset is negative."""
    content = bytearray(Path(path).read_bytes())
    content[offset] ^= 4
    write(path, bytes(content))


def flip_directory(path='x.pth'):
    """One bit changed in the directory of a zip archive."""
    flip(path, Path(path).read_bytes().rfind(b'PK\x01\x02') + 46)


def zipped(path, **entries):
    """A zip archive."""
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in entries.items():
            archive.writestr(f'x/{name.replace("_", ".")}', content)


def with_metadata(path, **metadata):
    """An exported file of which only the metadata are there."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('metadata.json', json.dumps(metadata))


def deflated_pickle(path='x.pth', megabytes=4000):
    """A checkpoint in a few megabytes whose pickle would be 4 GB of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packer.compress(b'')
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('x/data.pkl', block * megabytes)
        entry, = archive.infolist()
        entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, megabytes << 20


def png_header(path, width, height):
    """A PNG of a few bytes that claims to be large."""
    def chunk(kind, content):
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
    write(path, b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
          + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b''))


def picture(path, width, height, mode='RGB', value=0):
    """An image of one colour."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), value).save(path)


def edit(path, change):
    """A JSON file, changed."""
    content = json.loads(Path(path).read_text())
    change(content)
    write(path, json.dumps(content))


def top(path, **changes):
    """Annotations with other entries at the top."""
    edit(path, lambda content: content.update(changes))


def without(path, key, kind=None):
    """Annotations without a key: of the first entry of a kind, or at the top."""
    edit(path, lambda content: (content if kind is None else content[kind][0]).pop(key))


def first(path, kind, **changes):
    """Annotations whose first entry of a kind is changed."""
    edit(path, lambda content: content[kind][0].update(changes))


def results(**changes):
    """A detector's results with one box, for the data set `sam`."""
    box = {'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 5, 5], 'score': 0.5, **changes}
    write('boxes.json', json.dumps([box]))


def embedding(path, **arrays):
    """A file of a cache of embeddings."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write(path, buffer.getvalue())


def environ(**variables):
    """Environment variables; they are restored after the row."""
    os.environ.update(variables)


def disk(size):
    """A disk on which no file has more than so many bytes; it is replaced after the row."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
