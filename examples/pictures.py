"""Images in and out of an exported file, with numpy and Pillow only."""
import colorsys
import json
import sys
import zipfile

import numpy as np
from PIL import Image, ImageDraw, ImageOps


def metadata_at_the_end(path):
    """The metadata of a file for ncnn, LiteRT or ExecuTorch: a zip archive at its end."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read('metadata.json'))


def read(path):
    """An image as the network was trained on: upright, 16 bits scaled to 8, white behind transparent pixels."""
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode.startswith('I'):
        values, key = np.asarray(picture), picture.info.get('transparency')
        picture = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
        if key is not None:
            picture = Image.merge('LA', [picture, Image.fromarray(np.uint8(255 * (values != key)))])
    if picture.has_transparency_data:
        picture = picture.convert('RGBA')
        picture = Image.alpha_composite(Image.new('RGBA', picture.size, 'white'), picture)
    return picture.convert('RGB')


def prepare(path, metadata, height, width):
    """A picture, and the inputs that hold it: float32 `image` (1, 3, height, width), normalised, and `size` (2,).

    If a detector takes `size`, the picture keeps its ratio, zeros fill the rest, and `size` is its size there. A
    classifier sees the middle of the picture, as in its test."""
    picture = seen = read(path)
    if 'crop_pct' in metadata:
        scale = metadata['crop_pct'] * min(picture.width / width, picture.height / height)
        size = int(scale * width + 0.5), int(scale * height + 0.5)
        left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
        seen = picture.crop((left, top, left + size[0], top + size[1]))
    rows, columns = height, width
    if 'keeping its ratio' in metadata.get('preprocessing', ''):
        scale = min(height / picture.height, width / picture.width)
        rows, columns = round(picture.height * scale), round(picture.width * scale)
    pixels = np.asarray(seen.resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
    if metadata['channels'] == 'BGR':
        pixels = pixels[..., ::-1]
    image = np.zeros((1, 3, height, width), np.float32)
    image[0, :, :rows, :columns] = ((pixels - metadata['mean']) / metadata['std']).transpose(2, 0, 1)
    return picture, {'image': image, 'size': np.array([rows, columns], np.float32)}


def draw(picture, inputs, outputs, metadata, out):
    """Draw the predictions over the image, write it, and print them; outputs are arrays by name."""
    names = metadata.get('classes') or []
    if metadata['task'] == 'classification':
        label_best(picture, outputs['logits'][0], names)
    elif metadata['task'] == 'segmentation':
        picture = colour(picture, outputs['logits'][0], names)
    elif 'boxes' in outputs:
        picture = outline(picture, inputs, outputs, names, metadata)
    else:
        sys.exit(f'{metadata["description"]}: this file gives maps, and there is nothing to draw')
    picture.save(out)


def name_of(index, names):
    return names[index] if index < len(names) else f'class {index}'


def write(picture, place, text):
    ImageDraw.Draw(picture).text(place, text, (255, 255, 255), stroke_width=2, stroke_fill=(0, 0, 0))


def colour_of(index):
    """A colour (3,) for a class; neighbours in number are far apart in hue."""
    return 255 * np.array(colorsys.hsv_to_rgb(index * 0.618 % 1, 0.75, 0.95))


def label_best(picture, logits, names):
    """Write the best class onto the picture, and print the best three."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    lines = [f'{shares[i]:6.1%} {name_of(i, names)}' for i in logits.argsort()[::-1][:3]]
    print(*lines, sep='\n')
    write(picture, (8, 8), lines[0])


def colour(picture, logits, names):
    """The picture under the colours of its classes, with their names; prints the share of each."""
    classes = logits.argmax(0)
    found, counts = np.unique(classes, return_counts=True)
    colours = np.array([colour_of(index) for index in range(len(logits))])
    map_ = Image.fromarray(colours[classes].astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    picture = Image.blend(picture, map_, 0.55)
    for index, count in zip(found, counts, strict=True):
        print(f'{count / classes.size:6.1%} {name_of(index, names)}')
        rows, columns = np.nonzero(classes == index)
        nearest = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
        write(picture, (columns[nearest] * picture.width / classes.shape[1] - 12,
                        rows[nearest] * picture.height / classes.shape[0] - 6), name_of(index, names))
    return picture


def outline(picture, inputs, outputs, names, metadata):
    """Draw boxes, masks and class names over the image; prints the boxes, in pixels of the image."""
    pixels = np.asarray(picture, np.float32)
    scale = np.tile(picture.size / inputs['size'][::-1], 2)
    there = np.flatnonzero(outputs['scores'] > 0)
    boxes = np.clip(outputs['boxes'] * scale, 0, np.tile(picture.size, 2))
    for i in there if 'masks' in outputs else ():
        area = scale * [0, 0, *inputs['image'].shape[:1:-1]] if metadata.get('masks_fill') == 'image' else boxes[i]
        inside = paste(outputs['masks'][i], area, picture.height, picture.width) >= metadata['mask_threshold']
        pixels = np.where(inside[..., None], 0.5 * pixels + 0.5 * colour_of(outputs['labels'][i]), pixels)
    picture = Image.fromarray(pixels.astype(np.uint8))
    for i in there[::-1]:  # the best one on top
        box, label = boxes[i], outputs['labels'][i]
        ImageDraw.Draw(picture).rectangle(box.tolist(), outline=tuple(colour_of(label).astype(int)), width=2)
        write(picture, (box[0] + 3, box[1] + 2), f'{name_of(label, names)} {outputs["scores"][i]:.2f}')
    for i in there:
        print(f'{outputs["scores"][i]:.3f} {name_of(outputs["labels"][i], names)}', *boxes[i].round(1))
    return picture


def paste(mask, box, height, width):
    """A mask of a box, put into the picture: (height, width), interpolated between the centres of its cells."""
    def shares(pixels, start, end, cells):
        places = (np.arange(pixels) + 0.5 - start) / max(end - start, 1e-6) * cells - 0.5
        return np.maximum(0, 1 - abs(places[:, None] - np.arange(cells)))
    (left, top, right, bottom), (rows, columns) = box, mask.shape
    return shares(height, top, bottom, rows) @ mask @ shares(width, left, right, columns).T
