"The classic lessons on real photos: the whole table of stages on every one of them."
from functools import partial

import numpy as np
import pytest
from PIL import Image

fv = pytest.importorskip('fastai.vision.all')

import fastai_deploy as fd
from fastai_deploy.samples.pets import pet_breed


def lesson(photos, arch, item, batch):
    "A Learner on 37 breeds, after a few steps of training."
    fv.set_seed(0, reproducible=True)
    dls = fv.ImageDataLoaders.from_path_func(photos[0].parent, photos, pet_breed, valid_pct=.2, seed=42, bs=8,
                                             num_workers=0, item_tfms=item, batch_tfms=batch)
    learn = fv.vision_learner(dls, arch, pretrained=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=fv.ShortEpochCallback(pct=.15))
    return learn


lessons = {
    'pets with a vit': ('vit_tiny_patch16_224', partial(fv.RandomResizedCrop, (460, 460)), dict(size=224)),
    'presizing': (fv.resnet18, partial(fv.Resize, 460), dict(size=224, min_scale=0.75)),
}


@pytest.mark.parametrize('name', lessons)
def test_lesson(name, pets_images, tmp_path):
    arch, item, aug = lessons[name]
    learn = lesson(pets_images, arch, item(), [*fv.aug_transforms(**aug), fv.Normalize.from_stats(*fv.imagenet_stats)])
    bundle = fd.export(learn, tmp_path/'pets', goldens=4, progress=False)
    assert len(fd.load(bundle).vocab) == 37
    parity = fd.verify(bundle, learn, pets_images)
    print(f'\n{name}\n{parity}')
    assert parity.pictures == len(pets_images) == 259
    assert [s.worst for s in parity.stages[:2]] == [0, 0]
    assert parity.labels_equal + len(parity.ties) == parity.pictures
    assert fd.verify(bundle).ok   # from the goldens alone


def is_cat(file): return file.name[0].isupper()   # the data set's own rule: cats are capitalised

def cat_or_dog_and_breed(file): return ['cat' if is_cat(file) else 'dog', pet_breed(file)]

def test_cat_or_dog_plus_breed(pets_images, tmp_path):
    "Two facts about each photo, as multi-label: kind and breed."
    fv.set_seed(0, reproducible=True)
    block = fv.DataBlock((fv.ImageBlock, fv.MultiCategoryBlock), get_items=lambda _: pets_images,
                         get_y=cat_or_dog_and_breed, splitter=fv.RandomSplitter(seed=42), item_tfms=fv.Resize(128),
                         batch_tfms=[*fv.aug_transforms(size=96), fv.Normalize.from_stats(*fv.imagenet_stats)])
    learn = fv.vision_learner(block.dataloaders(None, bs=8, num_workers=0), fv.resnet18, pretrained=False,
                              loss_func=fv.BCEWithLogitsLossFlat(thresh=.3))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-4)  # gently: a wild net magnifies rounding
    bundle = fd.export(learn, tmp_path/'facts', goldens=4, progress=False)
    assert len(fd.load(bundle).vocab) == 39
    parity = fd.verify(bundle, learn, pets_images[::2])
    print(f'\n{parity}')
    assert parity.pictures == 130 and [s.worst for s in parity.stages[:2]] == [0, 0]
    assert parity.labels_equal + len(parity.ties) == parity.pictures
    assert any(a.labels for a in fd.load(bundle).predict_batch(pets_images[:20], progress=False))
    assert fd.verify(bundle).ok


def drawn_mask(file):
    "A mask by rule: 0 dark, 1 grey, 2 colourful."
    hsv = np.asarray(Image.open(file).convert('RGB').convert('HSV'))
    return fv.PILMask.create(np.where(hsv[..., 2] < 90, 0, 1 + (hsv[..., 1] > 80)).astype(np.uint8))

def test_masks_by_rule(pets_images, tmp_path):
    "A U-Net on masks that are drawn by rule: class maps at the net's size and at the photo's."
    fv.set_seed(0, reproducible=True)
    files = pets_images[::2]
    block = fv.DataBlock((fv.ImageBlock, fv.MaskBlock(['dark', 'grey', 'colourful'])), get_items=lambda _: files,
                         get_y=drawn_mask, splitter=fv.RandomSplitter(seed=42), item_tfms=fv.Resize(96),
                         batch_tfms=[*fv.aug_transforms(size=64), fv.Normalize.from_stats(*fv.imagenet_stats)])
    learn = fv.unet_learner(block.dataloaders(None, bs=8, num_workers=0), fv.resnet18, pretrained=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-4)  # gently: a wild net magnifies rounding
    bundle = fd.export(learn, tmp_path/'masks', goldens=3, progress=False)
    model = fd.load(bundle)
    assert model.vocab == ['dark', 'grey', 'colourful'] and model.spec.net['source'] != 'opaque'
    parity = fd.verify(bundle, learn, files)
    print(f'\n{parity}')
    assert parity.pictures == len(files) == 130 and [s.worst for s in parity.stages[:2]] == [0, 0]
    assert parity.labels_equal + len(parity.ties) == parity.pictures
    for p in files[:5]:
        answer = model.predict(p)
        assert answer.mask.shape == (64, 64) and answer.original().shape == Image.open(p).size[::-1]
    assert fd.verify(bundle).ok
