"""The project's structure, as rules: each takes the root of a project and gives what is wrong with it, line by line.

tests/test_project.py runs every rule on this project, and on a small broken one that the rule must refuse."""
import ast, base64, json, re, subprocess, sys, tempfile
from collections import Counter
from itertools import dropwhile
from pathlib import Path
from shutil import copytree, ignore_patterns

from docs import anchors as headings
from names import parsed, stale
from readme import render

LIB, NBS = 'fastai_deploy', 'nbs'
OURS = dict(run=[], nets=['run'], graph=['run', 'nets'], learner=['run', 'nets', 'graph'], samples=['run'],
            serving=['run'])                                      # folder -> folders below it
RUN = {'numpy', 'PIL', 'onnxruntime'}
TORCH = RUN | {'torch', 'torchvision', 'timm', 'safetensors'}
FASTAI = {'fastai', 'fastcore', 'fastprogress', 'fasttransform', 'plum'}
ONNX = {'onnx', 'onnxscript'}
MAY_IMPORT = dict(run=RUN, nets=TORCH, graph=TORCH | ONNX, learner=TORCH | ONNX | FASTAI,
                  samples=TORCH | ONNX | FASTAI | {'sklearn'}, serving=RUN)  # folder -> packages, at the top
LAZILY = dict(serving=['nets', 'graph', 'learner', 'samples'])      # inside a function, with any package

# --- reading

def notebooks(root):
    "Paths of the project's notebooks, in reading order."
    return sorted(o for o in (root/NBS).rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(root).parts))

def cells(path, kind='code'):
    "(id, source, cell) of each cell of one kind."
    nb = json.loads(path.read_text(encoding='utf-8'))
    return [(c.get('id', ''), ''.join(c['source']), c) for c in nb['cells'] if kind in (None, c['cell_type'])]

def all_cells(root):
    "(place, source, cell) of each code cell of the project."
    return [(f'{p.name}:{i}', s, c) for p in notebooks(root) for i, s, c in cells(p)]

def is_export(src): return bool(re.match(r'(?:[ \t]*(?:#\|.*)?\n)*[ \t]*#\|[ \t]*exports?\b', src))

def default_exp(path):
    found = (re.search(r'(?m)^\s*#\|\s*default_exp\s+(\S+)', s) for _, s, _ in cells(path))
    return next((m[1] for m in found if m), None)

def modules(root):
    "Module ('run.spec') -> (its notebook's name, which begins with a number, and the path of the .py)."
    return {m: (p.name, root/LIB/f'{m.replace(".", "/")}.py') for p in notebooks(root) if (m := default_exp(p))}

def imports(path):
    "(name, lazy) of each import in a module, own modules as '.name'; `need('x')` and `import_module('x')` count."
    tree, out = ast.parse(path.read_text(encoding='utf-8')), []
    lib = next(o for o in path.parents if o.name == LIB)
    top = {id(n) for n in tree.body}
    for n in ast.walk(tree):
        names = []
        if isinstance(n, ast.Import): names = [a.name for a in n.names]
        elif isinstance(n, ast.ImportFrom):
            names = [n.module] if n.module else [a.name for a in n.names]
            if n.level: names = ['.'.join(['', *path.relative_to(lib).parts[:-n.level], o]) for o in names]
        elif isinstance(n, ast.Call) and n.args and isinstance(n.args[0], ast.Constant):
            f = getattr(n.func, 'id', getattr(n.func, 'attr', ''))
            if f in ('need', 'import_module', '__import__'): names = [n.args[0].value]
        for o in filter(None, names):
            if o == LIB: continue               # what is public comes from everywhere, when it is used
            o = re.sub(rf'^{LIB}\.', '.', o)
            out.append((o if o[0] == '.' else o.split('.')[0], id(n) not in top))
    return out

# --- notebooks

