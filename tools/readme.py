"Write README.md from nbs/index.ipynb with pandoc (nbdev_readme would need Quarto)."
import json, re, sys
from pathlib import Path

import pypandoc

sys.path.insert(0, str(Path(__file__).parent))
from env import ROOT
from pages import markdown

NOTE = '<!-- Made from nbs/index.ipynb by `make readme`. Do not edit. -->'

def relink(md):
    "Links to notebooks and their pictures, as seen from the top folder."
    return re.sub(r'\]\((?!https?:|#|/)([\w./-]+\.ipynb|images/)', r'](nbs/\1', md)

def render(root=ROOT):
    "README.md's text."
    nb = json.loads((root/'nbs'/'index.ipynb').read_text(encoding='utf-8'))
    md = relink(markdown(nb, root/'index_files', 'index_files'))
    md = re.sub(r'(```+)\s*\{\.output\}\n', r'\1text\n', md)
    gfm = pypandoc.convert_text(md, 'gfm', format='markdown+lists_without_preceding_blankline-smart-implicit_figures',
                                extra_args=['--wrap=preserve'])
    return f'{NOTE}\n\n{gfm.strip()}\n'.replace('\r\n', '\n')

if __name__ == '__main__':
    (ROOT/'README.md').write_text(render(), encoding='utf-8', newline='\n')
    print('wrote README.md')
