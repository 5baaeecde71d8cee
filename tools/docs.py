"""`make docs`: the site, into _docs. By Quarto where it is installed; else a plain preview, made with pandoc.

Both show what nbdev makes of the notebooks: API documentation, links between symbols, hidden cells left out."""
import html, json, os, re, shutil, subprocess, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from env import ROOT, settings
from pages import markdown

HERE, DOCS, NBS = Path(__file__).parent, ROOT/'_docs', ROOT/'nbs'

def process():
    "Run nbdev's own processing of all notebooks; the folder with the results."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    os.environ.update(PYTHONPATH=str(ROOT), PYTHONWARNINGS='ignore', MPLBACKEND='agg')
    refresh_quarto_yml()
    cache = Path(proc_nbs(str(NBS), n_workers=min(4, os.cpu_count() or 1), force=True))
    for p in cache.glob('*.ipynb'): p.write_text(plain_signatures(p.read_text(encoding='utf-8')), encoding='utf-8')
    return cache

def plain_signatures(text):
    "The text of a notebook, without the links that nbdev puts into signatures, where they show as brackets."
    nb = json.loads(text)
    plain = lambda m: re.sub(r'\[(`[^`]+`)\]\(https?:[^)]*\)', r'\1', m[0])
    for o in (o for c in nb['cells'] for o in c.get('outputs', [])):
        md = o.get('data', {}).get('text/markdown')
        if md: o['data']['text/markdown'] = re.sub(r'(?s)```python\n.*?\n```', plain, ''.join(md))
    return json.dumps(nb, indent=1, ensure_ascii=False)

def by_quarto(cache):
    "Render the processed notebooks with Quarto."
    subprocess.run(['quarto', 'render', '--no-execute'], cwd=cache, check=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(cache/DOCS.name, DOCS)

def sidebar():
    "[(section or None, [notebook stem, ...])] from nbs/sidebar.yml, notebooks that are there only."
    import yaml
    out = [(None, [])]
    for o in yaml.safe_load((NBS/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']:
        if isinstance(o, str): out[0][1].append(Path(o).stem)
        else: out.append((o['section'], [Path(p).stem for p in o['contents']]))
    return [(s, [p for p in ps if (NBS/f'{p}.ipynb').exists()]) for s, ps in out]

def front_matter(src):
    "The front matter that nbdev puts on top of a page as a dict, and what comes below it."
    import yaml
    m = re.match(r'\s*---\n(.*?)\n---\s*(?:\n|$)', src, re.S)
    return (yaml.safe_load(m[1]) or {}, src[m.end():]) if m else ({}, src)

def title(nb):
    "The notebook's title: its front matter as nbdev has read it, or its first heading."
    src = '\n\n'.join(''.join(c['source']) for c in nb['cells'][:3])
    m = re.search(r'(?m)^#\s+(.+)$', src)
    return front_matter(src)[0].get('title') or (m[1].strip() if m else 'untitled')

def name(stem):
    "A page's name as nbdev has it: 03_transforms gives transforms.html."
    return re.sub(r'^\d+[a-z]?_', '', stem) + '.html'

def nav(here, titles):
    "The list of pages, as HTML."
    link = lambda p: f'<a href="{name(p)}"{" class=here" if p == here else ""}>{html.escape(titles[p])}</a>'
    return '\n'.join((f'<h2>{html.escape(s)}</h2>' if s else '') + ''.join(map(link, ps)) for s, ps in sidebar() if ps)

def page(stem, nb, titles, cfg):
    "One notebook as one page."
    import pypandoc
    if nb['cells'] and nb['cells'][0]['cell_type'] == 'raw': nb['cells'][0]['cell_type'] = 'markdown'
    meta, md = front_matter(markdown(nb, DOCS/'img', 'img'))
    if meta: md = f'# {meta["title"]}\n\n::: lead\n{meta.get("description", "")}\n:::\n\n{md}'
    md = re.sub(r'\]\((?!https?:|#|/)([\w./-]+)\.ipynb', lambda m: f']({name(m[1])}', md)
    md = md.replace(cfg['doc_host'] + cfg['doc_baseurl'] + '/', '')        # links between symbols: to these pages
    nav_file = DOCS/'nav.txt'
    nav_file.write_text(nav(stem, titles), encoding='utf-8')
    fmt = 'markdown+lists_without_preceding_blankline+autolink_bare_uris-yaml_metadata_block-implicit_figures'
    pypandoc.convert_text(md, 'html5', format=fmt, outputfile=str(DOCS/name(stem)), extra_args=[
        '--standalone', '--toc', '--toc-depth=3', f'--template={HERE/"page.html"}', '--mathml',
        '-M', f'pagetitle={titles[stem]}', '-M', f'site={cfg["title"]}', '-M', f'repo={cfg["git_url"]}',
        '-M', f'nb={stem}', f'--include-before-body={nav_file}'])

def by_pandoc(cache):
    "A plain preview of the site: one page a notebook, a sidebar, pictures."
    shutil.rmtree(DOCS, ignore_errors=True)
    DOCS.mkdir()
    nbs = {p.stem: json.loads(p.read_text(encoding='utf-8')) for p in sorted(cache.glob('*.ipynb'))}
    titles = {k: title(v) for k, v in nbs.items()}
    for stem, nb in nbs.items(): page(stem, nb, titles, settings())
    (DOCS/'nav.txt').unlink()
    if (NBS/'images').exists(): shutil.copytree(NBS/'images', DOCS/'images')
    return len(nbs)

def main():
    cache = process()
    if shutil.which('quarto') and '--plain' not in sys.argv:
        by_quarto(cache)
        return print('Rendered by Quarto: _docs/index.html')
    n = by_pandoc(cache)
    if not n: sys.exit('no notebook was rendered')
    print(f'Quarto is not installed, so this is a plain preview, not the published site: {n} pages, _docs/index.html')

if __name__ == '__main__': main()