def ids(root):
    "Cell ids: there, unique, readable."
    for p in notebooks(root):
        seen = [i for i, _, _ in cells(p, None)]
        for i in dict.fromkeys(seen):
            if not i: yield f'{p.name}: a cell has no id'
            elif seen.count(i) > 1: yield f'{p.name}: id {i} twice'
            if re.fullmatch(r'(?=.*\d)[0-9a-f]{8}|[0-9a-f-]{30,}', i): yield f'{p.name}: id {i} is not readable'

def directives_first(root):
    "`#|` lines come first in a cell: nbdev ignores one that stands below a comment or code."
    for at, s, _ in all_cells(root):
        for o in dropwhile(lambda o: o.startswith('#|'), filter(None, map(str.strip, s.splitlines()))):
            if re.match(r'#\|\s*\w', o) and 'hide_line' not in o: yield f'{at}: below other lines: {o}'

def lone_imports(root):
    "Imports share no cell with other code: nbdev runs such a cell, and nothing before it, to make the docs."
    kinds = ast.Import, ast.ImportFrom
    for at, s, _ in all_cells(root):
        body = parsed(s).body
        inside = body if is_export(s) else [o for n in body for o in ast.walk(n)]
        mixed = any(isinstance(n, kinds) for n in inside) and not all(isinstance(n, kinds) for n in body)
        if mixed and not re.search(r'(?m)^#\|\s*eval:\s*false', s): yield f'{at}: imports and code in one cell'

def no_errors(root):
    "No error, warning or machine's path in the stored outputs."
    text = r'Traceback \(most recent call last\)|\b[A-Za-z]*Warning:|/(?:tmp|work|root|home)/[\w.]|[A-Z]:\\Users'
    for at, _, c in all_cells(root):
        for o in c['outputs']:
            if {o['output_type'], o.get('name')} & {'error', 'stderr'}: yield f'{at}: an error output'
            said = [o.get('text', '')] + [v for k, v in o.get('data', {}).items() if k.startswith('text/')]
            yield from (f'{at}: {m[0]}' for t in said if (m := re.search(text, ''.join(t))))

def too_big(root):
    "A notebook has at most 150 KB, an image in it 40 KB. Other sizes are reported (tools/figures.py), never refused."
    for p in notebooks(root):
        if (kb := p.stat().st_size/1024) > 150: yield f'{p.name}: {kb:.0f} KB, more than 150'
    for at, _, c in all_cells(root):
        data = [v for o in c['outputs'] for v in o.get('data', {}).items()]
        for v in (''.join(v) for k, v in data if k.startswith('image/')):
            n = len(v if v.lstrip()[:1] == '<' else base64.b64decode(v))
            if n > 40*1024: yield f'{at}: an image of {n/1024:.0f} KB, more than 40'

def links(root):
    "Relative links in prose lead to a file, and to a heading or a symbol in it; nbdev makes the links of names."
    for p in notebooks(root):
        for i, s, _ in cells(p, 'markdown'):
            for path, anchor in re.findall(r'\]\((?!\w+:)([^()#\s]*)#?([^()\s]*)\)', re.sub(r'`[^`]*`', '', s)):
                file = p.parent/path if path else p
                if not file.exists() or anchor and file.suffix == '.ipynb' and anchor not in anchors(file):
                    yield f'{p.name}:{i}: {path}{"#" if anchor else ""}{anchor} leads nowhere'
            for name in re.findall(r'\[(`\w+`)\]\(', s): yield f'{p.name}:{i}: a link in a link: {name}'

def anchors(path):
    "What a link may name in a notebook: its headings and its symbols, as pandoc and nbdev write them."
    heads = headings('\n\n'.join(s for _, s, _ in cells(path, 'markdown')))
    return heads | {o.lower() for _, s, _ in cells(path) for o in re.findall(r'(?m)^(?:def|class) +(\w+)', s)}

def stale_names(root):
    "A name in backticks exists."
    nbs = {p: [(i, c['cell_type'] == 'markdown', s) for i, s, c in cells(p, None)] for p in notebooks(root)}
    return [f'{p.name}:{i}: `{o}` is no name' for p, i, o in stale(root, nbs)]

