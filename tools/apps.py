"""`make apps`: the programs in apps/, each with a bundle in its place: built, tested on the goldens, and its decoder
held against Pillow's. Then the command lines answer with points, masks and images, as Python does.

    make apps                                all of them
    make apps ARGS="node java"               these
    make apps ARGS="--table"                 all of them; writes nbs/reference/decoders.json, which the docs show

A program whose language is not on this machine is skipped and says so; in CI it is installed, or the run fails. The
images are the pets photos where there are some, else the digits; some are also saved as PNG files of every kind."""
import argparse, json, os, shutil, subprocess, sys, tempfile, time, warnings
from pathlib import Path

import numpy as np
from env import PETS, ROOT
from PIL import Image

import fastai_deploy as fd
from fastai_deploy.samples.digits import digits
from fastai_deploy.samples.pets import pet_breed
from fastai_deploy.serving.programs import app_names, apps_folder, copy_app

TABLE = ROOT/'nbs'/'reference'/'decoders.json'
TOOLS = dict(node=['node', 'npm'], web=['node', 'npm', 'chromium'], cpp=['g++', 'cmake'], java=['java', 'mvn'])
CHROMIUM = 'chromium', 'chromium-browser', 'google-chrome'    # any browser of this kind will do
PNG_MODES = 'RGB', 'RGBA', 'L', 'LA', 'P', '1'

# --- what is needed

def install(packages):
    "Debian packages, where we may."
    if not (shutil.which('apt-get') and hasattr(os, 'geteuid') and os.geteuid() == 0): return
    if all(subprocess.run(['dpkg', '-s', o], capture_output=True).returncode == 0 for o in packages): return
    env = dict(os.environ, DEBIAN_FRONTEND='noninteractive')
    for args in (['update', '-q'], ['install', '-qy', '--no-install-recommends', *packages]):
        subprocess.run(['apt-get', *args], env=env, stdout=subprocess.DEVNULL)

def missing(name, debian):
    "What keeps program `name` from being built here; in CI it is installed first."
    def lacking():
        return [o for o in TOOLS.get(name, []) if not any(map(shutil.which, CHROMIUM if o == 'chromium' else [o]))]
    if os.environ.get('FASTAI_DEPLOY_CI') == '1': install([o for o in debian if lacking() or o.startswith('lib')])
    return lacking()

# --- a bundle and images

def pets_bundle(photos, path):
    "A bundle for 37 breeds, after a few steps of training, and the photos."
    import fastai.vision.all as fv
    fv.set_seed(0, reproducible=True)
    dls = fv.ImageDataLoaders.from_path_func(photos[0].parent, photos, pet_breed, valid_pct=.2, seed=42, bs=8,
                                             num_workers=0, item_tfms=fv.Resize(224),
                                             batch_tfms=fv.Normalize.from_stats(*fv.imagenet_stats))
    learn = fv.vision_learner(dls, fv.resnet18, pretrained=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-4, cbs=fv.ShortEpochCallback(pct=.2))
    return fd.export(learn, path, progress=False), photos

def digits_bundle(path):
    "The sample model's bundle, and some of its images."
    from fastai_deploy.samples.train import train_digits
    learn = train_digits()
    return fd.export(learn, path, progress=False), sorted(Path(learn.dls.path).rglob('*.jpg'))[::9]

