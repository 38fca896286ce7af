import copy

import pytest
import timm
import torch
from classifiers import CLASSES, IMAGENET, build, classifier, config, samples
from mmengine.config import Config
from timm.loss import SoftTargetCrossEntropy
from torch import nn

from repvit_mm.errors import CheckpointError, ConfigError
from repvit_mm.training.teacher import Teacher

#: A small model of timm's instead of RegNetY-160.
SMALL = 'test_resnet'


@pytest.fixture(scope='module')
def timm_weights(tmp_path_factory):
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(timm.create_model(SMALL, num_classes=CLASSES).state_dict(), path)
    return str(path)


@pytest.fixture
def own_teacher(tmp_path):
    """Config and weights as the training of a teacher leaves them."""
    model = classifier(distillation=False, seed=3)
    cfg = config(distillation=False)
    cfg['data_preprocessor'] = None
    Config(dict(default_scope='mmpretrain', model=cfg, data_preprocessor=IMAGENET,
                custom_imports=dict(imports=['repvit_mm.training.classification']))).dump(tmp_path / 'teacher.py')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'teacher.pth')
    return dict(model=str(tmp_path / 'teacher.py'), checkpoint=str(tmp_path / 'teacher.pth')), model.eval()


def batch(classes=CLASSES, size=6):
    torch.manual_seed(1)
    scores = torch.rand(size, classes).softmax(1)
    return torch.randn(size, 3, 64, 64), samples(scores=scores), scores


def smoothed(scores):
    return 0.9 * scores + 0.1 / scores.shape[1]


@pytest.mark.parametrize('weight', [0.5, 0.3])
@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_the_loss_is_that_of_labels_and_teacher(kind, weight, own_teacher):
    teacher, oracle = own_teacher
    model = classifier(teacher=teacher, distill_type=kind, distill_weight=weight, temperature=3.)
    images, targets, scores = batch()
    losses = model.loss(images, targets)
    first, second = model.head.both_scores(model.extract_feat(images))
    taught = oracle(images)
    if kind == 'hard':
        expected = nn.functional.cross_entropy(second, taught.argmax(1))
    else:
        p, q = (taught / 3).softmax(1), (second / 3).softmax(1)
        expected = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(losses['loss_teacher'], weight * expected)
    labels = SoftTargetCrossEntropy()(first, smoothed(scores))
    torch.testing.assert_close(losses['loss_labels'], (1 - weight) * labels)


def test_a_teacher_of_timm_is_asked(timm_weights):
    model = classifier(teacher=dict(model=SMALL, checkpoint=timm_weights))
    oracle = timm.create_model(SMALL, num_classes=CLASSES).eval()
    oracle.load_state_dict(torch.load(timm_weights, weights_only=True))
    images, targets, _ = batch()
    pixels = images * model.data_preprocessor.std + model.data_preprocessor.mean
    mean, std = (255 * torch.tensor(oracle.pretrained_cfg[key]).view(-1, 1, 1) for key in ('mean', 'std'))
    expected = nn.functional.cross_entropy(model.head.both_scores(model.extract_feat(images))[1],
                                           oracle((pixels - mean) / std).argmax(1)) / 2
    torch.testing.assert_close(model.loss(images, targets)['loss_teacher'], expected)


def test_the_teacher_is_no_part_of_the_model(own_teacher):
    plain = classifier()
    model = classifier(teacher=own_teacher[0])
    images, targets, _ = batch()
    model.init_weights()
    sum(model.train().loss(images, targets).values()).backward()
    teacher = model.teacher.model
    assert list(model.state_dict()) == list(plain.state_dict())
    assert len(list(model.parameters())) == len(list(plain.parameters()))
    assert teacher not in list(model.modules())
    assert copy.deepcopy(model).teacher.model is teacher
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    for name, value in own_teacher[1].state_dict().items():
        assert torch.equal(teacher.state_dict()[name], value), name


def test_the_teacher_sees_the_images_in_its_own_normalisation():
    teacher = Teacher('unused')
    teacher.model, teacher.normalisation = nn.Flatten(), ([10., 20., 30.], [1., 2., 4.], False)
    student = build(dict(type='ErasingDataPreprocessor', num_classes=12, **IMAGENET))
    bgr = torch.randint(0, 256, (1, 3, 2, 2)).float()
    inputs = student(dict(inputs=bgr, data_samples=None))['inputs']
    expected = (bgr - torch.tensor([10., 20., 30.]).view(-1, 1, 1)) / torch.tensor([1., 2., 4.]).view(-1, 1, 1)
    torch.testing.assert_close(teacher.scores(inputs, 12, student), expected.flatten(1), rtol=1e-4, atol=1e-4)


def test_prediction_needs_no_teacher():
    model = classifier(teacher=dict(model='no_such_model', checkpoint='nowhere.pth')).eval()
    images = torch.randn(2, 3, 64, 64)
    assert model(images).shape == (2, CLASSES)
    assert len(model.predict(images)) == 2
    with pytest.raises(ConfigError, match='no_such_model'):
        model.init_weights()


def test_a_download_that_fails_is_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError('no network\nlong story')
    monkeypatch.setattr(timm, 'create_model', fail)
    model = classifier(teacher=dict(model='regnety_160.deit_in1k'))
    with pytest.raises(CheckpointError,
                       match=r'weights cannot be downloaded \(no network\).*model\.teacher\.checkpoint') as e:
        model.init_weights()
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('teacher, message', [
    (dict(model='missing/config.py'), 'no such config file'),
    (dict(model='nonsense_net'), 'expected a model of timm or a config file'),
    ('no weights', 'teacher.py has no weights'),
    (dict(model=SMALL, checkpoint='missing.pth'), 'missing.pth'),
    ('own', 'cannot be loaded; it may be for another model or number of classes'),
    (None, 'needs model.teacher'),
])
def test_a_teacher_that_cannot_be_had_ends_the_training(teacher, message, own_teacher, timm_weights):
    if isinstance(teacher, str):
        teacher = {**own_teacher[0], 'checkpoint': timm_weights if teacher == 'own' else None}
    with pytest.raises((ConfigError, CheckpointError), match=message):
        classifier(teacher=teacher).init_weights()


def test_a_teacher_of_other_classes_is_refused(own_teacher):
    model = build(config(classes=4, teacher=own_teacher[0]))
    images, targets, _ = batch(classes=4)
    with pytest.raises(ConfigError, match='has 7 classes, but the model 4'):
        model.loss(images, targets)


@pytest.mark.parametrize('wrong, message', [
    (dict(distill_type='none'), 'hard, soft'),
    (dict(distill_weight=1.5), 'between 0 and 1'),
    (dict(temperature=0), 'positive'),
    (dict(head=dict(type='LinearClsHead', num_classes=3, in_channels=40)), 'distillation=True'),
])
def test_settings_are_checked(wrong, message):
    with pytest.raises(ConfigError, match=message):
        build({**config(), **wrong})
