"""Small models and drawn images for the tests of RepViT-SAM."""
from pathlib import Path

import numpy as np
import torch
from oracles import randomise_norms
from PIL import Image

from repvit_mm.sam import build_sam

ROOT = Path(__file__).parents[2]
#: Options of a small SAM with random weights.
ARGUMENTS = ('--encoder', 'repvit_m0_6', '--image-size', '64', '--device', 'cpu')


def small_sam(image_size=64, arch='m0_6', seed=0):
    """A RepViT-SAM with weights that all matter."""
    torch.manual_seed(seed)
    sam = build_sam(arch, image_size=image_size)
    randomise_norms(sam.image_encoder)
    return sam


def picture(height=60, width=80, seed=0):
    """Discs of several colours on a gradient, (height, width, 3) uint8."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], -1)
    for _ in range(4):
        centre, radius = generator.uniform((0, 0), (height, width)), generator.uniform(6, 18)
        image[np.hypot(y - centre[0], x - centre[1]) < radius] = generator.uniform(0, 255, 3)
    return image.astype(np.uint8)


def save_picture(path, height=60, width=80, seed=0):
    """Write :func:`picture` to a file, and give its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(height, width, seed)).save(path)
    return path