def png_files(photos, folder):
    "PNG files of every kind that has 8 bits or fewer."
    folder.mkdir()
    for i, f in enumerate(photos[:len(photos)//8*8:max(len(photos)//24, 1)]):
        mode = PNG_MODES[i % len(PNG_MODES)]
        img = Image.open(f).convert('RGB')
        img.thumbnail((200, 200))
        img = img.quantize(64) if mode == 'P' else img.convert(mode)
        if mode in ('RGBA', 'LA'): img.putalpha(Image.linear_gradient('L').resize(img.size))
        img.save(folder/f'{i:02}-{mode}.png')
    return sorted(folder.glob('*.png'))

# --- points, masks and images

def ink(photo):
    "Where a digit is drawn: bool [height, width]."
    grey = np.asarray(Image.open(photo).convert('L')).astype(float)
    return grey < (grey.min() + grey.max())/2

def corners(photo):
    ys, xs = np.nonzero(ink(photo))
    return [[xs.min(), ys.min()], [xs.max()+1, ys.max()+1]]

def task_bundle(task, path):
    "A bundle for a task, after a few steps of training on some digits: each with another way to cut a photo."
    import fastai.vision.all as fv
    from torch import nn
    fv.set_seed(0, reproducible=True)
    block, get_y, item, net, loss = dict(
        points=(fv.PointBlock, lambda o: fv.tensor(corners(o)).float(), fv.Resize(32, 'pad'),
                nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 4), nn.Tanh()), fv.MSELossFlat()),
        segmentation=(fv.MaskBlock(['paper', 'ink']), lambda o: fv.PILMask.create(ink(o).astype(np.uint8)),
                      fv.Resize(32), nn.Conv2d(3, 2, 5, padding=2), fv.CrossEntropyLossFlat(axis=1)),
        image_to_image=(fv.ImageBlock, lambda o: o, fv.RandomResizedCrop(32), nn.Conv2d(3, 3, 5, padding=2),
                        fv.MSELossFlat()))[task]
    files = sorted(digits().rglob('*.jpg'))[::40]
    norm = fv.Normalize.from_stats(*fv.imagenet_stats, cuda=False)
    dls = fv.DataBlock((fv.ImageBlock, block), get_items=lambda _: files, get_y=get_y, item_tfms=item, batch_tfms=norm,
                       splitter=fv.RandomSplitter(seed=0)).dataloaders(None, bs=8, num_workers=0)
    learn = fv.Learner(dls, net, loss_func=loss)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 3e-3)
    return fd.export(learn, path, goldens=3, weights=False, progress=False)

def other_numbers(path, want):
    "How many numbers of a PNG file that a program saved are not those we want."
    with Image.open(path) as img:
        got = np.asarray(img)
        if img.format != 'PNG' or img.mode not in ('L', 'RGB') or got.shape != want.shape:
            raise RuntimeError(f'{path}: {img.format}, {img.mode}, of shape {got.shape}, not {want.shape}')
    return int((got != want).sum())

def try_task(app, about, task, bundle, files, out):
    "Hold a program's answers for a task against Python's, as JSON and as files: what it may say of itself."
    model, names = fd.load(bundle, engine='pixels'), ' '.join(f'"{f}"' for f in files)
    run = f'{about["run"].removesuffix("photo.jpg")} --bundle "{bundle}" --json'
    far, other, size = 0., 0, 0
    for i, more in enumerate(['', '--original-size'] if task == 'segmentation' else ['']):
        save = f'-o "{out/task}-{i}" {more}' if task != 'points' else ''
        said = [json.loads(o) for o in sh(f'{run} {save} {names}', app).splitlines()]
        if [o.pop('path') for o in said] != [str(f) for f in files]: raise RuntimeError(f'{task}: other files')
        for f, o in zip(files, said):
            p, saved = model.predict(f), o.pop('output', None)
            if task == 'points':
                far = max(far, np.abs(np.array(o['points']) - p.to_dict()['points']).max())
                continue
            if o != p.to_dict(): raise RuntimeError(f'{f}: {o}, not {p.to_dict()}')
            want = p.original() if more else np.asarray(p.to_image())
            other, size = other + other_numbers(saved, want), size + want.size
    if far > 1e-3 or other: raise RuntimeError(f'{task}: points off by {far:.1e}, {other} of {size} pixels differ')
    return f'{task}: {len(files)} files, ' + (f'points off by {far:.1e}' if task == 'points' else
                                               f'{other} of {size:,} numbers in the saved files differ')

# --- one program

def sh(command, cwd, **env):
    "Run a shell command in a program's folder; its output is shown if it fails."
    r = subprocess.run(command, shell=True, cwd=cwd, capture_output=True, text=True, encoding='utf-8',
                       env={**os.environ, **env})
    if r.returncode: raise RuntimeError(f'{command}: exit code {r.returncode}\n{r.stdout[-3000:]}{r.stderr[-3000:]}')
    return r.stdout

def answers(app, about, files, out):
    "{file name: answer} of a program; what its decoder gave stands in `out`, as PPM files."
    if 'compare' in about:        # the web page: a script drives it
        (out/'in').mkdir()
        for f in files: shutil.copy(f, out/'in')
        sh(f'{about["compare"]} "{out/"in"}" "{out}"', app)
        lines = (out/'answers.jsonl').read_text(encoding='utf-8')
    else:
        names, run = ' '.join(f'"{f}"' for f in files), about['run'].removesuffix('photo.jpg')
        sh(f'{run} --decode "{out}" {names}', app)
        lines = sh(f'{run} --json {names}', app)
    return {Path(o['path']).name: o for o in map(json.loads, lines.splitlines())}

