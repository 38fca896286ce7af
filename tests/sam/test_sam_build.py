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
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import ImageEncoderViT, PromptEncoder, Sam
from torch import nn

from repvit_mm import ARCHS, RepViT, convert_state_dict, fuse, load_checkpoint
from repvit_mm.errors import CheckpointError, ConfigError, UserError
from repvit_mm.sam import SamEncoder, assemble, build_sam
from repvit_mm.sam.encoder import build_encoder

# SHA-256 over "name shape" of every tensor of the published repvit_sam.pt, a line each, in its order.
PUBLISHED_SHA256 = '6ce1bc43850b980acbd3453bfd24949c4cea8efcee270906b9dea5e9b833165e'


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


@pytest.mark.parametrize(('encoder', 'size', 'message'), [
    *(('m0_6', size, 'image_size=.* must be a multiple of 16') for size in (0, 100, -16, (64, 40), (64,))),
    ('edge_sam', (48, 64), 'must be a multiple of 32, or a height and width of such'),
    (dict(type='SamEncoder', arch='m0_6', embedding_size=3), (32, 64), 'embedding_size=3 .* is no whole number'),
    ('vit_b', (32, 64), 'vit_b expects square images'), ('mobile_sam', (32, 64), 'mobile_sam expects square images')])
def test_image_size_that_makes_no_embedding_is_refused(encoder, size, message):
    with pytest.raises(ConfigError, match=message):
        build_sam(encoder, image_size=size)


@pytest.fixture
def rectangle_and_square():
    """A SAM for images of 48 x 64, and one of segment_anything's parts for 64 x 64 with the same decoder."""
    sam = small_sam((48, 64))
    square = Sam(ImageEncoderViT(img_size=64, depth=0), PromptEncoder(256, (4, 4), (64, 64), 16), sam.mask_decoder)
    square.prompt_encoder.load_state_dict(sam.prompt_encoder.state_dict())
    return sam, square


def test_a_rectangle_has_the_positions_pixels_and_masks_of_the_square(rectangle_and_square):
    sam, square = rectangle_and_square
    assert torch.equal(sam.prompt_encoder.get_dense_pe(), square.prompt_encoder.get_dense_pe()[:, :, :3])
    prompts = ((torch.rand(1, 2, 2) * 48, torch.ones(1, 2)), torch.tensor([[3., 5., 40., 41.]]), None)
    (ours, dense), (theirs, _) = sam.prompt_encoder(*prompts), square.prompt_encoder(*prompts)
    assert torch.equal(ours, theirs) and dense.shape == (1, 256, 3, 4)
    image = 255 * torch.rand(3, 36, 64)
    assert torch.equal(sam.preprocess(image), square.preprocess(image)[:, :48])
    logits = torch.randn(1, 2, 12, 16)
    padded = nn.functional.pad(logits, (0, 0, 0, 4), mode='replicate')
    torch.testing.assert_close(sam.postprocess_masks(logits, (36, 64), (90, 160)),
                               square.postprocess_masks(padded, (36, 64), (90, 160)))


@pytest.mark.parametrize(('encoder', 'size', 'positions'), [
    ('m0_6', (48, 64), (3, 4)), ('m0_6', (64, 48), (4, 3)), ('edge_sam', (64, 32), (4, 2)), ('m0_6', 112, (7, 7)),
    (dict(type='SamEncoder', arch='m0_6', embedding_size=8), 112, (8, 8)),
    (dict(type='SamEncoder', arch='m0_6', embedding_size=16), (112, 224), (8, 16))])
