"""Pictures in and out of an exported classifier, with numpy and Pillow only."""
import json
import zipfile

import numpy as np
from PIL import Image, ImageDraw


def facts_at_the_end(path):
    """The metadata of a file for ncnn, LiteRT or ExecuTorch: a zip archive at its end."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read('metadata.json'))


def prepare(path, facts, height, width):
    """A picture, and the image of it that the model takes: float32 (1, 3, height, width), normalised."""
    picture = Image.open(path).convert('RGB')
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    if facts['channels'] == 'BGR':
        pixels = pixels[..., ::-1]
    image = (pixels - facts['mean']) / facts['std']
    return picture, np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)


def label(picture, logits, facts, out):
    """Write the best class onto the picture, and print the best three."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    names = facts.get('classes') or []
    lines = [f'{shares[i]:6.1%} {names[i] if len(names) == len(logits) else f"class {i}"}'
             for i in logits.argsort()[::-1][:3]]
    print(*lines, sep='\n')
    ImageDraw.Draw(picture).text((8, 8), lines[0], (255, 255, 255), stroke_width=2, stroke_fill=(0, 0, 0))
    picture.save(out)
