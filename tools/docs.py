"""`make docs`: the site, into _docs, and a check that every link in it leads somewhere.

nbdev processes the notebooks: it hides cells, documents symbols and links them. Quarto renders them where it is
installed; else Sphinx does, with myst-nb and the book theme. `make docs ARGS=--sphinx` asks for Sphinx."""
import json, os, re, shutil, subprocess, sys, tempfile
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from env import ROOT, settings

DOCS, NBS = ROOT/'_docs', ROOT/'nbs'
SOURCE = re.compile(r'\s*---\s*\[source\]\((.*?)\)\{.*?\}\s*(?=#)', re.S)      # what show_doc puts above a heading
SIGNATURE = re.compile(r'\n```python\n.*?\n```\n', re.S)

# --- what nbdev makes of the notebooks

def process():
    "Run nbdev's own processing of all notebooks; the folder with the results."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    os.environ.update(PYTHONPATH=str(ROOT), PYTHONWARNINGS='ignore', MPLBACKEND='agg')
    refresh_quarto_yml()
    return Path(proc_nbs(str(NBS), n_workers=min(4, os.cpu_count() or 1), force=True))

def page_of(path):
    "A notebook's page as nbdev names it: run/16_model.ipynb gives run/model."
    return re.sub(r'(^|/)\d+[a-z]?_([^/]*)$', r'\1\2', str(path).removesuffix('.ipynb'))

def slug(heading):
    "A heading's anchor as pandoc, and so Quarto, writes it."
    text = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading)
    text = re.sub(r'[^\w\s.-]', '', re.sub(r'[`*]', '', text)).strip().lower()
    return re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', text)) or 'section'

def prose(cell):
    "The Markdown in a cell: its own, or what `show_doc` answered."
    if cell['cell_type'] == 'markdown': return ''.join(cell['source'])
    return '\n'.join(''.join(o.get('data', {}).get('text/markdown', '')) for o in cell.get('outputs', []))

def anchors(text):
    return {slug(o) for o in re.findall(r'(?m)^#+ +(.*?) *#*$', re.sub(r'(?s)```.*?```', '', text))}

def tidy(cell, shown, have, site):
    "A processed cell without what a reader does not need, and with links that lead somewhere."
    def link(m):
        "A link to a symbol without a heading leads to its class, else to the top of its page."
        page, name = m[1], m[2]
        near = next((o for o in (name, name.split('.')[0]) if o in have.get(page, ())), None)
        return f']({site}{page}.html' + (f'#{near})' if near else ')')
    def mend(text):
        "Links mended; no signature where the source follows; no links inside of one."
        name = re.search(r'(?m)^### (?:\w+\.)*(\w+)\s*$', text)
        if SOURCE.match(text) and name and name[1] in shown: text = SIGNATURE.sub('\n', text, 1)
        text = re.sub(r'(?s)```python\n.*?\n```', lambda m: re.sub(r'\[(`[^`]+`)\]\(https?:[^)]*\)', r'\1', m[0]), text)
        return re.sub(rf'\]\({re.escape(site)}([\w./-]+)\.html#([\w.-]+)\)', link, text)
    if cell['cell_type'] == 'markdown': cell['source'] = mend(''.join(cell['source']))
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        if 'text/markdown' in data: data['text/markdown'] = mend(''.join(data['text/markdown']))

