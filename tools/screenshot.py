"""A screenshot of a bundle's demo page with an image answered: the small PNG in README and the first tutorial.

    python tools/screenshot.py photos chelsea.jpg nbs/images/demo.png     (needs Chromium)

`photos` and `chelsea.jpg` are what nbs/tutorials/00_pets.ipynb makes: leave out its last cell to keep them."""
import argparse, io, shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
COLOURS = 64         # of the palette: readable, and a quarter of the bytes

def shoot(url, image, width, height):
    "The page at `url` once it has answered about `image`, as a PIL image."
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        tab = browser.new_page(viewport=dict(width=width, height=height))
        tab.goto(url)
        tab.set_input_files('#picture input[type=file]', image)
        tab.wait_for_selector('#ours [data-testid=label-output-value]')
        tab.wait_for_load_state('networkidle')
        tab.wait_for_timeout(1000)                     # the bars have grown
        png = tab.screenshot()
        browser.close()
    return Image.open(io.BytesIO(png)).convert('RGB')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('bundle', type=Path)
    p.add_argument('image', type=Path)
    p.add_argument('out', type=Path)
    p.add_argument('--size', type=int, nargs=2, default=(820, 470), metavar=('WIDTH', 'HEIGHT'))
    a = p.parse_args()
    import fastai_deploy as fd
    page = fd.demo(a.bundle, prevent_thread_lock=True, quiet=True)
    try: shot = shoot(page.local_url, a.image, *a.size)
    finally: page.close(verbose=False)
    shot.quantize(COLOURS, dither=Image.Dither.NONE).save(a.out, optimize=True)
    print(f'{a.out}: {shot.width}x{shot.height} pixels, {a.out.stat().st_size/1024:.0f} KB')

if __name__ == '__main__': main()
