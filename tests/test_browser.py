"The demo's pages in a real browser: upload an image, see the right label. On the screen of a desk and of a phone."
import json, os, re, shutil
from contextlib import contextmanager

import pytest

gr = pytest.importorskip('gradio')
sync = pytest.importorskip('playwright.sync_api')

import fastai_deploy as fd
from conftest import resealed
from fastai_deploy.run.bundle import vocab_text
from fastai_deploy.samples.digits import digits
from test_cli import half_red, toy

NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'chrome', 'msedge'
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)

@pytest.fixture(scope='module')
def browser():
    "A headless Chromium: the system's, else playwright's own."
    with sync.sync_playwright() as p:
        try: b = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        except sync.Error as e: pytest.skip(f'no Chromium on this machine: {str(e).splitlines()[0]}')
        yield b
        b.close()

@pytest.fixture(scope='module')
def picture():
    "A digit that says what it is."
    return sorted((digits()/'nine').iterdir())[3]

@contextmanager
def served(*args, **kwargs):
    page = fd.demo(*args, prevent_thread_lock=True, quiet=True, **kwargs)
    try: yield page
    finally: page.close(verbose=False)

@pytest.fixture(scope='module')
def site(digits_bundle):
    with served(digits_bundle) as page: yield page

UPLOAD, RESULT = '#picture input[type=file]', '[data-testid=label-output-value]'

@contextmanager
def visit(browser, site, width=1280, height=900):
    "A tab that shows the site; nothing may go wrong in it, and it asks nobody else for anything."
    tab = browser.new_page(viewport=dict(width=width, height=height))
    hosts, faults = set(), []
    tab.on('dialog', lambda d: (faults.append(d.message), d.dismiss()))
    host = lambda url: re.sub(r'^(\w+:/*[^/]*).*', r'\1', url)
    tab.on('request', lambda r: hosts.add(host(r.url)) if r.url.startswith('http') else None)
    tab.on('pageerror', lambda e: faults.append(str(e)))
    tab.goto(site.local_url)
    tab.wait_for_selector(UPLOAD, state='attached')
    yield tab
    assert hosts == {site.local_url.rstrip('/')} and faults == []
    tab.close()

def shown(tab, box='#ours'):
    "(label, percent) of the best class, when it has come."
    tab.wait_for_selector(f'{box} {RESULT}', timeout=30_000)
    return tab.locator(f'{box} {RESULT}').inner_text().strip(), tab.locator(f'{box} dl, {box}').first.inner_text()

def shot(tab, name):
    "Keep an image of the page where the caller wants one."
    if d := os.environ.get('FASTAI_DEPLOY_SHOTS'): tab.screenshot(path=os.path.join(d, f'{name}.png'), full_page=True)

@pytest.mark.parametrize('width,height', [(1280, 900), (390, 844)], ids=['desk', 'phone'])
def test_upload(browser, site, digits_bundle, picture, width, height):
    "The label and its percentage are the model's; the page fits the screen and asks nobody else for anything."
    with visit(browser, site, width, height) as tab:
        p = fd.load(digits_bundle).predict(picture)
        tab.set_input_files(UPLOAD, picture)
        label, text = shown(tab)
        assert label == p.label == 'nine' and f'{p.probs.max():.0%}' in text
        tab.get_by_text('The proof').click()
        tab.get_by_text('labels equal').wait_for()
        shot(tab, f'page-{width}')
        assert tab.evaluate('document.documentElement.scrollWidth') <= width

def test_examples(browser, site, digits_bundle):
    "A click on a golden gives the golden's answer."
    goldens = [g for g in fd.load(digits_bundle).goldens() if not g.drawn]
    with visit(browser, site) as tab:
        tab.wait_for_selector('button.gallery-item')
        assert tab.locator('button.gallery-item').count() == len(goldens)
        tab.locator('button.gallery-item').nth(2).click()
        label, text = shown(tab)
        assert label == goldens[2].label and f'{goldens[2].probs.max():.0%}' in text

def test_bad_picture(browser, site, picture, tmp_path):
    "The reason is shown, with the file's own name; the next image is answered."
    with visit(browser, site) as tab:
        (tmp_path/'page.jpg').write_text('<html>not found</html>', encoding='utf-8')
        tab.set_input_files(UPLOAD, tmp_path/'page.jpg')
        tab.get_by_text('page.jpg: not an image').first.wait_for()
        shot(tab, 'refused')
        tab.get_by_label('Remove Image').click()
        tab.set_input_files(UPLOAD, picture)
        assert shown(tab)[0] == 'nine'

def test_twin(browser, digits_bundle, digits_learner, picture):
    "Both answer, they agree, and how far they are from each other is there to read."
    with served(digits_bundle, digits_learner) as page, visit(browser, page) as tab:
        tab.set_input_files(UPLOAD, picture)
        assert shown(tab, '#theirs') == tuple(o.replace('Bundle', 'fastai') for o in shown(tab))
        assert shown(tab)[0] == 'nine'
        said = tab.locator('#difference').inner_text()
        assert 'Both say nine.' in said and float(re.search(r'[\d.]+e-\d+', said)[0]) <= 1e-5
        shot(tab, 'twin')

@pytest.mark.parametrize('width', [1280, 390], ids=['desk', 'phone'])
@pytest.mark.parametrize('task,there', [
    ('multilabel', "#ours :text('✓ red')"), ('regression', "#ours :text('0.4314')"),
    ('points', '#ours .image-frame img'), ('segmentation', "#ours :text('blue')"),
    ('image_to_image', '#ours .image-frame img')])
