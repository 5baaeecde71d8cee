"The classic lessons on real photos: the whole table of stages on every one of them."
import numpy as np
import pytest
from PIL import Image

fv = pytest.importorskip('fastai.vision.all')

import fastai_deploy as fd
from fastai_deploy.samples.pets import pet_breed

def lesson(photos, block, get_y, arch, item, aug, make=fv.vision_learner, lr=1e-4, cbs=None, **kwargs):
    "A Learner on some of the photos, after a few steps of training: gently, for a wild net magnifies rounding."
    fv.set_seed(0, reproducible=True)
    block = fv.DataBlock((fv.ImageBlock, block), get_items=lambda _: photos, get_y=get_y, item_tfms=item,
                         splitter=fv.RandomSplitter(seed=42),
                         batch_tfms=[*fv.aug_transforms(**aug), fv.Normalize.from_stats(*fv.imagenet_stats)])
    learn = make(block.dataloaders(None, bs=8, num_workers=0), arch, pretrained=False, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, lr, cbs=cbs)
    return learn

def proven(learn, photos, out):
    "The model of a Learner, when all stages agree on the photos, and on the goldens alone."
    bundle = fd.export(learn, out, goldens=4, progress=False)
    parity = fd.verify(bundle, learn, photos)
    print(f'\n{parity}')
    assert parity.pictures == len(photos) and [s.worst for s in parity.stages[:2]] == [0, 0]
    assert parity.labels_equal + len(parity.ties) == parity.pictures
    assert fd.verify(bundle).ok
    return fd.load(bundle)

@pytest.mark.parametrize('arch, item, aug', [
    ('vit_tiny_patch16_224', fv.RandomResizedCrop((460, 460)), dict(size=224)),
    (fv.resnet18, fv.Resize(460), dict(size=224, min_scale=.75))], ids=['pets with a vit', 'presizing'])
def test_lesson(arch, item, aug, pets_images, tmp_path):
    learn = lesson(pets_images, fv.CategoryBlock, pet_breed, arch, item, aug, lr=1e-3,
                   cbs=fv.ShortEpochCallback(pct=.15))
    assert len(proven(learn, pets_images, tmp_path/'pets').vocab) == 37 and len(pets_images) == 259

def cat_or_dog_and_breed(file):
    "The data set's own rule: cats are capitalised."
    return ['cat' if file.name[0].isupper() else 'dog', pet_breed(file)]

def test_cat_or_dog_plus_breed(pets_images, tmp_path):
    "Two facts about each photo, as multi-label: kind and breed."
    learn = lesson(pets_images, fv.MultiCategoryBlock, cat_or_dog_and_breed, fv.resnet18, fv.Resize(128),
                   dict(size=96), loss_func=fv.BCEWithLogitsLossFlat(thresh=.3))
    model = proven(learn, pets_images[::2], tmp_path/'facts')
    assert len(model.vocab) == 39
    assert any(a.labels for a in model.predict_batch(pets_images[:20], progress=False))

def drawn_mask(file):
    "A mask by rule: 0 dark, 1 grey, 2 colourful."
    hsv = np.asarray(Image.open(file).convert('RGB').convert('HSV'))
    return fv.PILMask.create(np.where(hsv[..., 2] < 90, 0, 1 + (hsv[..., 1] > 80)).astype(np.uint8))

def test_masks_by_rule(pets_images, tmp_path):
    "A U-Net on masks that are drawn by rule: class maps at the net's size and at the photo's."
    files, codes = pets_images[::2], ['dark', 'grey', 'colourful']
    learn = lesson(files, fv.MaskBlock(codes), drawn_mask, fv.resnet18, fv.Resize(96), dict(size=64),
                   fv.unet_learner)
    model = proven(learn, files, tmp_path/'masks')
    assert model.vocab == codes and model.spec.net['source'] != 'opaque' and len(files) == 130
    for p in files[:5]:
        answer = model.predict(p)
        assert answer.mask.shape == (64, 64) and answer.original().shape == Image.open(p).size[::-1]
