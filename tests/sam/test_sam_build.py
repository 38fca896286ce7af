"""Building RepViT-SAM, and its checkpoints: the published names, both ways, and what is refused."""
import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from oracles import randomise_norms, relative_error
from running import run_tool
from sam_samples import ROOT, picture, small_sam
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from repvit_mm import ARCHS, RepViT, convert_state_dict, fuse, load_checkpoint
from repvit_mm.errors import CheckpointError, ConfigError
from repvit_mm.sam import SamEncoder, assemble, build_sam
from repvit_mm.sam.encoder import build_encoder

# SHA-256 over "name shape" of every tensor of the published repvit_sam.pt, a line each, in its order.
PUBLISHED_SHA256 = '6ce1bc43850b980acbd3453bfd24949c4cea8efcee270906b9dea5e9b833165e'
PUBLISHED_COUNT = 1598
PUBLISHED_SAMPLE = {
    'image_encoder.features.0.0.c.weight': (40, 3, 3, 3),
    'image_encoder.features.54.channel_mixer.m.2.bn.num_batches_tracked': (),
    'image_encoder.neck.0.weight': (256, 640, 1, 1),
    'image_encoder.neck.3.bias': (256,),
    'prompt_encoder.pe_layer.positional_encoding_gaussian_matrix': (2, 128),
    'mask_decoder.iou_prediction_head.layers.2.bias': (4,),
}


def lines(tensors):
    return '\n'.join(f'{name} {"x".join(map(str, value.shape))}' for name, value in tensors.items())


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """A file like the published one: its names, shapes and order, random values."""
    with torch.device('meta'):
        names = convert_state_dict(build_sam('m2_3').state_dict(), to='official')
    assert hashlib.sha256(lines(names).encode()).hexdigest() == PUBLISHED_SHA256
    torch.manual_seed(0)
    tensors = {name: torch.randn(value.shape) if value.ndim else torch.tensor(7) for name, value in names.items()}
    path = tmp_path_factory.mktemp('sam') / 'repvit_sam.pt'
    torch.save(tensors, path)
    return path, tensors


def test_published_checkpoint_has_the_names_that_the_model_converts_to(published):
    _, tensors = published
    assert len(tensors) == PUBLISHED_COUNT
    assert {name: tuple(tensors[name].shape) for name in PUBLISHED_SAMPLE} == PUBLISHED_SAMPLE


def test_published_checkpoint_loads_completely_and_converts_back(published):
    path, tensors = published
    sam = build_sam('m2_3', path)
    back = convert_state_dict(sam.state_dict(), to='official')
    assert list(back) == list(tensors)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_files_are_converted_both_ways(published, tmp_path):
    path, tensors = published
    ours, back = tmp_path / 'ours.pth', tmp_path / 'back.pth'
    assert not run_tool('convert_checkpoint', path, ours).status
    assert 'image_encoder.backbone.stem.conv1.conv.weight' in torch.load(ours, weights_only=True)['state_dict']
    assert not run_tool('convert_checkpoint', ours, back, '--to', 'official').status
    content = torch.load(back, weights_only=True)  # the authors' code expects the tensors at the top
    assert list(content) == list(tensors) and all(torch.equal(content[name], tensors[name]) for name in tensors)


def test_published_checkpoint_gives_its_encoder_and_its_backbone(published):
    path, tensors = published
    encoder, backbone = SamEncoder('m2_3'), RepViT('m2_3')
    load_checkpoint(encoder, path)
    load_checkpoint(backbone, path)
    assert torch.equal(encoder.neck[2].weight, tensors['image_encoder.neck.2.weight'])
    for model in (encoder.backbone, backbone):
        assert torch.equal(model.stem.conv1.conv.weight, tensors['image_encoder.features.0.0.c.weight'])


@pytest.mark.parametrize('arch', ARCHS)
def test_every_architecture_builds(arch):
    with torch.device('meta'):
        embedding = build_sam(arch).image_encoder(torch.zeros(1, 3, 1024, 1024))
    assert embedding.shape == (1, 256, 64, 64)


def test_encoder_is_a_backbone_without_the_last_stride_and_the_neck_of_sam(tmp_path):
    encoder = randomise_norms(SamEncoder('m0_6', image_size=64)).eval()
    backbone = RepViT('m0_6', last_stride=1).eval()
    torch.save(encoder.state_dict(), tmp_path / 'encoder.pth')
    load_checkpoint(backbone, tmp_path / 'encoder.pth')
    torch.manual_seed(0)
    image = torch.randn(1, 3, 64, 64)
    neck = ImageEncoderViT(img_size=64, embed_dim=320, depth=0, num_heads=1, out_chans=256).neck
    neck.load_state_dict(encoder.neck.state_dict())
    assert encoder.img_size == 64
    assert relative_error(encoder(image), neck(backbone(image)[-1])) < 1e-5