def tidy_all(cache, site):
    "Tidy the processed notebooks in place: {path below `cache`: notebook}."
    nbs = {p.relative_to(cache).as_posix(): json.loads(p.read_text(encoding='utf-8')) for p in cache.rglob('*.ipynb')}
    have = {page_of(k): anchors('\n\n'.join(map(prose, nb['cells']))) for k, nb in nbs.items()}
    for k, nb in nbs.items():
        code = '\n'.join(''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code')
        for c in nb['cells']: tidy(c, set(re.findall(r'(?m)^(?:def|class) +(\w+)', code)), have, site)
        (cache/k).write_text(json.dumps(nb, indent=1, ensure_ascii=False), encoding='utf-8')
    return nbs

# --- Sphinx

def sphinx_cell(cell, page, site):
    "A cell as myst-nb wants it, or None: front matter becomes a title, `#|` lines become tags."
    src = ''.join(cell['source'])
    if cell['cell_type'] == 'raw':
        meta = yaml.safe_load(src.strip().strip('-')) or {}
        src = f'# {meta.get("title", page)}\n\n> {meta.get("description", "")}'
    elif cell['cell_type'] == 'markdown':
        if src.startswith('<!-- WARNING'): return None
    elif re.search(r'(?m)^#\| *output: *asis', src): src = prose(cell)
    else:
        tags = ['remove-input'] if re.search(r'(?m)^#\| *echo: *false', src) else []
        out = [o for o in cell['outputs'] if o.get('name') != 'stderr']
        src = re.sub(r'(?m)^#\|.*\n?', '', src).strip('\n')
        for o in out:
            if 'text/markdown' in o.get('data', {}):
                o['data'] = {'text/markdown': relink(''.join(o['data']['text/markdown']), page, site)}
        if not src and not out: return None
        return dict(cell, metadata=dict(tags=tags), source=src, outputs=out)
    return dict(cell_type='markdown', metadata={}, id=cell.get('id', 'x'), source=relink(src, page, site))

def relink(text, page, site):
    "Links between pages and to symbols, as Sphinx wants them; the link to the source below its heading."
    up = '../' * page.count('/')
    text = SOURCE.sub('', text) if not (m := SOURCE.match(text)) else re.sub(
        r'^(#+ .*\n)', rf'\1\n[source]({m[1]}){{.source-link}}\n', SOURCE.sub('', text, 1))
    text = re.sub(rf'\]\({re.escape(site)}([\w./-]+)\.html', rf']({up}\1.ipynb', text)
    return re.sub(r'\]\((?!https?:)([\w./-]+\.ipynb)', lambda m: f']({page_of(m[1])}.ipynb', text)

def toctrees():
    "The sections of nbs/sidebar.yml, in Sphinx's words."
    items = yaml.safe_load((NBS/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    first = dict(section='', contents=[o for o in items if isinstance(o, str)])
    for o in [first, *(o for o in items if isinstance(o, dict))]:
        lines = '\n'.join(page_of(p) for p in o['contents'] if p != 'index.ipynb')
        caption = f':caption: {o["section"]}\n' if o['section'] else ''
        if o['contents']: yield f'```{{toctree}}\n:hidden:\n{caption}\n{lines}\n```'

CONF = '''
import sys
sys.path.insert(0, {tools!r})
from docs import slug as myst_heading_slug_func
project, html_title, author, copyright = {title!r}, {title!r}, {author!r}, {copyright!r}
extensions = ['myst_nb']
nb_execution_mode, nb_merge_streams = 'off', True
nb_mime_priority_overrides = [('html', 'text/markdown', 0)]
myst_heading_anchors = 4
myst_enable_extensions = ['attrs_inline', 'dollarmath', 'html_image']
nb_render_markdown_format = 'myst'
suppress_warnings = ['myst.header', 'config.cache']
html_theme = 'sphinx_book_theme'
html_theme_options = dict(repository_url={repo!r}, use_repository_button=True, use_download_button=False,
                          use_fullscreen_button=False, show_toc_level=2, toc_title='On this page')
html_css_files, html_static_path = ['styles.css'], ['_static']
html_copy_source = html_show_sourcelink = False
'''

def by_sphinx(nbs, cfg, site, tmp):
    "Render the processed notebooks with Sphinx, below the folder `tmp`: where the site is."
    src = tmp/'src'
    for k, nb in nbs.items():
        page = page_of(k)
        cells = [o for c in nb['cells'] if (o := sphinx_cell(c, page, site))]
        if page == 'index':
            cells.append(dict(cell_type='markdown', id='toctree', metadata={}, source='\n\n'.join(toctrees())))
        (src/page).parent.mkdir(parents=True, exist_ok=True)
        (src/f'{page}.ipynb').write_text(json.dumps(dict(nb, cells=cells), ensure_ascii=False), encoding='utf-8')
    shutil.copytree(NBS/'images', src/'images')
    (src/'_static').mkdir()
    shutil.copy(NBS/'styles.css', src/'_static')
    (src/'conf.py').write_text(CONF.format(tools=str(Path(__file__).parent), repo=cfg['git_url'], title=cfg['title'],
                                           author=cfg['author'], copyright=cfg['copyright']), encoding='utf-8')
    subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-j', 'auto', '-d', tmp/'trees', src, tmp/'html'], check=True)
    return tmp/'html'

# --- the links in what came out

class Page(HTMLParser):
    "The anchors of a page, and the links and files that it names."
    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[o] for o in ('id', 'name') if a.get(o)}
        self.links += [a[o] for o in ('href', 'src') if a.get(o)]

def dead_links(site):
    "Relative links of a built site (a folder) that lead nowhere, and anchors that are on no page."
    pages, dead = {p.resolve(): Page(p) for p in sorted(site.rglob('*.html')) if '_static' not in p.parts}, []
    for path, page in pages.items():
        for link in page.links:
            to = urlsplit(link)
            if to.scheme or to.netloc or link in ('#', '#top'): continue
            file = (path.parent/unquote(to.path)).resolve() if to.path else path
            if file.is_dir(): file /= 'index.html'
            anchor = unquote(to.fragment)
            if not file.exists() or anchor and file in pages and anchor not in pages[file].ids:
                dead.append(f'{path.relative_to(site.resolve())}: {link}')
    return sorted(set(dead))

def main():
    cfg = settings()
    site = f"{cfg['doc_host']}{cfg['doc_baseurl']}/"
    cache = process()
    nbs = tidy_all(cache, site)
    if not nbs: sys.exit('no notebook was rendered')
    shutil.rmtree(DOCS, ignore_errors=True)
    if shutil.which('quarto') and '--sphinx' not in sys.argv:
        subprocess.run(['quarto', 'render', '--no-execute'], cwd=cache, check=True)
        shutil.move(cache/DOCS.name, DOCS)
        said = 'Rendered by Quarto, as it is published'
    elif find_spec('sphinx_book_theme') is None:
        sys.exit('Quarto is not installed, and the preview by Sphinx needs Python 3.11')
    else:
        with tempfile.TemporaryDirectory() as tmp: shutil.move(by_sphinx(nbs, cfg, site, Path(tmp)), DOCS)
        said = 'A preview, rendered by Sphinx: the published site is made by Quarto'
    if dead := dead_links(DOCS): sys.exit('\n'.join(['links that lead nowhere:', *dead]))
    print(f'{said}. {len(nbs)} pages, every link checked: {DOCS.name}/index.html')

if __name__ == '__main__': main()