def test_tasks(browser, tmp_path, task, there, width):
    "The answer of each task is shown, and fits the screen."
    half = half_red(tmp_path/'half.png')
    bundle = toy(tmp_path/task, task, **(dict(threshold=.55) if task == 'multilabel' else {}))
    with served(bundle) as page, visit(browser, page, width) as tab:
        tab.set_input_files(UPLOAD, half)
        tab.locator(there).first.wait_for(timeout=30_000)
        shot(tab, f'{task}-{width}')
        assert tab.evaluate('document.documentElement.scrollWidth') <= width

LONG = [f'a_very_long_class_name_without_any_space_{i}_that_goes_on_and_on' if i % 2 else
        f'A long name with spaces, number {i}, of a bird that lives in the north' for i in range(10)]
BAD = ['<img src=http://evil.test/a.png onerror=alert(1)>', '[a](http://evil.test)', '![](http://evil.test/x.png)',
       '<script>alert(2)</script>', '`code` | **bold** | _it_ $$x^2$$', 'www.evil.test https://evil.test/',
       '&lt;b&gt; &amp;', '</script><script>alert(3)</script>', '${alert(4)} {{value}}', '<svg onload=alert(5)>']
FITS = 'all => all.every(e => e.scrollWidth <= e.clientWidth + 1 && e.getBoundingClientRect().right <= innerWidth)'

def renamed(path, learn, names, photo, arch):
    "A bundle of the sample model with other names for everything that has one."
    learn.dls.vocab.items = names
    bundle = fd.export(learn, path.parent/'plain', goldens=[photo], progress=False)
    parity = json.loads((bundle/'parity.json').read_text(encoding='utf-8')) | dict(against=names[0])
    for s in parity['stages']: s['worst_item'] = names[1]
    files = {'parity.json': json.dumps(parity).encode()}
    return resealed(bundle, path, files, lambda spec: spec.net.update(arch=arch))

@pytest.fixture
def names(digits_learner):
    "Gives the sample Learner its own names back."
    kept = digits_learner.dls.vocab.items
    yield
    digits_learner.dls.vocab.items = kept

def test_long_names(browser, names, digits_learner, picture, tmp_path):
    "Long names are broken where they must be; what is wider than a phone scrolls in its own box."
    bundle = renamed(tmp_path/'long', digits_learner, LONG, picture, 'resnet18')
    texts = f'#headline bdi, {RESULT}, #ours dt, #theirs dt, #difference bdi, #proof p'
    with served(bundle, digits_learner) as page:
        for width in 1280, 390, 320:
            with visit(browser, page, width) as tab:
                tab.set_input_files(UPLOAD, picture)
                assert shown(tab)[0] == LONG[3]
                tab.get_by_text('The proof').click()
                tab.locator('#proof table').wait_for()
                shot(tab, f'long-{width}')
                assert tab.evaluate('document.documentElement.scrollWidth') <= width
                assert tab.locator(texts).count() > 16 and tab.eval_on_selector_all(texts, FITS)
                assert tab.eval_on_selector('#proof .scroll', 'e => e.scrollWidth > e.clientWidth')

def test_names_are_text(browser, names, digits_learner, picture, tmp_path):
    "Names that are HTML or Markdown are shown as they are written, everywhere, and nothing is fetched for them."
    bundle = renamed(tmp_path/'![](x)', digits_learner, BAD, picture, BAD[9])
    with served(bundle, digits_learner, topk=10, title=BAD[7]) as page, visit(browser, page) as tab:
        tab.set_input_files(UPLOAD, picture)
        assert shown(tab)[0] == shown(tab, '#theirs')[0] == BAD[3]
        tab.get_by_text('The proof').click()
        tab.locator('#proof table').wait_for()
        shot(tab, 'bad')
        text = lambda where: tab.locator(where).inner_text()
        assert tab.title() == text('#headline h1') == BAD[7]
        assert BAD[9] in text('#headline p') and all(o in text('#headline p') for o in BAD[:4])
        assert sorted(tab.locator('#ours dt').all_inner_texts()) == sorted(BAD)
        assert f'Both say {BAD[3]}.' in text('#difference')
        assert f'compared with {BAD[0]}' in text('#proof') and BAD[1] in text('#proof td >> nth=-1')
        page_file = dict(name='<img src=x onerror=alert(6)>.jpg', mimeType='image/jpeg', buffer=b'<html>')
        tab.get_by_label('Remove Image').click()
        tab.set_input_files(UPLOAD, page_file)
        tab.get_by_text('not an image').first.wait_for()
        assert tab.locator('[data-testid=toast-body] img').count() == 0

def test_legend_is_text(browser, tmp_path):
    "The names of a mask's classes, too."
    half, vocab = half_red(tmp_path/'half.png'), vocab_text([BAD[0], BAD[7], LONG[1]*2]).encode()
    bundle = resealed(toy(tmp_path/'toy', 'segmentation'), tmp_path/'mask', {'vocab.txt': vocab})
    with served(bundle, description='*My* masks') as page, visit(browser, page, 320) as tab:
        assert (tab.title(), tab.locator('#description em').inner_text()) == ('mask', 'My')
        tab.set_input_files(UPLOAD, half)
        tab.get_by_role('button', name=BAD[0]).wait_for()
        shot(tab, 'legend')
        assert tab.locator('#ours .legend button').all_inner_texts() == [BAD[0], LONG[1]*2]
        assert tab.eval_on_selector_all('#ours .legend button', FITS)
