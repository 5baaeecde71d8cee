"The classic lessons on real photos: the whole table of stages on every one of them."
from functools import partial

import pytest

fv = pytest.importorskip('fastai.vision.all')

import fastai_deploy as fd
from fastai_deploy.data import pet_breed


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