def sidebar(root):
    "nbs/sidebar.yml lists every notebook, once."
    listed = re.findall(r'[\w/-]+\.ipynb', (root/NBS/'sidebar.yml').read_text(encoding='utf-8'))
    have = [o.relative_to(root/NBS).as_posix() for o in notebooks(root)]
    for o in sorted({*have, *listed}):
        if o not in listed: yield f'sidebar.yml lacks {o}'
        if o not in have: yield f'sidebar.yml lists {o}, which is not there'
        if listed.count(o) > 1: yield f'sidebar.yml has {o} twice'

# --- modules

def one_home(root):
    "A notebook stands in its module's folder; no two write one module; none is named like a package or a function."
    homes = [(p, m) for p in notebooks(root) if (m := default_exp(p))]
    taken = set().union(*MAY_IMPORT.values(), {'gradio'})
    public = re.findall(r"'([\w ]+)'", (root/LIB/'__init__.py').read_text(encoding='utf-8'))
    yield from (f'two notebooks write {m}.py' for m, n in Counter(m for _, m in homes).items() if n > 1)
    for p, m in homes:
        if m != '.'.join((p.parent.name, re.sub(r'^\d+_', '', p.stem))):
            yield f'{p.name} writes {m}, which is not in its folder or has another name'
        if m.split('.')[-1] in taken: yield f'module {m} is named like a package'
    yield from (f'folder {f} is named like a function' for f in OURS if f in ' '.join(public).split())

def orphans(root):
    "Every module comes from a notebook, and every notebook's module is there."
    mods, own = modules(root).keys(), {'__init__', '__main__', '_modidx'}
    files = [p for p in (root/LIB).rglob('*.py') if p.stem not in own]
    found = {'.'.join(p.relative_to(root/LIB).with_suffix('').parts) for p in files}
    yield from (f'{LIB}/{o}.py: no notebook writes it' for o in sorted(found - mods))
    yield from (f'{LIB}/{o}.py is missing' for o in sorted(mods - found))

def downward(root):
    "A module imports only what its folder may, and from its own folder only notebooks with a lower number."
    mods = modules(root)
    return [f'{m}.py imports {name}: {why}' for m, (_, path) in mods.items() if path.exists()
            for name, lazy in imports(path) if (why := not_allowed(m, name, lazy, mods))]

def not_allowed(m, name, lazy, mods):
    folder = m.split('.')[0]
    if folder not in OURS: return f'{folder} is no folder of the library'
    lazily = LAZILY.get(folder, []) if lazy else []
    if name[0] == '.':
        other = name[1:]
        if other not in mods: return 'no notebook writes it'
        theirs = other.split('.')[0]
        if theirs == folder: return None if mods[other][0] < mods[m][0] else 'upward'
        return None if theirs in OURS[folder] + lazily else f'{folder} may not import {theirs}' + (
            '' if lazy or theirs not in LAZILY.get(folder, []) else ' at the top')
    if name in sys.stdlib_module_names or name == '__future__' or name in MAY_IMPORT[folder] or lazily: return None
    return f'not among the packages of {folder}'

def no_pickle(root):
    "The run side reads no pickles."
    text = r'\bpickle\b|allow_pickle\s*=\s*True|torch\.load|\bshelve\b|\bmarshal\b'
    return [f'{m}.py: {o}' for m, (_, p) in modules(root).items() if m.startswith('run.') and p.exists()
            for o in re.findall(text, p.read_text(encoding='utf-8'))]

