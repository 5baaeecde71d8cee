"""A screenshot of a bundle's demo page with an image answered: the small PNG in README and the first tutorial.

    python tools/screenshot.py photos chelsea.jpg nbs/images/demo.png     (needs Chromium)

`photos` and `chelsea.jpg` are what nbs/tutorials/00_pets.ipynb makes: leave out its last cell to keep them."""
import io, shutil, sys

import fastai_deploy as fd
from apps import CHROMIUM
from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = dict(width=820, height=470)
COLOURS = 64         # of the palette: readable, and a quarter of the bytes

bundle, image, out = sys.argv[1:]
page = fd.demo(bundle, prevent_thread_lock=True, quiet=True)
with sync_playwright() as p:
    browser = p.chromium.launch(args=['--no-sandbox'],
                                executable_path=next(filter(None, map(shutil.which, CHROMIUM)), None))
    tab = browser.new_page(viewport=SIZE)
    tab.goto(page.local_url)
    tab.set_input_files('#picture input[type=file]', image)
    tab.wait_for_selector('#ours [data-testid=label-output-value]')
    tab.wait_for_load_state('networkidle')
    tab.wait_for_timeout(1000)                     # the bars have grown
    shot = Image.open(io.BytesIO(tab.screenshot())).convert('RGB')
page.close(verbose=False)
shot.quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)