def compare(model, files, said, out):
    "How far a program's decoder and answers are from ours on some files."
    differ = size = most = equal = 0
    far = 0.
    for f in files:
        want, got = (np.asarray(Image.open(o).convert('RGB')).astype(int) for o in (f, out/f'{f.stem}.ppm'))
        if want.shape != got.shape: raise RuntimeError(f'{f.name}: decoded as {got.shape}, not {want.shape}')
        off = np.abs(want - got)
        differ, size, most = differ + int((off > 0).sum()), size + off.size, max(most, int(off.max()))
        ours, theirs = model.predict(f), said[f.name]
        probs = dict(zip(model.vocab, ours.probs))
        far = max(far, *(abs(o['prob'] - probs[o['label']]) for o in theirs['top']))
        equal += theirs['label'] == ours.label
    return dict(files=len(files), bytes=size, differ=differ, most=most, probability=float(far), labels_equal=equal)

def try_app(name, bundle, jpegs, pngs, tmp, tasks):
    "Copy, build, test and compare one program: its row of the table. `tasks`: bundles for other tasks."
    app, out = tmp/name, tmp/f'{name}-out'
    out.mkdir()
    about = copy_app(name, bundle, app)
    t = time.time()
    sh(about['build'], app)
    built = time.time() - t
    sh(about['test'], app)
    said = answers(app, about, [*jpegs, *pngs], out)
    model, row = fd.load(bundle, engine='pixels'), dict(app=name, decoder=about['decoder'])
    print(f'{name}: built in {built:.0f} s, tests passed')
    for kind, files in dict(jpeg=jpegs, png=pngs).items():
        o = row[kind] = compare(model, files, said, out)
        print(f"  {o['files']} {kind} files: {o['differ']} of {o['bytes']:,} bytes differ (by up to {o['most']})"
              f", probabilities by up to {o['probability']:.1e}, labels equal on {o['labels_equal']}", flush=True)
    if row['png']['differ']: raise RuntimeError(f'{name}: a lossless file must be decoded without loss')
    if 'goldens' in about:   # a command line, which takes any bundle
        for task, other in tasks.items():
            sh(about['goldens'], app, BUNDLE=str(other))
            said = try_task(app, about, task, other, [*jpegs[:4], *pngs[:4]], out)
            print(f'  {said}, goldens reproduced', flush=True)
    return row

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', help='programs; all by default')
    p.add_argument('--table', action='store_true', help='write nbs/reference/decoders.json')
    a = p.parse_args()
    if a.table and a.names: p.error('the table is of all programs: name none')
    warnings.filterwarnings('ignore', category=FutureWarning)   # torch's, about itself
    warnings.filterwarnings('ignore', message='the net is exported as it is')
    t, rows, failed, skipped, pets = time.time(), [], 0, 0, sorted(PETS.glob('*.jpg'))
    with tempfile.TemporaryDirectory(prefix='apps-') as tmp:
        tmp = Path(tmp)
        bundle, photos = pets_bundle(pets, tmp/'bundle') if pets else digits_bundle(tmp/'bundle')
        pngs = png_files(photos, tmp/'png')
        tasks = {o: task_bundle(o, tmp/o) for o in ('points', 'segmentation', 'image_to_image')}
        for name in a.names or app_names():
            about = json.loads((apps_folder()/name/'app.json').read_text(encoding='utf-8'))
            if lack := missing(name, about['debian']):
                skipped += 1
                print(f"{name}: skipped: no {', '.join(lack)} on this machine", flush=True)
                continue
            try: rows.append(try_app(name, bundle, photos, pngs, tmp, tasks))
            except Exception as e:    # whatever one program does, the others are tried, and the run fails
                failed += 1
                print(f'{name}: FAILED: {e}', flush=True)
    if a.table and not failed and not skipped: TABLE.write_text(json.dumps(rows, indent=1) + '\n', encoding='utf-8')
    print(f'\nin {time.time() - t:.0f} s\n{len(rows)} passed, {failed} failed, {skipped} skipped')
    sys.exit(1 if failed or not rows or skipped and os.environ.get('FASTAI_DEPLOY_CI') == '1' else 0)

if __name__ == '__main__': main()