def documented(root):
    "Public symbols: a one-line docstring (a method's may be its base's), and a docment for each parameter."
    bad, texts = [], {m: p.read_text(encoding='utf-8') for m, (_, p) in modules(root).items() if p.exists()}
    nodes = [(m, n) for m, s in texts.items() for n in ast.parse(s).body
             if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    inherited = inherited_methods([n for _, n in nodes])
    for m, n in nodes:
        args, methods = [], []
        if isinstance(n, ast.FunctionDef): args = n.args.posonlyargs + n.args.args + n.args.kwonlyargs
        else: methods = [f for f in n.body if isinstance(f, ast.FunctionDef) and f.name[0] != '_'
                         and f.name not in {'forward', *inherited[n.name]}]
        if '_' in (n.name[0], patched(n)[:1]): continue    # private, or a method of a private class
        bad += [f'{m}.{n.name}: no docment for {o.arg}' for o in args
                if o.arg not in ('self', 'cls') and '#' not in texts[m].splitlines()[o.lineno - 1]]
        bad += [f'{m}.{n.name}: no one-line docstring of {f.name}' for f in [n, *methods]
                if '\n' in (ast.get_docstring(f) or '\n')]
    return bad

def patched(n):
    "The class that a `@patch`ed function is a method of, or ''."
    return getattr(n.args.args[0].annotation, 'id', '') if isinstance(n, ast.FunctionDef) and n.args.args else ''

def inherited_methods(nodes):
    "{class of ours: the methods that its bases among ours have}."
    classes = {n.name: n for n in nodes if isinstance(n, ast.ClassDef)}
    def bases(k): return [b.id for b in classes[k].bases if getattr(b, 'id', '') in classes]
    def own(k): return {f.name for f in classes[k].body if isinstance(f, ast.FunctionDef)} | {
        n.name for n in nodes if patched(n) == k}
    def inherited(k): return {f for b in bases(k) for f in own(b) | inherited(b)}
    return {k: inherited(k) for k in classes}

# --- files that must agree

def quarto_yml(root):
    "_quarto.yml and its copy beside the notebooks (a link does not survive a Windows checkout) agree."
    if len({(root/o/'_quarto.yml').read_text(encoding='utf-8') for o in ('', NBS)}) > 1:
        yield '_quarto.yml and nbs/_quarto.yml differ: copy the one at the top'

def readme(root):
    "README.md is what nbs/index.ipynb gives."
    f = root/'README.md'
    if not f.exists() or f.read_text(encoding='utf-8') != render(root):
        yield 'README.md is not what nbs/index.ipynb gives: make readme'

def with_nbdev(root, code):
    "Run nbdev code on a copy of the project: the files that changed, came or went."
    with tempfile.TemporaryDirectory() as tmp:
        new = Path(tmp)/'copy'
        new.mkdir()
        for o in ('settings.ini', 'pyproject.toml'):
            if (root/o).exists(): (new/o).write_bytes((root/o).read_bytes())
        for o in (LIB, NBS): copytree(root/o, new/o, ignore=ignore_patterns('__pycache__', '.ipynb_checkpoints'))
        before = contents(new)
        r = subprocess.run([sys.executable, '-c', code], cwd=new, capture_output=True, text=True)
        if r.returncode: return [f'nbdev failed: {r.stderr.strip().splitlines()[-1:]}']
        after = contents(new)
    return [f'{o} changes' for o in sorted(before.keys() | after.keys()) if before.get(o) != after.get(o)]

def contents(folder):
    "Relative path -> bytes of every file, line ends aside."
    return {o.relative_to(folder).as_posix(): o.read_bytes().replace(b'\r\n', b'\n')
            for o in folder.rglob('*') if o.is_file() and '__pycache__' not in o.parts}

def clean(root):
    "nbdev_clean changes nothing."
    return with_nbdev(root, 'from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()')

def exported(root):
    "nbdev_export, and the site's settings that nbdev writes, change nothing and leave nothing new."
    return with_nbdev(root, 'from nbdev.doclinks import nbdev_export; from nbdev.quarto import refresh_quarto_yml\n'
                            'nbdev_export.__wrapped__(); refresh_quarto_yml()')

RULES = [ids, directives_first, lone_imports, no_errors, too_big, sidebar, links, stale_names, one_home, orphans,
         downward, no_pickle, documented, quarto_yml, readme, clean, exported]

if __name__ == '__main__':    # python tools/rules.py [part of a place]: what is wrong now
    here = Path(__file__).resolve().parent.parent
    print('\n'.join(f'{r.__name__}: {o}' for r in RULES for o in r(here) if not sys.argv[1:] or sys.argv[1] in o))
