import numpy as np
import pytest
from pycocotools import mask as mask_utils

from repvit_mm.io.drawing import draw_labels, draw_lines, draw_objects, palette

GREY = np.full((120, 160, 3), 128, np.uint8)
BOX = (40, 60, 120, 100)


def changed(image, drawn):
    return (image != drawn).any(-1)


def test_a_class_has_one_colour_and_classes_have_different_ones():
    colours = palette(80)
    assert len(set(colours)) == 80 and palette(5) == colours[:5]


@pytest.mark.parametrize('kind', ['polygon', 'run lengths', 'none'])
def test_objects_are_drawn_where_they_are(kind):
    inside = np.zeros((120, 160), np.uint8)
    inside[60:101, 40:121] = 1
    runs = mask_utils.encode(np.asfortranarray(inside))
    mask = {'polygon': [[40, 60, 121, 60, 121, 101, 40, 101]], 'none': None,
            'run lengths': {'size': runs['size'], 'counts': runs['counts'].decode()}}[kind]
    drawn = draw_objects(GREY, [{'label': 2, 'class': 'crescent', 'score': 0.514, 'box': BOX, 'mask': mask}])
    assert tuple(drawn[100, 80]) == palette(3)[2] and (GREY == 128).all()
    where = changed(GREY, drawn)
    assert where[80, 80] == (kind != 'none')
    assert where[45:59, 42:60].any() and not where[:40].any() and not where[:, :35].any() and not where[110:].any()


def test_a_score_is_part_of_the_name():
    without, low, high = (draw_objects(GREY, [{'label': 0, 'class': 'star', 'box': BOX, **score}])
                          for score in ({}, {'score': 0.31}, {'score': 0.98}))
    assert changed(without, low).any() and changed(low, high).any()


def test_names_do_not_hide_each_other():
    objects = [{'label': i, 'class': 'thing', 'box': (40, 60, 100 + i, 100)} for i in range(3)]
    drawn = draw_objects(GREY, objects)
    heights = [np.flatnonzero((drawn == palette(3)[i]).all(-1).sum(1) > 20) for i in range(3)]
    rows = [set(rows.tolist()) - {60, 100} for rows in heights]
    assert all(len(own) > 8 for own in rows) and not rows[0] & rows[1] and not rows[1] & rows[2]


def test_a_small_image_is_enlarged_with_its_objects_and_boxes_may_be_for_another_size():
    drawn = draw_objects(GREY, [{'label': 0, 'class': 'a', 'box': BOX}], smallest=240)
    assert drawn.shape == (240, 320, 3) and tuple(drawn[200, 200]) == palette(1)[0]
    large = np.full((240, 320, 3), 128, np.uint8)
    same = draw_objects(large, [{'label': 0, 'class': 'a', 'box': BOX}], size=(160, 120))
    np.testing.assert_array_equal(drawn, same)


def test_lines_are_written_below_each_other():
    rows = changed(GREY, draw_lines(GREY, ['shorts 0.14', 'sock 0.03'], palette(2))).any(1)
    assert (rows[1:] & ~rows[:-1]).sum() == 2


@pytest.mark.parametrize(('size', 'scale'), [((300, 400), 1), ((64, 100), 5)])
def test_label_maps_are_mixed_into_grey_and_the_largest_classes_are_named(size, scale):
    image, labels = np.full((*size, 3), (200, 100, 0), np.uint8), np.zeros(size, int)
    labels[:2], labels[:, size[1] // 2:], labels[-1] = 2, 1, 255
    colours = [[70, 130, 180], [128, 64, 128], [0, 200, 40], [9, 9, 9]]
    drawn = draw_labels(image, labels, ['sky', 'road', 'car', 'sea'], colours, 288)
    assert drawn.shape[:2] == (scale * size[0], scale * size[1])
    grey = round(.299 * 200 + .587 * 100)
    assert np.abs(drawn[-20, 20] - (0.4 * grey + 0.6 * np.array(colours[0]))).max() <= 1
    assert np.abs(drawn[-20, -20] - (0.4 * grey + 0.6 * np.array(colours[1]))).max() <= 1
    assert len(set(drawn[-1, 20].tolist())) == 1  # ignored
    middle = scale * size[1] // 2
    assert drawn[-20, middle].sum() > drawn[-20, middle - 2].sum() + 100  # a bright line between regions
    sky, road, car, sea = (np.flatnonzero((drawn == colour).all(-1).any(1)) for colour in colours)
    assert road[0] < sky[0] < car[0] and not sea.size  # only behind names, a colour is pure
