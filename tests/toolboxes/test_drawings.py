"""Drawings show the photo, the regions in their colours, and a legend that explains each colour."""
import numpy as np
import pytest

from repvit_mm.toolboxes.drawings import MAX_LEGEND, MIN_SIDE, draw_segmentation

CLASSES = ('sky', 'road', 'car')
PALETTE = [[70, 130, 180], [128, 64, 128], [0, 200, 40]]


def count(drawing: np.ndarray, colour: list[int]) -> int:
    return int((drawing == colour).all(-1).sum())


def test_the_photo_stands_beside_an_overlay_for_each_map():
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    one = draw_segmentation(photo, {'prediction': np.zeros((300, 400), int)}, CLASSES, PALETTE)
    two = draw_segmentation(photo, {'ground truth': np.zeros((300, 400), int), 'prediction': np.ones((300, 400), int)},
                            CLASSES, PALETTE)
    assert one.dtype == np.uint8 and two.shape[1] - one.shape[1] == 412
    windows = np.lib.stride_tricks.sliding_window_view(one[:, :, 0], (300, 400))
    assert any((window == photo[:, :, 0]).all() for window in windows[:, 12])


def test_colours_are_mixed_into_grey():
    photo = np.full((300, 400, 3), (200, 100, 0), np.uint8)
    grey = round(.299 * 200 + .587 * 100)
    drawing = draw_segmentation(photo, {'prediction': np.full((300, 400), 2)}, CLASSES, PALETTE)
    expected = [round(grey * .4 + channel * .6) for channel in PALETTE[2]]
    assert np.abs(drawing[100, 600].astype(int) - expected).max() <= 1


def test_ignored_pixels_stay_grey():
    drawing = draw_segmentation(np.full((300, 400, 3), (200, 100, 0), np.uint8),
                                {'ground truth': np.full((300, 400), 255)}, CLASSES, PALETTE)
    assert len(set(drawing[100, 600].tolist())) == 1


def test_the_border_between_regions_is_bright():
    labels = np.zeros((300, 400), int)
    labels[:, 200:] = 1
    drawing = draw_segmentation(np.zeros((300, 400, 3), np.uint8), {'prediction': labels}, CLASSES, PALETTE)
    left = 2 * 12 + 400
    assert drawing[100, left + 200].sum() > drawing[100, left + 198].sum() + 200


def test_a_short_legend_names_every_class():
    drawing = draw_segmentation(np.zeros((300, 400, 3), np.uint8), {'prediction': np.zeros((300, 400), int)}, CLASSES,
                                PALETTE)
    assert all(count(drawing, colour) > 100 for colour in PALETTE)  # in the overlay, none is unmixed


def test_a_long_legend_lists_only_classes_that_occur():
    classes = [f'class {i}' for i in range(MAX_LEGEND + 1)]
    palette = [[10 * i, 255 - 10 * i, 77] for i in range(MAX_LEGEND + 1)]
    labels = np.zeros((300, 400), int)
    labels[:10], labels[10:40], labels[40:50] = 3, 24, 255
    drawing = draw_segmentation(np.zeros((300, 400, 3), np.uint8), {'prediction': labels}, classes, palette)
    assert [i for i, colour in enumerate(palette) if count(drawing, colour) > 100] == [0, 3, 24]


@pytest.mark.parametrize('size', [(64, 64), (32, 100), (100, 32), (288, 300)])
def test_small_drawings_are_enlarged(size):
    drawing = draw_segmentation(np.zeros((*size, 3), np.uint8), {'prediction': np.zeros(size, int)}, CLASSES, PALETTE)
    assert drawing.shape[0] > MIN_SIDE and (drawing.shape[1] - 36) % (2 * size[1]) == 0