def test_a_file_of_edge_sam_loads_under_its_names(tmp_path):
    torch.manual_seed(0)
    sam = build_sam('edge_sam', image_size=64)
    randomise_norms(sam.image_encoder)
    tensors = convert_state_dict(sam.state_dict(), to='official')
    names = {name.removeprefix('image_encoder.') for name in tensors if name.startswith('image_encoder.')}
    assert {name for name in names if not name.startswith('features.')} == {
        'fuse_stage2.weight', 'fuse_stage3.op_list.0.weight', 'neck.0.weight', 'neck.1.weight', 'neck.1.bias',
        'neck.2.weight', 'neck.3.weight', 'neck.3.bias'}
    assert {int(name.split('.')[1]) for name in names if name.startswith('features.')} == set(range(27))
    torch.save(tensors, tmp_path / 'edge_sam.pth')
    loaded = build_sam('edge_sam', tmp_path / 'edge_sam.pth', 64).image_encoder
    image = torch.randn(1, 3, 64, 64)
    fine, coarse = loaded.backbone(image)
    added = nn.functional.conv2d(fine, tensors['image_encoder.fuse_stage2.weight']) + nn.Upsample(
        scale_factor=2, mode='bicubic')(nn.functional.conv2d(
            coarse, tensors['image_encoder.fuse_stage3.op_list.0.weight']))
    assert fine.shape[2:] == (4, 4) and relative_error(loaded(image), sam.image_encoder.neck(added)) < 1e-6
    assert relative_error(fuse(loaded)(image), loaded(image)) < 1e-4


def test_fused_model_computes_the_same_and_saves_and_loads(tmp_path):
    sam = small_sam()
    fused = fuse(sam)
    image = torch.randn(1, 3, 64, 64)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert relative_error(fused.image_encoder(image), sam.image_encoder(image)) < 1e-3
    torch.save(fused.state_dict(), tmp_path / 'fused.pth')
    loaded = build_sam('m0_6', tmp_path / 'fused.pth', image_size=64)
    assert relative_error(loaded.image_encoder(image), fused.image_encoder(image)) < 1e-3
    assert torch.equal(fuse(loaded).image_encoder(image), fused.image_encoder(image))


def test_encoder_starts_from_a_classifier(tmp_path):
    backbone = randomise_norms(RepViT('m0_6'))
    torch.save(convert_state_dict(backbone.state_dict(), to='official'), tmp_path / 'classifier.pth')
    encoder = SamEncoder('m0_6', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'classifier.pth')))
    encoder.init_weights()
    assert all(torch.equal(value, encoder.backbone.state_dict()[name])
               for name, value in backbone.state_dict().items())


@pytest.mark.parametrize('size', [0, 100, -16])
def test_image_size_that_makes_no_embedding_is_refused(size):
    with pytest.raises(ConfigError, match=f'image_size={size} must be a multiple of 16'):
        build_sam('m0_6', image_size=size)


@pytest.mark.parametrize('names, message', [
    (['image_encoder.pos_embed', 'image_encoder.patch_embed.proj.weight', 'mask_decoder.iou_token.weight'],
     'is a SAM with another image encoder: .*pos_embed.*expected a RepViT-SAM'),
    (['layer.weight'], 'no prompt_encoder and no mask_decoder; expected a RepViT-SAM'),
])
def test_checkpoint_of_another_model_is_told_in_one_line(tmp_path, names, message):
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=message) as caught:
        build_sam('m0_6', tmp_path / 'other.pth')
    assert '\n' not in str(caught.value)


def test_checkpoint_of_another_architecture_or_of_the_encoder_alone_is_refused(published, tmp_path):
    with pytest.raises(CheckpointError, match='holds the weights of m2_3, but the model is m0_6'):
        build_sam('m0_6', published[0])
    torch.save({f'image_encoder.{name}': value for name, value in SamEncoder('m0_6').state_dict().items()},
               tmp_path / 'encoder.pth')
    with pytest.raises(CheckpointError, match='has no prompt_encoder and no mask_decoder; expected a RepViT-SAM'):
        build_sam('m0_6', tmp_path / 'encoder.pth')


@pytest.mark.parametrize(('name', 'parameters'), [('vit_b', 89_670_912), ('vit_l', 308_278_272),
                                                  ('vit_h', 637_026_048), ('mobile_sam', 5_743_892)])
def test_other_encoders_are_the_published_ones(name, parameters):
    with torch.device('meta'):
        encoder = build_encoder(name, 1024)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert encoder.img_size == 1024


#: SHA-256 over "name shape" of the 302 tensors of MobileSAM's encoder as its authors name them, sorted, a line each.
MOBILE_SAM_SHA256 = 'c00d809d77891aec97f0dc99cd5ba0e114283df5f287c7f81a518b8ed67fbcf1'


def mobile_sam_tensors():
    """Random tensors for MobileSAM's encoder, under the published names."""
    tensors = {f'head.{kind}': torch.rand(size) for kind, size in (('weight', (1000, 320)), ('bias', (1000,)))}
    tensors |= {f'norm_head.{kind}': torch.rand(320) for kind in ('weight', 'bias')}
    for name, value in build_encoder('mobile_sam', 1024).state_dict().items():
        name = re.sub(r'^stages\.(\d)\.downsample', lambda found: f'layers.{int(found[1]) - 1}.downsample',
                      name.removeprefix('backbone.'))
        name = re.sub(r'^patch_embed\.conv(\d)', lambda found: f'patch_embed.seq.{2 * int(found[1]) - 2}', name)
        tensors[name.replace('stages.', 'layers.').replace('.conv.weight', '.c.weight')] = torch.rand(value.shape)
    assert hashlib.sha256('\n'.join(sorted(lines(tensors).split('\n'))).encode()).hexdigest() == MOBILE_SAM_SHA256
    return tensors