def test_the_predictor_takes_images_that_fit_into_any_size(encoder, size, positions):
    """Masks against the encoder and the decoder called by hand."""
    sam = small_sam(size, encoder)
    longer, (height, width) = (size, (size, size)) if isinstance(size, int) else (max(size), size)
    scaled = (height - 8, width) if height <= width else (height, width - 8)
    image = picture(*(2 * side for side in scaled))
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    masks, scores, low_res = predictor.predict(np.array([[30, 20]]), np.array([1]), return_logits=True)
    small = torch.from_numpy(predictor.transform.apply_image(image)).permute(2, 0, 1)
    inputs = torch.zeros(1, 3, height, width)
    inputs[0, :, :scaled[0], :scaled[1]] = (small - sam.pixel_mean) / sam.pixel_std
    backbone = sam.image_encoder.backbone
    embedding = sam.image_encoder(inputs)
    assert backbone(inputs)[0].shape[2:] == (height // 16, width // 16) and embedding.shape == (1, 256, *positions)
    coords = (torch.tensor([[[15., 10.], [0., 0.]]]) + 0.5 * torch.tensor([[[1.], [0.]]])) / longer
    sparse = sam.prompt_encoder.pe_layer._pe_encoding(coords)
    sparse[:, 0] += sam.prompt_encoder.point_embeddings[1].weight[0]
    sparse[:, 1] = sam.prompt_encoder.not_a_point_embed.weight[0]
    side = max(positions)
    expected, _ = sam.mask_decoder.predict_masks(
        embedding, sam.prompt_encoder.pe_layer((side, side))[None, :, :positions[0], :positions[1]], sparse,
        sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(-1, -1, *positions))
    torch.testing.assert_close(torch.from_numpy(low_res), expected[0, 1:], rtol=1e-3, atol=1e-3)
    assert masks.shape == (3, *image.shape[:2])
    generator = SamAutomaticMaskGenerator(sam, points_per_side=2, pred_iou_thresh=-9, stability_score_thresh=0)
    assert all(found['segmentation'].shape == image.shape[:2] for found in generator.generate(image))
    if height != width:
        with pytest.raises(UserError, match=f'does not fit into {width} x {height}; .* such as {longer}'):
            predictor.set_image(picture(*image.shape[1::-1]))


def test_the_embedding_has_72_positions_as_sam_3s():
    with torch.device('meta'):
        encoder = SamEncoder('m1_1', image_size=1008, out_channels=1024, embedding_size=72)
        assert encoder(torch.zeros(1, 3, 1008, 1008)).shape == (1, 1024, 72, 72)


def test_checkpoint_of_another_encoder_or_of_the_encoder_alone_is_refused(published, tmp_path):
    with pytest.raises(CheckpointError, match='holds the weights of m2_3, but the model is m0_6'):
        build_sam('m0_6', published[0])
    encoder = {f'image_encoder.{name}': value for name, value in SamEncoder('m0_6').state_dict().items()}
    for tensors, message in ((encoder, r'does not fit the model: .* missing \(prompt_encoder\.'),
                             ({'image_encoder.pos_embed': torch.zeros(1)}, 'none of its 1 tensors has a name of')):
        torch.save(tensors, tmp_path / 'other.pth')
        with pytest.raises(CheckpointError, match=message):
            build_sam('m0_6', tmp_path / 'other.pth')


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
    """Checkpoints of a distillation and of its teacher, a SAM with another image encoder."""
    student, teacher = small_sam(seed=1), small_sam(seed=2)
    torch.save({'state_dict': {f'student.{name}': value for name, value in
                               student.image_encoder.state_dict().items()}}, tmp_path / 'student.pth')
    torch.save({'image_encoder.pos_embed': torch.zeros(1)} | {
        name: value for name, value in teacher.state_dict().items() if not name.startswith('image_encoder.')},
        tmp_path / 'teacher.pth')
    return student, teacher, tmp_path


@pytest.mark.slow
def test_distilled_encoder_and_decoder_of_its_teacher_make_a_sam(halves):
    student, teacher, folder = halves
    expected = {name: (student if name.startswith('image_encoder.') else teacher).state_dict()[name]
                for name in student.state_dict()}
    whole = assemble(folder / 'student.pth', folder / 'teacher.pth', 'm0_6')
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
