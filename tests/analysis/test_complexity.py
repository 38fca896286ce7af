import pytest
from inference_models import tiny_model

from repvit_mm import RepViT, fuse
from repvit_mm.analysis import count
from repvit_mm.models.inference import BACKBONE, InferenceModel


def test_the_training_form_costs_more_and_the_model_stays_as_it_is(tmp_path):
    model = tiny_model(tmp_path, 'classification')
    training, fused = count(model, (64, 64)), count(model, (64, 64), fused=True)
    assert training.macs > fused.macs and training.parameters > fused.parameters
    assert training.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('task', ['backbone', 'classification', 'segmentation', 'detection'])
def test_a_module_is_the_sum_of_its_parts(tmp_path, task, fused):
    tree = count(tiny_model(tmp_path, task), (64, 64), fused, depth=4)

    def check(node):
        if node.children:
            assert sum(child.parameters for child in node.children) <= node.parameters
            assert sum(child.macs for child in node.children) == node.macs
        for child in node.children:
            check(child)
    check(tree)
    expected = {'backbone': ['backbone'], 'classification': ['backbone', 'head'],
                'segmentation': ['backbone', 'neck', 'decode_head'],
                'detection': ['backbone', 'neck', 'rpn_head', 'roi_head']}
    assert [child.name for child in tree.children] == expected[task]
    assert [child.name for child in tree.children[0].children] == ['stem', *(f'stages.{i}' for i in range(4))]


def test_convolutions_are_counted_by_hand():
    model = InferenceModel('small', RepViT({'widths': (8,), 'depths': (1,)}, out_indices=(0,)), BACKBONE)
    tree = count(model, (64, 32), fused=True, depth=2)
    stem, stage = tree.children[0].children
    assert stem.macs == 32 * 16 * 4 * 3 * 9 + 16 * 8 * 8 * 4 * 9
    pixels, excitation = 16 * 8, 2 * 8 * 8
    assert stage.macs == pixels * 8 * 9 + excitation + 2 * pixels * 8 * 16
    assert tree.parameters == sum(parameter.numel() for parameter in fuse(model).parameters())
