"`make readme`: README.md from nbs/index.ipynb (nbdev_readme would need Quarto)."
import json, re

from env import ROOT

NOTE = '<!-- Made from nbs/index.ipynb by `make readme`. Do not edit. -->'

def fence(text, lang):
    "A fenced block that its own text cannot close."
    ticks = '`' * max(3, 1 + max(map(len, re.findall('`+', text)), default=0))
    return f'{ticks}{lang}\n{text}\n{ticks}'

def output(o):
    "One stored output as Markdown. Images of the front page are files in nbs/images, not outputs."
    data = o.get('data', {})
    if 'text/markdown' in data: return ''.join(data['text/markdown'])
    text = ''.join(o.get('text') or data.get('text/plain', '')).rstrip('\n')
    return fence(text, 'text') if text else ''

def markdown(cell):
    "One cell as Markdown: prose, or code and what it gave. A cell with `#| hide` or `#| include: false` gives none."
    src = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown': return [src]
    if re.search(r'(?m)^#\|\s*(hide|include:\s*false)\s*$', src): return []
    code = re.sub(r'(?m)^#\|.*\n?', '', src).strip('\n')
    shown = [] if re.search(r'(?m)^#\|\s*echo:\s*false', src) else [fence(code, 'python')]
    return shown + [output(o) for o in cell['outputs']]

def render(root=ROOT):
    "README.md's text. Links to notebooks and images are as seen from the top folder."
    nb = json.loads((root/'nbs'/'index.ipynb').read_text(encoding='utf-8'))
    parts = [o.strip('\n') for c in nb['cells'] for o in markdown(c)]
    text = '\n\n'.join([NOTE, *filter(None, parts)]) + '\n'
    return re.sub(r'\]\((?!https?:|#|/)([\w./-]+\.ipynb|images/)', r'](nbs/\1', text)

if __name__ == '__main__':
    (ROOT/'README.md').write_text(render(), encoding='utf-8', newline='\n')
    print('wrote README.md')
