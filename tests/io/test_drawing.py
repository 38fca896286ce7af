import numpy as np
import pytest
from pycocotools import mask as mask_utils

from repvit_mm.io.drawing import draw_lines, draw_objects, palette

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