def test_a_file_of_mobile_sam_loads_under_its_names(tmp_path):
    torch.manual_seed(0)
    tensors = {f'image_encoder.{name}': value for name, value in mobile_sam_tensors().items()}
    decoder = {name: value for name, value in small_sam(1024).state_dict().items() if not name.startswith('image_enc')}
    torch.save(tensors | decoder, tmp_path / 'mobile_sam.pt')
    sam = build_sam('mobile_sam', tmp_path / 'mobile_sam.pt')
    backbone = sam.image_encoder.backbone
    for module, name in ((backbone.patch_embed.conv2.conv, 'patch_embed.seq.2.c'),
                         (sam.image_encoder.neck[3], 'neck.3'),
                         (backbone.stages[3].downsample.conv2.conv, 'layers.2.downsample.conv2.c'),
                         (backbone.stages[2].blocks[5].mlp.fc1, 'layers.2.blocks.5.mlp.fc1')):
        assert torch.equal(module.weight, tensors[f'image_encoder.{name}.weight'])
    embedding = sam.image_encoder(torch.rand(1, 3, 256, 256))
    assert embedding.shape == (1, 256, 16, 16)
    with pytest.raises(CheckpointError, match='is not a SAM with the image encoder vit_b for images of 1024: '):
        build_sam('vit_b', tmp_path / 'mobile_sam.pt')


@pytest.mark.parametrize('encoder', ['m0_6', dict(type='SamVit', embed_dim=32, depth=2, num_heads=2,
                                                  global_attn_indexes=(1,))])
def test_trackers_find_the_interface_of_segment_anything(encoder):
    predictor = SamPredictor(build_sam(encoder, image_size=64))
    predictor.set_image(picture())
    assert predictor.features.shape == predictor.get_image_embedding().shape == (1, 256, 4, 4)
    assert (predictor.original_size, predictor.input_size) == ((60, 80), (48, 64)) and predictor.is_image_set
    model = predictor.model
    assert (model.image_encoder.img_size, model.mask_threshold, model.device) == (64, 0., torch.device('cpu'))
    masks, scores, logits = predictor.predict(np.array([[30, 30]]), np.array([1]), multimask_output=True)
    again = predictor.predict(np.array([[30, 30]]), np.array([1]), mask_input=logits[:1], multimask_output=False)
    assert masks.shape == (3, 60, 80) and scores.shape == (3,) and logits.shape == (3, 16, 16)
    assert again[0].shape == (1, 60, 80)


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ConfigError, match="unknown image encoder 'vit_x'; choose from repvit_m0_6, "):
        build_sam('vit_x')


@pytest.fixture
def halves(tmp_path):
    """What a distillation wrote, and its teacher, a SAM with another image encoder."""
    student, teacher = small_sam(seed=1), small_sam(seed=2)
    torch.save({'state_dict': {f'student.{name}': value for name, value in
                               student.image_encoder.state_dict().items()}}, tmp_path / 'student.pth')
    torch.save({'image_encoder.pos_embed': torch.zeros(1)} | {
        name: value for name, value in teacher.state_dict().items() if not name.startswith('image_encoder.')},
        tmp_path / 'teacher.pth')
    return student, teacher, tmp_path


def test_distilled_encoder_and_decoder_of_its_teacher_make_a_sam(halves):
    student, teacher, folder = halves
    expected = {name: (student if name.startswith('image_encoder.') else teacher).state_dict()[name]
                for name in student.state_dict()}
    whole = assemble(folder / 'student.pth', folder / 'teacher.pth', 'm0_6', image_size=64)
    assert all(torch.equal(value, expected[name]) for name, value in whole.state_dict().items())
    assert not run_tool('sam_assemble', folder / 'student.pth', folder / 'teacher.pth', folder / 'whole.pth', '--arch',
                        'm0_6', '--official').status
    assert 'image_encoder.features.0.0.c.weight' in torch.load(folder / 'whole.pth', weights_only=True)
    loaded = build_sam('m0_6', folder / 'whole.pth')
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_teacher_without_a_decoder_is_refused(halves):
    _, _, folder = halves
    with pytest.raises(CheckpointError, match='student.pth is not a whole SAM, with its prompt_encoder: .*Missing key'):
        assemble(folder / 'student.pth', folder / 'student.pth', 'm0_6')


def test_missing_package_is_named():
    code = ("import sys; sys.modules['segment_anything'] = None\n"
            "from repvit_mm.errors import run_cli\n"
            "run_cli(lambda: __import__('repvit_mm.sam'))")
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == ('error: RepViT-SAM needs segment-anything, and segment_anything is not '
                                            'installed; pip install "repvit-mm[sam]"')
